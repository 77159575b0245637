//! The pair of fences between a reader that announces itself and an unmapper that looks for readers.
//!
//! Both sides store, then load what the other stored (Dekker's pattern), so both need a full fence. Readers pin far
//! more often than unmappers wait, so the asymmetric kind makes the reader's half a compiler fence and lets the
//! unmapper force a barrier on every CPU that runs this process, with `membarrier(2)`.

#![allow(unsafe_code, reason = "membarrier(2) has no safe wrapper in libc")]

use crate::sync::{Ordering, fence};

/// Who pays for the fence between readers and unmappers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fences {
    /// Both sides: a full fence for each pin (about 6 ns), a full fence for each grace period.
    Symmetric,
    /// The unmapper: pins are free, each grace period is a system call (0.2 µs, or about 2 µs when another thread
    /// of the process runs on another CPU).
    Asymmetric,
}

impl Fences {
    /// Asymmetric where the kernel offers it, symmetric elsewhere.
    pub fn best() -> Self {
        if register() { Self::Asymmetric } else { Self::Symmetric }
    }

    /// Falls back to symmetric when asymmetric was asked for but the kernel refuses it.
    pub(super) fn checked(self) -> Self {
        if self == Self::Asymmetric { Self::best() } else { self }
    }

    /// The reader's half, between announcing itself and its first load of a table.
    #[inline(always)]
    pub(super) fn light(self) {
        match self {
            Self::Symmetric => fence(Ordering::SeqCst),
            Self::Asymmetric => std::sync::atomic::compiler_fence(Ordering::SeqCst),
        }
    }

    /// The unmapper's half, between removing an entry and looking for readers.
    #[inline]
    pub(super) fn heavy(self) {
        match self {
            Self::Symmetric => fence(Ordering::SeqCst),
            Self::Asymmetric => barrier_everywhere(),
        }
    }
}

#[cfg(any(loom, shuttle, miri, not(target_os = "linux")))]
fn register() -> bool {
    false
}

#[cfg(any(loom, shuttle, miri, not(target_os = "linux")))]
fn barrier_everywhere() {
    fence(Ordering::SeqCst);
}

#[cfg(not(any(loom, shuttle, miri, not(target_os = "linux"))))]
fn register() -> bool {
    membarrier(libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED)
}

#[cfg(not(any(loom, shuttle, miri, not(target_os = "linux"))))]
fn barrier_everywhere() {
    // Registered in `checked`, so this cannot fail; a kernel that changed its mind would break the guard, so stop.
    assert!(membarrier(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED), "membarrier(2) refused after registration");
}

#[cfg(not(any(loom, shuttle, miri, not(target_os = "linux"))))]
fn membarrier(command: libc::c_int) -> bool {
    // SAFETY: membarrier takes a command, flags and a CPU number, and touches no memory of ours.
    unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) == 0 }
}
