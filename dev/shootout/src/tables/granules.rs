//! A concurrent map with one key a granule, made into a mapping table.

use virtio_iommu::{
    epoch::Guard,
    spec::{Gpa, Iova, IovaRange},
    table::{MapError, Mapping, MappingTable, Perms, Removed, Translation, UnmapError},
};

pub(super) const PAGE: u64 = 4096;
/// No word is zero, whatever it maps to.
const PRESENT: u64 = 1 << 11;
/// UNMAPs of more pages than this look at what is there instead of at every page.
const MANY: u64 = 4096;

/// A concurrent map from page numbers to words that are never zero.
pub trait PageMap: Default + Send + Sync {
    /// The structure's name in tables and plots.
    const NAME: &'static str;

    /// Adds a page; `false` when it is there already.
    fn insert(&self, page: u64, word: u64) -> bool;
    /// Removes a page; `false` when it is not there.
    fn remove(&self, page: u64) -> bool;
    /// The word of a page.
    fn get(&self, page: u64) -> Option<u64>;
    /// All pages with their words, in any order.
    fn pages(&self) -> Vec<(u64, u64)>;
    /// Memory in bytes, as far as it is known: keys and values at least.
    fn bytes(&self) -> u64 {
        self.pages().len() as u64 * 16
    }
}

/// A [`PageMap`] as a mapping table that takes mappings of one 4 KiB granule only.
#[derive(Debug, Default)]
pub struct PerGranule<M>(M);

fn translation(iova: u64, word: u64) -> Translation {
    let gpa = Gpa(word & !(PAGE - 1) | iova & (PAGE - 1));
    Translation { gpa, run_end: iova | (PAGE - 1), perms: Perms::from_flags(word as u32 & 7) }
}

impl<M: PageMap> MappingTable for PerGranule<M> {
    /// # Panics
    /// When the mapping is not exactly one granule: a map of pages cannot add several at once.
    #[inline]
    fn map(&self, _guard: &Guard<'_>, mapping: &Mapping) -> Result<(), MapError> {
        let (start, end) = (mapping.range.start(), mapping.range.end());
        assert!(
            start.is_multiple_of(PAGE) && end == start | (PAGE - 1),
            "{} is not one granule",
            mapping.range
        );
        let word = mapping.gpa.0 | PRESENT | u64::from(mapping.perms.to_flags());
        if self.0.insert(start / PAGE, word) {
            Ok(())
        } else {
            Err(MapError::Overlap { range: mapping.range })
        }
    }

    #[inline]
    fn unmap(&self, _guard: &Guard<'_>, range: IovaRange) -> Result<Removed, UnmapError> {
        let (first, last) = (range.start() / PAGE, range.end() / PAGE);
        let whole = range.start().is_multiple_of(PAGE) && range.end() % PAGE == PAGE - 1;
        if whole && first == last {
            let mappings = u64::from(self.0.remove(first));
            return Ok(Removed { mappings, bytes: mappings * PAGE });
        }
        self.unmap_many(range)
    }

    #[inline]
    fn translate(&self, _guard: &Guard<'_>, iova: Iova) -> Option<Translation> {
        Some(translation(iova.0, self.0.get(iova.0 / PAGE)?))
    }

    fn for_each(&self, _guard: &Guard<'_>, f: &mut dyn FnMut(Mapping)) {
        let mut pages = self.0.pages();
        pages.sort_unstable();
        for (page, word) in pages {
            let found = translation(page * PAGE, word);
            if let Some(range) = IovaRange::with_len(page * PAGE, PAGE) {
                f(Mapping { range, gpa: found.gpa, perms: found.perms });
            }
        }
    }

    fn table_bytes(&self) -> u64 {
        self.0.bytes()
    }
}

impl<M: PageMap> PerGranule<M> {
    #[cold]
    fn unmap_many(&self, range: IovaRange) -> Result<Removed, UnmapError> {
        let (first, last) = (range.start() / PAGE, range.end() / PAGE);
        let splits = |page: u64, cut: bool| cut && self.0.get(page).is_some();
        if splits(first, !range.start().is_multiple_of(PAGE)) || splits(last, range.end() % PAGE != PAGE - 1)
        {
            return Err(UnmapError::Split { range });
        }
        let mappings = if last - first < MANY {
            (first..=last).filter(|&page| self.0.remove(page)).count()
        } else {
            let inside = |page: &u64| (first..=last).contains(page);
            let pages = self.0.pages().into_iter().map(|(page, _)| page).filter(inside);
            pages.filter(|&page| self.0.remove(page)).count()
        };
        Ok(Removed { mappings: mappings as u64, bytes: mappings as u64 * PAGE })
    }
}
