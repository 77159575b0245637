//! Exploration of models, and objects whose accesses loom tracks.

#![allow(unsafe_code, reason = "accesses to tracked objects; loom checks that they do not race")]

use std::sync::Arc;

use ::loom::cell::UnsafeCell;

/// A number that is read and written without synchronisation of its own, as guest memory and freed memory are. Loom
/// fails the model on a write that no happens-before orders with every other access, even where each value read would be
/// right.
pub(crate) struct Tracked(UnsafeCell<u64>);

// SAFETY: an access that races fails the model before it has an effect.
unsafe impl Send for Tracked {}
// SAFETY: as for Send.
unsafe impl Sync for Tracked {}

impl Tracked {
    pub(crate) fn new(value: u64) -> Self {
        Self(UnsafeCell::new(value))
    }

    pub(crate) fn read(&self) -> u64 {
        // SAFETY: loom has checked that no write is concurrent.
        self.0.with(|value| unsafe { *value })
    }

    pub(crate) fn write(&self, new: u64) {
        // SAFETY: loom has checked that no other access is concurrent.
        self.0.with_mut(|value| unsafe { *value = new });
    }
}

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
