//! A domain's log of removed ranges: any number of unmappers append, any number of ports read, nobody waits.

use crossbeam_utils::CachePadded;
use virtio_iommu_spec::IovaRange;

use crate::sync::{AtomicU64, Ordering, fence};

/// Removals a port may fall behind before it drops its whole cache instead.
pub const LOG_RECORDS: u64 = if cfg!(any(loom, shuttle)) { 2 } else { 256 };

/// A record. `stamp` is `2n + 1` while record `n` is being written, `2n + 2` when it is there.
struct Record {
    stamp: AtomicU64,
    first: AtomicU64,
    last: AtomicU64,
}

/// The log; see the [module](super).
pub struct InvalidationLog {
    id: u64,
    /// Number of records begun.
    head: CachePadded<AtomicU64>,
    records: Box<[Record]>,
}

/// Records that are gone, or not there yet: anything may have been removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lost;

impl Default for InvalidationLog {
    fn default() -> Self {
        Self::new()
    }
}

impl InvalidationLog {
    /// An empty log.
    pub fn new() -> Self {
        // Numbers alone, so nothing for a model to explore.
        static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
        let zero = || AtomicU64::new(0);
        Self {
            id: NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed),
            head: CachePadded::new(zero()),
            records: (0..LOG_RECORDS)
                .map(|_| Record { stamp: zero(), first: zero(), last: zero() })
                .collect(),
        }
    }

    /// Its number, unique in the process and never 0.
    #[inline(always)]
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Number of records begun so far.
    #[inline(always)]
    pub(super) fn head(&self) -> u64 {
        // Acquire pairs with the AcqRel in `append`: whoever sees a record begun sees what was removed before it.
        self.head.load(Ordering::Acquire)
    }

    /// Says that mappings in `range` are gone. To be called after they have been removed from the table, before the
    /// grace period.
    pub fn append(&self, range: IovaRange) {
        // AcqRel: Release pairs with `head`, and each link of the chain of increments carries those before it on.
        let number = self.head.fetch_add(1, Ordering::AcqRel);
        let record = &self.records[(number % LOG_RECORDS) as usize];
        let (writing, there) = (2 * number + 1, 2 * number + 2);
        let stamp = record.stamp.load(Ordering::Relaxed);
        // A record that a stalled unmapper still writes, or that one a lap ahead has written, is left alone: readers do
        // not find this number then and drop everything.
        let free = stamp.is_multiple_of(2) && stamp < writing;
        // Acquire pairs with the Release below: two unmappers' writes to a record do not mix.
        if !free
            || record.stamp.compare_exchange(stamp, writing, Ordering::Acquire, Ordering::Relaxed).is_err()
        {
            return;
        }
        // Pairs with the fence in `read`: who reads a half of the range below sees `writing`.
        fence(Ordering::Release);
        record.first.store(range.start(), Ordering::Relaxed);
        record.last.store(range.end(), Ordering::Relaxed);
        record.stamp.store(there, Ordering::Release);
    }

    /// Calls `f` with the ranges of records `from..to`.
    ///
    /// # Errors
    /// [`Lost`] when one of them cannot be had; `f` has been called with those before it.
    pub(super) fn read(&self, from: u64, to: u64, mut f: impl FnMut(IovaRange)) -> Result<(), Lost> {
        if to - from > LOG_RECORDS {
            return Err(Lost);
        }
        for number in from..to {
            let record = &self.records[(number % LOG_RECORDS) as usize];
            let there = 2 * number + 2;
            if record.stamp.load(Ordering::Acquire) != there {
                return Err(Lost);
            }
            let (first, last) = (record.first.load(Ordering::Relaxed), record.last.load(Ordering::Relaxed));
            fence(Ordering::Acquire);
            if record.stamp.load(Ordering::Relaxed) != there {
                return Err(Lost);
            }
            f(IovaRange::new(first, last).ok_or(Lost)?);
        }
        Ok(())
    }
}
