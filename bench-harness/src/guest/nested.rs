//! A guest inside the lab: what it is made of is taken along, and KVM is the lab's, which is emulated itself.

use std::{
    fs,
    path::{Path, PathBuf},
};

use iommu_lab::{GuestKernel, Job, Qemu, accel::Accel, job, prepare};
use serde::{Deserialize, Serialize};

use super::{
    options::Linux,
    prepare::{GuestPrepareError, Parts, QEMU_ROOT, fetched, private_qemu},
};

/// Where everything is inside.
const FOLDER: &str = "/guest";
/// Name of the list of it, in the job's folder.
const LIST: &str = "guest.json";
/// What QEMU needs of the root that it was unpacked into.
const QEMU_PARTS: [&str; 5] =
    ["usr/bin/qemu-system-x86_64", "usr/lib", "usr/lib64", "usr/share/qemu", "usr/share/seabios"];
/// Without it there is no guest: an emulated processor that emulates another would take hours.
const KVM: &str = "/dev/kvm";

/// What was taken along, by its places inside.
#[derive(Debug, Serialize, Deserialize)]
struct Packed {
    kernel: GuestKernel,
    files: Vec<(String, PathBuf)>,
}

/// Has the job take along QEMU of the cache, the kernel and the tools; returns that QEMU.
///
/// # Errors
/// When a part can neither be found nor fetched.
pub(crate) fn pack(job: &mut Job, progress: &mut dyn FnMut(&str)) -> Result<Qemu, GuestPrepareError> {
    let cache = prepare::cache_folder("guest").ok_or(GuestPrepareError::NoCache)?;
    let qemu = |cache: &Path| private_qemu(&cache.join(QEMU_ROOT));
    let parts = fetched(&cache, None, Linux::Stable, &qemu, progress)?;
    for part in QEMU_PARTS {
        let here = cache.join(QEMU_ROOT).join(part);
        if here.exists() {
            job.places.insert(Path::new(FOLDER).join(QEMU_ROOT).join(part), here);
        }
    }
    let own = parts.qemu.clone();
    let packed = placed(parts, job);
    let text = serde_json::to_vec(&packed)
        .map_err(|error| GuestPrepareError::Io { path: PathBuf::from(LIST), source: error.into() })?;
    job.files.insert(LIST.to_owned(), text);
    Ok(own)
}

/// Gives kernel, modules and tools their places inside.
fn placed(parts: Parts, job: &mut Job) -> Packed {
    let mut take = |name: String, here: PathBuf| {
        let inside = Path::new(FOLDER).join(name);
        job.places.insert(inside.clone(), here);
        inside
    };
    let mut kernel = parts.kernel;
    kernel.image = take("vmlinux".to_owned(), kernel.image);
    for module in &mut kernel.modules {
        let name = module.file_name().unwrap_or_default().to_string_lossy().into_owned();
        *module = take(format!("modules/{name}"), module.clone());
    }
    let files = parts.files.into_iter();
    let files = files.map(|(name, here)| (name.clone(), take(format!("root/{name}"), here))).collect();
    Packed { kernel, files }
}

/// What was taken along, inside the lab; nothing elsewhere.
///
/// # Errors
/// When it cannot be used, or there is no KVM.
pub(super) fn unpacked() -> Result<Option<Parts>, GuestPrepareError> {
    let list = Path::new(job::JOB_FOLDER).join(LIST);
    if job::inside().is_none() || !list.is_file() {
        return Ok(None);
    }
    let failed = |source| GuestPrepareError::Io { path: list.clone(), source };
    let packed: Packed =
        serde_json::from_slice(&fs::read(&list).map_err(failed)?).map_err(|error| failed(error.into()))?;
    if !Path::new(KVM).exists() {
        return Err(GuestPrepareError::NoNestedKvm);
    }
    Ok(Some(Parts {
        qemu: private_qemu(&Path::new(FOLDER).join(QEMU_ROOT))?,
        kernel: packed.kernel,
        accel: Accel::Kvm,
        nested: true,
        files: packed.files,
    }))
}
