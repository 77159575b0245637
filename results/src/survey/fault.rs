//! What can be wrong with a run or an index, each under a name that scripts and the dashboard use.

use std::path::PathBuf;

use crate::index::INDEX_SCHEMA;

/// Something in a store that is not sound.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// The run's id, or the line of the index.
    pub subject: String,
    /// The file or folder.
    pub path: PathBuf,
    /// What is wrong.
    pub fault: Fault,
}

/// What is wrong, or worth knowing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The run follows a schema that this version does not know.
    #[error("schema is `{found}`, this version reads `{reads}`: use the version that wrote it")]
    UnknownSchema {
        /// What it says.
        found: String,
        /// What this version reads.
        reads: &'static str,
    },
    /// `run.json` is shorter than what was acknowledged.
    #[error("run.json has {found} bytes of the {expected} that were stored: it lost its end")]
    Truncated {
        /// Bytes now.
        found: u64,
        /// Bytes then.
        expected: u64,
    },
    /// `run.json` is not what was acknowledged.
    #[error("run.json was changed after it was stored: CRC-32C {found}, stored with {expected}")]
    Edited {
        /// Checksum now.
        found: String,
        /// Checksum then.
        expected: String,
    },
    /// `run.json` breaks a rule of its schema.
    #[error("{message}")]
    Invalid {
        /// Which.
        message: String,
    },
    /// The system cannot read it.
    #[error("cannot be read: {message}")]
    Unreadable {
        /// What the system says.
        message: String,
    },
    /// The folder holds the run of another folder.
    #[error("holds run `{of}`, which has a folder of its own: delete one of them")]
    Duplicate {
        /// The run's id.
        of: String,
    },
    /// The folder is not named after its run.
    #[error("holds run `{id}`: rename the folder to that")]
    Renamed {
        /// The run's id.
        id: String,
    },
    /// The index has the id twice.
    #[error("run `{id}` is in the index already, at line {first}: the first entry counts")]
    DuplicateEntry {
        /// The id.
        id: String,
        /// The line that has it first.
        first: usize,
    },
    /// The clock of the machine that stored the run had been set back, so its place in the history is not known.
    #[error("stored at {at}, after a run that was stored at {before}: the clock was set back")]
    ClockBackwards {
        /// When it was stored, by that clock.
        at: String,
        /// When the run before it was.
        before: String,
    },
    /// The run claims to have started after it was stored.
    #[error("started at {started}, after it was stored at {at}: one of the clocks is wrong")]
    StartedLater {
        /// Start.
        started: String,
        /// When it was stored.
        at: String,
    },
    /// The index knows the run, and there is no folder of that name.
    #[error(
        "in the index, but its folder is gone: restore it, or forget it with `iommu-bench store gc --missing`"
    )]
    Missing,
    /// A line of the index is no record.
    #[error("not a record of the index: {message}")]
    DamagedEntry {
        /// Why.
        message: String,
    },
    /// A line of the index was written by another version.
    #[error("schema is `{found}`, this version reads `{INDEX_SCHEMA}`: use the version that wrote it")]
    UnknownEntry {
        /// What it says.
        found: String,
    },
    /// A file of the run other than `run.json` is not what its checksum says; the figures do not depend on it.
    #[error("{message}")]
    Changed {
        /// Which, and why.
        message: String,
    },
    /// A histogram file cannot be read; the run's figures do not depend on it.
    #[error("{message}")]
    Histogram {
        /// Which, and why.
        message: String,
    },
    /// A folder without a `run.json`.
    #[error("a folder without a run.json: it is no run")]
    NoRun,
    /// There is no index: an earlier version wrote this store, or the folders were copied without it.
    #[error("there is no index; `iommu-bench store import` makes one of the folders that are here")]
    NoIndex,
    /// A folder that the index does not know.
    #[error("not in the index, so edits would not be noticed; `iommu-bench store import` adds it")]
    NotIndexed,
    /// A writer died in the middle of an append.
    #[error("{bytes} bytes of an entry that was never acknowledged; the next run takes them away")]
    TornEntry {
        /// How many.
        bytes: u64,
    },
    /// A run that is not complete: being written now, or left behind by a crash.
    #[error(
        "a run that is being written, or that a crash left behind; `iommu-bench store gc` removes old ones"
    )]
    Unfinished,
}

impl Fault {
    /// Its name in JSON.
    pub fn name(&self) -> &'static str {
        match self {
            Self::UnknownSchema { .. } => "unknown-schema",
            Self::Truncated { .. } => "truncated",
            Self::Edited { .. } => "edited",
            Self::Invalid { .. } => "invalid",
            Self::Unreadable { .. } => "unreadable",
            Self::Duplicate { .. } => "duplicate-id",
            Self::Renamed { .. } => "renamed",
            Self::DuplicateEntry { .. } => "duplicate-entry",
            Self::ClockBackwards { .. } | Self::StartedLater { .. } => "clock-backwards",
            Self::Missing => "missing",
            Self::DamagedEntry { .. } => "damaged-entry",
            Self::UnknownEntry { .. } => "unknown-entry",
            Self::Changed { .. } => "changed-file",
            Self::Histogram { .. } => "damaged-histogram",
            Self::NoRun => "no-run",
            Self::NoIndex => "no-index",
            Self::NotIndexed => "not-indexed",
            Self::TornEntry { .. } => "torn-entry",
            Self::Unfinished => "unfinished",
        }
    }

    /// Whether a run is left out because of it.
    pub fn skips_run(&self) -> bool {
        match self {
            Self::UnknownSchema { .. }
            | Self::Truncated { .. }
            | Self::Edited { .. }
            | Self::Invalid { .. }
            | Self::Unreadable { .. }
            | Self::Duplicate { .. }
            | Self::Renamed { .. }
            | Self::ClockBackwards { .. }
            | Self::StartedLater { .. }
            | Self::Missing => true,
            Self::DuplicateEntry { .. }
            | Self::DamagedEntry { .. }
            | Self::UnknownEntry { .. }
            | Self::Changed { .. }
            | Self::Histogram { .. }
            | Self::NoRun
            | Self::NoIndex
            | Self::NotIndexed
            | Self::TornEntry { .. }
            | Self::Unfinished => false,
        }
    }

    /// Whether it is merely worth knowing: what crashes, copies and older versions leave behind, and nothing is lost.
    pub fn is_note(&self) -> bool {
        matches!(
            self,
            Self::NoRun | Self::NoIndex | Self::NotIndexed | Self::TornEntry { .. } | Self::Unfinished
        )
    }
}
