//! Use of a device by the host, from sysfs, procfs and the device nodes.
//!
//! What is in doubt counts as use: taking a device that is in use loses data, refusing one that is not costs an option.

mod disk;
mod net;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use thiserror::Error;

use crate::{
    sysfs::{PciDevice, SysfsError, file_name, names},
    texts,
};

/// Levels of folders below a device that are looked through; a disk behind a USB controller is about ten below it.
const LEVELS: usize = 20;

/// Use of a device, and its remedy.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Use {
    /// A filesystem, in any mount namespace.
    #[error("{disk} is mounted at {place}; `umount {place}` first")]
    Mounted {
        /// Disk or partition, as it was given to mount.
        disk: String,
        /// Mount point.
        place: String,
    },
    /// Swap space.
    #[error("{disk} is swap space; `swapoff {disk}` first")]
    Swap {
        /// Disk or partition.
        disk: String,
    },
    /// A device built on it.
    #[error("{disk} is part of {holder} (LVM, RAID, bcache, a loop device or encryption); stop that first")]
    Held {
        /// Disk or partition.
        disk: String,
        /// What has it.
        holder: String,
    },
    /// An exclusive open: a filesystem of several devices, ZFS, a mount elsewhere, or a program.
    #[error(
        "{disk} is open exclusively: a filesystem (btrfs, ZFS, a mount in another namespace), a RAID or a program has it"
    )]
    Exclusive {
        /// Disk or partition.
        disk: String,
    },
    /// The last word was not given.
    #[error("{disk} may be in use: {why}")]
    Doubt {
        /// Disk, partition or path.
        disk: String,
        /// Why that is not known.
        why: String,
    },
    /// A process has a device node open.
    #[error("{node} is open in process {process}; end that first")]
    Open {
        /// The node.
        node: String,
        /// Number of the process.
        process: String,
    },
    /// An interface that is up.
    #[error("network interface {interface} is up; `ip link set {interface} down` first")]
    Up {
        /// Its name.
        interface: String,
    },
    /// An interface that belongs to another.
    #[error(
        "network interface {interface} is part of {upper} (bond, bridge, team, switch or a device on top)"
    )]
    Enslaved {
        /// Its name.
        interface: String,
        /// The other.
        upper: String,
    },
    /// A default route.
    #[error("network interface {interface} carries the default route")]
    DefaultRoute {
        /// Its name.
        interface: String,
    },
    /// No interface of a card that has a driver.
    #[error(
        "driver {driver} has it and none of its network interfaces is here: another network namespace or a program has it"
    )]
    Elsewhere {
        /// The driver.
        driver: String,
    },
    /// Virtual functions.
    #[error("it has {count} virtual functions (sriov_numvfs), which would go with it")]
    VirtualFunctions {
        /// How many.
        count: u64,
    },
}

/// The host's trees beside sysfs, and how a node is claimed. Tests make up all of them.
#[derive(Clone, Debug)]
pub struct Host {
    proc: PathBuf,
    dev: PathBuf,
    claim: fn(&Path, &str) -> io::Result<()>,
}

impl Default for Host {
    fn default() -> Self {
        Self { proc: "/proc".into(), dev: "/dev".into(), claim: disk::claim }
    }
}

/// Use of the device by this host, if there is one.
///
/// # Errors
/// When sysfs or procfs cannot be read.
pub fn in_use(device: &PciDevice, host: &Host) -> Result<Option<Use>, SysfsError> {
    let tree = Tree::below(device.folder())?;
    if let Some(count) =
        read(&device.folder().join("sriov_numvfs"))?.and_then(|text| text.trim().parse().ok())
        && count > 0
    {
        return Ok(Some(Use::VirtualFunctions { count }));
    }
    if let Some(found) = net::in_use(device, &tree, host)? {
        return Ok(Some(found));
    }
    if let Some(found) = disk::in_use(device, &tree, host)? {
        return Ok(Some(found));
    }
    Ok(opened(&tree.nodes, host))
}

/// Everything below a device in sysfs.
#[derive(Debug, Default)]
struct Tree {
    folders: Vec<PathBuf>,
    /// Names of device nodes, relative to `/dev`.
    nodes: BTreeSet<String>,
}

impl Tree {
    fn below(folder: &Path) -> Result<Self, SysfsError> {
        let (mut tree, mut level) = (Self::default(), vec![folder.to_owned()]);
        for _ in 0..LEVELS {
            let mut next = Vec::new();
            for folder in level {
                for name in present(names(&folder))?.unwrap_or_default() {
                    let inner = folder.join(&name);
                    // Links lead to other devices and back.
                    if inner.symlink_metadata().is_ok_and(|data| data.is_dir()) {
                        tree.nodes.extend(node(&inner));
                        next.push(inner);
                    }
                }
            }
            tree.folders.extend(next.iter().cloned());
            level = next;
        }
        Ok(tree)
    }

    /// Devices of a class, partitions left out.
    fn of_class(&self, class: &str) -> impl Iterator<Item = &PathBuf> {
        let is_one = move |folder: &&PathBuf| {
            let link = fs::read_link(folder.join("subsystem")).unwrap_or_default();
            file_name(&link) == class && !folder.join("partition").exists()
        };
        self.folders.iter().filter(is_one)
    }
}

/// The name of a device's node, as its uevent has it.
fn node(folder: &Path) -> Option<String> {
    let text = fs::read_to_string(folder.join("uevent")).ok()?;
    texts::uevent(&text, "DEVNAME").map(str::to_owned)
}

/// A process of this PID namespace that has one of the nodes open. Nothing is followed, so that no file blocks this.
fn opened(nodes: &BTreeSet<String>, host: &Host) -> Option<Use> {
    let paths: BTreeSet<PathBuf> = nodes.iter().map(|node| Path::new("/dev").join(node)).collect();
    for process in processes(host) {
        let folder = host.proc.join(&process).join("fd");
        for fd in names(&folder).unwrap_or_default() {
            let Ok(target) = fs::read_link(folder.join(fd)) else { continue };
            if paths.contains(&target) {
                return Some(Use::Open { node: target.display().to_string(), process });
            }
        }
    }
    None
}

fn processes(host: &Host) -> impl Iterator<Item = String> {
    let all = names(&host.proc).unwrap_or_default().into_iter();
    all.filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
}

/// What went away while it was looked at is none.
fn present<T>(found: Result<T, SysfsError>) -> Result<Option<T>, SysfsError> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(SysfsError::Io { source, .. })
            if matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn read(path: &Path) -> Result<Option<String>, SysfsError> {
    present(crate::sysfs::read(path))
}
