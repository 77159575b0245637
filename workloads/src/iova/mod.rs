//! Allocator of I/O virtual addresses, as Linux's `drivers/iommu/iova.c` behaves.
//!
//! Sizes up to 32 pages are rounded up to a power of two and cached per CPU in magazines of 128, two a size class, with
//! a shared depot of full magazines behind them; behind those, and for larger sizes, a tree of all ranges under a lock,
//! searched from the top. Ranges are aligned to their size. Linux tries PCI devices below 4 GiB first; a virtio-mmio
//! device is none, and so is not.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use thiserror::Error;
use virtio_iommu_spec::IovaRange;

mod cache;
#[cfg(test)]
mod tests;
mod tree;

pub use cache::{CLASSES, DEPOT, MAGAZINE};

use crate::pages::PAGE_BYTES;
use cache::{Magazine, Pair, magazine};
use tree::Tree;

const PAGE_SHIFT: u32 = PAGE_BYTES.trailing_zeros();

/// No I/O virtual address can be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum IovaError {
    /// The range has no whole page above page zero.
    #[error("{range} has no page to allocate")]
    NoSpace {
        /// The range.
        range: IovaRange,
    },
    /// No hole is large enough, even with every cache emptied.
    #[error("no {bytes} bytes of I/O virtual address space are free")]
    Exhausted {
        /// What was asked for.
        bytes: u64,
    },
    /// What is freed was not allocated.
    #[error("I/O virtual address {iova:#x} was not allocated")]
    NotAllocated {
        /// The address.
        iova: u64,
    },
}

/// The address space of one domain, shared by all CPUs.
#[derive(Debug)]
pub struct IovaSpace {
    tree: Mutex<Tree>,
    depots: [Mutex<Vec<Magazine>>; CLASSES],
}

impl IovaSpace {
    /// Whole pages within `range`, page zero left out, without those that touch `reserved`.
    ///
    /// # Errors
    /// When there is no such page.
    pub fn new(range: IovaRange, reserved: &[IovaRange]) -> Result<Arc<Self>, IovaError> {
        let low = (range.start().div_ceil(PAGE_BYTES)).max(1);
        // One page past the last whole one; a range that ends at u64::MAX ends with a whole page.
        let end = (range.end() >> PAGE_SHIFT) + u64::from(range.end() % PAGE_BYTES == PAGE_BYTES - 1);
        if end <= low {
            return Err(IovaError::NoSpace { range });
        }
        let mut tree = Tree::new(low, end - 1);
        for region in reserved {
            tree.reserve(region.start() >> PAGE_SHIFT, region.end() >> PAGE_SHIFT);
        }
        Ok(Arc::new(Self { tree: Mutex::new(tree), depots: Default::default() }))
    }

    /// A CPU's handle.
    pub fn cpu(self: &Arc<Self>) -> IovaCpu {
        IovaCpu { space: Arc::clone(self), pairs: std::array::from_fn(|_| Pair::new()) }
    }
}

/// One CPU's way to allocate. Dropping it gives its magazines back.
#[derive(Debug)]
pub struct IovaCpu {
    space: Arc<IovaSpace>,
    pairs: [Pair; CLASSES],
}

/// Pages of an allocation: rounded up to a power of two where a class caches them.
#[inline]
fn pages_of(bytes: u64) -> u64 {
    let pages = bytes.max(1).div_ceil(PAGE_BYTES);
    if pages < 1 << (CLASSES - 1) { pages.next_power_of_two() } else { pages }
}

/// The class that caches ranges of so many pages.
#[inline]
fn class_of(pages: u64) -> Option<usize> {
    let class = pages.trailing_zeros() as usize;
    (pages.is_power_of_two() && class < CLASSES).then_some(class)
}

impl IovaCpu {
    /// Another CPU's handle of the same address space.
    pub fn another(&self) -> Self {
        self.space.cpu()
    }

    /// Allocates at least `bytes`, aligned to that rounded up to a power of two pages; returns the first address.
    ///
    /// # Errors
    /// When the address space is used up.
    #[inline]
    pub fn alloc(&mut self, bytes: u64) -> Result<u64, IovaError> {
        let pages = pages_of(bytes);
        let first = match class_of(pages) {
            Some(class) => match self.pairs[class].take() {
                Some(first) => first,
                None => self.refill(class, pages, bytes)?,
            },
            None => self.search_tree(pages, bytes)?,
        };
        Ok(first << PAGE_SHIFT)
    }

    /// Frees what [`alloc`](Self::alloc) returned for as many `bytes`, on any CPU.
    ///
    /// # Errors
    /// When a range that bypasses or overflows the caches was not allocated; a cached one is not checked.
    #[inline]
    pub fn free(&mut self, iova: u64, bytes: u64) -> Result<(), IovaError> {
        let first = iova >> PAGE_SHIFT;
        let Some(class) = class_of(pages_of(bytes)) else {
            let freed = lock(&self.space.tree).free(first);
            return if freed { Ok(()) } else { Err(IovaError::NotAllocated { iova }) };
        };
        match self.pairs[class].put(first) {
            Ok(()) => Ok(()),
            Err(first) => self.overflow(class, first),
        }
    }

    /// Both magazines are empty: a full one from the depot, or the tree.
    #[cold]
    fn refill(&mut self, class: usize, pages: u64, bytes: u64) -> Result<u64, IovaError> {
        let full = lock(&self.space.depots[class]).pop();
        if let Some(full) = full {
            self.pairs[class].load(full);
            if let Some(first) = self.pairs[class].take() {
                return Ok(first);
            }
        }
        self.search_tree(pages, bytes)
    }

    /// From the tree; when it has no room, once more with this CPU's caches and the depots emptied.
    fn search_tree(&mut self, pages: u64, bytes: u64) -> Result<u64, IovaError> {
        let found = lock(&self.space.tree).alloc(pages);
        if let Some(first) = found {
            return Ok(first);
        }
        self.empty_caches()?;
        for depot in &self.space.depots {
            for full in lock(depot).drain(..) {
                give_back(&self.space, full)?;
            }
        }
        lock(&self.space.tree).alloc(pages).ok_or(IovaError::Exhausted { bytes })
    }

    /// Both magazines are full: one goes to the depot, or, when that is full too, back to the tree.
    #[cold]
    fn overflow(&mut self, class: usize, first: u64) -> Result<(), IovaError> {
        let full = self.pairs[class].load(magazine());
        // The magazine just loaded is empty.
        let _ = self.pairs[class].put(first);
        let mut depot = lock(&self.space.depots[class]);
        if depot.len() < DEPOT {
            depot.push(full);
            return Ok(());
        }
        drop(depot);
        give_back(&self.space, full)
    }

    fn empty_caches(&mut self) -> Result<(), IovaError> {
        for pair in &mut self.pairs {
            give_back(&self.space, pair.drain())?;
        }
        Ok(())
    }
}

impl Drop for IovaCpu {
    fn drop(&mut self) {
        if let Err(error) = self.empty_caches() {
            tracing::error!(%error, "an address was freed twice");
        }
    }
}

fn give_back(space: &IovaSpace, ranges: impl IntoIterator<Item = u64>) -> Result<(), IovaError> {
    let mut tree = lock(&space.tree);
    for first in ranges {
        if !tree.free(first) {
            return Err(IovaError::NotAllocated { iova: first << PAGE_SHIFT });
        }
    }
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Trees and magazines are consistent whenever the lock is free.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
