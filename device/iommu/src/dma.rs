//! How a queue or an endpoint reaches memory: directly by guest-physical address, or translated by the IOMMU.

use std::sync::atomic::{AtomicU16, Ordering};

use thiserror::Error;
use vm_memory::{VolatileMemory, VolatileSlice};

use crate::copy;

/// What an access does to memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// The device reads guest memory.
    Read,
    /// The device writes guest memory.
    Write,
}

/// An access that memory, or the IOMMU in front of it, refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DmaError {
    /// The guest-physical address is not RAM.
    #[error("guest-physical address {gpa:#x} is not RAM")]
    NotRam {
        /// The offending address.
        gpa: u64,
    },
    /// The range wraps around the end of the address space.
    #[error("{len} bytes at {addr:#x} wrap around the address space")]
    Wraps {
        /// Start of the access.
        addr: u64,
        /// Its length in bytes.
        len: u64,
    },
    /// The IOMMU refused: no domain, no mapping, or no permission. The fault has been recorded.
    #[error("IOMMU fault at {addr:#x}")]
    Fault {
        /// The I/O virtual address.
        addr: u64,
    },
    /// A ring index is not aligned as virtio demands.
    #[error("{addr:#x} is not aligned to {align} bytes")]
    Misaligned {
        /// The offending address.
        addr: u64,
        /// The alignment asked for, in bytes.
        align: usize,
    },
}

/// Memory as a device sees it.
///
/// [`GuestRam`](crate::memory::GuestRam) is the direct kind; an endpoint's translated view is the other. A slice
/// is valid for as long as the borrow of the view: for a translated view that is the guard's life, and no UNMAP
/// completes before the guard is gone.
pub trait DmaMemory {
    /// The longest contiguous host-memory prefix of `[addr, addr + len)`, at least one byte and at most `len`.
    ///
    /// # Errors
    /// When the first byte is out of reach, or the range wraps. `len` must not be zero (treated as one byte).
    fn slice(&self, addr: u64, len: u64, access: Access) -> Result<VolatileSlice<'_>, DmaError>;

    /// Calls `f` with each contiguous piece of `[addr, addr + len)` in order.
    ///
    /// # Errors
    /// As [`slice`](Self::slice); pieces before the failing address have been visited.
    #[inline(always)]
    fn for_each_piece(
        &self,
        addr: u64,
        len: u64,
        access: Access,
        mut f: impl FnMut(VolatileSlice<'_>),
    ) -> Result<(), DmaError>
    where
        Self: Sized,
    {
        if len == 0 {
            return Ok(());
        }
        addr.checked_add(len - 1).ok_or(DmaError::Wraps { addr, len })?;
        let mut done = 0;
        while done < len {
            let piece = self.slice(addr + done, len - done, access)?;
            done += piece.len() as u64;
            f(piece);
        }
        Ok(())
    }

    /// Copies `buf.len()` bytes out of memory.
    ///
    /// # Errors
    /// As [`slice`](Self::slice); `buf` may be partly filled.
    #[inline(always)]
    fn read(&self, addr: u64, buf: &mut [u8]) -> Result<(), DmaError>
    where
        Self: Sized,
    {
        let mut done = 0;
        self.for_each_piece(addr, buf.len() as u64, Access::Read, |piece| {
            done += copy::out_of_guest(&piece, &mut buf[done..]);
        })
    }

    /// Copies `buf` into memory.
    ///
    /// # Errors
    /// As [`slice`](Self::slice); what lies before the failing address has been written.
    #[inline(always)]
    fn write(&self, addr: u64, buf: &[u8]) -> Result<(), DmaError>
    where
        Self: Sized,
    {
        let mut done = 0;
        self.for_each_piece(addr, buf.len() as u64, Access::Write, |piece| {
            done += copy::into_guest(&buf[done..], &piece);
        })
    }

    /// Loads an index or flags of a ring, which other threads and the guest's processors change: aligned, little-endian,
    /// one access. The caller names what an Acquire pairs with.
    ///
    /// # Errors
    /// As [`slice`](Self::slice), and when `addr` is not aligned.
    #[inline]
    fn load_index(&self, addr: u64, order: Ordering) -> Result<u16, DmaError>
    where
        Self: Sized,
    {
        let slice = self.slice(addr, 2, Access::Read)?;
        Ok(u16::from_le(index_at(&slice, addr)?.load(order)))
    }

    /// Stores an index or flags of a ring, as [`load_index`](Self::load_index) loads one.
    ///
    /// # Errors
    /// As [`load_index`](Self::load_index).
    #[inline]
    fn store_index(&self, addr: u64, value: u16, order: Ordering) -> Result<(), DmaError>
    where
        Self: Sized,
    {
        let slice = self.slice(addr, 2, Access::Write)?;
        index_at(&slice, addr)?.store(value.to_le(), order);
        Ok(())
    }

    /// Writes eight bytes, little-endian.
    ///
    /// # Errors
    /// As [`slice`](Self::slice).
    #[inline]
    fn write_u64(&self, addr: u64, value: u64) -> Result<(), DmaError>
    where
        Self: Sized,
    {
        let slice = self.slice(addr, 8, Access::Write)?;
        match (slice.len(), slice.get_ref::<u64>(0)) {
            (8, Ok(word)) => {
                word.store(value.to_le());
                Ok(())
            }
            _ => self.write(addr, &value.to_le_bytes()),
        }
    }

    /// Sixteen bytes as two little-endian words, copied once.
    ///
    /// # Errors
    /// As [`slice`](Self::slice).
    #[inline]
    fn read_u64_pair(&self, addr: u64) -> Result<(u64, u64), DmaError>
    where
        Self: Sized,
    {
        let slice = self.slice(addr, 16, Access::Read)?;
        if let (16, Ok(first), Ok(second)) = (slice.len(), slice.get_ref::<u64>(0), slice.get_ref::<u64>(8)) {
            return Ok((u64::from_le(first.load()), u64::from_le(second.load())));
        }
        let mut bytes = [0; 16];
        self.read(addr, &mut bytes)?;
        let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        Ok((word(0), word(8)))
    }
}

#[inline]
fn index_at<'a>(slice: &'a VolatileSlice<'_>, addr: u64) -> Result<&'a AtomicU16, DmaError> {
    slice.get_atomic_ref::<AtomicU16>(0).map_err(|_| DmaError::Misaligned { addr, align: 2 })
}
