//! The append-only store: one new folder a run.
//!
//! A run is written into a hidden folder beside its final place, flushed to the disk and renamed. A reader therefore
//! sees a whole run or none, a crash leaves only a hidden folder behind, and nothing is ever overwritten. Then it is
//! appended to the store's [index](crate::index), which acknowledges it.

mod checksums;
mod error;
mod folder;
mod gc;
mod import;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

pub use checksums::{CHECKSUM_FILE, Integrity};
pub use error::StoreError;
pub use folder::RunFolder;
pub use gc::{GcOptions, GcReport};
pub use import::{Import, Imported, Refusal};

use crate::artefacts::{self, Artefacts};
use crate::file::read_stored;
use crate::histogram::Histogram;
use crate::index::Index;
use crate::schema::Run;
use crate::series::Series;

/// File name of the run inside its folder.
pub const RUN_FILE: &str = "run.json";
/// File name of the report inside the run's folder.
pub const REPORT_FILE: &str = "report.html";
/// File name of what each slice measured inside the run's folder.
pub const SERIES_FILE: &str = "series.json";
/// Folder of the full-resolution histograms inside the run's folder.
pub const HISTOGRAM_FOLDER: &str = "histograms";
/// Prefix of a folder whose run is not complete.
pub(crate) const UNFINISHED: &str = ".unfinished-";

/// Full-resolution histograms by case id and histogram name.
pub type Histograms = BTreeMap<(String, String), Histogram>;

/// A folder of runs.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
}

/// A run read from a store.
#[derive(Clone, Debug)]
pub struct StoredRun {
    /// The run's folder.
    pub folder: PathBuf,
    /// The run.
    pub run: Run,
}

impl Store {
    /// Opens the store at `root`, creating the folder where it is absent, and checks that a run can be added: better
    /// before a run than after it.
    ///
    /// # Errors
    /// [`StoreError`] naming the path when the folder cannot be created or written to.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let root = root.into();
        fs::create_dir_all(&root).map_err(|source| match source.kind() {
            // A file is where the folder should be.
            std::io::ErrorKind::AlreadyExists => StoreError::NotWritable { path: root.clone(), source },
            _ => StoreError::writing(&root, source),
        })?;
        let probe = root.join(format!("{UNFINISHED}probe-{}", unique_suffix()));
        fs::create_dir(&probe).map_err(|source| StoreError::writing(&root, source))?;
        fs::remove_dir(&probe).map_err(|source| StoreError::writing(&probe, source))?;
        Ok(Self { root })
    }

    /// The store at `root` as it is, to be read: nothing is created or tried.
    ///
    /// # Errors
    /// [`StoreError::Read`] when there is no such folder.
    pub fn existing(root: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let root = root.into();
        fs::read_dir(&root).map_err(|source| StoreError::Read { path: root.clone(), source })?;
        Ok(Self { root })
    }

    /// Its index; the file may be absent.
    pub fn index(&self) -> Index {
        Index::of_store(&self.root)
    }

    /// Where the runs are.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Reserves a new run id and its folder. Nothing is visible until [`RunFolder::commit`]; dropping the folder
    /// before that discards it.
    ///
    /// # Errors
    /// [`StoreError`] when the folder cannot be created.
    pub fn begin(&self, scenario: &str, started_at: Timestamp) -> Result<RunFolder, StoreError> {
        self.begin_with(scenario, started_at, unique_suffix)
    }

    /// As [`Store::begin`], with the source of the unique part given.
    fn begin_with(
        &self,
        scenario: &str,
        started_at: Timestamp,
        mut suffix: impl FnMut() -> String,
    ) -> Result<RunFolder, StoreError> {
        const ATTEMPTS: usize = 64;
        let mut last = self.root.clone();
        for _ in 0..ATTEMPTS {
            let run_id = run_id(scenario, started_at, &suffix());
            let place = self.root.join(&run_id);
            let work = self.root.join(format!("{UNFINISHED}{run_id}"));
            // Creating the hidden folder reserves the id among writers; the final place is looked at afterwards, so
            // that a writer who has just renamed away from the same hidden name is noticed.
            match fs::create_dir(&work) {
                Ok(()) if fs::symlink_metadata(&place).is_err() => {
                    return Ok(RunFolder::new(run_id, work, place));
                }
                Ok(()) => fs::remove_dir(&work).map_err(|source| StoreError::writing(&work, source))?,
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(source) => return Err(StoreError::writing(&work, source)),
            }
            last = place;
        }
        Err(StoreError::Exists { path: last })
    }

    /// Folders of the complete runs, oldest first.
    ///
    /// # Errors
    /// [`StoreError::Read`] when the store cannot be listed.
    pub fn list(&self) -> Result<Vec<PathBuf>, StoreError> {
        let reading = |source| StoreError::Read { path: self.root.clone(), source };
        let mut folders = Vec::new();
        for entry in fs::read_dir(&self.root).map_err(reading)? {
            let path = entry.map_err(reading)?.path();
            let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
            if !hidden && path.join(RUN_FILE).is_file() {
                folders.push(path);
            }
        }
        folders.sort();
        Ok(folders)
    }

    /// Loads a run from its folder or from its `run.json`, wherever that is.
    ///
    /// # Errors
    /// [`StoreError`] naming the file, and the field where its content is at fault.
    pub fn load(path: impl AsRef<Path>) -> Result<StoredRun, StoreError> {
        let path = path.as_ref();
        let file = if path.is_dir() { path.join(RUN_FILE) } else { path.to_owned() };
        let bytes = read_stored(&file).map_err(|source| StoreError::Read { path: file.clone(), source })?;
        let text = String::from_utf8(bytes).map_err(|error| StoreError::NotText {
            path: file.clone(),
            valid_bytes: error.utf8_error().valid_up_to(),
        })?;
        let run =
            Run::from_json(&text).map_err(|source| StoreError::Content { path: file.clone(), source })?;
        let folder = file.parent().map(Path::to_owned).unwrap_or_default();
        Ok(StoredRun { folder, run })
    }
}

impl StoredRun {
    /// Loads what lies beside `run.json`; a file that is absent is left out.
    ///
    /// # Errors
    /// [`StoreError`] naming the file that cannot be read.
    pub fn artefacts(&self) -> Result<Artefacts, StoreError> {
        let folder = &self.folder;
        Ok(Artefacts {
            series: self.series()?,
            heat: artefacts::read(folder)?,
            sweep: artefacts::read(folder)?,
            churn: artefacts::read(folder)?,
            profile: artefacts::Profile::read(folder)?,
        })
    }

    /// Loads the full-resolution histograms that the run names; one whose file is absent is left out.
    ///
    /// # Errors
    /// [`StoreError`] naming the file that cannot be read or decoded.
    pub fn histograms(&self) -> Result<Histograms, StoreError> {
        let mut histograms = Histograms::new();
        for case in &self.run.cases {
            for name in case.histograms.keys() {
                let path = self.folder.join(HISTOGRAM_FOLDER).join(histogram_file(&case.id, name));
                let bytes = match read_stored(&path) {
                    Ok(bytes) => bytes,
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                    Err(source) => return Err(StoreError::Read { path, source }),
                };
                let histogram = Histogram::from_bytes(&bytes)
                    .map_err(|source| StoreError::Histogram { path: path.clone(), source })?;
                histograms.insert((case.id.clone(), name.clone()), histogram);
            }
        }
        Ok(histograms)
    }

    /// What each slice measured; `None` where the file is absent, as in runs that a version before it stored.
    ///
    /// # Errors
    /// [`StoreError`] naming the file that cannot be read, is damaged or belongs to another run.
    pub fn series(&self) -> Result<Option<Series>, StoreError> {
        let path = self.folder.join(SERIES_FILE);
        let bytes = match read_stored(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(StoreError::Read { path, source }),
        };
        let text = String::from_utf8(bytes).map_err(|error| StoreError::NotText {
            path: path.clone(),
            valid_bytes: error.utf8_error().valid_up_to(),
        })?;
        let series = Series::from_json(&text, &self.run.run_id);
        series.map(Some).map_err(|source| StoreError::Series { path, source })
    }
}

/// `<case id with / as ~>.<name>.hdr`. No id contains `~` and no name `/`, so no two share a file.
pub(crate) fn histogram_file(case: &str, name: &str) -> String {
    format!("{}.{name}.hdr", case.replace('/', "~"))
}

/// `<UTC start to the millisecond>-<scenario>-<suffix>`: sorting by name sorts by start.
fn run_id(scenario: &str, started_at: Timestamp, suffix: &str) -> String {
    const LONGEST_SCENARIO: usize = 64;
    let scenario: String = scenario
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' })
        .take(LONGEST_SCENARIO)
        .collect();
    let seconds = started_at.strftime("%Y%m%dT%H%M%S");
    let millis = started_at.subsec_millisecond();
    format!("{seconds}.{millis:03}Z-{scenario}-{suffix}")
}

/// Six hexadecimal digits that differ between processes and calls. The keys of a hash map's hasher are the standard
/// library's only source of operating-system randomness.
fn unique_suffix() -> String {
    use std::hash::{BuildHasher, Hasher};
    let random = std::collections::hash_map::RandomState::new().build_hasher().finish();
    format!("{:06x}", random & 0xff_ffff)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noon() -> Timestamp {
        "2031-05-06T12:00:00.007Z".parse().unwrap()
    }

    #[test]
    fn run_ids_sort_by_start_and_are_safe_names() {
        let early = run_id("netperf-strict", noon(), "zzz");
        let late = run_id("a", noon() + jiff::SignedDuration::from_millis(1), "aaa");
        assert_eq!(early, "20310506T120000.007Z-netperf-strict-zzz");
        assert!(early < late);
        assert_eq!(run_id("../x y", noon(), "1"), "20310506T120000.007Z----x-y-1");
    }

    #[test]
    fn a_taken_id_is_drawn_again_whether_finished_or_not() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let unfinished = store.begin_with("s", noon(), || "1".to_owned()).unwrap();
        fs::create_dir(dir.path().join(run_id("s", noon(), "2"))).unwrap();
        let mut draws = ["1", "2", "3"].into_iter();
        let third = store.begin_with("s", noon(), || draws.next().unwrap().to_owned()).unwrap();
        assert_eq!(third.run_id(), run_id("s", noon(), "3"));
        assert_ne!(unfinished.run_id(), third.run_id());
    }

    #[test]
    fn an_id_that_is_always_taken_is_an_error_not_a_loop() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let _first = store.begin_with("s", noon(), || "1".to_owned()).unwrap();
        let error = store.begin_with("s", noon(), || "1".to_owned()).unwrap_err();
        assert!(matches!(error, StoreError::Exists { ref path } if path.starts_with(dir.path())), "{error}");
    }

    #[test]
    fn histogram_files_of_different_cases_differ() {
        assert_ne!(histogram_file("a/b", "x"), histogram_file("a.b", "x"));
        assert_ne!(histogram_file("a", "b.x"), histogram_file("a", "b-x"));
    }
}
