//! What can go wrong with a store; every error names the path.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use crate::histogram::HistogramError;
use crate::index::IndexError;
use crate::series::SeriesError;
use crate::validate::LoadError;

/// Why a run could not be stored or loaded.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No space, no quota, or the limit on a file's size is reached.
    #[error("{}: the disk is full: {source}", path.display())]
    Full {
        /// What could not be written.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// No permission, a read-only file system, or a file where a folder is needed.
    #[error("{}: not writable: {source}", path.display())]
    NotWritable {
        /// What could not be written.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// Any other failure to write.
    #[error("{}: cannot be written: {source}", path.display())]
    Write {
        /// What could not be written.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The place of the run, or of a file in it, is taken; nothing is overwritten.
    #[error("{}: exists already and is not overwritten", path.display())]
    Exists {
        /// The place.
        path: PathBuf,
    },
    /// An artefact's name is not a plain file name.
    #[error("{}: `{name}` is not a plain file name", path.display())]
    ArtefactName {
        /// The run's folder.
        path: PathBuf,
        /// The name.
        name: String,
    },
    /// The run carries another id than the folder it is to be stored in.
    #[error("{}: the run's id is `{found}`, the folder's is `{expected}`", path.display())]
    RunId {
        /// The run's folder.
        path: PathBuf,
        /// The id in the run.
        found: String,
        /// The id of the folder.
        expected: String,
    },
    /// A file beside `run.json` is not what it should be.
    #[error("{}: {source}", path.display())]
    Artefact {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: crate::artefacts::ArtefactError,
    },
    /// A file or folder cannot be read.
    #[error("{}: cannot be read: {source}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The file is not UTF-8.
    #[error("{}: not text after byte {valid_bytes}", path.display())]
    NotText {
        /// The file.
        path: PathBuf,
        /// How many bytes are text.
        valid_bytes: usize,
    },
    /// The run is not valid.
    #[error("{}: {source}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// Which field, and what about it.
        source: LoadError,
    },
    /// The slices are not valid.
    #[error("{}: {source}", path.display())]
    Series {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: SeriesError,
    },
    /// A file is not what was stored.
    #[error("{}: changed, added or removed after the run was stored (SHA256SUMS says otherwise)", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// The checksums are damaged.
    #[error("{}: line {line} is not a SHA-256 sum and the name of a file in this folder", path.display())]
    Checksums {
        /// The file.
        path: PathBuf,
        /// Number of the line, from 1.
        line: usize,
    },
    /// The run's folder is in its place, but the index does not know it.
    #[error("{}: stored, but not in the index: {source}; `iommu-bench store import` adds it", path.display())]
    Index {
        /// The run's folder.
        path: PathBuf,
        /// Why not.
        source: IndexError,
    },
    /// A histogram cannot be encoded or decoded.
    #[error("{}: {source}", path.display())]
    Histogram {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: HistogramError,
    },
}

impl StoreError {
    /// Sorts a failure to write by what the user can do about it.
    pub(crate) fn writing(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
                Self::Full { path, source }
            }
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem | ErrorKind::NotADirectory => {
                Self::NotWritable { path, source }
            }
            ErrorKind::AlreadyExists => Self::Exists { path },
            _ => Self::Write { path, source },
        }
    }

    /// The path that the error is about.
    pub fn path(&self) -> &Path {
        match self {
            Self::Full { path, .. }
            | Self::NotWritable { path, .. }
            | Self::Write { path, .. }
            | Self::Exists { path }
            | Self::ArtefactName { path, .. }
            | Self::RunId { path, .. }
            | Self::Read { path, .. }
            | Self::NotText { path, .. }
            | Self::Content { path, .. }
            | Self::Series { path, .. }
            | Self::Changed { path }
            | Self::Checksums { path, .. }
            | Self::Index { path, .. }
            | Self::Artefact { path, .. }
            | Self::Histogram { path, .. } => path,
        }
    }
}
