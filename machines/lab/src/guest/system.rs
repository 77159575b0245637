//! What a distribution's init does, as far as our program needs it.

use std::{
    ffi::CString,
    fs, io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
};
use thiserror::Error;

use crate::job::{MODULE_FOLDER, PORT};

/// Type, place.
const MOUNTS: [(&str, &str); 10] = [
    ("devtmpfs", "/dev"),
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("tmpfs", "/tmp"),
    ("tmpfs", "/run"),
    ("debugfs", "/sys/kernel/debug"),
    ("tracefs", "/sys/kernel/tracing"),
    ("securityfs", "/sys/kernel/security"),
    ("bpf", "/sys/fs/bpf"),
    ("tmpfs", "/dev/shm"),
];
/// Those without which nothing works; a kernel without the others has less to measure.
const NEEDED: [&str; 3] = ["devtmpfs", "proc", "sysfs"];
/// How long the port may take to appear.
const PORT_LIMIT: Duration = Duration::from_secs(20);

/// The guest's system cannot be set up.
#[derive(Debug, Error)]
pub(super) enum SystemError {
    /// A file system.
    #[error("{kind} cannot be mounted on {place}: {source}")]
    Mount {
        /// Its type.
        kind: &'static str,
        /// Where.
        place: &'static str,
        /// Why.
        source: Errno,
    },
    /// A module.
    #[error("module {path} cannot be loaded: {source}")]
    Module {
        /// Its file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The line to the host.
    #[error("no virtio-serial port named {PORT} (is the driver in the kernel?)")]
    NoPort,
    /// A file.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

pub(super) fn mount_all() -> Result<(), SystemError> {
    for (kind, place) in MOUNTS {
        if kind == "tmpfs" {
            // Where it is needed it is an error of the mount.
            let _ = fs::create_dir_all(place);
        }
        match mount(Some(kind), place, Some(kind), MsFlags::empty(), None::<&str>) {
            // The kernel may have mounted it already.
            Ok(()) | Err(Errno::EBUSY) => (),
            Err(source) if NEEDED.contains(&kind) => return Err(SystemError::Mount { kind, place, source }),
            Err(_) => (),
        }
    }
    Ok(())
}

/// Loads the modules in the order of their names. One that this machine has no hardware for is passed over.
pub(super) fn load_modules() -> Result<(), SystemError> {
    let folder = Path::new(MODULE_FOLDER);
    let failed = |source| SystemError::Io { path: folder.to_owned(), source };
    let entries = fs::read_dir(folder).map_err(failed)?;
    let mut files = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>().map_err(failed)?;
    files.sort();
    for path in files {
        match load(&path) {
            Ok(()) => (),
            Err(error)
                if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENODEV | libc::EEXIST)) => {}
            Err(source) => return Err(SystemError::Module { path, source }),
        }
    }
    Ok(())
}

#[allow(unsafe_code, reason = "finit_module has no safe wrapper here")]
fn load(path: &Path) -> io::Result<()> {
    let file = fs::File::open(path)?;
    let parameters = CString::default();
    // SAFETY: the descriptor is open and the parameters are a NUL-terminated string; both outlive the call.
    let loaded = unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), parameters.as_ptr(), 0) };
    if loaded == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A performance event that never counts anything.
///
/// The kernel writes a jump into its scheduler when the first event of a thread is opened, and takes it away after the last.
/// Probes and profiles come and go many times in a run, and QEMU's translator has a race with a kernel that changes code
/// which another processor runs: it keeps the breakpoint of the change, and the kernel panics there. While this event is
/// open the scheduler stays as it is.
///
/// # Errors
/// When the kernel has no performance events; then probes do not open any either.
#[allow(unsafe_code, reason = "perf_event_open has no wrapper here")]
pub(super) fn idle_event() -> io::Result<OwnedFd> {
    const SOFTWARE: u64 = 1;
    const DUMMY: u64 = 9;
    const BYTES: u64 = 64;
    const DISABLED: u64 = 1;
    // `struct perf_event_attr` in its first version: type and size, config, period, sample type, read format, flags, …
    let attributes: [u64; 8] = [SOFTWARE | BYTES << 32, DUMMY, 0, 0, 0, DISABLED, 0, 0];
    let (this_process, any_cpu, no_group, no_flags) = (0, -1, -1, 0_u64);
    // SAFETY: the attributes are as long as they say and outlive the call, which only reads them.
    let event = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            attributes.as_ptr(),
            this_process,
            any_cpu,
            no_group,
            no_flags,
        )
    };
    match i32::try_from(event) {
        // SAFETY: a descriptor that the kernel has just given to us and nobody else has.
        Ok(event) if event >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(event) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Opens the line to the host, once the driver has found it.
pub(super) fn open_port() -> Result<fs::File, SystemError> {
    let since = Instant::now();
    loop {
        if let Some(device) = port_device(Path::new("/sys/class/virtio-ports")) {
            let path = Path::new("/dev").join(device);
            let port = fs::File::options().read(true).write(true).open(&path);
            return port.map_err(|source| SystemError::Io { path, source });
        }
        if since.elapsed() > PORT_LIMIT {
            return Err(SystemError::NoPort);
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Name of the device whose port has our name.
fn port_device(class: &Path) -> Option<String> {
    let entries = fs::read_dir(class).ok()?;
    let ours = |folder: &Path| fs::read_to_string(folder.join("name")).is_ok_and(|name| name.trim() == PORT);
    let folder = entries.filter_map(|entry| Some(entry.ok()?.path())).find(|folder| ours(folder))?;
    Some(folder.file_name()?.to_string_lossy().into_owned())
}

/// Milliseconds since the kernel began.
pub(super) fn up_ms() -> u64 {
    let text = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let seconds = text.split(' ').next().and_then(|word| word.parse::<f64>().ok()).unwrap_or_default();
    (seconds * 1000.0) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_is_found_by_its_name() {
        let class = tempfile::tempdir().unwrap();
        for (device, name) in [("vport0p1", "other\n"), ("vport0p2", "iommu-bench.lab\n")] {
            fs::create_dir(class.path().join(device)).unwrap();
            fs::write(class.path().join(device).join("name"), name).unwrap();
        }
        assert_eq!(port_device(class.path()).as_deref(), Some("vport0p2"));
        assert_eq!(port_device(Path::new("/nonexistent")), None);
    }

    #[test]
    fn an_event_that_counts_nothing_can_be_had() {
        match idle_event() {
            Ok(event) => assert!(event.as_raw_fd() > 2),
            Err(error) => iommu_equipment::missing(iommu_equipment::Equipment::PerfEvents, error),
        }
    }

    #[test]
    fn what_is_no_module_is_not_loaded() {
        assert!(load(&std::env::current_exe().unwrap()).is_err());
    }
}
