//! Files that may back guest RAM.

#![allow(unsafe_code, reason = "fstat, fstatfs and fcntl seals have no safe wrapper in libc")]

use std::{
    fs, io, mem,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use thiserror::Error;

/// `f_type` of hugetlbfs, which huge memfds are files of as well.
const HUGETLBFS_MAGIC: i64 = 0x958458f6;

/// Why a file is not accepted as guest RAM.
#[derive(Debug, Error)]
pub enum RamFileError {
    /// It cannot be looked at.
    #[error("cannot examine the file descriptor: {0}")]
    Stat(#[source] io::Error),
    /// A socket, pipe, directory, device, ordinary file…
    #[error("the file descriptor is not memory ({name}); share guest RAM as memory-backend-memfd,share=on")]
    NotMemory {
        /// What the kernel calls the file.
        name: String,
    },
    /// Anyone could truncate it, and an access behind its end would meet nothing.
    #[error(
        "the file could shrink while it is in use; share guest RAM as memory-backend-memfd,share=on (with seal=on, the default)"
    )]
    CanShrink,
}

/// A memory file that cannot shrink: every byte that lies in it now will do so for as long as it is mapped.
#[derive(Debug)]
pub struct RamFile<F = OwnedFd> {
    fd: F,
    bytes: u64,
    page_bytes: u64,
}

impl<F: AsFd> RamFile<F> {
    /// Checks `fd`: a regular memory file (memfd) with F_SEAL_SHRINK. The seal is added where the file still allows it.
    ///
    /// The first call on the descriptor asks for its seals, which only memory of the kernel's own has: a file system in
    /// user space, a socket or a device is refused without being called. Adding the seal waits for writers of the file,
    /// and so for as long as another process makes one wait; a file that is [sealed](is_sealed) needs no such wait.
    ///
    /// # Errors
    /// When it is no memory, or cannot be kept from shrinking.
    pub fn new(fd: F) -> Result<Self, RamFileError> {
        if !is_sealed(fd.as_fd())? {
            // SAFETY: fcntl with this command takes and returns integers.
            let added = unsafe { libc::fcntl(raw(&fd), libc::F_ADD_SEALS, libc::F_SEAL_SHRINK) };
            if added != 0 {
                return Err(RamFileError::CanShrink);
            }
        }
        // After the seal: from here on the size only grows.
        let (bytes, page_bytes) = size(fd.as_fd()).map_err(RamFileError::Stat)?;
        Ok(Self { fd, bytes, page_bytes })
    }

    /// Its size in bytes when it was checked.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Size of its pages, in bytes: more than 4 KiB for huge pages (hugetlb).
    pub fn page_bytes(&self) -> u64 {
        self.page_bytes
    }

    pub(super) fn raw(&self) -> libc::c_int {
        raw(&self.fd)
    }

    #[cfg(test)]
    pub(super) fn unchecked(fd: F, bytes: u64) -> Self {
        Self { fd, bytes, page_bytes: 4096 }
    }
}

fn raw(fd: &impl AsFd) -> libc::c_int {
    fd.as_fd().as_raw_fd()
}

/// Whether the memory file has F_SEAL_SHRINK. Never blocks, whatever the descriptor.
///
/// # Errors
/// When it is no memory file.
pub fn is_sealed(fd: BorrowedFd<'_>) -> Result<bool, RamFileError> {
    // SAFETY: fcntl with this command takes and returns integers. What is no memfd answers EINVAL.
    let seals = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GET_SEALS) };
    if seals < 0 {
        // The name is the kernel's: reading the link calls no file system.
        let name = fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap_or_default();
        return Err(RamFileError::NotMemory { name: name.display().to_string() });
    }
    Ok(seals & libc::F_SEAL_SHRINK != 0)
}

/// Size of a memory file and of its pages.
fn size(fd: BorrowedFd<'_>) -> io::Result<(u64, u64)> {
    // SAFETY: both are plain data for which zeroes are a value.
    let (mut stat, mut fs): (libc::stat, libc::statfs) = unsafe { (mem::zeroed(), mem::zeroed()) };
    // SAFETY: the descriptor is open and both structures outlive the calls.
    let failed = unsafe {
        libc::fstat(fd.as_raw_fd(), &raw mut stat) != 0 || libc::fstatfs(fd.as_raw_fd(), &raw mut fs) != 0
    };
    if failed {
        return Err(io::Error::last_os_error());
    }
    // The field's type differs between architectures and C libraries.
    #[allow(clippy::unnecessary_cast, reason = "not on all targets")]
    let huge = fs.f_type as i64 & 0xffff_ffff == HUGETLBFS_MAGIC;
    let page =
        if huge { u64::try_from(fs.f_bsize).unwrap_or(0).max(super::PAGE_BYTES) } else { super::PAGE_BYTES };
    Ok((u64::try_from(stat.st_size).unwrap_or(0), page))
}
