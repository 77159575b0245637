//! Files that may back guest RAM.

#![allow(unsafe_code, reason = "fstat and fcntl seals have no safe wrapper in libc")]

use std::{
    io, mem,
    os::fd::{AsRawFd, OwnedFd},
};

use thiserror::Error;

/// Why a file is not accepted as guest RAM.
#[derive(Debug, Error)]
pub enum RamFileError {
    /// It cannot be looked at.
    #[error("cannot examine the file descriptor")]
    Stat(#[source] io::Error),
    /// A socket, pipe, directory, device…
    #[error(
        "the file descriptor is not memory (file type {kind:#o}); share guest RAM as memory-backend-memfd,share=on"
    )]
    NotMemory {
        /// The file type bits of its mode.
        kind: u32,
    },
    /// Anyone could truncate it, and an access behind its end would kill the process.
    #[error(
        "the file could shrink while it is in use; share guest RAM as memory-backend-memfd,share=on (with seal=on, the default)"
    )]
    CanShrink,
}

/// A memory file that cannot shrink: every byte that lies in it now will do so for as long as anybody has it mapped.
#[derive(Debug)]
pub struct RamFile {
    fd: OwnedFd,
    bytes: u64,
}

impl RamFile {
    /// Checks `fd`: a regular memory file (memfd) with F_SEAL_SHRINK. The seal is added where the file still allows it.
    ///
    /// # Errors
    /// When it is no memory, or cannot be kept from shrinking.
    pub fn new(fd: OwnedFd) -> Result<Self, RamFileError> {
        let stat = stat(&fd).map_err(RamFileError::Stat)?;
        let kind = stat.st_mode & libc::S_IFMT;
        if kind != libc::S_IFREG {
            return Err(RamFileError::NotMemory { kind });
        }
        seal(&fd)?;
        // After the seal: from here on the size only grows.
        let stat = self::stat(&fd).map_err(RamFileError::Stat)?;
        Ok(Self { fd, bytes: u64::try_from(stat.st_size).unwrap_or(0) })
    }

    /// Its size in bytes when it was checked.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn raw(&self) -> libc::c_int {
        self.fd.as_raw_fd()
    }
}

fn stat(fd: &OwnedFd) -> io::Result<libc::stat> {
    // SAFETY: `stat` is plain data for which zeroes are a value.
    let mut stat: libc::stat = unsafe { mem::zeroed() };
    // SAFETY: the descriptor is open and `stat` outlives the call.
    match unsafe { libc::fstat(fd.as_raw_fd(), &raw mut stat) } {
        0 => Ok(stat),
        _ => Err(io::Error::last_os_error()),
    }
}

fn seal(fd: &OwnedFd) -> Result<(), RamFileError> {
    // SAFETY: fcntl with these commands takes and returns integers. What is no memfd answers EINVAL.
    let seals = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GET_SEALS) };
    if seals < 0 {
        return Err(RamFileError::CanShrink);
    }
    if seals & libc::F_SEAL_SHRINK != 0 {
        return Ok(());
    }
    // SAFETY: as above.
    match unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, libc::F_SEAL_SHRINK) } {
        0 => Ok(()),
        _ => Err(RamFileError::CanShrink),
    }
}
