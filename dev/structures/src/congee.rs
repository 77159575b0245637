//! `congee`.

use congee::Congee;

use iommu_shootout::tables::PageMap;

/// Pages in a [`Congee`], which pins its own epoch for each operation.
#[derive(Default)]
pub struct CongeePages(Congee<usize, usize>);

impl PageMap for CongeePages {
    const NAME: &'static str = "congee";

    #[inline]
    fn insert(&self, page: u64, word: u64) -> bool {
        let guard = self.0.pin();
        let keep = |old: Option<usize>| old.unwrap_or(word as usize);
        // The default allocator aborts rather than report an error.
        self.0.compute_or_insert(page as usize, keep, &guard).is_ok_and(|old| old.is_none())
    }

    #[inline]
    fn remove(&self, page: u64) -> bool {
        self.0.remove(&(page as usize), &self.0.pin()).is_some()
    }

    #[inline]
    fn get(&self, page: u64) -> Option<u64> {
        self.0.get(&(page as usize), &self.0.pin()).map(|word| word as u64)
    }

    fn pages(&self) -> Vec<(u64, u64)> {
        let found = |page: usize| Some((page as u64, self.get(page as u64)?));
        self.0.keys().into_iter().filter_map(found).collect()
    }
}
