//! Guest memory whose regions come and go while devices use it.

#![allow(unsafe_code, reason = "slices are built from addresses of the reservation")]

use std::{
    io,
    sync::{Mutex, MutexGuard, PoisonError},
};

use thiserror::Error;
use vm_memory::VolatileSlice;

use super::{
    RamFile,
    map::Reservation,
    published::{Bounds, Published},
};
use crate::dma::{Access, DmaError};

/// Most regions at a time. A machine of QEMU's has about ten, and one more for each module of memory.
pub const MAX_SPACE_REGIONS: usize = 256;

const PAGE_BYTES: u64 = 4096;

/// A region that cannot be mapped or unmapped.
#[derive(Debug, Error)]
pub enum SpaceError {
    /// No room for the reservation.
    #[error("cannot reserve {bytes} bytes of addresses for guest memory")]
    Reserve {
        /// How many.
        bytes: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Empty, not in whole pages, or wrapping.
    #[error(
        "region of {len:#x} bytes at {gpa:#x}, file offset {offset:#x}: not whole pages, empty or wrapping"
    )]
    Shape {
        /// Guest-physical start.
        gpa: u64,
        /// Length in bytes.
        len: u64,
        /// Offset in its file, in bytes.
        offset: u64,
    },
    /// Behind what is reserved.
    #[error("region of {len:#x} bytes at {gpa:#x} ends behind {bytes:#x}, the most that is supported")]
    TooHigh {
        /// Guest-physical start.
        gpa: u64,
        /// Length in bytes.
        len: u64,
        /// Size of the space in bytes.
        bytes: u64,
    },
    /// The file is shorter than the region.
    #[error("the file has {file} bytes; {len:#x} at offset {offset:#x} lie outside")]
    Outside {
        /// Offset in the file, in bytes.
        offset: u64,
        /// Length in bytes.
        len: u64,
        /// Size of the file in bytes.
        file: u64,
    },
    /// There is a region already.
    #[error("region of {len:#x} bytes at {gpa:#x} overlaps the one at {other:#x}")]
    Overlap {
        /// Guest-physical start.
        gpa: u64,
        /// Length in bytes.
        len: u64,
        /// Start of the region that is there.
        other: u64,
    },
    /// Too many regions.
    #[error("there are {MAX_SPACE_REGIONS} regions already")]
    TooMany,
    /// Unmapping what is not exactly one region.
    #[error("there is no region of {len:#x} bytes at {gpa:#x}")]
    NoRegion {
        /// Guest-physical start.
        gpa: u64,
        /// Length in bytes.
        len: u64,
    },
    /// The kernel refused.
    #[error("cannot map or unmap {len:#x} bytes at {gpa:#x}")]
    Kernel {
        /// Guest-physical start.
        gpa: u64,
        /// Length in bytes.
        len: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Guest-physical memory made of files, in which regions are mapped and unmapped at any time.
///
/// All of it lies in one reservation, at the host address `base + GPA`. Unmapping a region swaps its pages for empty
/// ones in one system call: when [`unmap`](Self::unmap) returns, no access reaches the file any more, whoever still
/// holds a slice, and none ever faults. So accesses take no lock and nobody waits for anybody.
pub struct AddressSpace {
    reservation: Reservation,
    bytes: u64,
    published: Published,
    /// As published; the lock makes writers take turns.
    regions: Mutex<Vec<Bounds>>,
}

impl AddressSpace {
    /// An empty space for guest-physical addresses below `bytes`.
    ///
    /// # Errors
    /// When so many addresses cannot be reserved.
    pub fn new(bytes: u64) -> Result<Self, SpaceError> {
        let reserve = |source| SpaceError::Reserve { bytes, source };
        let len = usize::try_from(bytes).map_err(|_| reserve(io::ErrorKind::InvalidInput.into()))?;
        let reservation = Reservation::new(len).map_err(reserve)?;
        Ok(Self { reservation, bytes, published: Published::new(), regions: Mutex::default() })
    }

    /// How many regions there are.
    pub fn regions(&self) -> usize {
        self.lock().len()
    }

    /// How many bytes are mapped.
    pub fn mapped_bytes(&self) -> u64 {
        self.lock().iter().map(|region| region.len).sum()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Bounds>> {
        // Changed only after everything that can fail.
        self.regions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Maps `[offset, offset + len)` of `file` at `gpa`. Without `writable`, devices can only read it.
    ///
    /// # Errors
    /// When the region is malformed, overlaps another, lies outside the file or the space, or is one too many.
    pub fn map(
        &self,
        gpa: u64,
        len: u64,
        file: &RamFile,
        offset: u64,
        writable: bool,
    ) -> Result<(), SpaceError> {
        let whole = |value: u64| value.is_multiple_of(PAGE_BYTES);
        let end = gpa.checked_add(len).filter(|_| len > 0 && whole(gpa) && whole(len) && whole(offset));
        let (end, file_end) =
            end.zip(offset.checked_add(len)).ok_or(SpaceError::Shape { gpa, len, offset })?;
        if end > self.bytes {
            return Err(SpaceError::TooHigh { gpa, len, bytes: self.bytes });
        }
        if file_end > file.bytes() {
            return Err(SpaceError::Outside { offset, len, file: file.bytes() });
        }
        let mut regions = self.lock();
        let overlapping = |region: &&Bounds| gpa < region.start + region.len && region.start < end;
        if let Some(other) = regions.iter().find(overlapping) {
            return Err(SpaceError::Overlap { gpa, len, other: other.start });
        }
        if regions.len() >= MAX_SPACE_REGIONS {
            return Err(SpaceError::TooMany);
        }
        let mapped = self.reservation.map(gpa, len, file, offset, writable);
        mapped.map_err(|source| SpaceError::Kernel { gpa, len, source })?;
        regions.push(Bounds { start: gpa, len, writable });
        // Most accesses are to the largest regions.
        regions.sort_by_key(|region| std::cmp::Reverse(region.len));
        self.published.replace(regions.iter().copied());
        Ok(())
    }

    /// Unmaps the region that is exactly `[gpa, gpa + len)`.
    ///
    /// # Errors
    /// When there is none, or the kernel refuses; in the second case it is out of reach for accesses that begin later.
    pub fn unmap(&self, gpa: u64, len: u64) -> Result<(), SpaceError> {
        let mut regions = self.lock();
        let found = regions.iter().position(|region| (region.start, region.len) == (gpa, len));
        let index = found.ok_or(SpaceError::NoRegion { gpa, len })?;
        regions.remove(index);
        self.published.replace(regions.iter().copied());
        self.reservation.clear(gpa, len).map_err(|source| SpaceError::Kernel { gpa, len, source })
    }

    /// Unmaps everything.
    ///
    /// # Errors
    /// When the kernel refuses for one of the regions; the others are unmapped all the same.
    pub fn unmap_all(&self) -> Result<(), SpaceError> {
        let mut regions = self.lock();
        self.published.replace([]);
        let mut result = Ok(());
        for Bounds { start: gpa, len, .. } in regions.drain(..) {
            let cleared = self.reservation.clear(gpa, len);
            result = cleared.map_err(|source| SpaceError::Kernel { gpa, len, source }).and(result);
        }
        result
    }

    /// As [`DmaMemory::slice`](crate::dma::DmaMemory::slice).
    pub(super) fn slice(&self, addr: u64, len: u64, access: Access) -> Result<VolatileSlice<'_>, DmaError> {
        let allowed = |region: &Bounds| region.writable || access == Access::Read;
        let region = self.published.find(addr).filter(allowed).ok_or(DmaError::NotRam { gpa: addr })?;
        let len = len.min(region.len - (addr - region.start)).max(1);
        // SAFETY: regions lie in the reservation, which lives as long as `self`, that is, as long as the borrow the
        // slice carries. A region that was once published stays readable and writable there (`Reservation::clear`),
        // and its file cannot shrink (`RamFile`).
        Ok(unsafe { VolatileSlice::new(self.reservation.at(addr), len as usize) })
    }
}
