//! Memory that the tables of one device share.

use std::sync::Arc;

use crossbeam_utils::CachePadded;

use crate::{
    halt::Halt,
    sync::{AtomicU64, Ordering},
};

struct Account {
    limit: u64,
    used: CachePadded<AtomicU64>,
    halt: Halt,
}

/// How much memory mapping tables may take together, in bytes. Clones share one account, so that a guest that fills
/// many domains gets no more than one that fills one.
#[derive(Clone)]
pub struct Budget(Arc<Account>);

impl Budget {
    /// `limit` bytes for all tables that are given this budget.
    pub fn new(limit: u64) -> Self {
        Self::with_halt(limit, Halt::default())
    }

    /// As [`new`](Self::new), for tables whose long operations end early when `halt` says so.
    pub(crate) fn with_halt(limit: u64, halt: Halt) -> Self {
        Self(Arc::new(Account { limit, used: CachePadded::new(AtomicU64::new(0)), halt }))
    }

    /// A reset waits: an operation may leave undone what it has not done yet.
    #[inline]
    pub(crate) fn is_stopped(&self) -> bool {
        self.0.halt.is_stopped()
    }

    /// Bytes in use.
    pub fn used(&self) -> u64 {
        self.0.used.load(Ordering::Relaxed)
    }

    /// Whether more than half is used: time to give back what is empty.
    #[inline]
    pub(crate) fn is_tight(&self) -> bool {
        self.used() > self.0.limit / 2
    }

    /// Takes `bytes`, if they are there. Relaxed: a count, it orders nothing.
    pub(crate) fn take(&self, bytes: u64) -> bool {
        let more = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= self.0.limit);
        self.0.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    /// Takes `bytes` even beyond the limit: what every domain needs, whose number is limited elsewhere.
    pub(crate) fn take_regardless(&self, bytes: u64) {
        self.0.used.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Gives back `bytes`.
    pub(crate) fn give(&self, bytes: u64) {
        self.0.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}
