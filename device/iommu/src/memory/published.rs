//! The list of regions as accesses see it: a sequence lock, so that readers neither wait for nor slow down each other.

use std::{
    hint::spin_loop,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence},
};

use super::space::MAX_SPACE_REGIONS;

/// A region's bounds. Lengths are whole pages, which leaves bit 0 free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    pub(super) start: u64,
    pub(super) len: u64,
    /// Where it lies in the reservation.
    pub(super) at: u64,
    pub(super) writable: bool,
}

const WRITABLE: u64 = 1;

struct Slot {
    start: AtomicU64,
    len_and_writable: AtomicU64,
    at: AtomicU64,
}

/// One writer at a time, which its caller sees to; any number of readers.
pub(super) struct Published {
    /// Odd while the list is being changed.
    sequence: AtomicU64,
    count: AtomicUsize,
    slots: Box<[Slot]>,
}

impl Published {
    pub(super) fn new() -> Self {
        let zero = || AtomicU64::new(0);
        let slot = || Slot { start: zero(), len_and_writable: zero(), at: zero() };
        Self {
            sequence: AtomicU64::new(0),
            count: AtomicUsize::new(0),
            slots: (0..MAX_SPACE_REGIONS).map(|_| slot()).collect(),
        }
    }

    /// The region that `addr` lies in.
    #[inline]
    pub(super) fn find(&self, addr: u64) -> Option<Bounds> {
        loop {
            // Acquire pairs with the Release that ends `replace`.
            let before = self.sequence.load(Ordering::Acquire);
            if before & 1 == 0 {
                let found = self.search(addr);
                // The loads of the search come before that of the sequence; pairs with the fence in `replace`.
                fence(Ordering::Acquire);
                if self.sequence.load(Ordering::Relaxed) == before {
                    return found;
                }
            }
            spin_loop();
        }
    }

    fn search(&self, addr: u64) -> Option<Bounds> {
        let count = self.count.load(Ordering::Relaxed).min(self.slots.len());
        self.slots[..count].iter().find_map(|slot| {
            let start = slot.start.load(Ordering::Relaxed);
            let word = slot.len_and_writable.load(Ordering::Relaxed);
            let len = word & !WRITABLE;
            (addr.wrapping_sub(start) < len).then(|| {
                let at = slot.at.load(Ordering::Relaxed);
                Bounds { start, len, at, writable: word & WRITABLE != 0 }
            })
        })
    }

    /// Publishes another list, of which no more than [`MAX_SPACE_REGIONS`] are taken.
    pub(super) fn replace(&self, regions: impl IntoIterator<Item = Bounds>) {
        let sequence = self.sequence.load(Ordering::Relaxed);
        self.sequence.store(sequence.wrapping_add(1), Ordering::Relaxed);
        // A reader that sees one of the stores below sees the odd sequence.
        fence(Ordering::Release);
        let mut count = 0;
        for (slot, bounds) in self.slots.iter().zip(regions) {
            slot.start.store(bounds.start, Ordering::Relaxed);
            slot.at.store(bounds.at, Ordering::Relaxed);
            let writable = if bounds.writable { WRITABLE } else { 0 };
            slot.len_and_writable.store(bounds.len & !WRITABLE | writable, Ordering::Relaxed);
            count += 1;
        }
        self.count.store(count, Ordering::Relaxed);
        self.sequence.store(sequence.wrapping_add(2), Ordering::Release);
    }
}
