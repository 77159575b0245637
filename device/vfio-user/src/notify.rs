//! Signals to eventfds that never block.
//!
//! `write` to an eventfd whose counter is full blocks, unless O_NONBLOCK is set: on the open file description, which the
//! client shares and can change at any time, also between a `poll` and the `write`. An eventfd cannot be opened anew,
//! and `pwritev2` with RWF_NOWAIT is not supported for it. But the kernel itself signals eventfds without ever waiting:
//! the counter stops at its maximum. Asynchronous I/O (`io_submit` with IOCB_FLAG_RESFD) does so at the end of each
//! operation, and reading nothing from an empty memfd of our own ends at once. So a signal is one such read: a system
//! call, on the thread that has the interrupt, with no thread to be abandoned.

#![allow(unsafe_code, reason = "asynchronous I/O has no wrapper in libc")]

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
    ptr,
};

use rustix::fs::{MemfdFlags, memfd_create};

const IOCB_CMD_PREAD: u16 = 0;
const IOCB_FLAG_RESFD: u32 = 1;
/// Operations whose completions the kernel keeps until they are collected.
const EVENTS: usize = 32;

/// `struct iocb` of `linux/aio_abi.h`, little-endian.
#[repr(C)]
#[derive(Default)]
struct Iocb {
    data: u64,
    key: u32,
    rw_flags: i32,
    opcode: u16,
    priority: i16,
    fd: u32,
    buffer: u64,
    bytes: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    result_fd: u32,
}

/// `struct io_event`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct IoEvent {
    data: u64,
    object: u64,
    results: [i64; 2],
}

/// A context for asynchronous I/O, and an empty file to read nothing from.
pub(crate) struct Notifier {
    context: libc::c_ulong,
    nothing: OwnedFd,
}

impl Notifier {
    /// A context of its own.
    ///
    /// # Errors
    /// When the kernel has no asynchronous I/O, or `fs.aio-max-nr` is exhausted.
    pub(crate) fn new() -> io::Result<Self> {
        let nothing = memfd_create("nothing", MemfdFlags::CLOEXEC)?;
        let mut context: libc::c_ulong = 0;
        // SAFETY: the kernel writes the context's number, for which there is room.
        match unsafe { libc::syscall(libc::SYS_io_setup, EVENTS as libc::c_long, &raw mut context) } {
            0 => Ok(Self { context, nothing }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Adds 1 to the eventfd's counter, unless that is full.
    ///
    /// # Errors
    /// When it is no eventfd.
    pub(crate) fn signal(&self, eventfd: BorrowedFd<'_>) -> io::Result<()> {
        match self.submit(eventfd) {
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {
                self.collect();
                self.submit(eventfd)
            }
            other => other,
        }
    }

    fn submit(&self, eventfd: BorrowedFd<'_>) -> io::Result<()> {
        // Descriptors are not negative.
        let operation = Iocb {
            opcode: IOCB_CMD_PREAD,
            fd: self.nothing.as_raw_fd().unsigned_abs(),
            flags: IOCB_FLAG_RESFD,
            result_fd: eventfd.as_raw_fd().unsigned_abs(),
            ..Iocb::default()
        };
        let mut list = [&raw const operation];
        // SAFETY: the list and the operation outlive the call, which copies them; the operation touches no buffer.
        match unsafe {
            libc::syscall(libc::SYS_io_submit, self.context, 1 as libc::c_long, list.as_mut_ptr())
        } {
            1 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Makes room for further operations.
    fn collect(&self) {
        let mut events = [IoEvent::default(); EVENTS];
        let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        loop {
            // SAFETY: `events` has room for as many as are asked for; with a timeout of zero the call does not wait.
            let got = unsafe {
                libc::syscall(
                    libc::SYS_io_getevents,
                    self.context,
                    0 as libc::c_long,
                    EVENTS as libc::c_long,
                    events.as_mut_ptr(),
                    ptr::from_ref(&now),
                )
            };
            if got < EVENTS as libc::c_long {
                return;
            }
        }
    }
}

impl Drop for Notifier {
    fn drop(&mut self) {
        // SAFETY: the context is this value's own; all its operations have ended.
        if unsafe { libc::syscall(libc::SYS_io_destroy, self.context) } != 0 {
            tracing::error!(error = %io::Error::last_os_error(), "io_destroy");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{EventfdFlags, eventfd};
    use std::os::fd::AsFd;

    fn count(fd: &OwnedFd) -> u64 {
        let mut bytes = [0; 8];
        rustix::io::read(fd, &mut bytes).unwrap();
        u64::from_ne_bytes(bytes)
    }

    #[test]
    fn each_signal_counts_once() {
        let (notifier, fd) = (Notifier::new().unwrap(), eventfd(0, EventfdFlags::empty()).unwrap());
        for signals in [1, 2, 31, 32, 33, 5000] {
            (0..signals).for_each(|_| notifier.signal(fd.as_fd()).unwrap());
            assert_eq!(count(&fd), signals);
        }
    }

    #[test]
    fn a_full_counter_does_not_block_and_others_are_refused() {
        let (notifier, fd) = (Notifier::new().unwrap(), eventfd(0, EventfdFlags::empty()).unwrap());
        rustix::io::write(&fd, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        (0..100).for_each(|_| notifier.signal(fd.as_fd()).unwrap());
        assert_eq!(count(&fd), u64::MAX, "it stays full");
        let pipe = std::io::pipe().unwrap();
        assert_eq!(notifier.signal(pipe.1.as_fd()).unwrap_err().raw_os_error(), Some(libc::EINVAL));
    }
}
