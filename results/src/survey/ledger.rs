//! The index, folded into what it says about each run.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::fault::{Fault, Finding};
use super::index_line;
use crate::index::{Contents, Entry, Index, Operation, RecordError};

/// Clocks of machines that share a store differ by this much without anybody having set one back.
const TOLERANCE: SignedDuration = SignedDuration::from_secs(2);

/// What the index says about one run.
struct Known {
    entry: Entry,
    line: usize,
    /// What is wrong with the clock that stored it.
    clock: Option<Fault>,
}

/// What the index says.
pub(super) struct Ledger {
    runs: BTreeMap<String, Known>,
    absent: bool,
}

impl Ledger {
    /// Reads the index; what is wrong with it becomes findings. An index that cannot be read at all knows no runs.
    pub(super) fn read(index: &Index, findings: &mut Vec<Finding>) -> Self {
        let mut find = |subject: String, fault: Fault| {
            findings.push(Finding { subject, path: index.path().to_owned(), fault });
        };
        let whole = || crate::index::INDEX_FILE.to_owned();
        if !index.exists() {
            find(whole(), Fault::NoIndex);
            return Self { runs: BTreeMap::new(), absent: true };
        }
        let contents = match index.read() {
            Ok(contents) => contents,
            Err(error) => {
                find(whole(), Fault::Unreadable { message: error.to_string() });
                return Self { runs: BTreeMap::new(), absent: false };
            }
        };
        for damage in &contents.damaged {
            let fault = match &damage.error {
                RecordError::Schema { found } => Fault::UnknownEntry { found: found.clone() },
                error => Fault::DamagedEntry { message: error.to_string() },
            };
            find(index_line(damage.number), fault);
        }
        if contents.torn_bytes > 0 {
            find(whole(), Fault::TornEntry { bytes: contents.torn_bytes });
        }
        Self { runs: fold(contents, &mut find), absent: false }
    }

    /// Whether the store has no index.
    pub(super) fn is_absent(&self) -> bool {
        self.absent
    }

    /// Whether the index has a run of this id.
    pub(super) fn knows(&self, id: &str) -> bool {
        self.runs.contains_key(id)
    }

    pub(super) fn run_ids(&self) -> impl Iterator<Item = &str> {
        self.runs.keys().map(String::as_str)
    }

    /// Whether these bytes are the ones that were acknowledged.
    pub(super) fn compare(&self, id: &str, bytes: &[u8]) -> Result<(), Fault> {
        let Some(Known { entry, .. }) = self.runs.get(id) else { return Ok(()) };
        let found = bytes.len() as u64;
        if found < entry.run_bytes {
            return Err(Fault::Truncated { found, expected: entry.run_bytes });
        }
        let sum = crate::index::crc(bytes);
        if found != entry.run_bytes || sum != entry.run_crc32c {
            return Err(Fault::Edited { found: sum, expected: entry.run_crc32c.clone() });
        }
        Ok(())
    }

    /// What is wrong with the clock that stored this run.
    pub(super) fn clock(&self, id: &str) -> Option<Fault> {
        self.runs.get(id)?.clock.clone()
    }
}

fn fold(contents: Contents, find: &mut impl FnMut(String, Fault)) -> BTreeMap<String, Known> {
    let mut runs: BTreeMap<String, Known> = BTreeMap::new();
    let mut before: Option<Timestamp> = None;
    for line in contents.lines {
        let at = line.record.at;
        let set_back = before.filter(|before| at.saturating_add(TOLERANCE).is_ok_and(|at| at < *before));
        before = Some(at);
        match line.record.operation {
            Operation::Forget { run_id } => {
                runs.remove(&run_id);
            }
            Operation::Add(entry) => {
                if let Some(first) = runs.get(&entry.run_id).map(|known| known.line) {
                    find(index_line(line.number), Fault::DuplicateEntry { id: entry.run_id, first });
                    continue;
                }
                let clock = set_back
                    .map(|before| Fault::ClockBackwards { at: at.to_string(), before: before.to_string() })
                    .or_else(|| started_later(&entry, at));
                runs.insert(entry.run_id.clone(), Known { entry, line: line.number, clock });
            }
        }
    }
    runs
}

fn started_later(entry: &Entry, at: Timestamp) -> Option<Fault> {
    let latest = at.saturating_add(TOLERANCE).ok()?;
    (entry.started_at > latest)
        .then(|| Fault::StartedLater { started: entry.started_at.to_string(), at: at.to_string() })
}
