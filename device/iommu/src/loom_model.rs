//! How models are explored.

use std::sync::Arc;

/// Explores every execution of a model of two threads with at most 4 preemptions.
pub(crate) fn model(f: impl Fn() + Sync + Send + 'static) {
    bounded(4, f);
}

/// Explores every execution within the bound (or `LOOM_MAX_PREEMPTIONS`) and prints how many there were.
pub(crate) fn bounded(preemptions: usize, f: impl Fn() + Sync + Send + 'static) {
    let executions = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let count = executions.clone();
    let mut builder = ::loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(preemptions));
    builder.max_branches = 20_000;
    builder.check(move || {
        count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        f();
    });
    let executions = executions.load(std::sync::atomic::Ordering::Relaxed);
    assert!(executions > 1, "the model did not interleave");
    eprintln!("{}: {executions} executions", std::thread::current().name().unwrap_or("model"));
}
