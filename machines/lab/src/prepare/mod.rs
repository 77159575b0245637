//! Kernel, modules and QEMU, prepared once in a cache folder.
//!
//! They come from the distribution's own packages, found and fetched with apt's own configuration and unpacked into the
//! cache; nothing is installed. Elsewhere than on Debian the caller names a QEMU and a kernel.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use thiserror::Error;

mod apt;
mod kernel;
mod modules;
mod qemu;

pub use apt::AptError;
pub use kernel::KernelError;
pub use modules::ModuleError;
pub use qemu::{Qemu, QemuError};

/// Changes when what is in the cache has another shape.
const FORMAT: u32 = 1;
/// Modules loaded inside, in this order, each after what it needs.
const MODULES: [&str; 5] = ["vfio_iommu_type1", "vfio-pci", "kvm-intel", "kvm-amd", "virtio_console"];

/// Where the parts come from, as far as the caller has a say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// A kernel image; its modules are looked for beside it and in `/lib/modules`.
    pub kernel: Option<PathBuf>,
    /// A `qemu-system-x86_64`.
    pub qemu: Option<PathBuf>,
    /// The cache folder; `$XDG_CACHE_HOME/iommu-bench/lab` otherwise.
    pub cache: Option<PathBuf>,
}

/// Everything that can be prepared before it is known what to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lab {
    format: u32,
    /// The kernel, as QEMU loads it.
    pub kernel: PathBuf,
    /// Its release, such as `6.12.117+deb12-amd64`.
    pub release: String,
    /// Files of the modules, in the order in which they are to be loaded.
    pub modules: Vec<PathBuf>,
    /// The emulator.
    pub qemu: Qemu,
}

/// The lab cannot be prepared.
#[derive(Debug, Error)]
pub enum PrepareError {
    /// No place for the cache.
    #[error("no cache folder: neither XDG_CACHE_HOME nor HOME is set; name one with --lab-cache DIR")]
    NoCache,
    /// The cache cannot be used.
    #[error("the lab's cache {path} cannot be used: {source}; name another with --lab-cache DIR")]
    Cache {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Packages.
    #[error(transparent)]
    Apt(#[from] AptError),
    /// The kernel.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// Its modules.
    #[error(transparent)]
    Module(#[from] ModuleError),
    /// QEMU.
    #[error(transparent)]
    Qemu(#[from] QemuError),
}

/// Prepares the lab, or finds it prepared. `progress` is told what takes a while.
///
/// # Errors
/// When a part can neither be found nor fetched; the message says how to give it.
pub fn prepare(sources: &Sources, progress: &mut dyn FnMut(&str)) -> Result<Lab, PrepareError> {
    let cache = sources.cache.clone().or_else(default_cache).ok_or(PrepareError::NoCache)?;
    let failed = |source| PrepareError::Cache { path: cache.clone(), source };
    fs::create_dir_all(&cache).map_err(failed)?;
    // Two runs at once prepare it once.
    let lock = fs::File::create(cache.join("lock")).map_err(failed)?;
    let _lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, error)| failed(error.into()))?;
    let record = cache.join(record_name(sources));
    if let Some(lab) = recorded(&record) {
        return Ok(lab);
    }
    let qemu = qemu::find(sources.qemu.as_deref(), &cache, progress)?;
    let image = match &sources.kernel {
        Some(path) => path.clone(),
        None => kernel::fetch(&cache, progress)?,
    };
    progress("unpacking the kernel and its modules");
    let kernel = kernel::unpack(&image, &cache)?;
    let modules = modules::collect(&kernel, &MODULES, &cache)?;
    let lab = Lab { format: FORMAT, kernel: kernel.image, release: kernel.release, modules, qemu };
    write_record(&record, &lab).map_err(failed)?;
    Ok(lab)
}

/// A kernel with some of its modules, for a guest that is not the lab.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestKernel {
    format: u32,
    /// The kernel, as QEMU loads it.
    pub image: PathBuf,
    /// Its release.
    pub release: String,
    /// Files of the modules, each after what it needs.
    pub modules: Vec<PathBuf>,
}

/// Unpacks the kernel `image`, `modules` and what they need into `cache`, or finds them unpacked.
///
/// # Errors
/// When the image is no kernel, a module is missing, or the cache cannot be written.
pub fn guest_kernel(image: &Path, modules: &[&str], cache: &Path) -> Result<GuestKernel, PrepareError> {
    let sources = Sources { kernel: Some(image.to_owned()), ..Sources::default() };
    let record = cache.join(record_name(&sources).replacen("lab-", "kernel-", 1));
    let known = fs::read(&record).ok().and_then(|text| serde_json::from_slice::<GuestKernel>(&text).ok());
    let whole = |kernel: &GuestKernel| {
        kernel.format == FORMAT && kernel.image.is_file() && kernel.modules.iter().all(|file| file.is_file())
    };
    if let Some(kernel) = known.filter(whole) {
        return Ok(kernel);
    }
    let unpacked = kernel::unpack(image, cache)?;
    let modules = modules::collect(&unpacked, modules, cache)?;
    let kernel = GuestKernel { format: FORMAT, image: unpacked.image, release: unpacked.release, modules };
    write_record(&record, &kernel).map_err(|source| PrepareError::Cache { path: record, source })?;
    Ok(kernel)
}

/// Where the cache is unless the caller names a place.
fn default_cache() -> Option<PathBuf> {
    cache_folder("lab")
}

/// The folder in the user's cache for this part of the program; nothing where no home is known.
pub fn cache_folder(part: &str) -> Option<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let caches = folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")))?;
    Some(caches.join("iommu-bench").join(part))
}

/// Each choice of kernel and QEMU has a record of its own.
fn record_name(sources: &Sources) -> String {
    use std::hash::{DefaultHasher, Hash, Hasher};
    if sources.kernel.is_none() && sources.qemu.is_none() {
        return "lab.json".to_owned();
    }
    let mut hasher = DefaultHasher::new();
    let modified = |path: &PathBuf| fs::metadata(path).and_then(|file| file.modified()).ok();
    (&sources.kernel, sources.kernel.as_ref().map(modified)).hash(&mut hasher);
    (&sources.qemu, sources.qemu.as_ref().map(modified)).hash(&mut hasher);
    format!("lab-{:016x}.json", hasher.finish())
}

/// What an earlier run prepared, if all of it is still there.
fn recorded(record: &Path) -> Option<Lab> {
    let lab: Lab = serde_json::from_slice(&fs::read(record).ok()?).ok()?;
    let whole = lab.format == FORMAT
        && lab.kernel.is_file()
        && lab.modules.iter().all(|module| module.is_file())
        && lab.qemu.is_there();
    whole.then_some(lab)
}

/// The record appears whole and last, so that a preparation that was cut short is begun anew.
fn write_record(record: &Path, content: &impl Serialize) -> io::Result<()> {
    let partial = record.with_extension("partial");
    fs::write(&partial, serde_json::to_vec_pretty(content)?)?;
    fs::rename(partial, record)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_counts_only_while_everything_it_names_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let (kernel, module, qemu) =
            (folder.path().join("vmlinux"), folder.path().join("a.ko"), folder.path().join("qemu"));
        for path in [&kernel, &module, &qemu] {
            fs::write(path, b"x").unwrap();
        }
        let lab = Lab {
            format: FORMAT,
            kernel,
            release: "1.2.3".to_owned(),
            modules: vec![module.clone()],
            qemu: Qemu::at(qemu),
        };
        let record = folder.path().join("lab.json");
        write_record(&record, &lab).unwrap();
        assert_eq!(recorded(&record), Some(lab));
        fs::remove_file(module).unwrap();
        assert_eq!(recorded(&record), None);
        fs::write(&record, b"{").unwrap();
        assert_eq!(recorded(&record), None);
    }

    #[test]
    fn choices_do_not_share_a_record() {
        let with = |kernel: Option<&str>, qemu: Option<&str>| {
            record_name(&Sources { kernel: kernel.map(Into::into), qemu: qemu.map(Into::into), cache: None })
        };
        let names =
            [with(None, None), with(Some("/a"), None), with(None, Some("/a")), with(Some("/b"), None)];
        for (n, name) in names.iter().enumerate() {
            assert!(!names[..n].contains(name), "{name}");
        }
    }
}
