//! Guest RAM, reached directly by guest-physical address: all there from the start ([`GuestRam::new`]), or coming and
//! going while devices run ([`AddressSpace`]).

#![allow(unsafe_code, reason = "slices are built from region pointers kept once, not looked up each time")]

use std::sync::Arc;

use arrayvec::ArrayVec;
use thiserror::Error;
use vm_memory::{GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap, VolatileSlice};

use crate::dma::{Access, DmaError, DmaMemory};

mod file;
mod map;
mod published;
mod sigbus;
mod space;
#[cfg(test)]
mod tests;

pub use file::{RamFile, RamFileError, is_sealed};
pub use space::{AddressSpace, MAX_SPACE_REGIONS, SpaceError};

/// The smallest page.
const PAGE_BYTES: u64 = 4096;
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

/// What keeps the memory alive.
#[derive(Clone)]
enum Backing {
    Fixed(Arc<GuestMemoryMmap>),
    Space(Arc<AddressSpace>),
}

/// A view of guest memory, which it keeps alive. Cloning is cheap enough for each worker to have its own.
#[derive(Clone)]
pub struct GuestRam {
    /// A flat list of the regions that never change; empty when the backing is an [`AddressSpace`].
    regions: ArrayVec<Region, MAX_REGIONS>,
    backing: Backing,
}

// SAFETY: the pointers point into shared mappings that `backing` keeps alive; all access goes through volatile
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
        Ok(Self { regions: list, backing: Backing::Fixed(memory) })
    }

    /// A view of memory that comes and goes: each access sees what is mapped then.
    pub fn of_space(space: Arc<AddressSpace>) -> Self {
        Self { regions: ArrayVec::new(), backing: Backing::Space(space) }
    }

    /// The memory behind the view, when it is the kind that never changes.
    pub fn memory(&self) -> Option<&Arc<GuestMemoryMmap>> {
        match &self.backing {
            Backing::Fixed(memory) => Some(memory),
            Backing::Space(_) => None,
        }
    }

    /// What is in none of the fixed regions.
    #[cold]
    #[inline(never)]
    fn elsewhere(&self, addr: u64, len: u64, access: Access) -> Result<VolatileSlice<'_>, DmaError> {
        match &self.backing {
            Backing::Fixed(_) => Err(DmaError::NotRam { gpa: addr }),
            Backing::Space(space) => space.slice(addr, len, access),
        }
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
    fn slice(&self, addr: u64, len: u64, access: Access) -> Result<VolatileSlice<'_>, DmaError> {
        for region in &self.regions {
            let offset = addr.wrapping_sub(region.start);
            if offset < region.len {
                let len = len.min(region.len - offset).max(1);
                // SAFETY: `offset + len <= region.len`, and the region's mapping lives as long as `self.backing`,
                // that is, as long as the borrow the slice carries.
                return Ok(unsafe { VolatileSlice::new(region.host.add(offset as usize), len as usize) });
            }
        }
        self.elsewhere(addr, len, access)
    }
}
