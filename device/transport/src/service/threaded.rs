//! The services with a thread of their own.

use std::{hint::spin_loop, thread::yield_now};

use super::{Progress, QueueWorker, ServiceMode, Shared};
use crate::Interrupt;

/// Fruitless polls before the thread offers its core to another: few enough that two busy threads share one core well.
const POLLS_BEFORE_YIELD: u32 = 64;

/// The body of the worker thread: until `stop`, or a panic.
pub(super) fn serve(
    shared: &Shared,
    mode: ServiceMode,
    mut worker: Box<dyn QueueWorker>,
    interrupt: &dyn Interrupt,
) {
    let served = shared.guarded(|| match mode {
        ServiceMode::Poll => poll(shared, &mut *worker),
        ServiceMode::Thread | ServiceMode::Inline => sleep_and_serve(shared, &mut *worker),
    });
    // The worker goes before the driver hears of the failure, so that a reset finds the queues at rest.
    let dropped = shared.guarded(|| drop(worker));
    if served.is_none() || dropped.is_none() {
        shared.guarded(|| interrupt.config());
    }
}

fn poll(shared: &Shared, worker: &mut dyn QueueWorker) {
    worker.suppress_kicks(true);
    let mut fruitless = 0;
    while !shared.stopping() {
        if worker.run() == Progress::Worked {
            fruitless = 0;
            continue;
        }
        fruitless += 1;
        if fruitless < POLLS_BEFORE_YIELD {
            spin_loop();
        } else {
            fruitless = 0;
            yield_now();
        }
    }
}

fn sleep_and_serve(shared: &Shared, worker: &mut dyn QueueWorker) {
    while !shared.stopping() {
        // Kicks are wanted here. A chain made available before the driver could see that shows up in this run; one
        // made available after it comes with a kick, and the eventfd remembers kicks nobody waits for.
        if worker.run() == Progress::Idle {
            wait(shared);
            continue;
        }
        worker.suppress_kicks(true);
        while !shared.stopping() && worker.run() == Progress::Worked {}
        worker.suppress_kicks(false);
    }
}

fn wait(shared: &Shared) {
    let Some(wake) = &shared.wake else { return };
    if let Err(error) = wake.read() {
        // Cannot happen on a blocking eventfd; should it, the thread polls rather than miss a kick.
        tracing::error!(%error, "eventfd");
        yield_now();
    }
}
