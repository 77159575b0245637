//! Mapping tables: one domain's I/O virtual addresses to guest-physical addresses.
//!
//! [`MappingTable`] is the trait; [`RadixTable`] is the lock-free implementation (granules of 4 KiB and up) and
//! [`LockedTable`] the simple one (an ordered map behind a lock, any granule down to one byte). All methods take `&self`: any number of threads map,
//! unmap and translate at once. A [`Guard`] pins the caller: what a translation returned stays valid
//! until the guard is dropped, if the unmapper waits for a grace period before it says it is done.

use thiserror::Error;
use virtio_iommu_spec::{Gpa, Iova, IovaRange, request};

use crate::{dma::Access, epoch::Guard};

mod budget;
mod locked;
mod radix;

pub use budget::Budget;
pub use locked::LockedTable;
pub use radix::{BadGranule, MAX_GRANULE_SHIFT, MIN_GRANULE_SHIFT, RadixTable};

/// What a mapping allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Perms {
    /// The endpoint may read.
    pub read: bool,
    /// The endpoint may write.
    pub write: bool,
    /// Memory-mapped I/O: not to be speculated, buffered, split or combined.
    pub mmio: bool,
}

impl Perms {
    /// Read and write.
    pub const RW: Self = Self { read: true, write: true, mmio: false };

    /// From the flags of a MAP request; unknown bits are the caller's to refuse.
    #[inline]
    pub const fn from_flags(flags: u32) -> Self {
        Self {
            read: flags & request::MAP_F_READ != 0,
            write: flags & request::MAP_F_WRITE != 0,
            mmio: flags & request::MAP_F_MMIO != 0,
        }
    }

    /// As flags of a MAP request.
    #[inline]
    pub const fn to_flags(self) -> u32 {
        ((self.read as u32) * request::MAP_F_READ)
            | ((self.write as u32) * request::MAP_F_WRITE)
            | ((self.mmio as u32) * request::MAP_F_MMIO)
    }

    /// Whether `access` is allowed.
    #[inline]
    pub const fn allows(self, access: Access) -> bool {
        match access {
            Access::Read => self.read,
            Access::Write => self.write,
        }
    }
}

/// One mapping: a virtual region created with a single MAP request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The I/O virtual addresses.
    pub range: IovaRange,
    /// Guest-physical address of `range.start()`.
    pub gpa: Gpa,
    /// What is allowed.
    pub perms: Perms,
}

impl Mapping {
    /// The answer to a look-up of an address within the mapping.
    #[inline]
    pub fn translation(&self, iova: u64) -> Translation {
        let gpa = Gpa(self.gpa.0.wrapping_add(iova.wrapping_sub(self.range.start())));
        Translation { gpa, run_end: self.range.end(), perms: self.perms }
    }
}

/// The answer to a look-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// Guest-physical address of the I/O virtual address asked for.
    pub gpa: Gpa,
    /// Last I/O virtual address up to which guest-physical addresses are known to follow on from `gpa`, within the
    /// same mapping (inclusive).
    pub run_end: u64,
    /// What is allowed.
    pub perms: Perms,
}

/// What an UNMAP removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Number of mappings.
    pub mappings: u64,
    /// Bytes they covered (saturating).
    pub bytes: u64,
}

/// Why a table refused to map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum MapError {
    /// A mapping already exists in the range.
    #[error("a mapping already exists in {range}")]
    Overlap {
        /// The range asked for.
        range: IovaRange,
    },
    /// The table would outgrow its cap, or memory ran out.
    #[error("no memory for a table entry")]
    OutOfMemory,
}

/// Why a table refused to unmap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum UnmapError {
    /// The range ends inside a mapping; nothing was removed.
    #[error("{range} would split a mapping")]
    Split {
        /// The range asked for.
        range: IovaRange,
    },
}

/// A map from I/O virtual ranges to guest-physical addresses.
pub trait MappingTable: Send + Sync {
    /// Adds a mapping; all of it becomes visible at once, or nothing.
    ///
    /// The caller has checked alignment to the granule and that the guest-physical range does not wrap.
    ///
    /// # Errors
    /// [`MapError::Overlap`] when any address is mapped; [`MapError::OutOfMemory`] at the cap.
    fn map(&self, guard: &Guard<'_>, mapping: &Mapping) -> Result<(), MapError>;

    /// Removes all mappings that `range` covers; addresses that are not mapped are passed over.
    ///
    /// # Errors
    /// [`UnmapError::Split`] when a mapping is covered only in part; then nothing is removed.
    fn unmap(&self, guard: &Guard<'_>, range: IovaRange) -> Result<Removed, UnmapError>;

    /// Looks one address up. Never blocks in the lock-free table.
    fn translate(&self, guard: &Guard<'_>, iova: Iova) -> Option<Translation>;

    /// As [`translate`](Self::translate), but says how far the run of addresses reaches in both directions: a part of
    /// one mapping that holds `iova`, as large as the table knows without further look-ups.
    fn run_at(&self, guard: &Guard<'_>, iova: Iova) -> Option<Mapping> {
        let Translation { gpa, run_end, perms } = self.translate(guard, iova)?;
        Some(Mapping { range: IovaRange::new(iova.0, run_end)?, gpa, perms })
    }

    /// Asks the CPU for the entry that a MAP or UNMAP of this address will need soon. A hint without effect.
    fn prefetch(&self, guard: &Guard<'_>, iova: Iova) {
        let _ = (guard, iova);
    }

    /// Calls `f` with each mapping, in ascending order. Mappings that come or go meanwhile may be missed.
    fn for_each(&self, guard: &Guard<'_>, f: &mut dyn FnMut(Mapping));

    /// Bytes of memory the table holds.
    fn table_bytes(&self) -> u64;
}
