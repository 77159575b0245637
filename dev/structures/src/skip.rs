//! `crossbeam-skiplist`.

use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_skiplist::SkipMap;

use iommu_shootout::tables::PageMap;

/// A word, and whether its inserter knows that it is the one who inserted it: the map does not tell.
#[derive(Debug)]
struct Claimed {
    word: u64,
    claimed: AtomicBool,
}

/// Pages in a [`SkipMap`].
#[derive(Debug, Default)]
pub struct SkipPages(SkipMap<u64, Claimed>);

impl PageMap for SkipPages {
    const NAME: &'static str = "crossbeam SkipMap";

    #[inline]
    fn insert(&self, page: u64, word: u64) -> bool {
        let entry = self.0.get_or_insert(page, Claimed { word, claimed: AtomicBool::new(false) });
        // Relaxed: only one of those who find the entry may see `false`; nothing else depends on it.
        !entry.value().claimed.swap(true, Ordering::Relaxed)
    }

    #[inline]
    fn remove(&self, page: u64) -> bool {
        // `SkipMap::remove` (0.1.3) also returns the entry to a thread that lost the race to remove it.
        self.0.get(&page).is_some_and(|entry| entry.remove())
    }

    #[inline]
    fn get(&self, page: u64) -> Option<u64> {
        self.0.get(&page).map(|entry| entry.value().word)
    }

    fn pages(&self) -> Vec<(u64, u64)> {
        self.0.iter().map(|entry| (*entry.key(), entry.value().word)).collect()
    }
}
