//! Model checkers and sanitizers over the lock-free code.

use std::{io, path::Path, process::Command};

use thiserror::Error;

/// How far the models go.
#[derive(clap::Args)]
pub(crate) struct LoomOptions {
    /// Preemptions loom explores in every model (default: 4, and 2 in the models of three threads)
    #[arg(long)]
    preemptions: Option<usize>,
}

/// How many schedules.
#[derive(clap::Args)]
pub(crate) struct ShuttleOptions {
    /// Random schedules, each of a history of its own
    #[arg(long, default_value_t = 100_000)]
    schedules: u64,
}

/// Why a checker failed.
#[derive(Debug, Error)]
pub(crate) enum ModelError {
    #[error("cannot run cargo: {0}")]
    Cargo(#[from] io::Error),
    #[error("{checker} found something; its output is above")]
    Found { checker: &'static str },
}

/// Tests of the device crate that run under `cfg`, with a target directory of their own.
fn tests(root: &Path, cfg: &str, filter: &str) -> Command {
    let mut command = Command::new("cargo");
    command
        .current_dir(root)
        .env("RUSTFLAGS", format!("--cfg {cfg}"))
        // A panic inside a model unwinds through a coroutine's stack, which backtraces do not survive.
        .env("RUST_BACKTRACE", "0")
        .args(["test", "--package", "virtio-iommu", "--lib", "--locked", "--target-dir"])
        .args([&format!("target/{cfg}"), filter, "--", "--nocapture"]);
    command
}

fn judge(mut command: Command, checker: &'static str) -> Result<(), ModelError> {
    if command.status()?.success() { Ok(()) } else { Err(ModelError::Found { checker }) }
}

/// Every execution of every model, within the bound.
pub(crate) fn loom(root: &Path, options: &LoomOptions) -> Result<(), ModelError> {
    let mut command = tests(root, "loom", "models::");
    if let Some(preemptions) = options.preemptions {
        command.env("LOOM_MAX_PREEMPTIONS", preemptions.to_string());
    }
    judge(command, "loom")
}

/// Longer histories under random schedules.
pub(crate) fn shuttle(root: &Path, options: &ShuttleOptions) -> Result<(), ModelError> {
    let mut command = tests(root, "shuttle", "histories::");
    command.env("SHUTTLE_SCHEDULES", options.schedules.to_string());
    judge(command, "shuttle")
}

/// Miri and ThreadSanitizer where a nightly toolchain has them; says so where it has not.
pub(crate) fn sanitizers(root: &Path) -> Result<(), ModelError> {
    if succeeds(Command::new("cargo").args(["+nightly", "miri", "setup"])) {
        let mut command = Command::new("cargo");
        command
            .current_dir(root)
            .env("MIRIFLAGS", "-Zmiri-disable-isolation -Zmiri-permissive-provenance")
            .args(["+nightly", "miri", "test", "--package", "virtio-iommu", "--lib", "--target-dir"])
            .args(["target/miri", "epoch", "a_huge_unaligned", "a_mapping_can_end"]);
        judge(command, "Miri")?;
    } else {
        println!("# not run: Miri (no nightly toolchain with miri and rust-src)");
    }
    if nightly_has_sources() {
        let mut command = Command::new("cargo");
        command
            .current_dir(root)
            .env("RUSTFLAGS", "-Zsanitizer=thread")
            .args(["+nightly", "test", "-Zbuild-std", "--target", "x86_64-unknown-linux-gnu"])
            .args(["--package", "virtio-iommu", "--target-dir", "target/tsan", "--lib", "histories::"]);
        judge(command, "ThreadSanitizer")?;
    } else {
        println!("# not run: ThreadSanitizer (no nightly toolchain with rust-src)");
    }
    Ok(())
}

fn nightly_has_sources() -> bool {
    let Ok(output) = Command::new("rustc").args(["+nightly", "--print", "sysroot"]).output() else {
        return false;
    };
    let sysroot = String::from_utf8_lossy(&output.stdout);
    output.status.success() && Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/std").is_dir()
}

fn succeeds(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}
