//! Why a probe could not be attached, and what would change that.

use std::{io, path::PathBuf};

use aya::programs::{ProgramError, kprobe::KProbeError};
use thiserror::Error;

/// Why a probe was skipped. Each message names the remedy.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ProbeError {
    /// The process may not load eBPF programs.
    #[error("no permission to load eBPF programs: run as root, or with CAP_BPF and CAP_PERFMON")]
    NotPermitted,
    /// The kernel does not describe its types.
    #[error("the kernel has no type information at {path} ({source}): needs CONFIG_DEBUG_INFO_BTF")]
    NoBtf {
        /// Where it was looked for.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel's type information is not what it should be.
    #[error("the kernel's type information cannot be read: {0}; a kernel this tool does not know?")]
    BadBtf(#[from] crate::btf::BtfError),
    /// tracefs is not mounted where the kernel wants it.
    #[error("tracefs is not mounted: `mount -t tracefs tracefs /sys/kernel/tracing` (as root)")]
    NoTracefs,
    /// tracefs is there and may not be read.
    #[error("{path} cannot be read ({source}): run as root")]
    TracefsUnreadable {
        /// What could not be read.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A tracepoint's description is not as expected.
    #[error("the description of the tracepoint, {path}, cannot be understood: line {line:?}")]
    BadFormat {
        /// The `format` file.
        path: PathBuf,
        /// The line.
        line: String,
    },
    /// The tracepoint does not exist.
    #[error(
        "this kernel has no tracepoint {category}:{name}: load the module that has it, or needs another kernel"
    )]
    NoEvent {
        /// Its category.
        category: String,
        /// Its name.
        name: String,
    },
    /// A tracepoint or function lacks a value that the probe needs.
    #[error("{target} has no `{field}` on this kernel: needs another kernel version")]
    NoField {
        /// The tracepoint or function.
        target: String,
        /// Name of the field or argument.
        field: String,
    },
    /// None of the functions exists, or can be probed.
    #[error("this kernel has no function {}: its driver is not loaded or not built in, or the compiler merged it into its callers", names.join(" or "))]
    NoFunction {
        /// The names tried.
        names: Vec<String>,
    },
    /// The kernel offers other kinds of hooks than those asked for.
    #[error("none of the kinds asked for: this kernel offers {offered}")]
    KindsExcluded {
        /// What it offers.
        offered: String,
    },
    /// The kernel refused every way to attach.
    #[error("{}", attempts.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Refused {
        /// Each attempt, best kind first.
        attempts: Vec<Attempt>,
    },
    /// The committed object does not load at all.
    #[error("the eBPF object cannot be loaded: {0}; run `cargo xtask probes --check`")]
    Object(#[from] Box<aya::EbpfError>),
    /// A map could not be read.
    #[error("a map of probe {probe} cannot be read: {source}")]
    Map {
        /// Name of the probe.
        probe: String,
        /// What aya said.
        source: Box<aya::maps::MapError>,
    },
    /// The program or process to watch is gone, or has no sites.
    #[error("{what}: {remedy}")]
    Target {
        /// What is wrong with it.
        what: String,
        /// What to do.
        remedy: &'static str,
    },
}

/// One way to attach, and why the kernel refused it.
#[derive(Debug, Error)]
#[error("{kind}: {reason}{}", lockdown(*.locked_down))]
pub struct Attempt {
    /// Which kind of hook.
    pub kind: crate::Kind,
    /// The kernel's reason.
    pub reason: String,
    /// The system's error number, if there is one.
    pub errno: Option<i32>,
    /// The kernel is in lockdown, which forbids kernel reads to eBPF in its mode `confidentiality`.
    pub locked_down: bool,
}

const fn lockdown(locked_down: bool) -> &'static str {
    if locked_down {
        " (the kernel is locked down: boot with lockdown=none or lockdown=integrity)"
    } else {
        ""
    }
}

impl Attempt {
    /// What aya reported about one attempt.
    pub(crate) fn of(kind: crate::Kind, error: &ProgramError) -> Self {
        let (reason, errno) = match error {
            ProgramError::LoadError { io_error, verifier_log } => {
                tracing::debug!(%kind, %verifier_log, "the kernel refused a program");
                (format!("the kernel refused the program: {io_error}"), io_error.raw_os_error())
            }
            ProgramError::SyscallError(error) => {
                (format!("{}: {}", error.call, error.io_error), error.io_error.raw_os_error())
            }
            ProgramError::KProbeError(KProbeError::FileError { filename, io_error }) => {
                let why =
                    format!("{}: {io_error}: needs a kernel with CONFIG_KPROBE_EVENTS", filename.display());
                (why, io_error.raw_os_error())
            }
            other => (other.to_string(), None),
        };
        Self { kind, reason, errno, locked_down: false }
    }

    /// The same reason for another probe.
    pub(crate) fn repeated(&self) -> Self {
        Self {
            kind: self.kind,
            reason: self.reason.clone(),
            errno: self.errno,
            locked_down: self.locked_down,
        }
    }

    /// Whether another probe of the same kind would be refused too.
    pub(crate) fn is_final(&self) -> bool {
        // ENOTSUPP is the kernel's own; it has no name in the C library.
        const ENOTSUPP: i32 = 524;
        matches!(self.errno, Some(libc::EPERM | libc::EACCES | libc::EOPNOTSUPP | libc::ENOSYS | ENOTSUPP))
    }
}
