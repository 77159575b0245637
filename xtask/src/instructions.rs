//! Instruction counts of the hot paths, held against the numbers in `shootout/benches/instructions.rs`.
//!
//! Needs valgrind and gungraun's runner, which is installed below `target/` when it is missing. Where either cannot be had,
//! the check is reported as not run.

use std::{
    io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use thiserror::Error;

/// Why the counts could not be compared, or what they say.
#[derive(Debug, Error)]
pub(crate) enum InstructionsError {
    #[error("cannot run cargo: {0}")]
    Cargo(#[from] io::Error),
    #[error("Cargo.lock names no version of gungraun")]
    NotLocked,
    #[error("a hot path takes more instructions than shootout/benches/instructions.rs allows")]
    Regressed,
}

/// Counts and compares.
pub(crate) fn run(root: &Path) -> Result<(), InstructionsError> {
    if cfg!(not(target_arch = "x86_64")) {
        return not_run("the numbers are those of x86-64");
    }
    if !succeeds(Command::new("valgrind").arg("--version")) {
        return not_run("valgrind is not installed");
    }
    let Some(runner) = runner(root)? else {
        return not_run("gungraun-runner could not be installed (cargo install gungraun-runner)");
    };
    let status = cargo()
        .args(["bench", "--package", "iommu-shootout", "--bench", "instructions", "--locked"])
        .env("GUNGRAUN_RUNNER", runner)
        .current_dir(root)
        .status()?;
    if status.success() { Ok(()) } else { Err(InstructionsError::Regressed) }
}

/// gungraun's runner of the version that Cargo.lock names: the two only talk to their own kind.
fn runner(root: &Path) -> Result<Option<PathBuf>, InstructionsError> {
    let version = locked_version(root)?;
    let tools = root.join("target/tools").join(format!("gungraun-{version}"));
    let runner = tools.join("bin/gungraun-runner");
    if !runner.exists() {
        println!("installing gungraun-runner {version} below target/tools");
        let installed = cargo()
            .args(["install", "gungraun-runner", "--locked", "--version", &version, "--root"])
            .arg(&tools)
            .arg("--target-dir")
            .arg(root.join("target/tools/build"))
            .current_dir(root)
            .status()?;
        if !installed.success() {
            return Ok(None);
        }
    }
    Ok(Some(runner))
}

fn locked_version(root: &Path) -> Result<String, InstructionsError> {
    let lock = std::fs::read_to_string(root.join("Cargo.lock"))?;
    version_in(&lock).ok_or(InstructionsError::NotLocked)
}

fn version_in(lock: &str) -> Option<String> {
    let (_, after) = lock.split_once("name = \"gungraun\"\nversion = \"")?;
    Some(after.split_once('"')?.0.to_owned())
}

fn not_run(why: &str) -> Result<(), InstructionsError> {
    println!("# not run: instruction counts ({why})");
    Ok(())
}

fn succeeds(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_that_of_the_library_not_of_its_macros() {
        let lock = "[[package]]\nname = \"gungraun-macros\"\nversion = \"0.10.0\"\n\n[[package]]\nname = \"gungraun\"\nversion = \"0.20.0\"\n";
        assert_eq!(version_in(lock).as_deref(), Some("0.20.0"));
        assert_eq!(version_in("[[package]]\n"), None);
    }
}
