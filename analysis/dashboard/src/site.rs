//! The files of the site.
//!
//! Everything is written into a new folder beside the site's place, which then takes that place: a browser sees the old
//! site or the new one. Only one run is in memory at a time; of each, a few numbers a figure stay.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use iommu_analysis::changepoint::ChangePointError;
use iommu_results::{Store, StoreError, StoredRun, Timestamp, store::REPORT_FILE};
use serde::Serialize;

use crate::assets::ASSETS;
use crate::data::{self, Overview, QualityFile, Runs, SITE_SCHEMA, Summary};
use crate::history::Histories;
use crate::quality::Quality;
use crate::revisions::Revisions;
use crate::trend;

/// File that marks a folder as a site of ours, which may be replaced.
const MARK: &str = "site.json";
/// File name of a run's flame graph.
const PROFILE_FILE: &str = "profile.svg";

/// What to build.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the site will be. An earlier site there is replaced, anything else is not.
    pub out: PathBuf,
    /// What git knows; runs of other revisions are left out. `None`: revisions are not checked.
    pub revisions: Option<Revisions>,
    /// Address of a revision's page, with `{revision}` in it.
    pub revision_url: Option<String>,
    /// How many runs, counted from the newest, bring their report and flame graph.
    pub reports: usize,
    /// When this is, for the site to say.
    pub now: Timestamp,
}

/// What the builder is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Reading runs.
    Runs {
        /// Runs read.
        done: usize,
        /// All of them.
        total: usize,
    },
    /// Looking for changes.
    Histories {
        /// Histories searched.
        done: usize,
        /// All of them.
        total: usize,
    },
}

/// What was built.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Built {
    /// Runs that have a page.
    pub runs: usize,
    /// Histories that have a page.
    pub histories: usize,
    /// Changes found in them.
    pub changes: usize,
    /// Runs that were left out.
    pub skipped: usize,
    /// Everything on the page about data quality that is not merely worth knowing.
    pub faults: usize,
}

/// Why there is no site.
#[derive(Debug, thiserror::Error)]
pub enum SiteError {
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Something that is not a site is in its place.
    #[error("{}: exists and is no site of this tool; give another folder, or empty it", path.display())]
    NotASite {
        /// The place.
        path: PathBuf,
    },
    /// A file cannot be written.
    #[error("{}: cannot be written: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A history cannot be searched.
    #[error("history {id}: {source}")]
    History {
        /// Its id.
        id: String,
        /// Why not.
        source: ChangePointError,
    },
}

/// Builds the site of `store`.
///
/// # Errors
/// [`SiteError`]; an earlier site is then as it was.
pub fn build(
    store: &Store,
    options: &Options,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<Built, SiteError> {
    let site = Folder::begin(&options.out)?;
    for (name, text) in ASSETS {
        site.write(name, text.as_bytes())?;
    }
    let mut histories = Histories::default();
    let mut quality = Quality::default();
    let mut failed = None;
    let survey = store.survey(|stored, position| {
        progress(Progress::Runs { done: position.done, total: position.total });
        if failed.is_some() {
            return;
        }
        let revision = &stored.run.revision;
        if options.revisions.as_ref().is_some_and(|known| known.find(revision).is_none()) {
            quality.unknown_revision(&stored.run.run_id, revision);
            return;
        }
        if stored.run.partial {
            quality.partial(&stored.run.run_id);
        }
        histories.add(&stored.run);
        let artefacts = position.done.saturating_add(options.reports) >= position.total;
        failed = site.run(&stored, artefacts).err();
    })?;
    if let Some(error) = failed {
        return Err(error);
    }
    quality.survey(&survey.findings);
    histories.sort();
    let series = site.histories(&histories, options.revisions.as_ref(), progress)?;
    let built = Built {
        runs: histories.runs.len(),
        histories: series.len(),
        changes: series.iter().map(|summary| summary.changes).sum(),
        skipped: quality.skipped(),
        faults: quality.faults(),
    };
    site.data("data/runs.js", "runs", &Runs::of(&histories.runs))?;
    let checked = options.revisions.is_some();
    site.data(
        "data/quality.js",
        "quality",
        &QualityFile { groups: quality.groups(), revisions_checked: checked },
    )?;
    let overview = Overview {
        schema: SITE_SCHEMA,
        generated_at: options.now.to_string(),
        tool: iommu_results::revision(),
        runs: built.runs,
        skipped: built.skipped,
        faults: built.faults,
        significance: trend::SIGNIFICANCE,
        recent: trend::RECENT,
        revision_url: options.revision_url.as_deref(),
        series,
    };
    site.data("data/overview.js", "overview", &overview)?;
    site.finish()?;
    Ok(built)
}

/// The site while it is written.
struct Folder {
    work: PathBuf,
    place: PathBuf,
}

impl Folder {
    fn begin(place: &Path) -> Result<Self, SiteError> {
        let empty = fs::read_dir(place).is_ok_and(|mut entries| entries.next().is_none());
        if fs::symlink_metadata(place).is_ok() && !empty && !place.join(MARK).is_file() {
            return Err(SiteError::NotASite { path: place.to_owned() });
        }
        let work = beside(place, "new");
        for folder in ["assets/uplot", "data/series", "runs"] {
            let path = work.join(folder);
            fs::create_dir_all(&path).map_err(|source| SiteError::Write { path, source })?;
        }
        let site = Self { work, place: place.to_owned() };
        site.write(MARK, format!("{{\"schema\":\"{SITE_SCHEMA}\"}}\n").as_bytes())?;
        // Pages would leave out what it takes for templates.
        site.write(".nojekyll", b"")?;
        Ok(site)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), SiteError> {
        let path = self.work.join(name);
        fs::write(&path, bytes).map_err(|source| SiteError::Write { path, source })
    }

    /// A script that hands `value` to the site under `key`: what a page from the disk can load, where it may not fetch.
    fn data(&self, name: &str, key: &str, value: &impl Serialize) -> Result<(), SiteError> {
        let path = self.work.join(name);
        let written = File::create(&path).and_then(|file| {
            let mut file = BufWriter::new(file);
            file.write_all(b"IB.put(")?;
            serde_json::to_writer(&mut file, key)?;
            file.write_all(b",")?;
            serde_json::to_writer(&mut file, value)?;
            file.write_all(b");\n")?;
            file.flush()
        });
        written.map_err(|source| SiteError::Write { path, source })
    }

    /// A run's page, with its report and flame graph where it has them and they are wanted.
    fn run(&self, stored: &StoredRun, artefacts: bool) -> Result<(), SiteError> {
        #[derive(Serialize)]
        struct Page<'r> {
            report: bool,
            profile: bool,
            run: &'r iommu_results::Run,
        }
        let id = &stored.run.run_id;
        let folder = format!("runs/{id}");
        let path = self.work.join(&folder);
        fs::create_dir(&path).map_err(|source| SiteError::Write { path: path.clone(), source })?;
        let copy = |name: &str| -> Result<bool, SiteError> {
            let from = stored.folder.join(name);
            if !artefacts || !from.is_file() {
                return Ok(false);
            }
            let to = path.join(name);
            fs::copy(&from, &to).map_err(|source| SiteError::Write { path: to, source })?;
            Ok(true)
        };
        let page = Page { report: copy(REPORT_FILE)?, profile: copy(PROFILE_FILE)?, run: &stored.run };
        self.data(&format!("{folder}/run.js"), &format!("run:{id}"), &page)
    }

    /// Searches every history and writes its file, on all processors. Returns the rows of the overview in order.
    fn histories(
        &self,
        histories: &Histories,
        revisions: Option<&Revisions>,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<Vec<Summary>, SiteError> {
        let all: Vec<_> = histories.iter().collect();
        let total = all.len();
        let next = Mutex::new(all.iter().enumerate());
        let work = || -> Result<Vec<(usize, Summary)>, SiteError> {
            let mut rows = Vec::new();
            loop {
                let taken = next.lock().unwrap_or_else(std::sync::PoisonError::into_inner).next();
                let Some((at, history)) = taken else { return Ok(rows) };
                progress(Progress::Histories { done: at, total });
                let changes = trend::changes(history.points)
                    .map_err(|source| SiteError::History { id: history.id(), source })?;
                let summary = data::summary(history, &changes);
                let file = data::series(history, &summary, &changes, &histories.runs, revisions);
                let id = &summary.id;
                self.data(&format!("data/series/{id}.js"), &format!("series:{id}"), &file)?;
                rows.push((at, summary));
            }
        };
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let mut rows = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            let mut rows = Vec::new();
            for worker in workers {
                match worker.join() {
                    Ok(done) => rows.extend(done?),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            Ok::<_, SiteError>(rows)
        })?;
        rows.sort_by_key(|(at, _)| *at);
        Ok(rows.into_iter().map(|(_, summary)| summary).collect())
    }

    /// Takes the site's place.
    fn finish(self) -> Result<(), SiteError> {
        let old = beside(&self.place, "old");
        let writing = |source| SiteError::Write { path: self.place.clone(), source };
        let replaced = fs::symlink_metadata(&self.place).is_ok();
        if replaced {
            fs::rename(&self.place, &old).map_err(writing)?;
        }
        fs::rename(&self.work, &self.place).map_err(writing)?;
        if replaced {
            fs::remove_dir_all(&old).map_err(|source| SiteError::Write { path: old.clone(), source })?;
        }
        Ok(())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Best effort; after `finish` there is none.
        let _ = fs::remove_dir_all(&self.work);
    }
}

/// A hidden name beside the site's.
fn beside(place: &Path, what: &str) -> PathBuf {
    let name = place.file_name().unwrap_or_default().to_string_lossy().into_owned();
    place.with_file_name(format!(".{name}.{what}-{}", std::process::id()))
}
