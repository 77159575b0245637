//! `dashmap`.

use dashmap::{DashMap, Entry};

use iommu_shootout::tables::PageMap;

/// Pages in a [`DashMap`].
#[derive(Debug, Default)]
pub struct DashPages(DashMap<u64, u64>);

impl PageMap for DashPages {
    const NAME: &'static str = "dashmap";

    #[inline]
    fn insert(&self, page: u64, word: u64) -> bool {
        match self.0.entry(page) {
            Entry::Occupied(_) => false,
            Entry::Vacant(vacant) => {
                vacant.insert(word);
                true
            }
        }
    }

    #[inline]
    fn remove(&self, page: u64) -> bool {
        self.0.remove(&page).is_some()
    }

    #[inline]
    fn get(&self, page: u64) -> Option<u64> {
        self.0.get(&page).map(|word| *word)
    }

    fn pages(&self) -> Vec<(u64, u64)> {
        self.0.iter().map(|entry| (*entry.key(), *entry.value())).collect()
    }
}
