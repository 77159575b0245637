//! `run --probes`: what is attached is accounted for, the breakdown agrees with the device, and nothing stops a run that
//! cannot attach anything.

#![allow(clippy::print_stderr, reason = "a test that cannot run says so")]

use std::{
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::Path,
    process::Command,
};

use serde_json::Value;

fn run(store: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("iommu-bench"));
    command.args(["run", "netperf-strict", "--json", "--out"]).arg(store).args(more);
    if !more.contains(&"--packets") {
        command.arg("--quick");
    }
    command
}

fn json(command: &mut Command) -> Value {
    let output = command.output().expect("the program starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{errors}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {errors}"))
}

/// False, loudly, where no program can be loaded; the reason is the run's own.
fn can_attach(run: &Value) -> bool {
    let attached = run["probes"]["attached"].as_array().expect("a list");
    if attached.is_empty() {
        iommu_equipment::missing(
            iommu_equipment::Equipment::Ebpf,
            format_args!("no probe attached: {}", run["probes"]["skipped"]),
        );
    }
    !attached.is_empty()
}

/// As root: every request that driver and device counted was followed, and its parts add up.
#[test]
fn the_breakdown_agrees_with_the_devices_counters() {
    let store = tempfile::tempdir().expect("a folder");
    let run = json(&mut run(store.path(), &["--probes", "on"]));
    if !can_attach(&run) {
        return;
    }
    let probes = &run["probes"];
    let sites = &probes["sites"];
    assert_eq!(sites["skipped"], Value::Null, "{sites}");
    assert_eq!(sites["lost"], 0, "{sites}");
    let breakdown = probes["breakdown"].as_array().expect("a list");
    let kinds: Vec<&str> = breakdown.iter().filter_map(|one| one["request"].as_str()).collect();
    for kind in ["map", "unmap"] {
        let cases =
            run["cases"].as_array().expect("a list").iter().filter(|case| case["mode"] == "strict").count();
        assert!(kinds.iter().filter(|one| **one == kind).count() >= cases, "{kind} in each case: {kinds:?}");
    }
    for one in breakdown {
        let requests = one["requests"].as_u64().expect("a number");
        assert!(requests > 0);
        assert_eq!(one["requests"], one["counted"], "{}: {}", one["case"], one["request"]);
        assert_eq!(one["whole"]["count"], one["requests"]);
        let error = one["error"].as_f64().expect("a number");
        assert!(error.abs() < 1e-9, "the parts are off by {error}");
        let shares: f64 = one["parts"]
            .as_array()
            .expect("a list")
            .iter()
            .filter(|part| part["name"] != "noticed")
            .filter_map(|part| part["share"].as_f64())
            .sum();
        assert!((shares - 1.0).abs() < 1e-9, "{shares}");
    }
    let unmap = breakdown.iter().find(|one| one["request"] == "unmap").expect("seen above");
    let grace = unmap["parts"].as_array().into_iter().flatten().find(|part| part["name"] == "grace");
    assert_eq!(
        grace.expect("strict mode waits")["histogram"]["count"],
        unmap["requests"],
        "one for each UNMAP"
    );
}

/// With exact amounts too: `--packets` fixes what the device does, so the totals are those of the parameters.
#[test]
fn exact_runs_have_an_exact_breakdown() {
    let store = tempfile::tempdir().expect("a folder");
    let run = json(&mut run(store.path(), &["--probes", "on", "--packets", "100", "--modes", "strict"]));
    let skipped = &run["probes"]["skipped"][0];
    assert!(skipped["reason"].as_str().is_some_and(|reason| reason.contains("--packets")), "{skipped}");
    if run["probes"]["sites"]["skipped"].is_string() {
        iommu_equipment::missing(iommu_equipment::Equipment::Ebpf, &run["probes"]["sites"]["skipped"]);
        return;
    }
    let stream = run["cases"].as_array().into_iter().flatten().find(|case| case["test"] == "TCP_STREAM");
    let stream = stream.expect("netperf-strict has one");
    // The pass has four slices with the sites; each does what the measured one did.
    let in_the_run = |kind: &str| stream["counts"][format!("requests_{kind}")].as_u64().expect("a count");
    let breakdown = run["probes"]["breakdown"].as_array().expect("a list");
    for kind in ["map", "unmap"] {
        let one = breakdown.iter().find(|one| one["request"] == kind && one["case"] == stream["id"]);
        let one = one.unwrap_or_else(|| panic!("no {kind}: {breakdown:?}"));
        assert_eq!(one["requests"], one["counted"]);
        assert_eq!(one["requests"].as_u64(), Some(4 * in_the_run(kind)), "{kind}");
    }
}

#[test]
fn probes_off_attaches_nothing() {
    let store = tempfile::tempdir().expect("a folder");
    let run = json(&mut run(store.path(), &["--probes", "off", "--modes", "strict"]));
    assert_eq!(run["probes"]["attached"], serde_json::json!([]));
    assert_eq!(run["probes"]["skipped"][0]["reason"], "switched off with --probes off");
    assert!(run["probes"].get("overhead").is_none());
}

/// What attached probes cost is measured by the run itself, in alternating rounds.
#[test]
fn attached_probes_measure_their_own_overhead() {
    let store = tempfile::tempdir().expect("a folder");
    let run = json(&mut run(store.path(), &["--modes", "strict"]));
    if !can_attach(&run) {
        return;
    }
    let overhead = &run["probes"]["overhead"];
    let [low, high] = [0, 1].map(|at| overhead["ci"][at].as_f64().expect("a number"));
    let ratio = overhead["ratio"].as_f64().expect("a number");
    assert!(low <= ratio && ratio <= high && low > 0.0, "{overhead}");
    let attached = run["probes"]["attached"].as_array().expect("a list");
    // The profile is no counting probe: it lies beside the run.
    let counting = attached.iter().filter(|one| one["name"] != "profile").count();
    assert_eq!(run["probes"]["data"].as_array().map(Vec::len), Some(counting), "one entry each");
    for probe in run["probes"]["data"].as_array().into_iter().flatten() {
        let count = |name: &str| probe[name].as_u64().expect("a number");
        assert_eq!(count("seen") + count("unmatched") + count("lost"), count("count"), "{probe}");
    }
}

/// Another user's run goes on without probes, and says in one line what would change that.
#[test]
fn without_permission_the_run_goes_on() {
    let store = tempfile::tempdir().expect("a folder");
    let mut command = run(store.path(), &["--modes", "strict", "--probes", "on"]);
    // As root, as somebody else; otherwise as oneself.
    if std::fs::metadata(store.path())
        .is_ok_and(|metadata| std::os::unix::fs::MetadataExt::uid(&metadata) == 0)
    {
        let anybody = std::fs::Permissions::from_mode(0o777);
        std::fs::set_permissions(store.path(), anybody).expect("it is ours");
        const NOBODY: u32 = 65534;
        command.uid(NOBODY).gid(NOBODY);
        if !command.output().is_ok_and(|output| output.status.success()) {
            iommu_equipment::missing(
                iommu_equipment::Equipment::Optional,
                "the program's folder is closed to user nobody",
            );
            return;
        }
    }
    let run = json(&mut command);
    if run["probes"]["attached"].as_array().is_some_and(|attached| !attached.is_empty()) {
        iommu_equipment::missing(iommu_equipment::Equipment::Optional, "this user may load eBPF programs");
        return;
    }
    let warnings: Vec<&str> =
        run["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let about: Vec<_> = warnings.iter().filter(|warning| warning.contains("kernel probes")).collect();
    assert_eq!(about.len(), 1, "one line for all of them: {warnings:?}");
    assert!(about[0].contains("run as root"), "{about:?}");
    assert!(run["probes"]["sites"]["skipped"].as_str().is_some_and(|why| why.contains("run as root")));
}
