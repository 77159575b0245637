//! Removals that a request queue has begun and whose grace period is not over: what other queues' MAPs look at.
//!
//! From the moment a mapping leaves the table until the grace period after it, a port may still have it in its IOTLB:
//! first because the range is not in the log yet, then because a guard looked at the log before it was. The request
//! that removed it is answered only after that. With several request queues, a MAP on another one may find the place
//! free in between, and its answer must not come before the old entries are gone either.

use virtio_iommu_spec::IovaRange;

use super::InvalidationLog;
use crate::sync::{AtomicU64, Ordering};

/// Nothing is announced.
const NONE: u64 = 0;
/// Ranges of more than one domain are announced.
const ANY: u64 = u64::MAX;

/// One request queue's announcement: a range around all that it has removed since its last grace period.
///
/// Only the queue's worker writes it, without a read-modify-write and on a cache line of its own.
///
/// Orderings: the announcement comes before the removal, whose compare-and-swap is a Release; a MAP that takes the
/// place has read the outcome of that (Acquire), so it reads the announcement or what was stored after it. Within a
/// batch the range only grows. A value stored in a later batch, or the end of the announcement, is a Release store that
/// the loads below pair with: who reads it has the removal's record and grace period behind it.
#[derive(Debug)]
pub(crate) struct Unfinished {
    log: AtomicU64,
    first: AtomicU64,
    last: AtomicU64,
}

impl Default for Unfinished {
    fn default() -> Self {
        Self { log: AtomicU64::new(NONE), first: AtomicU64::new(0), last: AtomicU64::new(0) }
    }
}

impl Unfinished {
    /// Announces that mappings within `range` are about to be removed from the domain with this log.
    #[inline]
    pub(crate) fn announce(&self, log: &InvalidationLog, range: IovaRange) {
        // Relaxed: this thread's own stores.
        let of = self.log.load(Ordering::Relaxed);
        if of == NONE {
            self.first.store(range.start(), Ordering::Release);
            self.last.store(range.end(), Ordering::Release);
            self.log.store(log.id(), Ordering::Release);
            return;
        }
        if range.start() < self.first.load(Ordering::Relaxed) {
            self.first.store(range.start(), Ordering::Release);
        }
        if range.end() > self.last.load(Ordering::Relaxed) {
            self.last.store(range.end(), Ordering::Release);
        }
        if of != log.id() {
            self.log.store(ANY, Ordering::Release);
        }
    }

    /// Whether something is announced.
    pub(crate) fn stands(&self) -> bool {
        // Relaxed: for the queue's own worker; the start of a worker orders it behind the last one.
        self.log.load(Ordering::Relaxed) != NONE
    }

    /// Ends the announcement: the grace period is over, or nothing was removed.
    #[inline]
    pub(crate) fn clear(&self) {
        // Release pairs with the Acquire in `overlapping`.
        self.log.store(NONE, Ordering::Release);
    }

    /// The announced range, if it reaches into `range` of the domain with this log. Called after a MAP of `range`.
    #[inline]
    fn overlapping(&self, log: &InvalidationLog, range: IovaRange) -> Option<IovaRange> {
        // Acquire, all three: pairs with the Release stores above.
        let of = self.log.load(Ordering::Acquire);
        if of != log.id() && of != ANY {
            return None;
        }
        let (first, last) = (self.first.load(Ordering::Acquire), self.last.load(Ordering::Acquire));
        // Halves of two batches may be no range: then the earlier batch is over, and the later one has removed nothing that
        // this MAP found gone.
        IovaRange::new(first, last).filter(|announced| announced.intersection(&range).is_some())
    }
}

/// Whether a MAP of `range`, which has just succeeded, may have taken the place of a mapping that ports still have in
/// their IOTLBs. If so, all that may be gone with it is in the log when this returns, and the MAP must not be answered
/// before a grace period is over.
#[inline]
pub(crate) fn overtakes<'a>(
    log: &InvalidationLog,
    range: IovaRange,
    queues: impl Iterator<Item = &'a Unfinished>,
) -> bool {
    let mut overtakes = false;
    for announced in queues.filter_map(|queue| queue.overlapping(log, range)) {
        // The whole of it, not only what this MAP took: an entry for a page before it may say that its translation goes
        // on into it.
        log.append(announced);
        overtakes = true;
    }
    overtakes
}
