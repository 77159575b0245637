//! What can go wrong, and what to do about it.

use std::io;

use thiserror::Error;

/// Why there is no profile.
#[derive(Debug, Error)]
pub enum ProfileError {
    /// There is no such process.
    #[error("process {pid} is gone")]
    Gone {
        /// Its ID.
        pid: i32,
    },
    /// The kernel refuses.
    #[error(
        "the kernel does not allow profiling process {pid} ({source}); run as root, grant CAP_PERFMON, or set \
         kernel.perf_event_paranoid to 2 or less for your own processes"
    )]
    Refused {
        /// The process.
        pid: i32,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel has no perf events, or not this one.
    #[error(
        "this kernel has neither cycles nor cpu-clock as perf event ({source}); it needs CONFIG_PERF_EVENTS"
    )]
    Unsupported {
        /// What the kernel said.
        source: io::Error,
    },
    /// Too many files, no memory, or another surprise.
    #[error(
        "cannot open perf events on process {pid} ({source}); one file and one buffer are needed for each thread on each \
         CPU: raise `ulimit -n`, `ulimit -l` or kernel.perf_event_mlock_kb"
    )]
    Open {
        /// The process.
        pid: i32,
        /// What the kernel said.
        source: io::Error,
    },
    /// The list of CPUs cannot be had.
    #[error("cannot tell which CPUs are online: {0}")]
    Cpus(io::Error),
    /// The thread that records could not be started, or ended by a panic.
    #[error("the recording thread {0}")]
    Thread(&'static str),
    /// The flame graph could not be drawn.
    #[error("cannot draw the flame graph: {0}")]
    Draw(io::Error),
}

/// Why there is no count.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CountersError {
    /// The processor, or what the hypervisor shows of it, cannot count this.
    #[error("no such hardware counter here ({errno}): the processor or hypervisor offers no PMU for it")]
    NoSuchCounter {
        /// Name of the kernel's error.
        errno: &'static str,
    },
    /// The kernel refuses.
    #[error(
        "the kernel does not allow counting ({errno}); run as root, grant CAP_PERFMON, or lower kernel.perf_event_paranoid"
    )]
    Refused {
        /// Name of the kernel's error.
        errno: &'static str,
    },
    /// Opened, but other users of the counters never let it run.
    #[error("the counter never got onto the processor: all of its counters were taken")]
    NeverRan,
    /// Something else.
    #[error("perf_event_open failed: {0}")]
    Other(String),
}

impl CountersError {
    pub(crate) fn new(error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ENOENT) => Self::NoSuchCounter { errno: "ENOENT" },
            Some(libc::EOPNOTSUPP) => Self::NoSuchCounter { errno: "EOPNOTSUPP" },
            Some(libc::ENODEV) => Self::NoSuchCounter { errno: "ENODEV" },
            Some(libc::EACCES) => Self::Refused { errno: "EACCES" },
            Some(libc::EPERM) => Self::Refused { errno: "EPERM" },
            _ => Self::Other(error.to_string()),
        }
    }
}
