//! `scc::TreeIndex`.

use scc::{Guard, TreeIndex};

use iommu_shootout::tables::PageMap;

/// Pages in a [`TreeIndex`].
#[derive(Debug, Default)]
pub struct TreeIndexPages(TreeIndex<u64, u64>);

impl PageMap for TreeIndexPages {
    const NAME: &'static str = "scc TreeIndex";

    #[inline]
    fn insert(&self, page: u64, word: u64) -> bool {
        self.0.insert_sync(page, word).is_ok()
    }

    #[inline]
    fn remove(&self, page: u64) -> bool {
        self.0.remove_sync(&page)
    }

    #[inline]
    fn get(&self, page: u64) -> Option<u64> {
        self.0.peek_with(&page, |_, word| *word)
    }

    fn pages(&self) -> Vec<(u64, u64)> {
        let guard = Guard::new();
        self.0.iter(&guard).map(|(page, word)| (*page, *word)).collect()
    }
}
