//! Copies between guest memory and our own.
//!
//! A copy of a few KiB in pieces of one is faster than one `memcpy` here, more so beside translations (docs/tables.md). The
//! likely cause is that `memcpy` switches to `rep movsb` at about 2 KiB where the CPU advertises it as fast.

#![allow(unsafe_code, reason = "guest memory is reached by pointer")]

use vm_memory::VolatileSlice;

/// Largest single copy of a small one.
const PIECE_BYTES: usize = 1024;
/// Copies of more than this are left to one `memcpy`.
const SMALL_BYTES: usize = 16 << 10;

/// Copies the start of `from` to `to`; returns the bytes copied, the shorter of both.
#[inline(always)]
pub(crate) fn out_of_guest(from: &VolatileSlice<'_>, to: &mut [u8]) -> usize {
    let len = from.len().min(to.len());
    // SAFETY: the slice is `len` bytes of mapped guest memory, `to` is as long and ours alone. The guest may write
    // meanwhile: the bytes are then any mixture, which callers never rely on.
    unsafe { copy(from.ptr_guard().as_ptr(), to.as_mut_ptr(), len) };
    len
}

/// Copies the start of `from` to `to`; returns the bytes copied, the shorter of both.
#[inline(always)]
pub(crate) fn into_guest(from: &[u8], to: &VolatileSlice<'_>) -> usize {
    let len = to.len().min(from.len());
    // SAFETY: as above, the other way round.
    unsafe { copy(from.as_ptr(), to.ptr_guard_mut().as_ptr(), len) };
    len
}

/// # Safety
/// `from` and `to` must be valid for `len` bytes and not overlap.
#[inline(always)]
unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    if len <= PIECE_BYTES || len > SMALL_BYTES {
        // SAFETY: the caller's promise.
        return unsafe { std::ptr::copy_nonoverlapping(from, to, len) };
    }
    let mut done = 0;
    while done < len {
        let piece = PIECE_BYTES.min(len - done);
        // SAFETY: the caller's promise; `done + piece <= len`.
        unsafe { std::ptr::copy_nonoverlapping(from.add(done), to.add(done), piece) };
        done += piece;
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

    use super::*;

    #[test]
    fn every_length_is_copied_whole_and_no_further() {
        let memory: GuestMemoryMmap = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 16)]).unwrap();
        let bytes: Vec<u8> = (0..40_000u32).map(|i| (i % 251) as u8).collect();
        for len in [0, 1, 7, 8, 9, 1023, 1024, 1025, 2048, 4096, 4097, 16384, 16385, 40_000] {
            let guest = memory.get_slice(GuestAddress(4096), len).unwrap();
            assert_eq!(into_guest(&bytes, &guest), len);
            let mut back = vec![0xa5; len + 1];
            assert_eq!(out_of_guest(&guest, &mut back), len);
            assert_eq!((&back[..len], back[len]), (&bytes[..len], 0xa5));
            assert_eq!(out_of_guest(&guest, &mut back[..len / 2]), len / 2);
        }
    }
}
