//! A run's folder while it is being written.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use super::checksums::{self, CHECKSUM_FILE};
use super::{HISTOGRAM_FOLDER, RUN_FILE, SERIES_FILE, StoreError, histogram_file};
use crate::artefacts::Artefact;
use crate::histogram::Histogram;
use crate::index::{Entry, Index, Operation};
use crate::schema::Run;
use crate::series::{Series, SeriesError};

/// A reserved folder: artefacts go in, then [`RunFolder::commit`] makes all of it visible at once.
#[derive(Debug)]
pub struct RunFolder {
    run_id: String,
    /// The hidden folder that is written to.
    work: PathBuf,
    /// Where the run will be.
    place: PathBuf,
    committed: bool,
}

impl RunFolder {
    pub(super) fn new(run_id: String, work: PathBuf, place: PathBuf) -> Self {
        Self { run_id, work, place, committed: false }
    }

    /// The id to put into [`Run::run_id`].
    pub fn run_id(&self) -> &str {
        &self.run_id
    }

    /// Where the run will be once committed.
    pub fn path(&self) -> &Path {
        &self.place
    }

    /// Writes one artefact, such as `report.html`.
    ///
    /// # Errors
    /// [`StoreError::Exists`] when it was written before, [`StoreError::ArtefactName`] when `name` is not a plain file
    /// name, or what the system says.
    pub fn write(&mut self, name: &str, bytes: impl AsRef<[u8]>) -> Result<(), StoreError> {
        let plain = !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\', '\0']);
        if !plain || [RUN_FILE, SERIES_FILE, CHECKSUM_FILE, HISTOGRAM_FOLDER].contains(&name) {
            return Err(StoreError::ArtefactName { path: self.place.clone(), name: name.to_owned() });
        }
        write_new(&self.work.join(name), bytes.as_ref())
    }

    /// Writes one of the files that have a schema of their own.
    ///
    /// # Errors
    /// [`StoreError::Exists`] when it was written before, or what the system says.
    pub fn write_artefact<A: Artefact>(&mut self, artefact: &A) -> Result<(), StoreError> {
        let text = artefact
            .to_json()
            .map_err(|source| StoreError::Artefact { path: self.place.join(A::FILE), source })?;
        self.write(A::FILE, text)
    }

    /// Writes one full-resolution histogram, deflated HdrHistogram V2.
    ///
    /// # Errors
    /// [`StoreError::Exists`] when this case has one of that name already, or what the system says.
    pub fn write_histogram(
        &mut self,
        case: &str,
        name: &str,
        histogram: &Histogram,
    ) -> Result<(), StoreError> {
        let folder = self.work.join(HISTOGRAM_FOLDER);
        match fs::create_dir(&folder) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                return Err(StoreError::writing(&folder, error));
            }
            _ => {}
        }
        let path = folder.join(histogram_file(case, name));
        let bytes =
            histogram.to_bytes().map_err(|source| StoreError::Histogram { path: path.clone(), source })?;
        write_new(&path, &bytes)
    }

    /// Writes what each slice measured.
    ///
    /// # Errors
    /// [`StoreError::Series`] when the series is not valid or belongs to another run, [`StoreError::Exists`] when it was
    /// written before, or what the system says.
    pub fn write_series(&mut self, series: &Series) -> Result<(), StoreError> {
        let path = self.work.join(SERIES_FILE);
        let refused = |source| StoreError::Series { path: self.place.join(SERIES_FILE), source };
        if series.run_id != self.run_id {
            let (found, expected) = (series.run_id.clone(), self.run_id.clone());
            return Err(refused(SeriesError::Run { found, expected }));
        }
        write_new(&path, series.to_json().map_err(refused)?.as_bytes())
    }

    /// Writes `run.json` and the checksums of everything, flushes it all to the disk, makes the run visible under its
    /// name and appends it to the index: once this returns, the run is acknowledged and survives a crash. Returns its
    /// folder.
    ///
    /// # Errors
    /// [`StoreError::Content`] when the run is not valid, [`StoreError::RunId`] when it carries another id,
    /// [`StoreError::Exists`] when somebody took the place meanwhile, or what the system says; nothing is left behind.
    /// [`StoreError::Index`] when the run is in its place but the index could not be appended to.
    pub fn commit(self, run: &Run) -> Result<PathBuf, StoreError> {
        if run.run_id != self.run_id {
            return Err(StoreError::RunId {
                path: self.place.clone(),
                found: run.run_id.clone(),
                expected: self.run_id.clone(),
            });
        }
        let text = run
            .to_json()
            .map_err(|source| StoreError::Content { path: self.place.join(RUN_FILE), source })?;
        write_new(&self.work.join(RUN_FILE), text.as_bytes())?;
        write_new(&self.work.join(CHECKSUM_FILE), checksums::of_folder(&self.work)?.as_bytes())?;
        self.publish(run, text.as_bytes())
    }

    /// Flushes the folder, in which everything is now, renames it and appends it to the index. `bytes` are those of
    /// `run.json`.
    pub(super) fn publish(mut self, run: &Run, bytes: &[u8]) -> Result<PathBuf, StoreError> {
        let histograms = self.work.join(HISTOGRAM_FOLDER);
        if histograms.is_dir() {
            sync_folder(&histograms)?;
        }
        sync_folder(&self.work)?;
        // Renaming a folder replaces an empty folder at most, never a file and never a stored run.
        fs::rename(&self.work, &self.place).map_err(|source| match source.kind() {
            ErrorKind::DirectoryNotEmpty | ErrorKind::NotADirectory | ErrorKind::AlreadyExists => {
                StoreError::Exists { path: self.place.clone() }
            }
            _ => StoreError::writing(&self.place, source),
        })?;
        self.committed = true;
        if let Some(root) = self.place.parent() {
            sync_folder(root)?;
            let entry = Operation::Add(Entry::of(run, bytes));
            Index::of_store(root)
                .append([entry])
                .map_err(|source| StoreError::Index { path: self.place.clone(), source })?;
        }
        Ok(self.place.clone())
    }

    /// The hidden folder that is written to.
    pub(super) fn work(&self) -> &Path {
        &self.work
    }
}

impl Drop for RunFolder {
    fn drop(&mut self) {
        if !self.committed {
            // Best effort: a hidden folder that stays is ignored by every reader.
            let _ = fs::remove_dir_all(&self.work);
        }
    }
}

/// Creates a file that must not exist, writes it and waits until it is on the disk.
pub(super) fn write_new(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let mut file = File::create_new(path).map_err(|source| StoreError::writing(path, source))?;
    write_synced(&mut file, path, bytes)
}

fn write_synced(file: &mut File, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(|source| StoreError::writing(path, source))
}

pub(super) fn sync_folder(path: &Path) -> Result<(), StoreError> {
    match File::open(path).and_then(|folder| folder.sync_all()) {
        // Some file systems cannot flush a folder; the rename is then as durable as they make it.
        Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => Ok(()),
        other => other.map_err(|source| StoreError::writing(path, source)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_device_is_reported_as_full_with_its_path() {
        let path = Path::new("/dev/full");
        let mut file = File::options().write(true).open(path).unwrap();
        let error = write_synced(&mut file, path, b"x").unwrap_err();
        assert!(matches!(error, StoreError::Full { .. }), "{error}");
        assert_eq!(error.path(), path);
    }
}
