//! Instruction counts of the hot paths, held against the numbers in `dev/shootout/benches/instructions.rs`.
//!
//! The device's requests are counted twice, with its trace points (`probes/tracepoints`) and with them compiled out: the difference
//! is what they cost while nobody watches, and has a bound.
//!
//! What is counted is built by [`compiler`]'s rules, since the folder of the sources would otherwise move a count by one or
//! two in a hundred.
//!
//! Needs valgrind and gungraun's runner, which is installed below `target/` when it is missing. Where either cannot be had,
//! the check is reported as not run.

use std::{
    io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde::Deserialize;
use thiserror::Error;

use crate::compiler;

/// The crate of the benchmarks.
const BENCH: &str = "instructions";
/// The benchmark that serves requests, and how many it serves.
const REQUESTS: (&str, u64) = ("map_and_unmap_from_the_ring", 2 * 1024);

/// Most instructions that unwatched trace points may add to a request. Three sites are passed for each request and two for
/// each batch: a no-operation, the key and up to two moves of arguments each, and what the registers for them displace.
const MOST_FOR_SITES: f64 = 20.0;

/// Why the counts could not be compared, or what they say.
#[derive(Debug, Error)]
pub(crate) enum InstructionsError {
    #[error("cannot run cargo: {0}")]
    Cargo(#[from] io::Error),
    #[error("Cargo.lock names no version of gungraun")]
    NotLocked,
    #[error("a hot path takes more instructions than dev/shootout/benches/instructions.rs allows")]
    Regressed,
    #[error("gungraun's output cannot be read: {0}")]
    Output(#[from] serde_json::Error),
    #[error("gungraun reported no count of {0}")]
    NotCounted(&'static str),
    #[error("unwatched trace points add {added:.1} instructions to a request, {MOST_FOR_SITES} are allowed")]
    Sites { added: f64 },
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
    let with = count(root, &runner, &[])?;
    let without = count(root, &runner, &["--features", "sites-off"])?;
    let added = (with as f64 - without as f64) / REQUESTS.1 as f64;
    println!("trace points: {added:.1} instructions a request, at most {MOST_FOR_SITES}");
    if added > MOST_FOR_SITES { Err(InstructionsError::Sites { added }) } else { Ok(()) }
}

/// Counts everything, prints it, and returns the count of [`REQUESTS`].
fn count(root: &Path, runner: &Path, features: &[&str]) -> Result<u64, InstructionsError> {
    let mut cargo = cargo();
    let lock = std::fs::read_to_string(root.join("Cargo.lock"))?;
    compiler::rename(&mut cargo, own_crates(&lock))?;
    let output = cargo
        .args(["bench", "--package", "iommu-shootout", "--bench", BENCH, "--locked"])
        // A folder of its own: what another build left would be taken as it is.
        .args(["--target-dir", "target/instructions"])
        .args(features)
        .args(["--", "--output-format=json"])
        .env("GUNGRAUN_RUNNER", runner)
        .current_dir(root)
        .stderr(Stdio::inherit())
        .output()?;
    let counts = counts(&String::from_utf8_lossy(&output.stdout))?;
    println!("instructions{}", features.last().map_or_else(String::new, |feature| format!(" ({feature})")));
    for (name, count) in &counts {
        println!("{count:>10}  {name}");
    }
    if !output.status.success() {
        return Err(InstructionsError::Regressed);
    }
    let found = counts.into_iter().find(|(name, _)| name == REQUESTS.0);
    found.map(|(_, count)| count).ok_or(InstructionsError::NotCounted(REQUESTS.0))
}

/// A line of gungraun's output, as far as it is of interest.
#[derive(Deserialize)]
struct Summary {
    function_name: String,
    profiles: Vec<Profile>,
}

#[derive(Deserialize)]
struct Profile {
    data: Data,
}

#[derive(Deserialize)]
struct Data {
    total: Total,
}

#[derive(Deserialize)]
struct Total {
    metrics: Metrics,
}

#[derive(Deserialize)]
struct Metrics {
    #[serde(rename = "Ir")]
    instructions: Change,
}

#[derive(Deserialize)]
struct Change {
    values: Values,
}

#[derive(Deserialize)]
struct Values {
    new: u64,
}

fn counts(output: &str) -> Result<Vec<(String, u64)>, InstructionsError> {
    let lines = output.lines().filter(|line| line.starts_with('{'));
    lines
        .map(|line| {
            let Summary { function_name, profiles } = serde_json::from_str(line)?;
            let new = |profile: &Profile| profile.data.total.metrics.instructions.values.new;
            Ok((function_name, profiles.iter().map(new).sum()))
        })
        .collect()
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

/// The crates that come from no registry, and the benchmark itself.
fn own_crates(lock: &str) -> Vec<String> {
    let packages = lock.split("[[package]]\n").skip(1).filter(|package| !package.contains("\nsource = "));
    let names = packages.filter_map(|package| package.strip_prefix("name = \"")?.split('"').next());
    names.chain([BENCH]).map(|name| name.replace('-', "_")).collect()
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
    fn counts_are_those_of_this_run_not_of_the_one_before() {
        let line = r#"{"function_name":"map","id":"x","profiles":[{"data":{"parts":[],"total":{"metrics":
            {"Ir":{"change":{},"values":{"new":7,"old":9}}},"regressions":[]}}}]}"#;
        let output = format!("some text\n{}\n", line.replace('\n', ""));
        assert_eq!(counts(&output).unwrap(), [("map".to_owned(), 7)]);
        assert!(counts("{\"function_name\":1}").is_err());
    }

    #[test]
    fn crates_of_a_registry_are_not_ours() {
        let lock = "version = 4\n\n[[package]]\nname = \"a-b\"\nversion = \"1\"\n\n[[package]]\nname = \"c\"\nversion = \"1\"\nsource = \"registry\"\n";
        assert_eq!(own_crates(lock), ["a_b", "instructions"]);
    }

    #[test]
    fn the_version_is_that_of_the_library_not_of_its_macros() {
        let lock = "[[package]]\nname = \"gungraun-macros\"\nversion = \"0.10.0\"\n\n[[package]]\nname = \"gungraun\"\nversion = \"0.20.0\"\n";
        assert_eq!(version_in(lock).as_deref(), Some("0.20.0"));
        assert_eq!(version_in("[[package]]\n"), None);
    }
}
