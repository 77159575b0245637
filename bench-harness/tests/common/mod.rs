//! The command under test.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]
#![allow(clippy::print_stderr, reason = "a test that cannot run here says so")]

use std::path::Path;

use assert_cmd::Command;
use serde_json::Value;

/// `iommu-bench` with no colour forced and no terminal.
pub fn bench() -> Command {
    let mut command = Command::cargo_bin("iommu-bench").unwrap();
    command.env_remove("NO_COLOR").env_remove("CLICOLOR_FORCE").env_remove("RUST_BACKTRACE");
    command
}

/// Builds the helper program `name` of `package` beside `iommu-bench`, unless it is there: `cargo test --workspace` builds
/// it, `cargo test -p iommu-bench` does not.
pub fn build_helper(package: &str, name: &str) {
    let beside = Path::new(env!("CARGO_BIN_EXE_iommu-bench")).with_file_name(name);
    if !beside.exists() {
        let cargo = std::process::Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--locked", "--package", package, "--bin", name])
            .status()
            .unwrap();
        assert!(cargo.success() && beside.exists(), "{}", beside.display());
    }
}

/// What a command did.
pub struct Outcome {
    /// Exit code.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// Runs `iommu-bench args`.
pub fn outcome(args: &[&str]) -> Outcome {
    outcome_with(args, &[])
}

/// Runs `iommu-bench args` with these environment variables.
pub fn outcome_with(args: &[&str], variables: &[(&str, &str)]) -> Outcome {
    let output = bench().args(args).envs(variables.iter().copied()).output().unwrap();
    Outcome {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Runs `iommu-bench run args --json --out store` and returns the run; it must succeed.
pub fn run_json(store: &Path, args: &[&str]) -> Value {
    let (run, outcome) = try_run_json(store, args);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    run
}

/// As [`run_json`], whatever the exit code.
pub fn try_run_json(store: &Path, args: &[&str]) -> (Value, Outcome) {
    try_run_json_with(store, args, &[])
}

/// As [`try_run_json`], with these environment variables.
pub fn try_run_json_with(store: &Path, args: &[&str], variables: &[(&str, &str)]) -> (Value, Outcome) {
    let mut all = vec!["run"];
    all.extend(args);
    all.extend(["--json", "--out", store.to_str().unwrap()]);
    let outcome = outcome_with(&all, variables);
    let run = serde_json::from_str(&outcome.stdout)
        .unwrap_or_else(|error| panic!("{error} in {:?}\n{}", outcome.stdout, outcome.stderr));
    (run, outcome)
}

/// The cases of a run that have this mode and test.
pub fn cases<'r>(run: &'r Value, mode: &str, test: &str) -> Vec<&'r Value> {
    let all = run["cases"].as_array().unwrap();
    all.iter().filter(|case| case["mode"] == mode && case["test"] == test).collect()
}

/// A count of a case; absent counts are `None`.
pub fn count(case: &Value, name: &str) -> Option<u64> {
    case["counts"].get(name).map(|n| n.as_u64().unwrap())
}

/// Whether the lab can be had here; says so when it cannot.
pub fn lab() -> bool {
    let out = outcome(&["lab", "--prepare"]);
    assert!(matches!(out.code, 0 | 3), "{}", out.stderr);
    if out.code == 3 {
        iommu_equipment::missing(iommu_equipment::Equipment::Lab, out.stderr.trim());
    }
    out.code == 0
}
