//! Guest RAM, reached directly by guest-physical address.

#![allow(unsafe_code, reason = "slices are built from region pointers kept once, not looked up each time")]

use std::sync::Arc;

use arrayvec::ArrayVec;
use thiserror::Error;
use vm_memory::{GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap, VolatileSlice};

use crate::dma::{Access, DmaError, DmaMemory};

/// Most memory regions one view holds.
pub const MAX_REGIONS: usize = 64;

/// The guest has more memory regions than a view can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("guest memory has {regions} regions; at most {MAX_REGIONS} are supported")]
pub struct TooManyRegions {
    /// How many there are.
    pub regions: usize,
}

#[derive(Clone, Copy)]
struct Region {
    start: u64,
    len: u64,
    host: *mut u8,
}

/// A flat, read-only list of the regions of guest memory, which it keeps alive. Cloning is cheap enough for each
/// worker to have its own.
#[derive(Clone)]
pub struct GuestRam {
    regions: ArrayVec<Region, MAX_REGIONS>,
    memory: Arc<GuestMemoryMmap>,
}

// SAFETY: the pointers point into shared mappings that `memory` keeps alive; all access goes through volatile
// slices, as concurrent access by the guest demands anyway.
unsafe impl Send for GuestRam {}
// SAFETY: as for Send; `&GuestRam` only hands out volatile slices.
unsafe impl Sync for GuestRam {}

impl GuestRam {
    /// A view of all of `memory`.
    ///
    /// # Errors
    /// When there are more than [`MAX_REGIONS`] regions.
    pub fn new(memory: Arc<GuestMemoryMmap>) -> Result<Self, TooManyRegions> {
        let regions = memory.num_regions();
        if regions > MAX_REGIONS {
            return Err(TooManyRegions { regions });
        }
        let list = memory.iter().map(region).collect();
        Ok(Self { regions: list, memory })
    }

    /// The memory behind the view.
    pub fn memory(&self) -> &Arc<GuestMemoryMmap> {
        &self.memory
    }

    /// Whether all of `[gpa, gpa + len)` is RAM within one region.
    pub fn contains(&self, gpa: u64, len: u64) -> bool {
        self.slice(gpa, len, Access::Read).is_ok_and(|slice| slice.len() as u64 == len)
    }
}

fn region(region: &GuestRegionMmap) -> Region {
    Region { start: region.start_addr().0, len: region.len(), host: region.as_ptr() }
}

impl DmaMemory for GuestRam {
    #[inline(always)]
    fn slice(&self, addr: u64, len: u64, _access: Access) -> Result<VolatileSlice<'_>, DmaError> {
        for region in &self.regions {
            let offset = addr.wrapping_sub(region.start);
            if offset < region.len {
                let len = len.min(region.len - offset).max(1);
                // SAFETY: `offset + len <= region.len`, and the region's mapping lives as long as `self.memory`,
                // that is, as long as the borrow the slice carries.
                return Ok(unsafe { VolatileSlice::new(region.host.add(offset as usize), len as usize) });
            }
        }
        Err(DmaError::NotRam { gpa: addr })
    }
}
