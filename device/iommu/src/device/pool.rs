//! The cap on mappings, handed out in chunks: the fast path counts down a number of its own.

use crate::sync::{AtomicU64, Ordering};

/// Credits a worker takes at once.
const CHUNK: u64 = 256;

/// Mappings that may still be made, device-wide.
pub(crate) struct MappingPool {
    cap: u64,
    left: AtomicU64,
}

impl MappingPool {
    pub(crate) fn new(cap: u64) -> Self {
        Self { cap, left: AtomicU64::new(cap) }
    }

    pub(crate) fn cap(&self) -> u64 {
        self.cap
    }

    /// Takes up to `want`; returns how many there were.
    pub(crate) fn take(&self, want: u64) -> u64 {
        // Relaxed throughout: a number that guards no other memory.
        let old =
            self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| Some(left - left.min(want)));
        old.unwrap_or(0).min(want)
    }

    pub(crate) fn give_back(&self, credits: u64) {
        self.left.fetch_add(credits, Ordering::Relaxed);
    }

    /// Mappings and unused credits of workers.
    pub(crate) fn taken(&self) -> u64 {
        self.cap - self.left.load(Ordering::Relaxed)
    }
}

/// One worker's share.
#[derive(Default)]
pub(crate) struct Credits(u64);

impl Credits {
    /// One mapping; `false` when the cap is reached. Other workers may sit on unused credits, at most two chunks each.
    #[inline]
    pub(crate) fn spend(&mut self, pool: &MappingPool) -> bool {
        if self.0 == 0 {
            self.0 = pool.take(CHUNK);
        }
        if self.0 == 0 {
            return false;
        }
        self.0 -= 1;
        true
    }

    /// Mappings went away, or were not made after all.
    #[inline]
    pub(crate) fn refund(&mut self, mappings: u64, pool: &MappingPool) {
        self.0 += mappings;
        if self.0 > 2 * CHUNK {
            pool.give_back(self.0 - CHUNK);
            self.0 = CHUNK;
        }
    }

    /// Hands everything back.
    pub(crate) fn clear(&mut self, pool: &MappingPool) {
        pool.give_back(std::mem::take(&mut self.0));
    }
}
