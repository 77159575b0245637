//! All ranges in use, in order: what is behind the caches.

use std::collections::BTreeMap;

/// Allocated and reserved ranges of page frame numbers.
///
/// Allocation is top-down and first-fit, aligned to the size rounded up to a power of two, and starts where the last
/// one succeeded, as Linux's `iova.c` does.
#[derive(Debug)]
pub(super) struct Tree {
    /// First page of each range in use to its last page.
    used: BTreeMap<u64, u64>,
    low: u64,
    high: u64,
    /// Search below this page first: below it everything that was looked at was too small.
    hint: Option<u64>,
}

impl Tree {
    /// Pages `low` to `high`, both included; `high` is less than `u64::MAX`, being a page number.
    pub(super) fn new(low: u64, high: u64) -> Self {
        Self { used: BTreeMap::new(), low, high, hint: None }
    }

    /// Takes pages `first` to `last` out for good; what is already taken stays so.
    pub(super) fn reserve(&mut self, first: u64, last: u64) {
        let (mut first, mut last) = (first, last);
        let touching: Vec<(u64, u64)> = self
            .used
            .range(..=last)
            .filter(|(_, end)| **end >= first)
            .map(|(start, end)| (*start, *end))
            .collect();
        for (start, end) in touching {
            self.used.remove(&start);
            first = first.min(start);
            last = last.max(end);
        }
        self.used.insert(first, last);
    }

    /// Allocates `pages` pages (not zero).
    pub(super) fn alloc(&mut self, pages: u64) -> Option<u64> {
        let align = pages.checked_next_power_of_two()?;
        let top = self.high.checked_add(1)?;
        let hint = self.hint.filter(|hint| *hint <= top);
        let first = hint
            .and_then(|hint| self.search(hint, pages, align))
            .or_else(|| self.search(top, pages, align))?;
        self.used.insert(first, first + pages - 1);
        self.hint = Some(first);
        Some(first)
    }

    /// The highest aligned hole that ends below page `above`.
    fn search(&self, above: u64, pages: u64, align: u64) -> Option<u64> {
        let mut above = above;
        for (start, end) in self.used.range(..above).rev() {
            let first = above.checked_sub(pages)? & !(align - 1);
            if first > *end {
                return Some(first).filter(|first| *first >= self.low);
            }
            above = *start;
        }
        let first = above.checked_sub(pages)? & !(align - 1);
        Some(first).filter(|first| *first >= self.low)
    }

    /// Frees the range that starts at page `first`; whether there was one.
    pub(super) fn free(&mut self, first: u64) -> bool {
        if self.used.remove(&first).is_none() {
            return false;
        }
        if self.hint.is_some_and(|hint| first >= hint) {
            self.hint = self.used.range(first..).next().map(|(start, _)| *start);
        }
        true
    }
}
