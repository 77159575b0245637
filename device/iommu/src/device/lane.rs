//! What belongs to one request queue and outlives the worker that serves it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{ServiceObserver, counters::LiveCounters};
use crate::iotlb::Unfinished;

/// One request queue's share of the device. Padded, so that workers do not share cache lines.
#[derive(Default)]
pub(crate) struct Lane {
    pub(crate) counters: LiveCounters,
    /// Removals that ports' IOTLBs may not have followed yet.
    pub(crate) unfinished: Unfinished,
    observer: Mutex<Option<Box<dyn ServiceObserver>>>,
    indices: Mutex<Option<(u16, u16)>>,
}

impl Lane {
    /// The observer, while no worker has it.
    pub(crate) fn observer(&self) -> MutexGuard<'_, Option<Box<dyn ServiceObserver>>> {
        lock(&self.observer)
    }

    /// Where the last worker left its queue (next available, used), for the state to save.
    pub(crate) fn indices(&self) -> Option<(u16, u16)> {
        *lock(&self.indices)
    }

    /// The worker goes; its queue stands here.
    pub(crate) fn leave_at(&self, indices: (u16, u16)) {
        *lock(&self.indices) = Some(indices);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // The values are replaced whole, so a panic elsewhere leaves nothing half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
