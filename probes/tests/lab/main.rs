//! Probes where every kind works: this program boots the lab with itself as the only program inside, and there attaches
//! the whole catalogue and drives what the probes watch.
//!
//! It is its own test runner: outside it boots, inside it runs the checks, all in one boot. `cargo test -p iommu-probes
//! --test lab -- NAME` runs those checks whose names contain NAME.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a test runner")]

mod catalogue;
mod kvm;
mod vfio;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
};

use iommu_lab::{Event, Job, Machine, Sources, guest, job, session};
use iommu_probes::{ProbeSet, Snapshot};

/// A check and its name.
type Check = (&'static str, fn());

fn main() -> ExitCode {
    if guest::is_first_process() {
        guest::main();
    }
    let wanted: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let mut checks = [catalogue::CHECKS, kvm::CHECKS, vfio::CHECKS].concat();
    checks.retain(|(name, _)| wanted.is_empty() || wanted.iter().any(|word| name.contains(word)));
    if job::inside().is_some() { inside(&checks) } else { outside(&checks) }
}

fn outside(checks: &[Check]) -> ExitCode {
    if checks.is_empty() {
        return ExitCode::SUCCESS;
    }
    let lab = match iommu_lab::prepare(&Sources::default(), &mut |what| eprintln!("lab: {what}")) {
        Ok(lab) => lab,
        Err(error) => {
            iommu_equipment::missing(iommu_equipment::Equipment::Lab, error);
            return ExitCode::SUCCESS;
        }
    };
    let folder = tempfile::tempdir().unwrap();
    let program = std::env::current_exe().unwrap();
    let job = Job { args: checks.iter().map(|(name, _)| (*name).to_owned()).collect(), ..Job::default() };
    let mut event = |event: Event<'_>| {
        if let Event::Stderr(bytes) = event {
            eprint!("{}", String::from_utf8_lossy(bytes));
        }
    };
    match session::run(&lab, &Machine::default(), &program, &job, folder.path(), &|| false, &mut event) {
        Ok(ended) => {
            print!("{}", String::from_utf8_lossy(&ended.stdout));
            u8::try_from(ended.code).map_or(ExitCode::FAILURE, ExitCode::from)
        }
        Err(error) => {
            println!("test booting ... FAILED\n{error}\n\ntest result: FAILED. 0 passed; 1 failed;");
            ExitCode::FAILURE
        }
    }
}

fn inside(checks: &[Check]) -> ExitCode {
    let mut failed = 0;
    println!("running {} tests", checks.len());
    for (name, check) in checks {
        let passed = catch_unwind(AssertUnwindSafe(check)).is_ok();
        failed += usize::from(!passed);
        println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
    }
    let word = if failed == 0 { "ok" } else { "FAILED" };
    println!("\ntest result: {word}. {} passed; {failed} failed;", checks.len() - failed);
    ExitCode::from(u8::from(failed > 0))
}

/// What `probes` see while something is done.
fn during<T>(probes: &ProbeSet, work: impl FnOnce() -> T) -> (Snapshot, T) {
    let before = probes.snapshot().unwrap();
    let done = work();
    (probes.snapshot().unwrap().since(&before), done)
}

/// No event is missing for lack of room.
fn nothing_lost(seen: &Snapshot) {
    for probe in &seen.probes {
        assert_eq!((probe.lost(), probe.missed), (0, 0), "{}", probe.definition.name);
    }
}
