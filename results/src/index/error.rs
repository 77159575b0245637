//! What can go wrong with an index; every error names the file.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::record::RecordError;

/// Why the index could not be read or appended to.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// No space, no quota, or the limit on a file's size is reached. What was written of the record is taken back.
    #[error("{}: the disk is full: {source}", path.display())]
    Full {
        /// The index.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// Any other failure to write.
    #[error("{}: cannot be written: {source}", path.display())]
    Write {
        /// The index.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The file cannot be read.
    #[error("{}: cannot be read: {source}", path.display())]
    Read {
        /// The index.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The file system has no locks, so that two writers could mix their lines.
    #[error("{}: cannot be locked: {source}; keep the store on a file system with flock(2)", path.display())]
    Lock {
        /// The index.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A record is too long or cannot be encoded.
    #[error("{}: {source}", path.display())]
    Record {
        /// The index.
        path: PathBuf,
        /// What is wrong with it.
        source: RecordError,
    },
}

impl IndexError {
    /// Sorts a failure to write by what the user can do about it.
    pub(super) fn writing(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
                Self::Full { path, source }
            }
            _ => Self::Write { path, source },
        }
    }

    /// The index.
    pub fn path(&self) -> &Path {
        match self {
            Self::Full { path, .. }
            | Self::Write { path, .. }
            | Self::Read { path, .. }
            | Self::Lock { path, .. }
            | Self::Record { path, .. } => path,
        }
    }
}
