//! Fuzzing with cargo-fuzz, on the pinned toolchain.

use std::{io, path::Path, process::Command};

use thiserror::Error;

/// The targets of `dev/fuzz/`.
const TARGETS: [&str; 9] =
    ["ring", "requests", "state", "sites", "pci", "vfio_user", "nvme", "sysfs", "tracefs"];

/// How long, and what.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Seconds for each target
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Only this target
    #[arg(long, value_parser = clap::builder::PossibleValuesParser::new(TARGETS))]
    target: Option<String>,
    /// Stop each target after this many executions, too
    #[arg(long)]
    runs: Option<u64>,
}

/// Why fuzzing failed.
#[derive(Debug, Error)]
pub(crate) enum FuzzError {
    #[error("cargo-fuzz is not installed; install it with: cargo install cargo-fuzz")]
    NotInstalled,
    #[error("cannot run cargo: {0}")]
    Cargo(#[from] io::Error),
    #[error("target {target} failed; the input is in dev/fuzz/artifacts/{target}")]
    Failed { target: String },
}

pub(crate) fn run(root: &Path, options: &Options) -> Result<(), FuzzError> {
    let version = cargo().args(["fuzz", "--version"]).output()?;
    if !version.status.success() {
        return Err(FuzzError::NotInstalled);
    }
    for target in
        TARGETS.into_iter().filter(|target| options.target.as_deref().is_none_or(|only| only == *target))
    {
        println!("fuzz target {target}, {} s", options.seconds);
        let mut command = cargo();
        // Fuzzers need coverage instrumentation, which the stable compiler hides behind this variable.
        command.current_dir(root).env("RUSTC_BOOTSTRAP", "1");
        // What is found goes to a scratch corpus; the kept one is only read. `-Cpanic=abort` is cargo-fuzz's own.
        let scratch = format!("target/fuzz-corpus/{target}");
        std::fs::create_dir_all(root.join(&scratch))?;
        command.args([
            "fuzz",
            "run",
            "--fuzz-dir",
            "dev/fuzz",
            "--sanitizer",
            "none",
            target,
            &scratch,
            &format!("dev/fuzz/corpus/{target}"),
        ]);
        command.args([
            "--",
            &format!("-max_total_time={}", options.seconds),
            "-print_final_stats=1",
            "-max_len=4096",
        ]);
        command.args(options.runs.map(|runs| format!("-runs={runs}")));
        if !command.status()?.success() {
            return Err(FuzzError::Failed { target: target.to_owned() });
        }
    }
    Ok(())
}

/// The cargo in the path rather than this process's, so that its own subcommands are found.
fn cargo() -> Command {
    Command::new("cargo")
}
