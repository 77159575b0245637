//! The request to end long work early.
//!
//! A guest can queue requests that take long: an UNMAP of a hundred thousand mappings far apart, a ring of them. A pause is
//! answered after the request being served, a reset in the middle of it: what is left undone goes with the domains.

use std::sync::Arc;

use crate::sync::{AtomicU64, Ordering};

const RUN: u64 = 0;
const PAUSE: u64 = 1;
/// Larger numbers leave as many tables more to be looked at.
const STOP: u64 = 2;

/// One device's request, shared by its front, its request queues and its tables.
#[derive(Clone)]
pub(crate) struct Halt(Arc<AtomicU64>);

impl Default for Halt {
    fn default() -> Self {
        Self(Arc::new(AtomicU64::new(RUN)))
    }
}

// Relaxed throughout: a flag that is looked at again soon. What follows it is ordered by the join of the thread that saw
// it, or by the locks under which a device starts and stops.
impl Halt {
    /// Requests end after the one being served.
    pub(crate) fn pause(&self) {
        self.0.store(PAUSE, Ordering::Relaxed);
    }

    /// The request being served ends unfinished; it must not be answered.
    pub(crate) fn stop(&self) {
        self.0.store(STOP, Ordering::Relaxed);
    }

    /// As [`stop`](Self::stop), once `tables` more tables have been looked at. For a device whose request queues are at rest.
    pub(crate) fn stop_after(&self, tables: u64) {
        self.0.store(STOP.saturating_add(tables), Ordering::Relaxed);
    }

    /// Work runs to its end again.
    pub(crate) fn go(&self) {
        self.0.store(RUN, Ordering::Relaxed);
    }

    /// A pause or a reset waits.
    #[inline(always)]
    pub(crate) fn is_asked(&self) -> bool {
        self.0.load(Ordering::Relaxed) != RUN
    }

    /// A reset waits: what is being done may be left unfinished. To be asked once for each table that is looked at.
    #[inline(always)]
    pub(crate) fn is_stopped(&self) -> bool {
        match self.0.load(Ordering::Relaxed) {
            RUN | PAUSE => false,
            STOP => true,
            left => {
                self.0.store(left - 1, Ordering::Relaxed);
                false
            }
        }
    }
}
