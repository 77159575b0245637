//! Taking away what nobody needs: folders that crashes left, runs that are too old, what the index says about both.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use jiff::{SignedDuration, Timestamp};

use super::{Store, StoreError, UNFINISHED};
use crate::index::{NEW_INDEX, Operation, Record, RecordError};
use crate::survey::Fault;

/// What [`Store::gc`] takes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GcOptions {
    /// Unfinished folders that nobody wrote to for this long. A run that is still being measured writes nothing, so
    /// this must be longer than any run takes.
    pub unfinished_after: SignedDuration,
    /// Runs that started before this.
    pub runs_before: Option<Timestamp>,
    /// Forget the runs whose folders are gone.
    pub missing: bool,
    /// Drop the lines of the index that are no records; those of other versions stay.
    pub damaged: bool,
    /// Only say what would go.
    pub dry_run: bool,
}

impl Default for GcOptions {
    fn default() -> Self {
        Self {
            unfinished_after: SignedDuration::from_hours(24),
            runs_before: None,
            missing: false,
            damaged: false,
            dry_run: false,
        }
    }
}

/// What went, or would go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GcReport {
    /// Unfinished folders and index files.
    pub unfinished: Vec<PathBuf>,
    /// Ids of the runs that were too old.
    pub runs: Vec<String>,
    /// Ids of the runs whose folders had gone.
    pub missing: Vec<String>,
    /// Lines of the index that say nothing any more; not counted in a dry run.
    pub index_lines: usize,
}

impl Store {
    /// Takes away what `options` names. A run goes out of the index first, so that a crash half-way leaves a folder
    /// that the index does not know, never an entry without its folder.
    ///
    /// # Errors
    /// [`StoreError`] naming what could not be taken away; what went before that is gone.
    pub fn gc(&self, options: &GcOptions) -> Result<GcReport, StoreError> {
        let mut report = GcReport { unfinished: self.leftovers(options)?, ..GcReport::default() };
        let survey = self.survey(|stored, _| {
            if options.runs_before.is_some_and(|before| stored.run.started_at < before) {
                report.runs.push(stored.run.run_id);
            }
        })?;
        if options.missing {
            let missing = survey.findings.into_iter().filter(|finding| finding.fault == Fault::Missing);
            report.missing = missing.map(|finding| finding.subject).collect();
        }
        if !options.dry_run {
            self.take_away(options, &mut report)?;
        }
        Ok(report)
    }

    fn take_away(&self, options: &GcOptions, report: &mut GcReport) -> Result<(), StoreError> {
        for path in &report.unfinished {
            remove(path)?;
        }
        let gone: Vec<_> = report.runs.iter().chain(&report.missing).cloned().collect();
        let index = self.index();
        let indexed = |source| StoreError::Index { path: self.root().to_owned(), source };
        if !gone.is_empty() {
            let forget = gone.iter().map(|run_id| Operation::Forget { run_id: run_id.clone() });
            index.append(forget).map_err(indexed)?;
        }
        for run_id in &report.runs {
            let hidden = self.root().join(format!("{UNFINISHED}removed-{run_id}"));
            let place = self.root().join(run_id);
            fs::rename(&place, &hidden).map_err(|source| StoreError::writing(&place, source))?;
            remove(&hidden)?;
        }
        if index.exists() {
            report.index_lines = index
                .compact(|records| {
                    let settled = settled(records);
                    let junk = |at: usize| {
                        options.damaged
                            && matches!(&records[at], Err(error) if !matches!(error, RecordError::Schema { .. }))
                    };
                    (0..records.len()).map(|at| settled.contains(&at) || junk(at)).collect()
                })
                .map_err(indexed)?;
        }
        Ok(())
    }

    /// Hidden folders and files of writers that are long gone.
    fn leftovers(&self, options: &GcOptions) -> Result<Vec<PathBuf>, StoreError> {
        let reading = |source| StoreError::Read { path: self.root().to_owned(), source };
        let mut found = Vec::new();
        for entry in fs::read_dir(self.root()).map_err(reading)? {
            let entry = entry.map_err(reading)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let ours = name.starts_with(UNFINISHED) || name.starts_with(NEW_INDEX);
            if ours && untouched_for(&entry.path()) >= Some(options.unfinished_after) {
                found.push(entry.path());
            }
        }
        found.sort();
        Ok(found)
    }
}

/// Places of the records that say nothing any more: runs that were forgotten, and that they were.
fn settled(records: &[Result<Record, RecordError>]) -> BTreeSet<usize> {
    let mut settled = BTreeSet::new();
    let mut live: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (at, record) in records.iter().enumerate() {
        match record.as_ref().map(|record| &record.operation) {
            Ok(Operation::Add(entry)) => live.entry(&entry.run_id).or_default().push(at),
            Ok(Operation::Forget { run_id }) => {
                settled.extend(live.remove(run_id.as_str()).unwrap_or_default());
                settled.insert(at);
            }
            Err(_) => {}
        }
    }
    settled
}

/// Since when nothing in this folder, or this file, was written; `None` while it cannot be told.
fn untouched_for(path: &Path) -> Option<SignedDuration> {
    let age = |path: &Path| -> Option<SignedDuration> {
        let modified = fs::symlink_metadata(path).ok()?.modified().ok()?;
        SignedDuration::try_from(SystemTime::now().duration_since(modified).ok()?).ok()
    };
    let mut youngest = age(path)?;
    if path.is_dir() {
        for entry in fs::read_dir(path).ok()? {
            youngest = youngest.min(age(&entry.ok()?.path())?);
        }
    }
    Some(youngest)
}

fn remove(path: &Path) -> Result<(), StoreError> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    removed.map_err(|source| StoreError::writing(path, source))
}
