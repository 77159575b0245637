//! The sets: tags, values and the order of use. No `unsafe`, no atomics: one thread owns them.

use std::cell::Cell;

use super::{LiveIotlb, PageSize};

/// log2 of the number of sets from which folding twice takes in 36 bits of page number, those of a 48-bit address.
const FOLD_TWICE: u32 = 9;

/// Page number and page size of an entry; 0 is no entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tag(u64);

impl Tag {
    const NONE: Self = Self(0);

    #[inline(always)]
    pub(super) fn new(iova: u64, size: PageSize) -> Self {
        Self::of_page(iova >> size.shift(), size)
    }

    /// Page numbers have at most 52 bits.
    #[inline(always)]
    pub(super) fn of_page(page: u64, size: PageSize) -> Self {
        Self(page << 2 | (size as u64 + 1))
    }

    pub(super) fn page(self) -> u64 {
        self.0 >> 2
    }

    pub(super) fn size(self) -> Option<PageSize> {
        PageSize::ALL.get((self.0 & 0b11).checked_sub(1)? as usize).copied()
    }
}

/// One set. Of four ways it is one cache line.
#[repr(C, align(64))]
struct Set<const WAYS: usize> {
    tags: [Cell<u64>; WAYS],
    values: [Cell<u64>; WAYS],
}

/// What became of an insertion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Inserted {
    /// The tag was there; it has a new value.
    Replaced,
    /// A free way was taken.
    Free,
    /// The least recently used entry of the set had to go.
    Evicted(PageSize),
}

pub(super) struct Sets<const WAYS: usize> {
    sets: Box<[Set<WAYS>]>,
    /// When each entry was used last, in ticks of the counters.
    used: Box<[[Cell<u32>; WAYS]]>,
    /// log2 of the number of sets, at least 1.
    bits: u32,
}

impl<const WAYS: usize> Sets<WAYS> {
    /// `sets` is a power of two.
    pub(super) fn new(sets: usize) -> Self {
        let cells = || std::array::from_fn(|_| Cell::new(0));
        Self {
            sets: (0..sets).map(|_| Set { tags: cells(), values: cells() }).collect(),
            used: (0..sets).map(|_| std::array::from_fn(|_| Cell::new(0))).collect(),
            bits: sets.trailing_zeros().max(1),
        }
    }

    /// Number of sets.
    pub(super) fn len(&self) -> usize {
        self.sets.len()
    }

    /// The set of a tag: its bits folded by exclusive or, so that pages a power of two apart spread over all sets as
    /// evenly as neighbours do.
    #[inline(always)]
    fn index(&self, tag: Tag) -> usize {
        let mut page = tag.0 >> 2;
        page ^= page >> self.bits;
        page ^= page >> (2 * self.bits);
        if self.bits < FOLD_TWICE {
            // Few sets: more bits are left to be folded in.
            page ^= page >> (4 * self.bits);
        }
        page as usize & (self.sets.len() - 1)
    }

    /// The way of a tag in a set. Compares them all: which way hits is not to be predicted.
    #[inline(always)]
    fn way(set: &Set<WAYS>, tag: Tag) -> Option<usize> {
        let mut hits = 0u32;
        for (way, entry) in set.tags.iter().enumerate() {
            hits |= u32::from(entry.get() == tag.0) << way;
        }
        (hits != 0).then(|| hits.trailing_zeros() as usize % WAYS)
    }

    /// The value of a tag, which is now the most recently used of its set.
    #[inline(always)]
    pub(super) fn find(&self, tag: Tag, counters: &LiveIotlb) -> Option<u64> {
        let index = self.index(tag);
        let set = &self.sets[index];
        let way = Self::way(set, tag)?;
        self.used[index][way].set(counters.hit());
        Some(set.values[way].get())
    }

    /// Puts a tag in, in place of the least recently used one if need be.
    pub(super) fn insert(&self, tag: Tag, value: u64, counters: &LiveIotlb) -> Inserted {
        let index = self.index(tag);
        let (set, used) = (&self.sets[index], &self.used[index]);
        let now = counters.fill();
        let (way, inserted) = match (Self::way(set, tag), Self::way(set, Tag::NONE)) {
            (Some(way), _) => (way, Inserted::Replaced),
            (None, Some(way)) => (way, Inserted::Free),
            (None, None) => {
                // Ages, not times: ticks wrap.
                let way = (0..WAYS).max_by_key(|&way| now.wrapping_sub(used[way].get())).unwrap_or(0);
                counters.evicted();
                let victim = Tag(set.tags[way].get()).size().unwrap_or(PageSize::Small);
                (way, Inserted::Evicted(victim))
            }
        };
        set.tags[way].set(tag.0);
        set.values[way].set(value);
        used[way].set(now);
        inserted
    }

    /// Takes a tag out; says whether it was there.
    pub(super) fn remove(&self, tag: Tag) -> bool {
        let set = &self.sets[self.index(tag)];
        let way = Self::way(set, tag);
        if let Some(way) = way {
            set.tags[way].set(Tag::NONE.0);
        }
        way.is_some()
    }

    /// Takes out every tag that `gone` says; returns how many.
    pub(super) fn drop_where(&self, gone: impl Fn(Tag) -> bool) -> usize {
        let mut dropped = 0;
        for entry in self.sets.iter().flat_map(|set| &set.tags) {
            let tag = Tag(entry.get());
            if tag != Tag::NONE && gone(tag) {
                entry.set(Tag::NONE.0);
                dropped += 1;
            }
        }
        dropped
    }
}
