//! The lab, booted: the same counts inside as outside, and what happens when it breaks.

mod common;

use std::{
    process::{Command, Stdio},
    time::Duration,
};

use common::{bench, lab, outcome, run_json};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// A QEMU of the lab whose work folder is gone or whose parent died would be found here.
fn labs_running(parent: u32) -> usize {
    let list = Command::new("ps").args(["-o", "pid=", "--ppid", &parent.to_string()]).output().unwrap();
    String::from_utf8_lossy(&list.stdout).lines().count()
}

#[test]
fn counts_inside_are_those_outside() {
    if !lab() {
        return;
    }
    let store = tempfile::tempdir().unwrap();
    let args = ["netperf-strict", "--packets", "300", "--seed", "7", "--set", "flows=2"];
    let outside = run_json(store.path(), &args);
    let inside = run_json(store.path(), &[&args[..], &["--machine", "lab"]].concat());
    assert_eq!(inside["machine"], "lab");
    assert_eq!(outside["machine"], "local");
    assert!(inside["warnings"].to_string().contains("counts exact, times not hardware's"), "{inside}");
    let counts = |run: &serde_json::Value| -> Vec<_> {
        let cases = run["cases"].as_array().unwrap();
        cases.iter().map(|case| (case["id"].clone(), case["counts"].clone())).collect()
    };
    assert!(counts(&outside).iter().any(|(_, counts)| counts["requests_map"].as_u64() > Some(0)));
    assert_eq!(counts(&inside), counts(&outside));
    let folder = store.path().join(inside["run_id"].as_str().unwrap());
    let console = std::fs::read_to_string(folder.join("console.log")).unwrap();
    assert!(console.contains("DMAR: Intel(R) Virtualization Technology for Directed I/O"), "{console}");
    assert!(folder.join("report.html").is_file());
}

#[test]
fn the_same_load_runs_on_emulated_and_real_cards() {
    if !lab() {
        return;
    }
    let store = tempfile::tempdir().unwrap();
    let args = [
        "netperf-strict",
        "--machine",
        "lab",
        "--endpoint",
        "all",
        "--duration",
        "1s",
        "--set",
        "guest_memory_mib=64",
    ];
    let run = run_json(store.path(), &args);
    let cases = run["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 8, "two tests, two modes, two endpoints");
    for case in cases {
        let (id, counts) = (&case["id"], &case["counts"]);
        assert!(counts["packets"].as_u64() > Some(0), "{id}: {counts}");
        assert!(counts["bytes_verified"].as_u64() > Some(0), "{id}: payloads are verified: {counts}");
        assert_eq!(case["params"]["tso_bytes"], 1448, "{id}: both endpoints do the same work");
        let real = case["endpoint"] == "passthrough";
        assert_eq!(case["params"].get("device").is_some(), real, "{id}");
        let strict = case["mode"] == "strict";
        if !(real && strict) {
            assert!(
                case["histograms"].get("vfio_map_latency").is_none(),
                "{id}: nothing is mapped packet by packet"
            );
            continue;
        }
        // A TCP_RR message and its buffers are less than a page each, and no mapping of the load is larger than two.
        for (requests, calls, histogram) in [
            ("requests_map", "vfio_maps", "vfio_map_latency"),
            ("requests_unmap", "vfio_unmaps", "vfio_unmap_latency"),
        ] {
            assert_eq!(counts[requests], counts[calls], "{id}: each request is one call into VFIO");
            assert_eq!(case["histograms"][histogram]["count"], counts[calls], "{id}");
        }
        assert_eq!(counts["faults"], 0, "{id}");
    }
    assert!(run["warnings"].to_string().contains("do not segment"), "{}", run["warnings"]);
}

#[test]
fn an_iommu_that_is_off_is_named_with_the_remedy() {
    if !lab() {
        return;
    }
    // The command inside is what one would give on any host.
    let run = ["--", "run", "netperf-strict", "--endpoint", "passthrough", "--bind", "--out", "/tmp"];
    let out = outcome(&[&["lab", "--kernel-args", "intel_iommu=off"], &run[..]].concat());
    assert_eq!(out.code, 3, "{}", out.stderr);
    for words in ["no IOMMU group", "boot with intel_iommu=on"] {
        assert!(out.stderr.contains(words), "{}", out.stderr);
    }
}

#[test]
fn a_kernel_that_panics_is_shown_with_its_last_words() {
    if !lab() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let kept = folder.path().to_str().unwrap();
    let out = outcome(&["lab", "--kernel-args", "rdinit=/nonexistent", "--keep", kept, "--", "list"]);
    assert_eq!(out.code, 4, "{}", out.stderr);
    assert!(out.stderr.contains("while booting"), "{}", out.stderr);
    assert!(out.stderr.contains("panic"), "the console's tail: {}", out.stderr);
    assert!(folder.path().join("console.log").is_file());
    assert!(!folder.path().join("initramfs.cpio").exists(), "large files go");
}

#[test]
fn an_interrupt_keeps_what_was_measured_inside() {
    if !lab() {
        return;
    }
    let store = tempfile::tempdir().unwrap();
    // assert_cmd's command cannot be left running.
    let mut run = Command::new(bench().get_program());
    run.args(["run", "netperf-strict", "--duration", "60s", "--machine", "lab", "--json", "--out"])
        .arg(store.path())
        .env("IOMMU_BENCH_PROGRESS_LINES", "1")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = run.spawn().unwrap();
    wait_for_slices(child.stderr.take().unwrap());
    kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).unwrap();
    let id = child.id();
    let out = child.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(130));
    assert_eq!(labs_running(id), 0);
    let run: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(run["partial"], true);
    assert!(run["cases"][0]["counts"]["packets"].as_u64() > Some(0), "{run}");
}

/// Reads progress until some slices are done, then goes on reading aside, so that nobody is kept waiting.
fn wait_for_slices(stderr: std::process::ChildStderr) {
    use std::io::{BufRead, BufReader};
    let (sender, seen) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            if line.contains("slice 3") {
                let _ = sender.send(());
            }
        }
    });
    seen.recv_timeout(Duration::from_secs(180)).expect("the run inside makes progress");
}

#[test]
fn what_is_no_kernel_or_no_qemu_is_a_missing_prerequisite() {
    let cache = tempfile::tempdir().unwrap();
    let cache = cache.path().to_str().unwrap();
    for (option, file, named) in [
        ("--qemu", "/nonexistent/qemu", "/nonexistent/qemu cannot be run"),
        ("--qemu", "/bin/true", "--qemu PATH"),
        ("--lab-cache", "/dev/null/x", "--lab-cache DIR"),
    ] {
        let cache = if option == "--lab-cache" { &[][..] } else { &["--lab-cache", cache] };
        let mut args = vec!["run", "netperf-strict", "--machine", "lab", option, file];
        args.extend(cache);
        args.extend(["--out", "/tmp"]);
        let out = outcome(&args);
        assert_eq!(out.code, 3, "{option} {file}: {}", out.stderr);
        assert!(out.stderr.contains(named), "{option} {file}: {}", out.stderr);
        assert!(out.stderr.contains("hint:"), "{}", out.stderr);
    }
}
