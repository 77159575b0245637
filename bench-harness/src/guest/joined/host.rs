//! The lab's kernel traces KVM, ioctls, interrupts and our devices' sites, in an instance of its own.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
};

use nix::time::{ClockId, clock_gettime};

use super::JoinError;

const TRACING: &str = "/sys/kernel/tracing";
const INSTANCE: &str = "/sys/kernel/tracing/instances/iommu-bench";
/// Group of the sites' events.
const GROUP: &str = "iommu_bench";
/// Sites of the devices; the driver is Linux's.
const SITES: [&str; 4] = ["decoded", "table_done", "grace_done", "completed"];
const EVENTS: [&str; 9] = [
    "kvm/kvm_exit",
    "kvm/kvm_entry",
    "kvm/kvm_mmio",
    "kvm/kvm_userspace_exit",
    "kvm/kvm_msi_set_irq",
    "kvm/kvm_inj_virq",
    "syscalls/sys_enter_ioctl",
    "syscalls/sys_exit_ioctl",
    GROUP,
];

/// Tracing under way; taken away when dropped.
pub(super) struct HostTrace {
    places: BTreeMap<String, u64>,
}

impl HostTrace {
    /// Begins.
    ///
    /// # Errors
    /// When tracefs refuses something.
    pub(super) fn start() -> Result<Self, JoinError> {
        let exe = std::env::current_exe()
            .map_err(|source| JoinError::Io { path: "/proc/self/exe".to_owned(), source })?;
        let mut trace = Self { places: BTreeMap::new() };
        for (number, site) in iommu_site_reader::sites_of(&exe)?.into_iter().enumerate() {
            if site.provider != GROUP || !SITES.contains(&site.name.as_str()) {
                continue;
            }
            let (name, offset) = (&site.name, site.file_offset);
            let probe =
                format!("p:{GROUP}/{name}_{number} {}:{offset:#x} key=%di:x64 second=%si:u64", exe.display());
            write(&Path::new(TRACING).join("uprobe_events"), &probe)?;
            *trace.places.entry(site.name).or_default() += 1;
        }
        fs::create_dir_all(INSTANCE).map_err(|source| JoinError::Io { path: INSTANCE.to_owned(), source })?;
        set("trace_clock", "x86-tsc")?;
        set("buffer_size_kb", "16384")?;
        for event in EVENTS {
            set(&format!("events/{event}/enable"), "1")?;
        }
        mark()?;
        Ok(trace)
    }

    /// Instructions probed, by site.
    pub(super) fn places(&self) -> BTreeMap<String, u64> {
        self.places.clone()
    }

    /// Ends; what was traced.
    ///
    /// # Errors
    /// When tracefs refuses something.
    pub(super) fn finish(self) -> Result<String, JoinError> {
        mark()?;
        set("tracing_on", "0")?;
        let path = in_instance("trace");
        fs::read_to_string(&path).map_err(|source| JoinError::Io { path: path.display().to_string(), source })
    }
}

impl Drop for HostTrace {
    fn drop(&mut self) {
        // The lab ends soon; what stays costs a little until then.
        let _ = set("events/enable", "0");
        let _ = fs::remove_dir(INSTANCE);
        let _ = write(&Path::new(TRACING).join("uprobe_events"), &format!("-:{GROUP}/"));
    }
}

/// Writes the time on the monotonic clock into the trace: two of them tell how long a tick is.
fn mark() -> Result<(), JoinError> {
    let failed =
        |source: nix::Error| JoinError::Io { path: "CLOCK_MONOTONIC".to_owned(), source: source.into() };
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_err(failed)?;
    set("trace_marker", &format!("mono {}", std::time::Duration::from(now).as_nanos()))
}

fn in_instance(name: &str) -> PathBuf {
    Path::new(INSTANCE).join(name)
}

fn set(name: &str, value: &str) -> Result<(), JoinError> {
    write(&in_instance(name), value)
}

/// Appends: to most files of tracefs that is what sets them.
fn write(path: &Path, value: &str) -> Result<(), JoinError> {
    let file = File::options().append(true).open(path);
    file.and_then(|mut file| file.write_all(value.as_bytes()))
        .map_err(|source| JoinError::Io { path: format!("{}: {value}", path.display()), source })
}
