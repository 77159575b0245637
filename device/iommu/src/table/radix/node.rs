//! One table: a fan-out of entries.

use super::entry::Word;
use crate::{
    epoch::Retire,
    sync::{AtomicU64, Ordering},
};

/// Address bits one level resolves; models get the smallest tree that still has everything.
pub(super) const LEVEL_BITS: u32 = if cfg!(any(loom, shuttle)) { 1 } else { 9 };
/// Entries of a table.
pub(super) const FAN_OUT: usize = 1 << LEVEL_BITS;
/// Memory of one table, in bytes.
pub(super) const NODE_BYTES: u64 = FAN_OUT as u64 * 8;

/// An entry's place in a table.
pub(super) struct Slot(AtomicU64);

impl Slot {
    /// Acquire pairs with the Release of [`replace`](Self::replace): what the word points to is initialised.
    #[inline(always)]
    pub(super) fn load(&self) -> Word {
        Word(self.0.load(Ordering::Acquire))
    }

    /// Asks for the slot's cache line.
    #[inline(always)]
    pub(super) fn prefetch(&self) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a prefetch has no effect but on caches; SSE is part of the architecture.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(self).cast());
        }
    }

    /// Changes the entry from `old` to `new`; says whether it still was `old`.
    ///
    /// AcqRel: Release pairs with [`load`](Self::load); Acquire so that a chain of replacements is a chain of
    /// happens-before.
    #[inline(always)]
    pub(super) fn replace(&self, old: Word, new: Word) -> bool {
        self.0.compare_exchange(old.0, new.0, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Marks the entry as one that nobody may change any more and returns what it holds.
    pub(super) fn freeze(&self) -> Word {
        loop {
            let word = self.load();
            if word.is_frozen() || self.replace(word, word.frozen()) {
                return word;
            }
        }
    }
}

/// A table of [`FAN_OUT`] entries, aligned so that addresses leave the tag bits free.
#[repr(C, align(64))]
pub(super) struct Node {
    slots: [Slot; FAN_OUT],
}

impl Retire for Node {}

impl Node {
    /// An empty table.
    #[cfg(not(any(loom, shuttle)))]
    pub(super) fn new() -> Box<Self> {
        // SAFETY: a node is an array of `AtomicU64` behind transparent wrappers; all-zero bytes are 512 empty words.
        unsafe { Box::<Self>::new_zeroed().assume_init() }
    }

    /// An empty table.
    #[cfg(any(loom, shuttle))]
    pub(super) fn new() -> Box<Self> {
        Box::new(Self { slots: std::array::from_fn(|_| Slot(AtomicU64::new(0))) })
    }

    #[inline(always)]
    pub(super) fn slot(&self, index: usize) -> &Slot {
        &self.slots[index & (FAN_OUT - 1)]
    }

    pub(super) fn slots(&self) -> &[Slot; FAN_OUT] {
        &self.slots
    }

    /// Fills an entry of a table that is not linked yet; the Release that links it publishes the entry.
    pub(super) fn fill(&mut self, index: usize, word: Word) {
        #[cfg(not(loom))]
        {
            *self.slots[index].0.get_mut() = word.0;
        }
        #[cfg(loom)]
        self.slots[index].0.with_mut(|slot| *slot = word.0);
    }

    /// Whether no entry holds anything, when looked at one after the other.
    pub(super) fn looks_empty(&self) -> bool {
        self.slots.iter().all(|slot| slot.load().is_empty())
    }
}
