//! Use of disks: of all that a device has, of their partitions, and of multipath disks that lead through it.

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use super::{Host, Tree, Use, node, present, processes, read};
use crate::{
    sysfs::{PciDevice, SysfsError, file_name, names},
    texts,
};

/// A disk or a partition.
struct Part {
    folder: PathBuf,
    name: String,
    /// `major:minor`
    number: String,
    /// Relative to `/dev`.
    node: String,
    /// A path of a multipath disk, which has no node.
    hidden: bool,
}

impl Part {
    fn new(folder: PathBuf) -> Result<Self, SysfsError> {
        let name = file_name(&folder);
        let number = read(&folder.join("dev"))?.unwrap_or_default().trim().to_owned();
        let node = node(&folder).unwrap_or_else(|| name.replace('!', "/"));
        let hidden =
            read(&folder.join("hidden"))?.is_some_and(|text| text.trim() == "1") || head(&name).is_some();
        Ok(Self { folder, name, number, node, hidden })
    }

    fn path(&self) -> String {
        format!("/dev/{}", self.node)
    }
}

pub(super) fn in_use(device: &PciDevice, tree: &Tree, host: &Host) -> Result<Option<Use>, SysfsError> {
    let mut disks: BTreeSet<PathBuf> = tree.of_class("block").cloned().collect();
    let (heads, missing) = heads(device.root(), tree, &disks)?;
    disks.extend(heads);
    let mut parts = Vec::new();
    for disk in &disks {
        let name = file_name(disk);
        parts.push(Part::new(disk.clone())?);
        for inside in present(names(disk))?.unwrap_or_default() {
            if inside.starts_with(&name) && disk.join(&inside).join("partition").exists()
                || disk.join(&inside).join("holders").is_dir()
            {
                parts.push(Part::new(disk.join(inside))?);
            }
        }
    }
    if let Some(found) = named(&parts, device.root(), host)? {
        return Ok(Some(found));
    }
    if let Some(disk) = missing {
        let why = "it is a path of a multipath disk that cannot be found".to_owned();
        return Ok(Some(Use::Doubt { disk, why }));
    }
    Ok(parts.iter().filter(|part| !part.hidden).find_map(|part| claimed(part, host)))
}

/// Use that is said by name: holders, mounts of all namespaces, swap, loop devices.
fn named(parts: &[Part], root: &Path, host: &Host) -> Result<Option<Use>, SysfsError> {
    for part in parts {
        let holders = present(names(&part.folder.join("holders")))?.unwrap_or_default();
        if let Some(holder) = holders.into_iter().next() {
            return Ok(Some(Use::Held { disk: part.name.clone(), holder }));
        }
    }
    let is_part = |path: &str| {
        let Some(node) = path.strip_prefix("/dev/") else { return false };
        // `/dev/disk/by-uuid/…` and `/dev/mapper/…` are links.
        let real = fs::canonicalize(host.dev.join(node)).unwrap_or_default();
        parts.iter().any(|part| part.node == node || real == host.dev.join(&part.node))
    };
    for text in mountinfos(host) {
        let mount = texts::mounts(&text)
            .find(|mount| is_part(mount.source) || parts.iter().any(|part| part.number == mount.number));
        if let Some(mount) = mount {
            let (disk, place) = (mount.source.to_owned(), mount.place.to_owned());
            return Ok(Some(Use::Mounted { disk, place }));
        }
    }
    let swaps = read(&host.proc.join("swaps"))?.unwrap_or_default();
    if let Some(path) = texts::swaps(&swaps).find(|path| is_part(path)) {
        return Ok(Some(Use::Swap { disk: path.to_owned() }));
    }
    for holder in present(names(&root.join("class/block")))?.unwrap_or_default() {
        let backing =
            read(&root.join("class/block").join(&holder).join("loop/backing_file")).unwrap_or_default();
        if let Some(disk) = backing.as_deref().map(str::trim).filter(|path| is_part(path)) {
            return Ok(Some(Use::Held { disk: disk.to_owned(), holder }));
        }
    }
    Ok(None)
}

/// The mounts of each mount namespace that a process is in, once.
fn mountinfos(host: &Host) -> impl Iterator<Item = String> {
    let mut known = BTreeSet::new();
    processes(host).chain(["self".to_owned()]).filter_map(move |process| {
        let folder = host.proc.join(process);
        match fs::read_link(folder.join("ns/mnt")) {
            Ok(namespace) if !known.insert(namespace.clone()) => None,
            // A process that ends meanwhile keeps no mount; what this process may not read, the claim finds.
            _ => fs::read_to_string(folder.join("mountinfo")).ok(),
        }
    })
}

/// The multipath disks above the NVMe controllers of a device, and a path whose disk is not there.
///
/// Under native multipath a controller has paths (`nvme0c1n1`), and the disk that is mounted (`nvme0n1`) is below its
/// subsystem. Every disk of a subsystem counts: paths may come and go.
fn heads(
    root: &Path,
    tree: &Tree,
    disks: &BTreeSet<PathBuf>,
) -> Result<(Vec<PathBuf>, Option<String>), SysfsError> {
    let controllers: Vec<String> = tree.of_class("nvme").map(|folder| file_name(folder)).collect();
    let subsystems = root.join("class/nvme-subsystem");
    let mut found = Vec::new();
    for subsystem in present(names(&subsystems))?.unwrap_or_default() {
        let folder = subsystems.join(subsystem);
        let inside = present(names(&folder))?.unwrap_or_default();
        if controllers.iter().any(|controller| inside.contains(controller)) {
            let is_disk = |inner: &PathBuf| inner.join("holders").is_dir() || inner.join("dev").exists();
            found.extend(inside.into_iter().map(|name| folder.join(name)).filter(is_disk));
        }
    }
    // Controllers lie there as links.
    found.retain(|folder| !controllers.contains(&file_name(folder)));
    let known = |name: &str| found.iter().any(|folder| file_name(folder) == name);
    let mut missing = None;
    let mut others = Vec::new();
    for path in disks.iter().map(|disk| file_name(disk)) {
        let Some(disk) = head(&path).filter(|disk| !known(disk)) else { continue };
        let folder = root.join("class/block").join(disk);
        if folder.is_dir() { others.push(folder) } else { missing = Some(path) }
    }
    found.extend(others);
    Ok((found, missing))
}

/// The multipath disk of a path: `nvme0n1` of `nvme0c1n1`.
fn head(path: &str) -> Option<String> {
    let (subsystem, rest) = path.strip_prefix("nvme")?.split_once('c')?;
    let (controller, namespace) = rest.split_once('n')?;
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_path = number(subsystem) && number(controller) && number(namespace);
    is_path.then(|| format!("nvme{subsystem}n{namespace}"))
}

/// The last word: an exclusive open fails as long as anything has claimed the disk.
fn claimed(part: &Part, host: &Host) -> Option<Use> {
    match (host.claim)(&host.dev.join(&part.node), &part.number) {
        Ok(()) => None,
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Some(Use::Exclusive { disk: part.path() }),
        // A drive without a medium holds nothing.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOMEDIUM | libc::ENXIO)) => None,
        Err(error) => {
            let why =
                format!("its node cannot be opened exclusively ({error}); root is needed, and the node");
            Some(Use::Doubt { disk: part.path(), why })
        }
    }
}

/// Opens a disk exclusively and closes it again.
pub(super) fn claim(node: &Path, number: &str) -> io::Result<()> {
    // Not blocking: a drive without a medium is not waited for.
    let flags = libc::O_EXCL | libc::O_NONBLOCK | libc::O_CLOEXEC;
    let data = fs::metadata(node)?;
    let (major, minor) = (libc::major(data.rdev()), libc::minor(data.rdev()));
    if !data.file_type().is_block_device() || format!("{major}:{minor}") != number {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the node is another device's"));
    }
    fs::File::options().read(true).custom_flags(flags).open(node).map(drop)
}
