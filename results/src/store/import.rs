//! Runs of other stores, and folders that the index does not know yet.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::folder::{sync_folder, write_new};
use super::{RUN_FILE, RunFolder, Store, StoreError, UNFINISHED};
use crate::file::read_stored;
use crate::index::{Entry, Operation};
use crate::survey::{Fault, Finding};

/// What became of the runs of an import.
#[derive(Debug, Default)]
pub struct Import {
    /// Each run, by the folder that it was found in.
    pub runs: Vec<(PathBuf, Imported)>,
}

/// What became of one run.
#[derive(Debug)]
pub enum Imported {
    /// It was copied into the store and appended to the index.
    Copied,
    /// Its folder was in the store; now the index knows it.
    Indexed,
    /// The store had it, byte for byte.
    Present,
    /// It was left out.
    Refused(Refusal),
}

/// Why a run was left out.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// It is not sound.
    #[error("{0}")]
    Unsound(Fault),
    /// The store has another run of the same id.
    #[error(
        "the store has another run of the id `{id}`: two runs never share an id, so one of them was edited"
    )]
    Conflict {
        /// The id.
        id: String,
    },
    /// It could not be written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Import {
    /// Runs that were left out.
    pub fn refused(&self) -> usize {
        self.runs.iter().filter(|(_, what)| matches!(what, Imported::Refused(_))).count()
    }
}

impl Store {
    /// Appends every sound run folder that the index does not know: the index of a store that an earlier version wrote.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be listed or the index not appended to; then nothing was appended.
    pub fn import_own(&self) -> Result<Import, StoreError> {
        let had_index = self.index().exists();
        let mut runs = Vec::new();
        let survey = self.survey(|stored, _| runs.push(stored.folder))?;
        let unknown = |folder: &PathBuf| {
            !had_index
                || survey.findings.iter().any(|finding| {
                    finding.fault == Fault::NotIndexed && finding.path == folder.join(RUN_FILE)
                })
        };
        let mut import = Import::default();
        let mut entries = Vec::new();
        for folder in runs.into_iter().filter(unknown) {
            let file = folder.join(RUN_FILE);
            let bytes = read_stored(&file).map_err(|source| StoreError::Read { path: file, source })?;
            let stored = Self::load(&folder)?;
            entries.push(Operation::Add(Entry::of(&stored.run, &bytes)));
            import.runs.push((folder, Imported::Indexed));
        }
        if !entries.is_empty() {
            self.index()
                .append(entries)
                .map_err(|source| StoreError::Index { path: self.root().to_owned(), source })?;
        }
        let skipped = survey.findings.into_iter().filter(|finding| finding.fault.skips_run());
        import.runs.extend(skipped.map(refused));
        Ok(import)
    }

    /// Copies the run in the folder `source`, or all runs of the store there, into this store.
    ///
    /// # Errors
    /// [`StoreError::Read`] when there is neither. A run that cannot be taken over is in the result with the reason.
    pub fn import(&self, source: &Path) -> Result<Import, StoreError> {
        let mut import = Import::default();
        if source.join(RUN_FILE).is_file() {
            import.runs.push((source.to_owned(), self.import_run(source)));
            return Ok(import);
        }
        let mut folders = Vec::new();
        let survey = Self::existing(source)?.survey(|stored, _| folders.push(stored.folder))?;
        for folder in folders {
            let what = self.import_run(&folder);
            import.runs.push((folder, what));
        }
        let skipped = survey.findings.into_iter().filter(|finding| finding.fault.skips_run());
        import.runs.extend(skipped.map(refused));
        Ok(import)
    }

    fn import_run(&self, source: &Path) -> Imported {
        self.take_over(source).unwrap_or_else(Imported::Refused)
    }

    fn take_over(&self, source: &Path) -> Result<Imported, Refusal> {
        let stored = Self::load(source)?;
        let file = source.join(RUN_FILE);
        let bytes = read_stored(&file).map_err(|error| StoreError::Read { path: file, source: error })?;
        let id = &stored.run.run_id;
        let place = self.root().join(id);
        if let Ok(present) = read_stored(&place.join(RUN_FILE)) {
            if present == bytes {
                return Ok(Imported::Present);
            }
            return Err(Refusal::Conflict { id: id.clone() });
        }
        let work = self.root().join(format!("{UNFINISHED}{id}"));
        fs::create_dir(&work).map_err(|error| StoreError::writing(&work, error))?;
        let folder = RunFolder::new(id.clone(), work, place);
        copy_artefacts(source, folder.work())?;
        write_new(&folder.work().join(RUN_FILE), &bytes)?;
        folder.publish(&stored.run, &bytes)?;
        Ok(Imported::Copied)
    }
}

fn refused(finding: Finding) -> (PathBuf, Imported) {
    (finding.path, Imported::Refused(Refusal::Unsound(finding.fault)))
}

/// Copies the plain files of a run's folder and those one folder below, apart from `run.json`, and flushes them. Hidden
/// names and symbolic links are left behind: a run consists of neither.
fn copy_artefacts(from: &Path, to: &Path) -> Result<(), StoreError> {
    for (path, kind) in plain_entries(from)? {
        let Some(name) = path.file_name() else { continue };
        let target = to.join(name);
        if kind.is_dir() {
            fs::create_dir(&target).map_err(|source| StoreError::writing(&target, source))?;
            for (path, kind) in plain_entries(&path)? {
                if let (true, Some(name)) = (kind.is_file(), path.file_name()) {
                    copy(&path, &target.join(name))?;
                }
            }
            sync_folder(&target)?;
        } else if name != RUN_FILE {
            copy(&path, &target)?;
        }
    }
    Ok(())
}

fn plain_entries(folder: &Path) -> Result<Vec<(PathBuf, fs::FileType)>, StoreError> {
    let reading = |source| StoreError::Read { path: folder.to_owned(), source };
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(reading)? {
        let entry = entry.map_err(reading)?;
        let kind = entry.file_type().map_err(reading)?;
        let hidden = entry.file_name().to_string_lossy().starts_with('.');
        if !hidden && (kind.is_file() || kind.is_dir()) {
            found.push((entry.path(), kind));
        }
    }
    Ok(found)
}

fn copy(from: &Path, to: &Path) -> Result<(), StoreError> {
    match read_stored(from) {
        Ok(bytes) => write_new(to, &bytes),
        // Gone since it was listed.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(source) => Err(StoreError::Read { path: from.to_owned(), source }),
    }
}
