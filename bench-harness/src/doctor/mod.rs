//! `iommu-bench doctor`: what this machine can do, what that is good for, and what would help.
//!
//! Every check runs on a thread of its own with a limit, so that one which hangs or panics is a line in the table and no
//! more; the command always ends with exit code 0.

mod bpf;
mod iommu;
mod kernel;
mod kvm;
mod perf;
mod qemu;
mod render;

use std::{sync::mpsc, thread, time::Duration};

use clap::Args;
use serde::Serialize;

use crate::{exit::Exit, failure::Failure, out};

/// The schema of `doctor --json`.
const SCHEMA: &str = "iommu-bench/doctor/1";
/// How long a check may take.
const PATIENCE: Duration = Duration::from_secs(10);

const EXAMPLES: &str = "\
Examples:
  iommu-bench doctor                     every capability, what it enables, the remedy
  iommu-bench doctor --json | jq '.checks[] | select(.state != \"yes\")'

Always ends with exit code 0: what is missing here is an answer, not an error.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct DoctorArgs {
    /// As JSON, schema iommu-bench/doctor/1
    #[arg(long)]
    pub(crate) json: bool,
}

/// How far a capability goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// There, and as good as it gets.
    Yes,
    /// There, but not all of it, or not what it seems.
    Limited,
    /// Not there.
    No,
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Finding {
    state: State,
    /// What was seen, and what a number measured here means.
    detail: String,
    /// What would make it better; empty where nothing needs to be.
    remedy: String,
}

impl Finding {
    fn yes(detail: impl Into<String>) -> Self {
        Self { state: State::Yes, detail: detail.into(), remedy: String::new() }
    }

    fn limited(detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { state: State::Limited, detail: detail.into(), remedy: remedy.into() }
    }

    fn no(detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { state: State::No, detail: detail.into(), remedy: remedy.into() }
    }
}

/// A capability to look for.
struct Check {
    name: &'static str,
    /// What it is good for.
    enables: &'static str,
    look: fn() -> Finding,
}

/// A capability with what was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Checked {
    name: &'static str,
    state: State,
    detail: String,
    enables: &'static str,
    remedy: String,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    schema: &'static str,
    checks: Vec<Checked>,
}

/// Every check, in the order of the table.
fn checks() -> impl Iterator<Item = &'static Check> {
    [kvm::CHECKS, iommu::CHECKS, bpf::CHECKS, perf::CHECKS, kernel::CHECKS, qemu::CHECKS]
        .into_iter()
        .flatten()
}

/// `iommu-bench doctor`.
///
/// # Errors
/// Only when standard output cannot be written.
pub(crate) fn doctor(args: &DoctorArgs) -> Result<Exit, Failure> {
    let checks: Vec<Checked> = checks().map(|check| examine(check, PATIENCE)).collect();
    if args.json {
        out::print_json(&Report { schema: SCHEMA, checks })?;
    } else {
        out::print(&render::table(&checks))?;
    }
    Ok(Exit::Ok)
}

/// Runs a check, whatever it does.
fn examine(check: &Check, patience: Duration) -> Checked {
    let (tell, told) = mpsc::channel();
    let look = check.look;
    let started = thread::Builder::new().name(format!("doctor {}", check.name)).spawn(move || {
        // Nobody listens any more if it took too long.
        let _ = tell.send(look());
    });
    let finding = match started {
        Ok(_) => told.recv_timeout(patience).unwrap_or_else(|error| match error {
            mpsc::RecvTimeoutError::Timeout => {
                Finding::no(format!("no answer within {} s", patience.as_secs()), "look at what it waits for")
            }
            mpsc::RecvTimeoutError::Disconnected => Finding::no(
                "the check itself failed",
                "run with -v and report this as an error of iommu-bench",
            ),
        }),
        Err(error) => Finding::no(format!("no thread to check on ({error})"), "raise `ulimit -u`"),
    };
    let Finding { state, detail, remedy } = finding;
    Checked { name: check.name, state, detail, enables: check.enables, remedy }
}

/// A small file's text without the white space around it.
fn read(path: &str) -> Result<String, String> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(text.trim().to_owned()),
        Err(error) => Err(format!("{path}: {error}")),
    }
}

/// The names in a folder, in order; none when it cannot be read.
fn names(path: &str) -> Vec<String> {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_every_check_says_what_it_is_for() {
        let mut seen = std::collections::BTreeSet::new();
        for check in checks() {
            assert!(seen.insert(check.name), "{} twice", check.name);
            assert!(!check.enables.is_empty(), "{}", check.name);
        }
    }

    #[test]
    fn a_check_that_hangs_or_panics_is_a_finding() {
        let hangs = Check {
            name: "hangs",
            enables: "x",
            look: || loop {
                thread::park()
            },
        };
        let found = examine(&hangs, Duration::from_millis(10));
        assert_eq!(found.state, State::No);
        assert!(found.detail.starts_with("no answer"), "{found:?}");
        let panics =
            Check { name: "panics", enables: "x", look: || panic!("on purpose, to see that it is caught") };
        let found = examine(&panics, PATIENCE);
        assert_eq!((found.state, found.detail.as_str()), (State::No, "the check itself failed"));
    }

    #[test]
    fn a_finding_that_is_not_yes_has_a_remedy() {
        for check in checks() {
            let found = examine(check, PATIENCE);
            assert!(!found.detail.is_empty(), "{found:?}");
            assert_eq!(found.remedy.is_empty(), found.state == State::Yes, "{found:?}");
        }
    }
}
