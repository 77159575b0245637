//! `doctor`, as whoever runs the tests and as nobody.

#![allow(clippy::print_stderr, reason = "skipped tests say so")]

mod common;

use std::process::Command;

use common::outcome;
use serde_json::Value;

const STATES: [&str; 3] = ["yes", "limited", "no"];

/// The checks by name, after everything the schema promises was looked at.
fn checks(json: &str) -> Vec<(String, String)> {
    let report: Value = serde_json::from_str(json).unwrap();
    assert_eq!(report["schema"], "iommu-bench/doctor/1");
    let list = report["checks"].as_array().unwrap();
    let text = |check: &Value, key: &str| {
        check[key].as_str().unwrap_or_else(|| panic!("{key} in {check}")).to_owned()
    };
    let examine = |check: &Value| {
        let (name, state) = (text(check, "name"), text(check, "state"));
        assert!(STATES.contains(&state.as_str()), "{check}");
        assert!(!text(check, "detail").is_empty() && !text(check, "enables").is_empty(), "{check}");
        assert_eq!(text(check, "remedy").is_empty(), state == "yes", "{check}");
        (name, state)
    };
    list.iter().map(examine).collect()
}

fn state<'a>(checks: &'a [(String, String)], name: &str) -> &'a str {
    &checks.iter().find(|(found, _)| found == name).unwrap_or_else(|| panic!("no check {name}")).1
}

#[test]
fn every_capability_is_in_the_json() {
    let outcome = outcome(&["doctor", "--json"]);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let checks = checks(&outcome.stdout);
    for name in [
        "kvm",
        "vfio",
        "iommufd",
        "btf",
        "bpf_tp_btf",
        "bpf_fentry",
        "bpf_tracepoint",
        "bpf_kprobe",
        "pmu",
        "lockdown",
        "capabilities",
        "unprivileged_bpf",
        "tracefs",
        "hugepages",
        "clock",
        "membarrier",
        "memlock",
        "qemu",
    ] {
        state(&checks, name);
    }
    assert_eq!(state(&checks, "sites"), "yes", "the command has its trace points");
}

#[test]
fn the_table_fits_eighty_columns() {
    let outcome = outcome(&["doctor"]);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    // A path or version without spaces may be longer than a line; it is not broken.
    let long: Vec<_> = outcome
        .stdout
        .lines()
        .filter(|line| line.chars().count() > 80 && line.trim().contains(' '))
        .collect();
    assert!(long.is_empty(), "{long:#?}");
    assert!(outcome.stdout.lines().last().unwrap().contains(" limited, "));
}

/// The program as nobody: a copy, since nobody may not look into this folder.
#[test]
fn without_any_rights_it_says_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("iommu-bench");
    std::fs::copy(env!("CARGO_BIN_EXE_iommu-bench"), &program).unwrap();
    let all = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(folder.path(), all).unwrap();
    let nobody =
        ["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"];
    let Ok(output) = Command::new("setpriv").args(nobody).arg(&program).args(["doctor", "--json"]).output()
    else {
        iommu_equipment::missing(iommu_equipment::Equipment::Program, "no setpriv");
        return;
    };
    let stderr = String::from_utf8_lossy(&output.stderr);
    if stderr.starts_with("setpriv:") {
        iommu_equipment::missing(
            iommu_equipment::Equipment::Optional,
            format_args!("only root can become nobody: {}", stderr.trim()),
        );
        return;
    }
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    let checks = checks(&String::from_utf8(output.stdout).unwrap());
    assert_eq!(state(&checks, "capabilities"), "no");
    for refused in ["bpf_tp_btf", "bpf_tracepoint", "bpf_kprobe", "bpf_raw_tp"] {
        assert_eq!(state(&checks, refused), "no", "{refused}");
    }
    assert_ne!(state(&checks, "sampling"), "yes", "nobody has no kernel stacks");
}
