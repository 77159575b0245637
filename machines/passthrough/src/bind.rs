//! Hands a device to vfio-pci, and back.
//!
//! What was done is written to a journal before it is done, in a file that is locked while its process lives: whoever
//! finds a journal that is not locked undoes it.

use std::{
    fmt,
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    sysfs::{Address, PciDevice, SysfsError, VFIO_DRIVER},
    usage::{Host, Use, in_use},
};

/// Where journals are, unless the caller names a place: a folder that is empty after a reboot, as bindings are.
pub const JOURNALS: &str = "/run/iommu-bench/bindings";

/// A device that is not handed over.
#[derive(Debug, Error)]
pub enum BindError {
    /// The host uses it, or may.
    #[error(
        "PCI device {address} is in use: {why}; --allow-in-use {address} takes it all the same, and breaks what uses it"
    )]
    InUse {
        /// Its address.
        address: Address,
        /// Use and remedy.
        why: Use,
    },
    /// Sysfs.
    #[error(transparent)]
    Sysfs(#[from] SysfsError),
    /// A step failed.
    #[error("`{step}` failed: {source}; root is needed, and the module vfio-pci")]
    Step {
        /// As a command.
        step: String,
        /// Why.
        source: io::Error,
    },
    /// All steps succeeded and yet it is not bound.
    #[error("PCI device {address} is bound to {} and not to {VFIO_DRIVER}; is the module loaded?", driver.as_deref().unwrap_or("no driver"))]
    NotBound {
        /// Its address.
        address: Address,
        /// What it is bound to.
        driver: Option<String>,
    },
    /// Another run has it.
    #[error("PCI device {address} is used by another run; wait for its end")]
    Taken {
        /// Its address.
        address: Address,
    },
    /// The journal.
    #[error("the journal {path}: {source}")]
    Journal {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// One write to a file of sysfs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    path: PathBuf,
    text: String,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "echo {} > {}", self.text, self.path.display())
    }
}

impl Step {
    fn new(path: PathBuf, text: impl Into<String>) -> Self {
        Self { path, text: text.into() }
    }

    fn perform(&self) -> Result<(), BindError> {
        // A newline, as `echo` writes one: an empty override is written that way.
        let done = File::options().write(true).open(&self.path).and_then(|mut file| {
            use io::Write;
            file.write_all(format!("{}\n", self.text).as_bytes())
        });
        done.map_err(|source| BindError::Step { step: self.to_string(), source })
    }
}

/// What binding a device takes, and what undoes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Its address.
    pub address: String,
    /// Steps that bind it; none when it is bound already.
    pub bind: Vec<Step>,
    /// Steps that give it back to the driver it had, or to none.
    pub undo: Vec<Step>,
}

impl Plan {
    /// Steps for a device that the host does not use.
    ///
    /// # Errors
    /// When the host uses the device or may use it, or it is in no IOMMU group.
    pub fn new(device: &PciDevice, host: &Host) -> Result<Self, BindError> {
        let plan = Self::regardless(device)?;
        if !plan.bind.is_empty()
            && let Some(why) = in_use(device, host)?
        {
            return Err(BindError::InUse { address: device.address(), why });
        }
        Ok(plan)
    }

    /// Steps for a device, whether the host uses it or not.
    ///
    /// # Errors
    /// When it is in no IOMMU group.
    pub fn regardless(device: &PciDevice) -> Result<Self, BindError> {
        let address = device.address();
        device.group()?;
        let driver = device.driver();
        if driver.as_deref() == Some(VFIO_DRIVER) {
            return Ok(Self { address: address.to_string(), bind: Vec::new(), undo: Vec::new() });
        }
        let folder = device.folder();
        let bus = folder.parent().and_then(Path::parent).unwrap_or(folder);
        let unbind = Step::new(folder.join("driver/unbind"), address.to_string());
        let probe = Step::new(bus.join("drivers_probe"), address.to_string());
        let mut bind = vec![Step::new(folder.join("driver_override"), VFIO_DRIVER)];
        bind.extend(driver.is_some().then(|| unbind.clone()));
        bind.push(probe.clone());
        let undo = vec![unbind, Step::new(folder.join("driver_override"), ""), probe];
        Ok(Self { address: address.to_string(), bind, undo })
    }
}

/// A device that is bound to vfio-pci until this is dropped.
#[derive(Debug)]
pub struct Bound {
    plan: Plan,
    /// Locked while the process lives; removed once everything is undone.
    journal: Option<(PathBuf, File)>,
}

impl Bound {
    /// Performs the plan, after noting in `journals` how to undo it.
    ///
    /// # Errors
    /// When a step fails; what was done is undone.
    pub fn new(device: &PciDevice, plan: Plan, journals: &Path) -> Result<Self, BindError> {
        if plan.bind.is_empty() {
            return Ok(Self { plan, journal: None });
        }
        let journal = note(device.address(), &plan, journals)?;
        // From here on, dropping undoes.
        let bound = Self { plan, journal: Some(journal) };
        bound.plan.bind.iter().try_for_each(Step::perform)?;
        match device.driver() {
            Some(driver) if driver == VFIO_DRIVER => Ok(bound),
            driver => Err(BindError::NotBound { address: device.address(), driver }),
        }
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        if let Some((path, _lock)) = self.journal.take() {
            undo(&self.plan, &path);
        }
    }
}

/// Writes the journal of a device and locks it.
fn note(address: Address, plan: &Plan, journals: &Path) -> Result<(PathBuf, File), BindError> {
    let path = journals.join(format!("{}.json", plan.address));
    let failed = |source| BindError::Journal { path: path.clone(), source };
    fs::create_dir_all(journals).map_err(failed)?;
    let mut file =
        File::options().create(true).read(true).write(true).truncate(false).open(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => (),
        Err(TryLockError::WouldBlock) => return Err(BindError::Taken { address }),
        Err(TryLockError::Error(source)) => return Err(failed(source)),
    }
    file.set_len(0).map_err(failed)?;
    let text = serde_json::to_vec(plan).map_err(|error| failed(error.into()))?;
    io::Write::write_all(&mut file, &text).and_then(|()| file.sync_all()).map_err(failed)?;
    Ok((path, file))
}

/// Undoes as much as can be; the journal goes only when all of it was.
fn undo(plan: &Plan, journal: &Path) {
    let mut whole = true;
    for step in &plan.undo {
        match step.perform() {
            Ok(()) => (),
            // A device without a driver has nothing to be unbound from.
            Err(BindError::Step { source, .. }) if source.kind() == io::ErrorKind::NotFound => (),
            Err(error) => {
                tracing::error!(%error, "the binding of a device is not undone");
                whole = false;
            }
        }
    }
    if whole && let Err(error) = fs::remove_file(journal) {
        tracing::warn!(%error, "the journal of a binding stays behind");
    }
}

/// Undoes what runs left that ended without doing it; returns the addresses.
///
/// # Errors
/// When the journals cannot be read.
pub fn recover(journals: &Path) -> Result<Vec<String>, BindError> {
    let failed = |source| BindError::Journal { path: journals.to_owned(), source };
    let entries = match fs::read_dir(journals) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut undone = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        let Ok(file) = File::options().read(true).write(true).open(&path) else { continue };
        if file.try_lock().is_err() {
            continue;
        }
        match serde_json::from_reader::<_, Plan>(&file) {
            Ok(plan) => {
                undo(&plan, &path);
                undone.push(plan.address);
            }
            // It was cut short, so nothing had been done yet.
            Err(_) => drop(fs::remove_file(&path)),
        }
    }
    Ok(undone)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sysfs::tests::host;

    /// A host whose device can be bound as far as writing files goes.
    fn device(root: &Path, driver: Option<&str>) -> PciDevice {
        let folder = host(root, "0000:01:00.0", driver);
        for file in [folder.join("driver_override"), root.join("bus/pci/drivers_probe")] {
            fs::write(file, "").unwrap();
        }
        if driver.is_some() {
            fs::write(folder.join("driver/unbind"), "").unwrap();
        }
        PciDevice::new(root, "01:00.0".parse().unwrap()).unwrap()
    }

    #[test]
    fn the_plan_is_what_one_would_type() {
        let root = tempfile::tempdir().unwrap();
        let device = device(root.path(), Some("virtio-pci"));
        let plan = Plan::new(&device, &Host::default()).unwrap();
        let commands: Vec<String> = plan.bind.iter().map(Step::to_string).collect();
        let folder = device.folder().display().to_string();
        let probe = root.path().join("bus/pci/drivers_probe").display().to_string();
        assert_eq!(
            commands,
            [
                format!("echo vfio-pci > {folder}/driver_override"),
                format!("echo 0000:01:00.0 > {folder}/driver/unbind"),
                format!("echo 0000:01:00.0 > {probe}"),
            ]
        );
    }

    #[test]
    fn what_fails_is_undone_and_its_journal_goes() {
        let root = tempfile::tempdir().unwrap();
        let journals = root.path().join("journals");
        let device = device(root.path(), Some("virtio-pci"));
        let plan = Plan::new(&device, &Host::default()).unwrap();
        // Nothing rebinds the device of a folder of plain files.
        let error = Bound::new(&device, plan, &journals).unwrap_err();
        assert!(
            matches!(&error, BindError::NotBound { driver: Some(driver), .. } if driver == "virtio-pci"),
            "{error}"
        );
        assert_eq!(fs::read_to_string(device.folder().join("driver_override")).unwrap(), "\nfio-pci\n");
        assert_eq!(fs::read_dir(&journals).unwrap().count(), 0);
    }

    #[test]
    fn a_device_that_is_bound_already_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let device = device(root.path(), Some(VFIO_DRIVER));
        let plan = Plan::new(&device, &Host::default()).unwrap();
        assert!(plan.bind.is_empty());
        drop(Bound::new(&device, plan, &root.path().join("journals")).unwrap());
        assert_eq!(fs::read_to_string(device.folder().join("driver_override")).unwrap(), "");
    }

    #[test]
    fn what_a_dead_run_left_is_undone_and_a_living_ones_is_not() {
        let root = tempfile::tempdir().unwrap();
        let journals = root.path().join("journals");
        let device = device(root.path(), Some("virtio-pci"));
        let plan = Plan::new(&device, &Host::default()).unwrap();
        let (path, lock) = note(device.address(), &plan, &journals).unwrap();
        assert!(matches!(note(device.address(), &plan, &journals), Err(BindError::Taken { .. })));
        assert_eq!(recover(&journals).unwrap(), [""; 0], "its process lives");
        fs::write(device.folder().join("driver_override"), "vfio-pci\n").unwrap();
        drop(lock);
        assert_eq!(recover(&journals).unwrap(), ["0000:01:00.0"]);
        assert!(!path.exists());
        assert!(fs::read_to_string(device.folder().join("driver_override")).unwrap().starts_with('\n'));
        fs::write(journals.join("cut.json"), "{\"addr").unwrap();
        assert_eq!(recover(&journals).unwrap(), [""; 0]);
        assert_eq!(recover(Path::new("/nonexistent")).unwrap(), [""; 0]);
    }

    #[test]
    fn a_device_in_use_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let device = device(root.path(), Some("nvme"));
        let disk = device.folder().join("nvme/nvme0/nvme0n1");
        fs::create_dir_all(disk.join("holders/dm-0")).unwrap();
        std::os::unix::fs::symlink("/sys/class/block", disk.join("subsystem")).unwrap();
        fs::write(device.folder().join("class"), "0x010802\n").unwrap();
        let error = Plan::new(&device, &Host::default()).unwrap_err();
        assert!(
            matches!(&error, BindError::InUse { why: Use::Held { holder, .. }, .. } if holder == "dm-0"),
            "{error}"
        );
        assert!(error.to_string().contains("--allow-in-use 0000:01:00.0"), "{error}");
        assert_eq!(Plan::regardless(&device).unwrap().bind.len(), 3);
    }
}
