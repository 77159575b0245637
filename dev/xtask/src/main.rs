//! `cargo xtask`: what CI runs beyond build and tests.
//!
//! - `cargo xtask calibrate` simulates how often the verdicts of `ab` are wrong and writes `docs/calibration.md`;
//! - `cargo xtask conformance` ties the specification's statements to the tests that show them and writes
//!   `docs/conformance.md`;
//! - `cargo xtask fuzz` runs the fuzz targets;
//! - `cargo xtask instructions` holds the hot paths' instruction counts against the committed ones;
//! - `cargo xtask probes` builds the eBPF objects and with `--check` compares them with the committed ones;
//! - `cargo xtask loom`, `shuttle` and `sanitizers` check the lock-free code;
//! - `cargo xtask mutants` plants the faults of `dev/xtask/mutants` and expects a test to fail with each;
//! - `cargo xtask soak` does all of that for long and writes `docs/soak.md`.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool for developers")]

mod calibrate;
mod compiler;
mod conformance;
mod fuzz;
mod instructions;
mod models;
mod mutants;
mod probes;
mod soak;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Checks beyond build and tests")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Every normative statement has a test, every test a statement, all pass; writes docs/conformance.md
    Conformance {
        /// Fail when docs/conformance.md is not up to date, instead of writing it
        #[arg(long)]
        check: bool,
    },
    /// Run the fuzz targets from their kept corpora
    Fuzz(fuzz::Options),
    /// How often the verdicts of `ab` are wrong, simulated from recorded noise; writes docs/calibration.md
    Calibrate(calibrate::Options),
    /// Instruction counts of the hot paths under callgrind; fails when one has grown
    Instructions,
    /// Build the eBPF objects in probes/object with the pinned tools
    Probes {
        /// Fail when the committed objects are not what the sources build, instead of writing them
        #[arg(long)]
        check: bool,
    },
    /// Explore every interleaving of the table's models, within a bound
    Loom(models::LoomOptions),
    /// Check concurrent histories under random schedules for linearizability
    Shuttle(models::ShuttleOptions),
    /// Plant known faults one by one: a test has to fail with each
    Mutants(mutants::Options),
    /// Run Miri and ThreadSanitizer where the toolchain has them
    Sanitizers,
    /// Everything that takes too long for every commit; writes docs/soak.md
    Soak(soak::Options),
}

fn main() -> ExitCode {
    if let Some(code) = compiler::as_compiler() {
        return code;
    }
    let root = root();
    let result = match Cli::parse().task {
        Task::Conformance { check } => conformance::run(&root, check).map_err(|error| error.to_string()),
        Task::Fuzz(options) => fuzz::run(&root, &options).map_err(|error| error.to_string()),
        Task::Calibrate(options) => calibrate::run(&root, &options).map_err(|error| error.to_string()),
        Task::Instructions => instructions::run(&root).map_err(|error| error.to_string()),
        Task::Probes { check } => probes::run(&root, check).map_err(|error| error.to_string()),
        Task::Loom(options) => models::loom(&root, &options).map_err(|error| error.to_string()),
        Task::Shuttle(options) => models::shuttle(&root, &options).map_err(|error| error.to_string()),
        Task::Mutants(options) => mutants::run(&root, &options).map_err(|error| error.to_string()),
        Task::Sanitizers => models::sanitizers(&root).map_err(|error| error.to_string()),
        Task::Soak(options) => soak::run(&root, &options).map_err(|error| error.to_string()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The workspace's folder.
fn root() -> PathBuf {
    let manifest = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    manifest.ancestors().nth(2).map_or_else(|| manifest.clone(), PathBuf::from)
}
