//! QEMU: the one named, the one installed, or the distribution's unpacked into the cache.

use std::{
    io,
    path::{Path, PathBuf},
    process::Command,
};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::apt::{self, AptError};

/// The program.
const NAME: &str = "qemu-system-x86_64";
/// The package that has it.
const PACKAGE: &str = "qemu-system-x86";
/// Folders of libraries in an unpacked distribution.
const LIBRARIES: [&str; 3] =
    ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu/pulseaudio"];
/// Folders of firmware.
const FIRMWARE: [&str; 2] = ["usr/share/qemu", "usr/share/seabios"];

/// What the lab is made of.
const LAB_DEVICES: [&str; 3] = ["intel-iommu", "virtio-serial-pci", "isa-debug-exit"];

/// No usable QEMU.
#[derive(Debug, Error)]
pub enum QemuError {
    /// It cannot be fetched.
    #[error(transparent)]
    Apt(#[from] AptError),
    /// It does not run.
    #[error("{program} cannot be run: {source}")]
    Run {
        /// The program.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is something else, or was built without what is needed.
    #[error("{program} cannot be used: {cause}; give another QEMU with --qemu PATH")]
    Unfit {
        /// The program.
        program: PathBuf,
        /// What is wrong.
        cause: String,
    },
    /// A package without the program.
    #[error("{folder} has no loader or no {NAME}; remove the folder to have it fetched again")]
    Incomplete {
        /// Where it was unpacked.
        folder: PathBuf,
    },
}

/// How QEMU is started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Qemu {
    program: PathBuf,
    /// The root of an unpacked distribution that it belongs to, with the loader in it.
    root: Option<(PathBuf, PathBuf)>,
    /// Its version, as it says.
    pub version: String,
}

impl Qemu {
    /// One that runs by itself.
    pub(super) fn at(program: PathBuf) -> Self {
        Self { program, root: None, version: String::new() }
    }

    /// Whether its files are still there.
    pub(super) fn is_there(&self) -> bool {
        self.program.is_file() && self.root.as_ref().is_none_or(|(_, loader)| loader.is_file())
    }

    /// A command that starts it; what it shall do is to be added.
    pub fn command(&self) -> Command {
        let Some((root, loader)) = &self.root else { return Command::new(&self.program) };
        let folders = LIBRARIES.map(|folder| root.join(folder).display().to_string());
        let mut command = Command::new(loader);
        command.arg("--library-path").arg(folders.join(":")).arg(&self.program);
        command.env("QEMU_MODULE_DIR", root.join(LIBRARIES[0]).join("qemu"));
        for folder in FIRMWARE {
            command.arg("-L").arg(root.join(folder));
        }
        command
    }

    /// The program itself.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// One that is named, if it runs and has all of `devices`.
    ///
    /// # Errors
    /// When it does not run, or lacks one.
    pub fn named(program: &Path, devices: &[&str]) -> Result<Self, QemuError> {
        Self::at(program.to_owned()).checked(devices)
    }

    /// The one of an unpacked distribution, if it runs and has all of `devices`.
    ///
    /// # Errors
    /// When it is not there, does not run, or lacks one.
    pub fn of_root(root: &Path, devices: &[&str]) -> Result<Self, QemuError> {
        unpacked(root.to_owned())?.checked(devices)
    }

    /// The one that is installed, whatever it can do.
    pub fn installed() -> Option<PathBuf> {
        in_path(NAME)
    }

    /// Looks whether it runs and has these devices.
    fn checked(mut self, needed: &[&str]) -> Result<Self, QemuError> {
        let version = self.ask(&["--version"])?;
        self.version = version.lines().next().unwrap_or_default().trim().to_owned();
        let devices = self.ask(&["-device", "help"])?;
        for device in needed {
            if !devices.contains(&format!("\"{device}\"")) {
                return Err(self.unfit(format!("it has no device {device}")));
            }
        }
        Ok(self)
    }

    fn ask(&self, args: &[&str]) -> Result<String, QemuError> {
        let mut command = self.command();
        let output = command
            .args(args)
            .output()
            .map_err(|source| QemuError::Run { program: self.program.clone(), source })?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(self.unfit(said.lines().next().unwrap_or("it failed without a word").to_owned()));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn unfit(&self, cause: String) -> QemuError {
        QemuError::Unfit { program: self.program.clone(), cause }
    }
}

/// The QEMU to use.
pub(super) fn find(
    named: Option<&Path>,
    cache: &Path,
    progress: &mut dyn FnMut(&str),
) -> Result<Qemu, QemuError> {
    if let Some(program) = named {
        return Qemu::named(program, &LAB_DEVICES);
    }
    if let Some(installed) = in_path(NAME) {
        return Qemu::named(&installed, &LAB_DEVICES);
    }
    let root = cache.join(PACKAGE);
    if !root.is_dir() {
        progress(&format!("fetching {PACKAGE} and its libraries (about 40 MB)"));
        apt::unpack_closure(PACKAGE, &root)?;
    }
    Qemu::of_root(&root, &LAB_DEVICES)
}

fn in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|program| program.is_file())
}

fn unpacked(root: PathBuf) -> Result<Qemu, QemuError> {
    let program = root.join("usr/bin").join(NAME);
    let loaders = LIBRARIES.map(|folder| root.join(folder).join("ld-linux-x86-64.so.2"));
    let loader = loaders.into_iter().find(|loader| loader.is_file());
    match loader.filter(|_| program.is_file()) {
        Some(loader) => Ok(Qemu { program, root: Some((root, loader)), version: String::new() }),
        None => Err(QemuError::Incomplete { folder: root }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn something_else_is_no_qemu() {
        let program = PathBuf::from("/bin/echo");
        let error = Qemu::named(&program, &LAB_DEVICES).unwrap_err();
        assert!(matches!(&error, QemuError::Unfit { cause, .. } if cause.contains("intel-iommu")), "{error}");
        let error = Qemu::named(Path::new("/nonexistent/qemu"), &LAB_DEVICES).unwrap_err();
        assert!(matches!(error, QemuError::Run { .. }), "{error}");
    }

    #[test]
    fn an_incomplete_folder_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(unpacked(folder.path().to_owned()), Err(QemuError::Incomplete { .. })));
    }
}
