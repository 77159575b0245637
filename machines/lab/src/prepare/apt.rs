//! Debian packages, unpacked into the cache: fetched with apt's own sources and keys, never installed.

use std::{
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use thiserror::Error;

/// Packages that cannot be had.
#[derive(Debug, Error)]
pub enum AptError {
    /// Not a Debian.
    #[error(
        "{program} cannot be run ({source}): {what} cannot be fetched here; \
         name a QEMU and a kernel with --qemu PATH and --kernel PATH"
    )]
    NoApt {
        /// apt-get, apt-cache or dpkg-deb.
        program: String,
        /// What it was wanted for.
        what: String,
        /// Why.
        source: io::Error,
    },
    /// It failed.
    #[error("`{command}` failed: {cause}; if the package lists are old or missing, run `apt-get update`")]
    Failed {
        /// The command.
        command: String,
        /// What it said last.
        cause: String,
    },
    /// No such package.
    #[error(
        "none of the packages {names:?} is in apt's sources; run `apt-get update`, or name a kernel with --kernel PATH"
    )]
    Unknown {
        /// Those that were looked for.
        names: Vec<String>,
    },
    /// The cache.
    #[error("{path}: {source}")]
    Io {
        /// Which file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The first of `names` that apt's sources have.
pub(super) fn first_known(names: &[&str]) -> Result<String, AptError> {
    for name in names {
        let shown = run("apt-cache", ["policy", name], "packages")?;
        if text(&shown.stdout).lines().any(|line| candidate(line).is_some()) {
            return Ok((*name).to_owned());
        }
    }
    Err(AptError::Unknown { names: names.iter().map(|name| (*name).to_owned()).collect() })
}

fn candidate(line: &str) -> Option<&str> {
    line.trim().strip_prefix("Candidate: ").filter(|version| *version != "(none)")
}

/// The packages that `name` depends on directly.
pub(super) fn dependencies(name: &str) -> Result<Vec<String>, AptError> {
    let shown = run("apt-cache", ["depends", "--no-recommends", "--no-suggests", name], "packages")?;
    let lines = text(&shown.stdout);
    Ok(lines.lines().filter_map(|line| line.trim().strip_prefix("Depends: ").map(str::to_owned)).collect())
}

/// Fetches `name` alone and unpacks it into `folder`.
pub(super) fn unpack_one(name: &str, folder: &Path) -> Result<(), AptError> {
    in_new_folder(folder, |work| {
        let packages = work.join(".packages");
        create(&packages)?;
        let mut apt = Command::new("apt-get");
        apt.args(["-qq", "download", name]).current_dir(&packages);
        finish(apt, name)?;
        unpack_all(&packages, work)
    })
}

/// Fetches `name` with everything it depends on, down to the C library, and unpacks all of it into `folder`: what is
/// there then runs whatever this machine has.
pub(super) fn unpack_closure(name: &str, folder: &Path) -> Result<(), AptError> {
    in_new_folder(folder, |work| {
        let packages = work.join(".packages");
        create(&packages.join("partial"))?;
        // As if nothing were installed, so that nothing is left out.
        let status = work.join(".status");
        fs::write(&status, b"").map_err(|source| AptError::Io { path: status.clone(), source })?;
        let mut apt = Command::new("apt-get");
        apt.args(["-qq", "-y", "--no-install-recommends", "--download-only"]);
        apt.arg("-o").arg(setting("Dir::State::status", &status));
        apt.arg("-o").arg(setting("Dir::Cache::archives", &packages));
        apt.args(["-o", "Debug::NoLocking=1", "install", name]);
        finish(apt, name)?;
        unpack_all(&packages, work)?;
        fs::remove_file(&status).map_err(|source| AptError::Io { path: status.clone(), source })
    })
}

fn setting(name: &str, path: &Path) -> String {
    format!("{name}={}", path.display())
}

/// Lets `fill` work in a folder beside the final place, so that a folder that is there is whole.
fn in_new_folder(folder: &Path, fill: impl FnOnce(&Path) -> Result<(), AptError>) -> Result<(), AptError> {
    if folder.is_dir() {
        return Ok(());
    }
    let work = folder.with_extension("partial");
    if work.exists() {
        fs::remove_dir_all(&work).map_err(|source| AptError::Io { path: work.clone(), source })?;
    }
    create(&work)?;
    fill(&work)?;
    fs::rename(&work, folder).map_err(|source| AptError::Io { path: folder.to_owned(), source })
}

fn unpack_all(packages: &Path, folder: &Path) -> Result<(), AptError> {
    let failed = |source| AptError::Io { path: packages.to_owned(), source };
    for entry in fs::read_dir(packages).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|ending| ending == "deb") {
            run("dpkg-deb", [OsStr::new("-x"), path.as_os_str(), folder.as_os_str()], "packages")?;
        }
    }
    fs::remove_dir_all(packages).map_err(failed)
}

fn create(folder: &Path) -> Result<(), AptError> {
    fs::create_dir_all(folder).map_err(|source| AptError::Io { path: folder.to_owned(), source })
}

fn run<A: AsRef<OsStr>>(
    program: &str,
    args: impl IntoIterator<Item = A>,
    what: &str,
) -> Result<Output, AptError> {
    let mut command = Command::new(program);
    command.args(args);
    finish(command, what)
}

fn finish(mut command: Command, what: &str) -> Result<Output, AptError> {
    // Its words are read, so they must be in one language.
    command.env("LC_ALL", "C").env("DEBIAN_FRONTEND", "noninteractive");
    let program = command.get_program().to_string_lossy().into_owned();
    let what = what.to_owned();
    let output =
        command.output().map_err(|source| AptError::NoApt { program: program.clone(), what, source })?;
    if output.status.success() {
        return Ok(output);
    }
    let args: Vec<_> = command.get_args().map(OsStr::to_string_lossy).collect();
    let said = text(&output.stderr);
    let cause = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no message").to_owned();
    Err(AptError::Failed { command: format!("{program} {}", args.join(" ")), cause })
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates() {
        assert_eq!(candidate("  Candidate: 6.12.1-1"), Some("6.12.1-1"));
        assert_eq!(candidate("  Candidate: (none)"), None);
        assert_eq!(candidate("  Installed: 6.12.1-1"), None);
    }

    #[test]
    fn a_folder_is_there_whole_or_not_at_all() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("x");
        let broken = in_new_folder(&folder, |work| {
            fs::write(work.join("half"), b"").unwrap();
            Err(AptError::Unknown { names: vec![] })
        });
        assert!(broken.is_err() && !folder.exists());
        in_new_folder(&folder, |work| {
            assert!(!work.join("half").exists(), "the rest of the attempt before is gone");
            Ok(())
        })
        .unwrap();
        assert!(folder.is_dir());
    }

    #[test]
    fn what_failed_is_named_with_its_words() {
        let error = run("sh", ["-c", "echo first >&2; echo E: gone >&2; exit 100"], "x").unwrap_err();
        assert!(matches!(&error, AptError::Failed { cause, .. } if cause == "E: gone"), "{error}");
        let error = run("/nonexistent/apt-get", ["x"], "qemu").unwrap_err();
        assert!(error.to_string().contains("--qemu PATH"), "{error}");
    }
}
