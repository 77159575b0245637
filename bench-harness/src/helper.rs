//! Helper programs beside the command: parts that most users never start, each with dependencies of its own.
//!
//! `make helpers` builds them and `make install` installs them beside `iommu-bench`. A command that needs an absent one says
//! so, with exit code 3.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{exit::Exit, failure::Failure};

/// A program beside the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Helper {
    /// Measures the ecosystem's mapping tables for `tables`.
    Structures,
    /// Writes Parquet files for `store export`.
    Export,
}

impl Helper {
    /// File name of the program.
    fn program(self) -> &'static str {
        match self {
            Self::Structures => "iommu-bench-structures",
            Self::Export => "iommu-bench-export",
        }
    }

    /// The work that the command cannot do without the program.
    fn work(self) -> &'static str {
        match self {
            Self::Structures => "the comparison of mapping structures",
            Self::Export => "the Parquet export",
        }
    }

    /// Path of the program.
    ///
    /// # Errors
    /// When it is not beside the command.
    pub(crate) fn find(self) -> Result<PathBuf, Failure> {
        // Resolved, because an installed command may be a symbolic link.
        let command = std::env::current_exe().and_then(|path| path.canonicalize());
        let command = command.map_err(|error| Failure::failed(format!("the command's own path: {error}")))?;
        self.beside(&command)
    }

    fn beside(self, command: &Path) -> Result<PathBuf, Failure> {
        let path = command.with_file_name(self.program());
        if path.is_file() {
            return Ok(path);
        }
        let message = format!("{} needs {}, which is not there", self.work(), path.display());
        let remedy = "`make helpers` builds it beside target/release/iommu-bench; `make install` installs it";
        Err(Failure::prerequisite(message, remedy))
    }

    /// Command line that starts the program.
    ///
    /// # Errors
    /// When it is not beside the command.
    pub(crate) fn command(self) -> Result<Command, Failure> {
        self.find().map(Command::new)
    }

    /// Failure of a program that could not be started or waited for.
    pub(crate) fn broken(self, error: &std::io::Error) -> Failure {
        Failure::failed(format!("{}: {error}", self.program()))
    }

    /// Failure of a program that ended with `status`; `Ok` where it succeeded.
    pub(crate) fn judge(self, status: std::process::ExitStatus) -> Result<(), Failure> {
        if status.success() {
            return Ok(());
        }
        let exit = status.code().and_then(Exit::from_code).unwrap_or(Exit::Failed);
        Err(Failure { exit, ..Failure::failed(format!("{} ended with {status}", self.program())) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absent_helper_is_a_prerequisite_with_its_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let command = folder.path().join("iommu-bench");
        for helper in [Helper::Structures, Helper::Export] {
            let failure = helper.beside(&command).unwrap_err();
            assert_eq!(failure.exit, Exit::Prerequisite);
            assert!(failure.message.contains(helper.program()), "{failure}");
            assert!(failure.remedy.unwrap().contains("make helpers"));
            std::fs::write(folder.path().join(helper.program()), "").unwrap();
            assert_eq!(helper.beside(&command).unwrap(), folder.path().join(helper.program()));
        }
    }
}
