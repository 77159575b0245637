//! What the tables are made to do: pages of 4 KiB, live ones and ones that come and go.

use std::hint::black_box;

use rand::seq::SliceRandom;
use virtio_iommu::{
    epoch::{Epoch, Fences, Participant, TooManyParticipants},
    spec::{Gpa, Iova, IovaRange},
    table::Mapping,
    table::Perms,
};

use crate::{rounds::Effort, tables::Shape};

/// Bytes of a page.
pub const PAGE: u64 = 4096;
/// Pages of a window: 16 MiB, eight leaf tables.
pub const WINDOW_PAGES: u64 = 4096;
/// Where the first window lies: above 4 GiB, clear of reserved regions.
const BASE_PAGE: u64 = 1 << 20;
/// Pairs between two looks at the clock or a flag.
pub const CHUNK: usize = 256;

/// The mapping of one page. Physical addresses differ from virtual ones.
#[inline(always)]
pub fn page_mapping(page: u64) -> Mapping {
    let start = page * PAGE;
    // A page below 2^52 has a last byte.
    let range = IovaRange::new(start, start | (PAGE - 1)).unwrap_or(IovaRange::ALL);
    Mapping { range, gpa: Gpa(start ^ (1 << 33)), perms: Perms::RW }
}

/// A table with its participants.
pub struct Subject<T> {
    /// Whose guards the table wants.
    pub epoch: Epoch,
    /// The measuring thread's own.
    pub participant: Participant,
    /// The table.
    pub table: T,
}

impl<T: Shape> Subject<T> {
    /// An empty table.
    ///
    /// # Errors
    /// Never on a fresh epoch; the type says it can.
    pub fn new() -> Result<Self, TooManyParticipants> {
        let epoch = Epoch::new(Fences::Asymmetric);
        Ok(Self { participant: epoch.register()?, table: T::make(&epoch), epoch })
    }

    /// A table with `pages` mapped.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    ///
    /// # Panics
    /// When the table refuses a page: it is broken.
    pub fn with_pages(pages: impl IntoIterator<Item = u64>) -> Result<Self, TooManyParticipants> {
        let subject = Self::new()?;
        for page in pages {
            let mapped = subject.table.map(&subject.participant.pin(), &page_mapping(page));
            assert_eq!(mapped, Ok(()), "page {page:#x} of {}", T::NAME);
        }
        Ok(subject)
    }

    /// Maps and unmaps each page once, with a guard for each operation where the structure needs it.
    #[inline]
    pub fn pairs(&self, participant: &Participant, pages: &[u64]) {
        pairs(&self.table, participant, pages);
    }

    /// Translates each page once, 64 to a guard.
    #[inline]
    pub fn translate(&self, participant: &Participant, pages: &[u64]) {
        let mut sum = 0u64;
        for burst in pages.chunks(64) {
            let guard = participant.pin();
            for page in burst {
                let found = self.table.translate(&guard, Iova(page * PAGE));
                sum = sum.wrapping_add(found.map_or(0, |found| found.gpa.0));
            }
        }
        black_box(sum);
    }
}

/// Maps and unmaps each page once.
///
/// # Panics
/// When an operation fails: somebody else uses the pages, or the table is broken.
#[inline]
pub fn pairs<T: Shape>(table: &T, participant: &Participant, pages: &[u64]) {
    // Guards nest: with an outer one, the inner ones cost next to nothing.
    let outer = (!T::GUARDED).then(|| participant.pin());
    for &page in pages {
        let mapping = page_mapping(page);
        let mapped = match &outer {
            Some(guard) => table.map(guard, &mapping),
            None => table.map(&participant.pin(), &mapping),
        };
        let unmapped = match &outer {
            Some(guard) => table.unmap(guard, mapping.range),
            None => table.unmap(&participant.pin(), mapping.range),
        };
        assert!(mapped.is_ok() && unmapped.is_ok_and(|removed| removed.mappings == 1), "page {page:#x}");
    }
}

/// A window of pages, half of them live, half of them free to come and go.
#[derive(Clone, Debug)]
pub struct Window {
    /// Mapped all the time.
    pub live: Vec<u64>,
    /// Mapped and unmapped, in random order.
    pub free: Vec<u64>,
}

impl Window {
    /// Window `number`; windows share no leaf table.
    pub fn new(effort: &Effort, number: u64) -> Self {
        let first = BASE_PAGE + number * 2 * WINDOW_PAGES;
        let mut free: Vec<u64> = (first + 1..first + WINDOW_PAGES).step_by(2).collect();
        free.shuffle(&mut effort.random(number + 2));
        Self { live: (first..first + WINDOW_PAGES).step_by(2).collect(), free }
    }

    /// Pages in chunks, over and over.
    pub fn chunks(&self) -> impl Iterator<Item = &[u64]> {
        self.free.chunks(CHUNK).cycle()
    }
}

/// `count` pages that follow one another, in random order.
pub fn random_pages(effort: &Effort, count: u64) -> Vec<u64> {
    let mut pages: Vec<u64> = (BASE_PAGE..BASE_PAGE + count).collect();
    pages.shuffle(&mut effort.random(count));
    pages
}

/// `count` pages that follow one another, in ascending order.
pub fn sequential_pages(count: u64) -> std::ops::Range<u64> {
    BASE_PAGE..BASE_PAGE + count
}
