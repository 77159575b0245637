//! Per-CPU magazines: the allocator's fast path, without lock or tree.

use std::mem;

/// Size classes: 2^0 to 2^5 pages.
pub const CLASSES: usize = 6;
/// Ranges a magazine holds.
pub const MAGAZINE: usize = 128;
/// Full magazines the depot of a class holds.
pub const DEPOT: usize = 32;

/// Freed ranges of one size, by first page.
pub(super) type Magazine = Vec<u64>;

pub(super) fn magazine() -> Magazine {
    Vec::with_capacity(MAGAZINE)
}

/// One CPU's two magazines of one class.
#[derive(Debug)]
pub(super) struct Pair {
    loaded: Magazine,
    previous: Magazine,
}

impl Pair {
    pub(super) fn new() -> Self {
        Self { loaded: magazine(), previous: magazine() }
    }

    /// A range, unless both magazines are empty.
    #[inline]
    pub(super) fn take(&mut self) -> Option<u64> {
        if self.loaded.is_empty() {
            mem::swap(&mut self.loaded, &mut self.previous);
        }
        self.loaded.pop()
    }

    /// Puts a range in; when both magazines are full it comes back.
    #[inline]
    pub(super) fn put(&mut self, first: u64) -> Result<(), u64> {
        if self.loaded.len() == MAGAZINE {
            if self.previous.len() == MAGAZINE {
                return Err(first);
            }
            mem::swap(&mut self.loaded, &mut self.previous);
        }
        self.loaded.push(first);
        Ok(())
    }

    /// Loads another magazine in place of the loaded one, which is returned.
    pub(super) fn load(&mut self, magazine: Magazine) -> Magazine {
        mem::replace(&mut self.loaded, magazine)
    }

    /// Everything in both.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = u64> {
        self.loaded.drain(..).chain(self.previous.drain(..))
    }
}
