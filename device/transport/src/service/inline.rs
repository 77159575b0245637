//! The inline service: the kicking thread does the work.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU8, Ordering},
};

use super::{Progress, QueueWorker, Shared, lock};
use crate::Interrupt;

const IDLE: u8 = 0;
const SERVING: u8 = 1;
const KICKED: u8 = 2;

struct Crew {
    worker: Box<dyn QueueWorker>,
    interrupt: Arc<dyn Interrupt>,
}

/// Whoever turns the state from `IDLE` to `KICKED` serves, until it has put it back to `IDLE`; a kick meanwhile leaves
/// `KICKED` behind, which keeps the server from going idle. So a kick never waits, not even for itself: an interrupt
/// handler that kicks from within the work is served after it.
pub(super) struct Inline {
    state: AtomicU8,
    /// Contended by `stop` only: the state admits one server.
    crew: Mutex<Option<Crew>>,
}

impl Inline {
    pub(super) fn new() -> Self {
        Self { state: AtomicU8::new(IDLE), crew: Mutex::new(None) }
    }

    pub(super) fn occupied(&self) -> bool {
        lock(&self.crew).is_some()
    }

    pub(super) fn put(&self, worker: Box<dyn QueueWorker>, interrupt: Arc<dyn Interrupt>) {
        *lock(&self.crew) = Some(Crew { worker, interrupt });
    }

    /// Waits until a server is done, and dismisses the worker.
    pub(super) fn take(&self) {
        let crew = lock(&self.crew).take();
        drop(crew);
    }

    #[inline]
    pub(super) fn kick(&self, shared: &Shared) {
        // AcqRel: releases what the kicker published to the server that finds KICKED.
        if self.state.swap(KICKED, Ordering::AcqRel) != IDLE {
            return;
        }
        loop {
            // Acquire pairs with the kicker's Release: what was published before a kick that this swap consumes is seen.
            self.state.swap(SERVING, Ordering::AcqRel);
            self.serve(shared);
            // Fails when somebody kicked meanwhile. Release: the next server sees what this one did.
            if self.state.compare_exchange(SERVING, IDLE, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                return;
            }
        }
    }

    fn serve(&self, shared: &Shared) {
        let mut crew = lock(&self.crew);
        let Some(Crew { worker, .. }) = crew.as_mut() else { return };
        let work = || while !shared.stopping() && worker.run() == Progress::Worked {};
        if shared.guarded(work).is_some() {
            return;
        }
        let broken = crew.take();
        drop(crew);
        if let Some(Crew { worker, interrupt }) = broken {
            shared.guarded(|| drop(worker));
            shared.guarded(|| interrupt.config());
        }
    }
}
