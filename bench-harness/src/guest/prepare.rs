//! What the guest is made of: QEMU, kernel, tools; from Debian packages in a cache, or as the user names them.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use iommu_lab::{GuestKernel, PrepareError, Qemu, accel, accel::Accel, prepare};
use nix::fcntl::{Flock, FlockArg};
use thiserror::Error;

use super::{
    nested,
    options::{GuestOptions, Linux},
};
use crate::lab::LabOptions;

/// Fetches the packages into a folder; the guest suite runs the same script.
const SCRIPT: &str = include_str!("../../../scripts/guest/prepare");
/// Its exit code when they cannot be had.
const CANNOT: i32 = 3;
/// Folder of the cache that QEMU was unpacked into.
pub(super) const QEMU_ROOT: &str = "qemu";
/// What QEMU must have.
const DEVICES: [&str; 3] = ["vfio-user-pci", "virtio-iommu-pci", "virtio-net-pci"];
/// Modules loaded inside, in this order, each after what it needs.
const MODULES: [&str; 2] = ["virtio-iommu", "virtio_net"];
/// Shared libraries of the tools, below the root that QEMU was unpacked into.
const C_LIBRARIES: [&str; 2] = ["libc.so.6", "libm.so.6"];
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";
const LOADER: &str = "usr/lib64/ld-linux-x86-64.so.2";

/// The guest cannot be prepared.
#[derive(Debug, Error)]
pub(crate) enum GuestPrepareError {
    /// No place for the cache.
    #[error("no cache folder: neither XDG_CACHE_HOME nor HOME is set; name one with --guest-cache DIR")]
    NoCache,
    /// The packages cannot be fetched.
    #[error("{0}")]
    Packages(String),
    /// A guest in the lab that has no KVM.
    #[error(
        "the lab has no /dev/kvm: its QEMU or kernel has no AMD virtualisation; use others with --qemu and --kernel"
    )]
    NoNestedKvm,
    /// A file of the cache.
    #[error(
        "{path}: {source}; remove the cache to have it filled again, or name another with --guest-cache DIR"
    )]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Kernel or QEMU.
    #[error(transparent)]
    Part(#[from] PrepareError),
}

/// All of it.
#[derive(Debug)]
pub(crate) struct Parts {
    /// The monitor.
    pub(crate) qemu: Qemu,
    /// The kernel.
    pub(crate) kernel: GuestKernel,
    /// How QEMU runs instructions.
    pub(crate) accel: Accel,
    /// Whether that is the lab's nested KVM, which is emulated itself.
    pub(crate) nested: bool,
    /// Files of the guest's root: place inside, place here.
    pub(crate) files: Vec<(String, PathBuf)>,
}

/// Finds or fetches everything. `progress` is told what takes a while.
///
/// # Errors
/// When a part can neither be found nor fetched.
pub(crate) fn parts(
    options: &GuestOptions,
    lab: &LabOptions,
    progress: &mut dyn FnMut(&str),
) -> Result<Parts, GuestPrepareError> {
    if let Some(parts) = nested::unpacked()? {
        return Ok(parts);
    }
    let cache = options.cache.clone().or_else(|| prepare::cache_folder("guest"));
    let cache = cache.ok_or(GuestPrepareError::NoCache)?;
    let qemu = |cache: &Path| qemu(lab.qemu.as_deref(), cache);
    fetched(&cache, lab.kernel.as_deref(), options.linux, &qemu, progress)
}

/// All of it from a cache, which is filled if it is not.
pub(super) fn fetched(
    cache: &Path,
    kernel: Option<&Path>,
    linux: Linux,
    qemu: &dyn Fn(&Path) -> Result<Qemu, PrepareError>,
    progress: &mut dyn FnMut(&str),
) -> Result<Parts, GuestPrepareError> {
    let failed = |source| GuestPrepareError::Io { path: cache.to_owned(), source };
    fs::create_dir_all(cache).map_err(failed)?;
    // Two runs at once prepare it once.
    let lock = fs::File::create(cache.join("lock")).map_err(failed)?;
    let _lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, error)| failed(error.into()))?;
    fetch(cache, progress)?;
    progress("unpacking the kernel's modules");
    let image = match (kernel, linux) {
        (Some(image), _) => image.to_owned(),
        (None, series) => image_of(&cache.join(series.folder()), series)?,
    };
    Ok(Parts {
        qemu: qemu(cache)?,
        kernel: prepare::guest_kernel(&image, &MODULES, cache)?,
        accel: accel::best(),
        nested: false,
        files: files(cache)?,
    })
}

fn fetch(cache: &Path, progress: &mut dyn FnMut(&str)) -> Result<(), GuestPrepareError> {
    if cache.join("complete").is_file() {
        return Ok(());
    }
    progress("fetching QEMU, kernels and tools (about 400 MB, once)");
    let cannot = |why: String| GuestPrepareError::Packages(why);
    let output = Command::new("bash")
        .args(["-c", SCRIPT, "prepare"])
        .arg(cache)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| cannot(format!("bash cannot be run ({error}): QEMU cannot be fetched here")))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let said: Vec<&str> = said.lines().map(|line| line.trim_start_matches("guest suite: ")).collect();
    Err(cannot(match output.status.code() {
        Some(CANNOT) => said.join("; "),
        _ => format!("fetching packages failed: {}", said.last().unwrap_or(&"no message")),
    }))
}

/// The one that is named; the installed one, if it can serve; the one in the cache.
fn qemu(named: Option<&Path>, cache: &Path) -> Result<Qemu, PrepareError> {
    if let Some(program) = named {
        return Ok(Qemu::named(program, &DEVICES)?);
    }
    if let Some(Ok(qemu)) = Qemu::installed().map(|program| Qemu::named(&program, &DEVICES)) {
        return Ok(qemu);
    }
    private_qemu(&cache.join(QEMU_ROOT))
}

/// The one of an unpacked root.
pub(super) fn private_qemu(root: &Path) -> Result<Qemu, PrepareError> {
    Ok(Qemu::of_root(root, &DEVICES)?)
}

/// The image in an unpacked package: in `boot`, or among the modules.
fn image_of(folder: &Path, series: Linux) -> Result<PathBuf, GuestPrepareError> {
    let listed = |folder: &Path| -> Vec<PathBuf> {
        let entries = fs::read_dir(folder).into_iter().flatten();
        entries.filter_map(|entry| Some(entry.ok()?.path())).collect()
    };
    let is_image =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz"));
    let folders = listed(&folder.join("usr/lib/modules"));
    let places = std::iter::once(folder.join("boot")).chain(folders);
    places.flat_map(|place| listed(&place)).find(is_image).ok_or_else(|| {
        let why = format!("no image of Linux {series}");
        GuestPrepareError::Io {
            path: folder.to_owned(),
            source: io::Error::new(io::ErrorKind::NotFound, why),
        }
    })
}

/// Tools, their libraries and their loader.
fn files(cache: &Path) -> Result<Vec<(String, PathBuf)>, GuestPrepareError> {
    let (tools, root) = (cache.join("tools"), cache.join(QEMU_ROOT));
    let mut files: Vec<(String, PathBuf)> = ["busybox", "netperf", "netserver"]
        .into_iter()
        .map(|name| (format!("bin/{name}"), tools.join("usr/bin").join(name)))
        .collect();
    files.push(("lib64/ld-linux-x86-64.so.2".to_owned(), root.join(LOADER)));
    let inside = |name: &str| format!("lib/x86_64-linux-gnu/{name}");
    for name in C_LIBRARIES {
        files.push((inside(name), root.join(LIBRARIES).join(name)));
    }
    files.push((inside("libsctp.so.1"), tools.join(LIBRARIES).join("libsctp.so.1")));
    for (_, path) in &files {
        // Follows links: what is read later must be there.
        fs::metadata(path).map_err(|source| GuestPrepareError::Io { path: path.clone(), source })?;
    }
    Ok(files)
}
