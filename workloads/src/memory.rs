//! How driver code (the guest's CPU) reaches guest RAM: through pointers resolved once.

#![allow(
    unsafe_code,
    reason = "rings and buffers are accessed through host pointers resolved once at set-up"
)]

use std::{
    ptr::NonNull,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
};

use thiserror::Error;
use virtio_iommu_spec::Gpa;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap, VolatileSlice};

/// A guest-physical range that is not RAM in one piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{len} bytes at guest-physical {gpa} are not contiguous RAM")]
pub struct NotRam {
    /// First address.
    pub gpa: Gpa,
    /// Length in bytes.
    pub len: usize,
}

/// A piece of guest RAM, contiguous in host memory too, which it keeps mapped.
///
/// The device may access the same bytes at any time, so every access is atomic or volatile and no reference to the
/// bytes is ever made.
#[derive(Debug)]
pub struct Span {
    ptr: NonNull<u8>,
    len: usize,
    gpa: Gpa,
    _memory: Arc<GuestMemoryMmap>,
}

// SAFETY: the pointer is into a shared mapping that `_memory` keeps alive, and it is only used for atomic and
// volatile accesses, which concurrent access by the device demands anyway.
unsafe impl Send for Span {}

impl Span {
    /// The `len` bytes of RAM at `gpa`.
    ///
    /// # Errors
    /// When they are not RAM, or not in one region.
    pub fn new(memory: &Arc<GuestMemoryMmap>, gpa: Gpa, len: usize) -> Result<Self, NotRam> {
        let slice = memory.get_slice(GuestAddress(gpa.0), len).map_err(|_| NotRam { gpa, len })?;
        let ptr = NonNull::new(slice.ptr_guard_mut().as_ptr()).ok_or(NotRam { gpa, len })?;
        Ok(Self { ptr, len, gpa, _memory: Arc::clone(memory) })
    }

    /// Where it lies, for the CPU and for an IOMMU's MAP request.
    pub fn gpa(&self) -> Gpa {
        self.gpa
    }

    /// Length in bytes.
    #[allow(clippy::len_without_is_empty, reason = "a span is never made to be empty")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// # Panics
    /// When the access does not lie within the span: a bug of the driver, never the device's doing.
    #[inline]
    fn at(&self, at: usize, len: usize) -> *mut u8 {
        assert!(at <= self.len && len <= self.len - at, "{len} bytes at {at} of {} bytes", self.len);
        // SAFETY: `at <= self.len`, and `self.len` bytes from `ptr` are one mapping.
        unsafe { self.ptr.as_ptr().add(at) }
    }

    #[inline]
    fn atomic_u16(&self, at: usize) -> &AtomicU16 {
        let ptr = self.at(at, 2).cast::<u16>();
        assert!(ptr.is_aligned(), "{at} is odd");
        // SAFETY: in bounds and aligned as just checked, valid as long as `self`; the device accesses ring indices
        // atomically too, so no access races with a plain one.
        unsafe { AtomicU16::from_ptr(ptr) }
    }

    /// Loads a little-endian 16-bit field at `at` (bytes).
    #[inline]
    pub fn load_u16(&self, at: usize, ordering: Ordering) -> u16 {
        u16::from_le(self.atomic_u16(at).load(ordering))
    }

    /// Stores a little-endian 16-bit field at `at` (bytes).
    #[inline]
    pub fn store_u16(&self, at: usize, value: u16, ordering: Ordering) {
        self.atomic_u16(at).store(value.to_le(), ordering);
    }

    /// Copies `bytes` to `at`.
    #[inline]
    pub fn write(&self, at: usize, bytes: &[u8]) {
        let ptr = self.at(at, bytes.len());
        // SAFETY: in bounds as just checked; the volatile slice lives for this call only.
        unsafe { VolatileSlice::new(ptr, bytes.len()) }.copy_from(bytes);
    }

    /// Fills `bytes` from `at`.
    #[inline]
    pub fn read(&self, at: usize, bytes: &mut [u8]) {
        let ptr = self.at(at, bytes.len());
        // SAFETY: as in `write`.
        let copied = unsafe { VolatileSlice::new(ptr, bytes.len()) }.copy_to(bytes);
        debug_assert_eq!(copied, bytes.len());
    }

    /// Fills `bytes` from the start, by one plain `memcpy`: what copying costs without any of this.
    ///
    /// # Panics
    /// When the span is shorter.
    #[inline]
    pub fn memcpy_out(&self, bytes: &mut [u8]) {
        let ptr = self.at(0, bytes.len());
        // SAFETY: in bounds as just checked; `bytes` is ours alone, and nothing of ours lies in guest memory. What the device
        // may write meanwhile makes the bytes any mixture, which nobody relies on.
        unsafe { std::ptr::copy_nonoverlapping(ptr.cast_const(), bytes.as_mut_ptr(), bytes.len()) };
    }

    /// As [`memcpy_out`](Self::memcpy_out), the other way.
    ///
    /// # Panics
    /// When the span is shorter.
    #[inline]
    pub fn memcpy_in(&self, bytes: &[u8]) {
        let ptr = self.at(0, bytes.len());
        // SAFETY: as in `memcpy_out`.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), ptr, bytes.len()) };
    }

    /// Writes an array, as one copy of known size.
    #[inline]
    pub fn write_array<const N: usize>(&self, at: usize, bytes: [u8; N]) {
        let ptr = self.at(at, N).cast::<[u8; N]>();
        // SAFETY: in bounds as just checked, and a byte array needs no alignment.
        unsafe { ptr.write_volatile(bytes) };
    }

    /// Reads an array, as one copy of known size.
    #[inline]
    pub fn read_array<const N: usize>(&self, at: usize) -> [u8; N] {
        let ptr = self.at(at, N).cast::<[u8; N]>();
        // SAFETY: as in `write_array`.
        unsafe { ptr.read_volatile() }
    }

    /// Sets `len` bytes at `at` to zero.
    pub fn zero(&self, at: usize, len: usize) {
        let ptr = self.at(at, len);
        // SAFETY: in bounds as just checked.
        unsafe { ptr.write_bytes(0, len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory() -> Arc<GuestMemoryMmap> {
        Arc::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0x1000), 0x2000)]).unwrap())
    }

    #[test]
    fn fields_are_little_endian() {
        let span = Span::new(&memory(), Gpa(0x1000), 0x100).unwrap();
        span.store_u16(2, 0x1234, Ordering::Relaxed);
        assert_eq!(span.read_array::<4>(0), [0, 0, 0x34, 0x12]);
        span.write(4, &[1, 2, 3]);
        let mut back = [0; 3];
        span.read(4, &mut back);
        assert_eq!(back, [1, 2, 3]);
        span.zero(0, 8);
        assert_eq!(span.read_array::<8>(0), [0; 8]);
        assert_eq!(span.load_u16(2, Ordering::Relaxed), 0);
    }

    #[test]
    fn holes_are_refused() {
        assert!(Span::new(&memory(), Gpa(0x2ff0), 0x20).is_err());
        assert!(Span::new(&memory(), Gpa(u64::MAX), 2).is_err());
    }

    #[test]
    #[should_panic(expected = "bytes at")]
    fn out_of_bounds_is_a_bug() {
        Span::new(&memory(), Gpa(0x1000), 0x10).unwrap().write(0xf, &[0, 0]);
    }
}
