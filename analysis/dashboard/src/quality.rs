//! What was left out, and what is worth knowing, as the page about data quality shows it.

use std::collections::BTreeMap;

use iommu_results::Finding;
use serde::Serialize;

/// One thing that is not sound.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Entry {
    pub(crate) subject: String,
    pub(crate) message: String,
}

/// All things of one name.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Group {
    /// How many there are.
    pub(crate) count: usize,
    /// Whether their runs are left out.
    pub(crate) skipped: bool,
    /// Whether they are merely worth knowing.
    pub(crate) note: bool,
    /// The first of them.
    pub(crate) entries: Vec<Entry>,
}

/// Everything, by name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Quality(BTreeMap<&'static str, Group>);

/// A name with more than this many entries shows the first ones and the count.
const SHOWN: usize = 500;

impl Quality {
    /// What a survey found.
    pub(crate) fn survey(&mut self, findings: &[Finding]) {
        for finding in findings {
            let fault = &finding.fault;
            let group = self.0.entry(fault.name()).or_default();
            (group.skipped, group.note) = (fault.skips_run(), fault.is_note());
            group.push(&finding.subject, || fault.to_string());
        }
    }

    /// A run whose revision the repository does not have; it is left out.
    pub(crate) fn unknown_revision(&mut self, run: &str, revision: &str) {
        let group = self.0.entry("unknown-revision").or_default();
        group.skipped = true;
        group.push(run, || {
            format!(
                "revision `{revision}` is not in the repository: fetch it, or build the site without --repo"
            )
        });
    }

    /// A run that is listed but in no history.
    pub(crate) fn partial(&mut self, run: &str) {
        let group = self.0.entry("partial").or_default();
        group.note = true;
        group.push(run, || "interrupted or failed: it has a page but is in no history".to_owned());
    }

    /// Runs that were left out.
    pub(crate) fn skipped(&self) -> usize {
        self.0.values().filter(|group| group.skipped).map(|group| group.count).sum()
    }

    /// Everything that is not merely worth knowing.
    pub(crate) fn faults(&self) -> usize {
        self.0.values().filter(|group| !group.note).map(|group| group.count).sum()
    }

    /// By name.
    pub(crate) fn groups(&self) -> &BTreeMap<&'static str, Group> {
        &self.0
    }
}

impl Group {
    fn push(&mut self, subject: &str, message: impl FnOnce() -> String) {
        self.count += 1;
        if self.entries.len() < SHOWN {
            self.entries.push(Entry { subject: subject.to_owned(), message: message() });
        }
    }
}
