//! Every run of a store, one after the other, and everything in the store that is not sound.
//!
//! `store verify`, the exports and the dashboard all read a store through this, so that what one of them leaves out the
//! others leave out too, under the same name.

mod fault;
mod ledger;

use std::collections::BTreeSet;
use std::fs;

pub use fault::{Fault, Finding};

use crate::file::read_stored;
use crate::index::INDEX_FILE;
use crate::schema::{Run, SCHEMA};
use crate::store::{RUN_FILE, Store, StoreError, StoredRun, UNFINISHED};
use crate::validate::{Invalid, LoadError};
use ledger::Ledger;

/// What a survey found.
#[derive(Debug, Default)]
pub struct Survey {
    /// Runs that were visited.
    pub runs: usize,
    /// Everything that is not sound, in the order of the store: the index first, then the runs by name.
    pub findings: Vec<Finding>,
}

/// How far a survey is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Runs looked at before this one.
    pub done: usize,
    /// Runs that the index or a folder names.
    pub total: usize,
}

impl Survey {
    /// Runs that were left out.
    pub fn skipped(&self) -> usize {
        self.findings.iter().filter(|finding| finding.fault.skips_run()).count()
    }

    /// Whether anything is wrong, as against merely worth knowing.
    pub fn is_sound(&self) -> bool {
        self.findings.iter().all(|finding| finding.fault.is_note())
    }
}

impl Store {
    /// Visits every sound run, by name, which is by start; holds one at a time. What is not sound is named in the
    /// survey and passed over.
    ///
    /// # Errors
    /// [`StoreError::Read`] when the store itself cannot be listed.
    pub fn survey(&self, mut visit: impl FnMut(StoredRun, Position)) -> Result<Survey, StoreError> {
        let mut survey = Survey::default();
        let ledger = Ledger::read(&self.index(), &mut survey.findings);
        let folders = self.folder_names(&mut survey.findings)?;
        let names: BTreeSet<&str> = folders.iter().map(String::as_str).chain(ledger.run_ids()).collect();
        for (done, name) in names.iter().enumerate() {
            let position = Position { done, total: names.len() };
            match self.inspect(name, &ledger, &folders) {
                Ok((run, note)) => {
                    survey.findings.extend(note.map(|fault| self.finding(name, fault)));
                    survey.runs += 1;
                    visit(run, position);
                }
                Err(fault) => survey.findings.push(self.finding(name, fault)),
            }
        }
        Ok(survey)
    }

    fn finding(&self, name: &str, fault: Fault) -> Finding {
        Finding { subject: name.to_owned(), path: self.root().join(name).join(RUN_FILE), fault }
    }

    /// The run, and what is worth knowing about it; or why it cannot be used.
    fn inspect(
        &self,
        name: &str,
        ledger: &Ledger,
        folders: &BTreeSet<String>,
    ) -> Result<(StoredRun, Option<Fault>), Fault> {
        if !folders.contains(name) {
            return Err(Fault::Missing);
        }
        let folder = self.root().join(name);
        let bytes = read_stored(&folder.join(RUN_FILE))
            .map_err(|error| Fault::Unreadable { message: error.to_string() })?;
        ledger.compare(name, &bytes)?;
        let run = parse(&bytes)?;
        if run.run_id != name {
            let original = folders.contains(&run.run_id) || ledger.knows(&run.run_id);
            return Err(if original {
                Fault::Duplicate { of: run.run_id }
            } else {
                Fault::Renamed { id: run.run_id }
            });
        }
        if let Some(fault) = ledger.clock(name) {
            return Err(fault);
        }
        let note = (!ledger.is_absent() && !ledger.knows(name)).then_some(Fault::NotIndexed);
        Ok((StoredRun { folder, run }, note))
    }

    /// Names of the folders that hold a run; those that a writer has not finished become findings.
    fn folder_names(&self, findings: &mut Vec<Finding>) -> Result<BTreeSet<String>, StoreError> {
        let reading = |source| StoreError::Read { path: self.root().to_owned(), source };
        let mut names = BTreeSet::new();
        for entry in fs::read_dir(self.root()).map_err(reading)? {
            let entry = entry.map_err(reading)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with(UNFINISHED) {
                findings.push(Finding { subject: name, path: entry.path(), fault: Fault::Unfinished });
            } else if !name.starts_with('.') && entry.path().is_dir() {
                if entry.path().join(RUN_FILE).is_file() {
                    names.insert(name);
                } else {
                    findings.push(Finding { subject: name, path: entry.path(), fault: Fault::NoRun });
                }
            }
        }
        findings.sort_by(|one, other| one.path.cmp(&other.path));
        Ok(names)
    }
}

fn parse(bytes: &[u8]) -> Result<Run, Fault> {
    let text = std::str::from_utf8(bytes).map_err(|error| Fault::Invalid {
        message: format!("not text after byte {}", error.valid_up_to()),
    })?;
    Run::from_json(text).map_err(|error| match error {
        LoadError::Invalid(Invalid::Schema { found }) => Fault::UnknownSchema { found, reads: SCHEMA },
        other => Fault::Invalid { message: other.to_string() },
    })
}

/// What is wrong with the files beside `run.json`: each is compared with its checksum, and the histograms are decoded.
pub fn artefacts(run: &StoredRun) -> Vec<Finding> {
    let finding = |error: StoreError, fault: fn(String) -> Fault| {
        let path = error.path().to_owned();
        Finding { subject: run.run.run_id.clone(), path, fault: fault(error.to_string()) }
    };
    let changed = run.verify().err().map(|error| finding(error, |message| Fault::Changed { message }));
    let damaged = run.histograms().err().map(|error| finding(error, |message| Fault::Histogram { message }));
    changed.into_iter().chain(damaged).collect()
}

/// `index.jsonl:12`.
fn index_line(number: usize) -> String {
    format!("{INDEX_FILE}:{number}")
}
