//! A guest's page allocator, as simple as one can be: runs of pages, cut from RAM in order, reused by exact size.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use thiserror::Error;
use virtio_iommu_spec::Gpa;
use vm_memory::{GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use crate::memory::{NotRam, Span};

/// Size of a guest page, in bytes.
pub const PAGE_BYTES: u64 = 4096;
/// Runs are aligned to their size rounded up to a power of two, at most to this, as compound pages are.
pub const MAX_ALIGN_BYTES: u64 = 64 * 1024;

/// The guest's memory is used up, or was not what it claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PagesError {
    /// No room for this many bytes.
    #[error("guest memory is exhausted: {bytes} more bytes wanted of {total} in all; raise guest_memory_mib")]
    Exhausted {
        /// What was asked for.
        bytes: u64,
        /// All of guest RAM, in bytes.
        total: u64,
    },
    /// The allocator's range is not RAM.
    #[error(transparent)]
    NotRam(#[from] NotRam),
}

#[derive(Debug)]
struct Free {
    /// Rest of the regions, `[start, end)`.
    fresh: Vec<(u64, u64)>,
    /// Freed runs by size in bytes.
    runs: BTreeMap<u64, Vec<u64>>,
}

/// Hands out runs of pages of guest RAM.
#[derive(Debug)]
pub struct PageAllocator {
    memory: Arc<GuestMemoryMmap>,
    free: Mutex<Free>,
    total: u64,
}

impl PageAllocator {
    /// All of guest RAM but the page at address zero, which nobody should ever hand to a device.
    pub fn new(memory: Arc<GuestMemoryMmap>) -> Self {
        let fresh: Vec<_> = memory
            .iter()
            .map(|region| {
                (region.start_addr().0.max(PAGE_BYTES), region.start_addr().0.saturating_add(region.len()))
            })
            .filter(|(start, end)| start < end)
            .collect();
        let total = fresh.iter().map(|(start, end)| end - start).sum();
        Self { memory, free: Mutex::new(Free { fresh, runs: BTreeMap::new() }), total }
    }

    /// The memory the pages come from.
    pub fn memory(&self) -> &Arc<GuestMemoryMmap> {
        &self.memory
    }

    /// Allocates `bytes`, rounded up to pages, zeroed, naturally aligned up to [`MAX_ALIGN_BYTES`].
    ///
    /// # Errors
    /// When no region has room for it.
    pub fn alloc(&self, bytes: u64) -> Result<Span, PagesError> {
        let exhausted = PagesError::Exhausted { bytes, total: self.total };
        let size = bytes.max(1).checked_next_multiple_of(PAGE_BYTES).ok_or(exhausted)?;
        let gpa = self.take(size).ok_or(exhausted)?;
        let len = usize::try_from(size).map_err(|_| exhausted)?;
        let span = Span::new(&self.memory, Gpa(gpa), len)?;
        span.zero(0, len);
        Ok(span)
    }

    /// Gives a run back.
    pub fn free(&self, span: &Span) {
        // A poisoned lock guards two vectors that are consistent between any two statements.
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        free.runs.entry(span.len() as u64).or_default().push(span.gpa().0);
    }

    fn take(&self, size: u64) -> Option<u64> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(gpa) = free.runs.get_mut(&size).and_then(Vec::pop) {
            return Some(gpa);
        }
        let align = size.checked_next_power_of_two()?.min(MAX_ALIGN_BYTES);
        free.fresh.iter_mut().find_map(|(start, end)| {
            let gpa = start.checked_next_multiple_of(align)?;
            let next = gpa.checked_add(size).filter(|next| next <= end)?;
            *start = next;
            Some(gpa)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::GuestAddress;

    fn pages(bytes: usize) -> PageAllocator {
        PageAllocator::new(Arc::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), bytes)]).unwrap()))
    }

    #[test]
    fn runs_are_aligned_disjoint_and_reused() {
        let pages = pages(1 << 20);
        let a = pages.alloc(1).unwrap();
        let b = pages.alloc(32 * 1024).unwrap();
        assert_eq!(a.len(), 4096);
        assert_ne!(a.gpa().0, 0);
        assert_eq!(b.gpa().0 % (32 * 1024), 0);
        assert!(a.gpa().0 + 4096 <= b.gpa().0);
        b.write(0, &[9]);
        pages.free(&b);
        let c = pages.alloc(32 * 1024).unwrap();
        assert_eq!(c.gpa(), b.gpa());
        assert_eq!(c.read_array::<1>(0), [0], "pages are handed out zeroed");
    }

    #[test]
    fn exhaustion_is_an_error() {
        let pages = pages(1 << 16);
        assert!(matches!(pages.alloc(1 << 20), Err(PagesError::Exhausted { .. })));
        assert!(matches!(pages.alloc(u64::MAX), Err(PagesError::Exhausted { .. })));
        assert!(pages.alloc(4096).is_ok());
    }
}
