//! A stretch of this process's addresses in which files come and go.

#![allow(unsafe_code, reason = "mmap over a reservation of our own")]

use std::{io, os::fd::AsFd, ptr};

use super::{PAGE_BYTES, RamFile, sigbus::Watch};

/// Alignment of the reservation, so that huge pages lie as in guest-physical memory.
const ALIGN: usize = 1 << 30;

/// Addresses reserved for guest memory. Whatever is mapped or unmapped, each of its bytes stays a byte of this
/// reservation, so a pointer into it never reaches anything else.
pub(super) struct Reservation {
    /// Where the mapping begins, and its length: what `munmap` gets.
    raw: (*mut libc::c_void, usize),
    base: *mut u8,
    bytes: usize,
    watch: Watch,
}

// SAFETY: the pointers are only handed out as such; who dereferences them says why that is sound.
unsafe impl Send for Reservation {}
// SAFETY: as for Send; `&Reservation` changes mappings by system calls, which are atomic.
unsafe impl Sync for Reservation {}

impl Reservation {
    /// Reserves `bytes`, all inaccessible and without cost.
    pub(super) fn new(bytes: usize) -> io::Result<Self> {
        let len = bytes.checked_add(ALIGN).ok_or(io::ErrorKind::InvalidInput)?;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
        let raw = unsafe { libc::mmap(ptr::null_mut(), len, libc::PROT_NONE, flags, -1, 0) };
        if raw == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = raw.cast::<u8>().map_addr(|addr| addr.next_multiple_of(ALIGN));
        match Watch::new(raw.expose_provenance(), len) {
            Ok(watch) => Ok(Self { raw: (raw, len), base, bytes, watch }),
            Err(error) => {
                // SAFETY: the mapping was made above and nothing points into it.
                unsafe { libc::munmap(raw, len) };
                Err(error)
            }
        }
    }

    /// Where `offset` lies.
    #[inline]
    pub(super) fn at(&self, offset: u64) -> *mut u8 {
        // Wrapping: callers pass what lies inside, and a pointer alone does no harm.
        self.base.wrapping_add(offset as usize)
    }

    /// Accesses that met no memory of the client's and were given empty memory instead.
    pub(super) fn lost(&self) -> u64 {
        self.watch.lost()
    }

    /// Puts `[offset, offset + len)` of `file` at `at`. What the device writes stays private unless `writable`.
    ///
    /// All mappings are writable for the CPU: an access that began under an older, writable mapping must not fault.
    /// Huge pages are either set aside by the kernel (shared mappings) or brought in at once (for private ones): what is
    /// accepted is there.
    pub(super) fn map<F: AsFd>(
        &self,
        at: u64,
        len: u64,
        file: &RamFile<F>,
        offset: u64,
        writable: bool,
    ) -> io::Result<()> {
        let sharing = if writable { libc::MAP_SHARED } else { libc::MAP_PRIVATE | libc::MAP_NORESERVE };
        if !writable && file.page_bytes() != PAGE_BYTES {
            populate(len, file, offset)?;
        }
        self.place(at, len, sharing, file.raw(), offset)
    }

    /// Takes away what is mapped at `at`. Accesses that still run meet empty memory of ours.
    pub(super) fn clear(&self, at: u64, len: u64) -> io::Result<()> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        self.place(at, len, flags, -1, 0)
    }

    fn place(&self, at: u64, len: u64, flags: libc::c_int, fd: libc::c_int, offset: u64) -> io::Result<()> {
        let end = at.checked_add(len).ok_or(io::ErrorKind::InvalidInput)?;
        let offset = libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        if len == 0 || end > self.bytes as u64 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: MAP_FIXED replaces a part of this reservation, checked above, and nothing else. Nobody holds
        // references into it, only volatile slices, whose bytes stay accessible across the replacement.
        let placed = unsafe {
            libc::mmap(self.at(at).cast(), len as usize, protection, flags | libc::MAP_FIXED, fd, offset)
        };
        if placed != libc::MAP_FAILED {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        self.hold(at, len);
        Err(error)
    }

    /// Closes the hole that a failed MAP_FIXED may have left, before another mapping of this process fills it. Accesses
    /// that began under an older mapping may still run there, so it is not left inaccessible.
    fn hold(&self, at: u64, len: u64) {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED_NOREPLACE;
        // SAFETY: with MAP_FIXED_NOREPLACE nothing that exists is touched; it fails if there is no hole.
        let held = unsafe { libc::mmap(self.at(at).cast(), len as usize, protection, flags, -1, 0) };
        if held != libc::MAP_FAILED {
            tracing::debug!(at, len, "hole in the reservation closed");
        }
    }
}

/// Brings the pages of a range into the file itself: a private mapping of huge pages gives a hole pages of its own, which
/// would not be what the guest sees.
fn populate<F: AsFd>(len: u64, file: &RamFile<F>, offset: u64) -> io::Result<()> {
    let offset = libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
    let len = usize::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
    let at =
        unsafe { libc::mmap(ptr::null_mut(), len, libc::PROT_READ, libc::MAP_SHARED, file.raw(), offset) };
    if at == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the range was mapped above; populating changes no byte of it.
    let populated = match unsafe { libc::madvise(at, len, libc::MADV_POPULATE_READ) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    };
    // SAFETY: the mapping was made above and nothing points into it.
    if unsafe { libc::munmap(at, len) } != 0 {
        return Err(io::Error::last_os_error());
    }
    populated.map_err(|error| match error.raw_os_error() {
        // An access would have raised SIGBUS: there is no page.
        Some(libc::EFAULT) => io::Error::from_raw_os_error(libc::ENOMEM),
        _ => error,
    })
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.watch.end();
        // SAFETY: the mapping is this reservation's own, and nobody can have a slice that outlives it.
        if unsafe { libc::munmap(self.raw.0, self.raw.1) } != 0 {
            tracing::error!(error = %io::Error::last_os_error(), "cannot unmap guest memory");
        }
    }
}
