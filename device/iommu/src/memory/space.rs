//! Guest memory whose regions come and go while devices use it.

#![allow(unsafe_code, reason = "slices are built from addresses of the reservation")]

use std::{
    io,
    os::fd::AsFd,
    sync::{Mutex, MutexGuard, PoisonError},
};

use thiserror::Error;
use vm_memory::VolatileSlice;

use super::{
    PAGE_BYTES, RamFile,
    map::Reservation,
    published::{Bounds, Published},
};
use crate::dma::{Access, DmaError};

/// Most regions at a time. A machine of QEMU's has about ten, and one more for each module of memory.
pub const MAX_SPACE_REGIONS: usize = 256;

/// Room for huge pages that pieces reach into, beyond the pieces' own lengths: two pages of 1 GiB for each of a few
/// pieces, which also keeps addresses from being used again soon.
const SLACK_BYTES: u64 = 64 << 30;

/// Remedy for huge pages that cannot be had.
const HUGE: &str =
    "reserve more in /sys/kernel/mm/hugepages/*/nr_hugepages, or let the guest have ordinary pages";

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
    /// The kernel refused huge pages.
    #[error("cannot map {len:#x} bytes at {gpa:#x} in pages of {} KiB: {source}; {HUGE}", page_bytes >> 10)]
    Huge {
        /// Guest-physical start.
        gpa: u64,
        /// Length in bytes.
        len: u64,
        /// Size of a page.
        page_bytes: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel refused.
    #[error("cannot map or unmap {len:#x} bytes at {gpa:#x}: {source}")]
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

/// Where a region lies.
#[derive(Clone, Copy)]
enum Place {
    /// Out of devices' reach: memory without a file, or a region that the kernel has not let go of yet.
    Unreachable { area: Option<Area> },
    /// Mapped, its first byte at `at` in the reservation.
    Mapped { at: u64, writable: bool, area: Area },
}

/// What the kernel has mapped for a region: the region itself, or the huge pages it lies in.
#[derive(Clone, Copy)]
struct Area {
    at: u64,
    len: u64,
}

/// A piece of guest memory.
#[derive(Clone, Copy)]
struct Region {
    start: u64,
    len: u64,
    place: Place,
}

impl Region {
    fn bounds(&self) -> Option<Bounds> {
        match self.place {
            Place::Mapped { at, writable, .. } => {
                Some(Bounds { start: self.start, len: self.len, at, writable })
            }
            Place::Unreachable { .. } => None,
        }
    }

    fn area(&self) -> Option<Area> {
        match self.place {
            Place::Mapped { area, .. } => Some(area),
            Place::Unreachable { area } => area,
        }
    }
}

/// All regions, none of which overlaps another.
#[derive(Default)]
struct Regions {
    list: Vec<Region>,
    /// Where the search for addresses of huge pages begins: behind the last ones given out, so that addresses are used
    /// again as late as possible.
    cursor: u64,
}

impl Regions {
    /// Finds room for a region, or says why there is none.
    fn admit(&self, gpa: u64, len: u64) -> Result<(), SpaceError> {
        let end = gpa.saturating_add(len);
        let overlapping =
            |region: &&Region| gpa < region.start.saturating_add(region.len) && region.start < end;
        match self.list.iter().find(overlapping) {
            Some(other) => Err(SpaceError::Overlap { gpa, len, other: other.start }),
            None if self.list.len() >= MAX_SPACE_REGIONS => Err(SpaceError::TooMany),
            None => Ok(()),
        }
    }

    /// Free addresses in `[first, last)` for `len` bytes, aligned to `align`.
    fn room(&self, first: u64, last: u64, len: u64, align: u64) -> Option<u64> {
        let areas = || self.list.iter().filter_map(Region::area);
        let free = |at: &u64| {
            let end = at.saturating_add(len);
            end <= last && areas().all(|area| end <= area.at || area.at + area.len <= *at)
        };
        let starts = || areas().map(|area| area.at + area.len).chain([first, self.cursor.max(first)]);
        let candidates = || starts().map(|at| at.next_multiple_of(align)).filter(free);
        let later = candidates().filter(|at| *at >= self.cursor).min();
        later.or_else(|| candidates().min())
    }
}

/// Guest-physical memory made of files, in which regions are mapped and unmapped at any time.
///
/// All of it lies in one reservation: pieces of ordinary pages at `base + GPA`, huge pages behind that, where they need
/// not lie as the guest sees them. Unmapping a region swaps its pages for empty ones in one system call: when
/// [`unmap`](Self::unmap) returns, no access reaches the file any more, whatever slices are still held, and none ever
/// faults: what the file cannot provide is empty memory ([`lost`](Self::lost)). So accesses take no lock, and none waits
/// for another.
pub struct AddressSpace {
    reservation: Reservation,
    bytes: u64,
    published: Published,
    /// Their mapped ones as published; the lock makes writers take turns.
    regions: Mutex<Regions>,
}

impl AddressSpace {
    /// An empty space for guest-physical addresses below `bytes`.
    ///
    /// # Errors
    /// When so many addresses cannot be reserved.
    pub fn new(bytes: u64) -> Result<Self, SpaceError> {
        let reserve = |source| SpaceError::Reserve { bytes, source };
        let total = bytes.checked_mul(2).and_then(|twice| twice.checked_add(SLACK_BYTES));
        let len = total.and_then(|total| usize::try_from(total).ok());
        let len = len.ok_or_else(|| reserve(io::ErrorKind::InvalidInput.into()))?;
        let reservation = Reservation::new(len).map_err(reserve)?;
        Ok(Self { reservation, bytes, published: Published::new(), regions: Mutex::default() })
    }

    /// How many regions devices can reach.
    pub fn regions(&self) -> usize {
        self.lock().list.iter().filter_map(Region::bounds).count()
    }

    /// How many bytes are mapped.
    pub fn mapped_bytes(&self) -> u64 {
        self.lock().list.iter().filter_map(Region::bounds).map(|region| region.len).sum()
    }

    /// How many accesses since the start met memory that its file could not provide: a hole that was punched into it and
    /// could not be filled, or failed memory. They met empty memory instead.
    pub fn lost(&self) -> u64 {
        self.reservation.lost()
    }

    fn lock(&self) -> MutexGuard<'_, Regions> {
        // Changed only after everything that can fail.
        self.regions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes accesses see the list. Most of them are to the largest regions.
    fn publish(&self, regions: &mut Regions) {
        regions.list.sort_by_key(|region| std::cmp::Reverse(region.len));
        self.published.replace(regions.list.iter().filter_map(Region::bounds));
    }

    /// Maps `[offset, offset + len)` of `file` at `gpa`. Without `writable`, devices can only read it.
    ///
    /// # Errors
    /// When the region is malformed, overlaps another, lies outside the file or the space, is one too many, or the
    /// kernel has no pages for it; nothing has changed then.
    pub fn map<F: AsFd>(
        &self,
        gpa: u64,
        len: u64,
        file: &RamFile<F>,
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
        regions.admit(gpa, len)?;
        let page = file.page_bytes();
        // The huge pages that the piece lies in; of a file of ordinary pages, the piece itself.
        let lead = offset % page;
        let span =
            (lead + len).checked_next_multiple_of(page).ok_or(SpaceError::Shape { gpa, len, offset })?;
        let at = if page == PAGE_BYTES {
            gpa
        } else {
            let last = self.bytes.saturating_mul(2).saturating_add(SLACK_BYTES);
            regions.room(self.bytes, last, span, page).ok_or(SpaceError::TooMany)?
        };
        let mapped = self.reservation.map(at, span, file, offset - lead, writable);
        mapped.map_err(|source| match page {
            PAGE_BYTES => SpaceError::Kernel { gpa, len, source },
            page_bytes => SpaceError::Huge { gpa, len, page_bytes, source },
        })?;
        if page != PAGE_BYTES {
            regions.cursor = at + span;
        }
        let place = Place::Mapped { at: at + lead, writable, area: Area { at, len: span } };
        regions.list.push(Region { start: gpa, len, place });
        self.publish(&mut regions);
        Ok(())
    }

    /// Notes a region that has no file: it can be unmapped and nothing else is mapped over it, but devices do not reach
    /// it.
    ///
    /// # Errors
    /// When it is empty or wraps, overlaps another, or is one too many.
    pub fn map_unreachable(&self, gpa: u64, len: u64) -> Result<(), SpaceError> {
        if len == 0 || gpa.checked_add(len).is_none() {
            return Err(SpaceError::Shape { gpa, len, offset: 0 });
        }
        let mut regions = self.lock();
        regions.admit(gpa, len)?;
        regions.list.push(Region { start: gpa, len, place: Place::Unreachable { area: None } });
        Ok(())
    }

    /// Unmaps the region that is exactly `[gpa, gpa + len)`.
    ///
    /// # Errors
    /// When there is none, or the kernel refuses; in the second case it is out of reach for accesses that begin later,
    /// and can be unmapped again.
    pub fn unmap(&self, gpa: u64, len: u64) -> Result<(), SpaceError> {
        let mut regions = self.lock();
        let found = regions.list.iter().position(|region| (region.start, region.len) == (gpa, len));
        let index = found.ok_or(SpaceError::NoRegion { gpa, len })?;
        let area = regions.list[index].area();
        regions.list[index].place = Place::Unreachable { area };
        self.publish(&mut regions);
        self.clear(gpa, len, area)?;
        regions.list.retain(|region| region.start != gpa);
        Ok(())
    }

    /// Unmaps everything.
    ///
    /// # Errors
    /// When the kernel refuses for one of the regions; the others are unmapped all the same.
    pub fn unmap_all(&self) -> Result<(), SpaceError> {
        let mut regions = self.lock();
        self.published.replace([]);
        let mut result = Ok(());
        regions.list.retain_mut(|region| {
            let area = region.area();
            region.place = Place::Unreachable { area };
            let cleared = self.clear(region.start, region.len, area);
            let stays = cleared.is_err();
            if stays {
                result = cleared;
            }
            stays
        });
        result
    }

    fn clear(&self, gpa: u64, len: u64, area: Option<Area>) -> Result<(), SpaceError> {
        let Some(area) = area else { return Ok(()) };
        self.reservation.clear(area.at, area.len).map_err(|source| SpaceError::Kernel { gpa, len, source })
    }

    /// As [`DmaMemory::slice`](crate::dma::DmaMemory::slice).
    pub(super) fn slice(&self, addr: u64, len: u64, access: Access) -> Result<VolatileSlice<'_>, DmaError> {
        let allowed = |region: &Bounds| region.writable || access == Access::Read;
        let region = self.published.find(addr).filter(allowed).ok_or(DmaError::NotRam { gpa: addr })?;
        let len = len.min(region.len - (addr - region.start)).max(1);
        let at = region.at + (addr - region.start);
        // SAFETY: regions lie in the reservation, which lives as long as `self`, that is, as long as the borrow the
        // slice carries. A region that was once published stays readable and writable there (`Reservation::clear`);
        // its file cannot shrink (`RamFile`), and a page that the file has lost or the kernel cannot provide is
        // replaced at the access (`sigbus`).
        Ok(unsafe { VolatileSlice::new(self.reservation.at(at), len as usize) })
    }
}
