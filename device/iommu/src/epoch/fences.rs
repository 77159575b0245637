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
            Self::Asymmetric => reader_half(),
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

#[cfg(not(loom))]
#[inline(always)]
fn reader_half() {
    std::sync::atomic::compiler_fence(Ordering::SeqCst);
}

/// A stand-in for `membarrier(2)`, which loom does not know.
///
/// Modelled is the guarantee: of each reader and each barrier, either the barrier comes after the reader's
/// announcement, and the scan behind the barrier sees that, or it comes before the reader's first load, which then sees
/// the removal. Both sides perform a read-modify-write of one atomic, whose order says which. A model fails when the
/// unmapper's half is missing: no other fence of the unmapper helps a reader that has none.
///
/// Not modelled are the kernel's part (that a barrier reaches each running thread, and that registration is for the
/// process) and the compiler fence that keeps the reader's announcement before its loads.
#[cfg(loom)]
mod stand_in {
    use crate::sync::{AtomicU64, Ordering};

    ::loom::lazy_static! {
        static ref BARRIER: AtomicU64 = AtomicU64::new(0);
    }

    /// AcqRel: of two halves the later one sees what came before the earlier one.
    pub(super) fn half() {
        BARRIER.fetch_add(1, Ordering::AcqRel);
    }
}

#[cfg(loom)]
use stand_in::half as reader_half;

#[cfg(loom)]
fn register() -> bool {
    // Made before there are threads, so that making it orders nothing.
    stand_in::half();
    true
}

#[cfg(loom)]
fn barrier_everywhere() {
    stand_in::half();
}

#[cfg(all(not(loom), any(shuttle, miri, not(target_os = "linux"))))]
fn register() -> bool {
    false
}

#[cfg(all(not(loom), any(shuttle, miri, not(target_os = "linux"))))]
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
    #[cfg(test)]
    BARRIERS.set(BARRIERS.get() + 1);
}

#[cfg(all(test, not(any(loom, shuttle, miri, not(target_os = "linux")))))]
thread_local! {
    /// Barriers this thread has had the kernel perform.
    pub(super) static BARRIERS: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

#[cfg(not(any(loom, shuttle, miri, not(target_os = "linux"))))]
fn membarrier(command: libc::c_int) -> bool {
    // SAFETY: membarrier takes a command, flags and a CPU number, and touches no memory of ours.
    unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) == 0 }
}
