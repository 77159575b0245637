//! Runs keep a profile of themselves and what the processor counted.

#![allow(clippy::print_stderr, reason = "skipped tests say so")]

mod common;

use std::{fs, path::PathBuf};

use common::run_json;
use serde_json::Value;

const HARDWARE: [&str; 4] =
    ["cycles_per_packet", "instructions_per_packet", "dtlb_misses_per_packet", "llc_misses_per_packet"];

fn folder(store: &tempfile::TempDir, run: &Value) -> PathBuf {
    store.path().join(run["run_id"].as_str().unwrap())
}

#[test]
fn the_profile_names_the_devices_functions_and_is_in_the_report() {
    let store = tempfile::tempdir().unwrap();
    let run = run_json(store.path(), &["netperf-strict", "--modes", "strict", "--duration", "2s"]);
    let skipped = run["probes"]["skipped"].as_array().unwrap();
    if let Some(why) = skipped.iter().find(|probe| probe["name"] == "profile") {
        iommu_equipment::missing(iommu_equipment::Equipment::PerfEvents, &why["reason"]);
        return;
    }
    let attached = run["probes"]["attached"].as_array().unwrap();
    let profile = attached.iter().find(|probe| probe["name"] == "profile").expect("attached or skipped");
    assert_eq!(profile["kind"], "perf_event");
    assert!(run["probes"]["lost"]["profile"].is_u64());
    let folder = folder(&store, &run);
    let folded = fs::read_to_string(folder.join("profile.folded")).unwrap();
    let samples: u64 =
        folded.lines().map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap()).sum();
    assert_eq!(run["probes"]["profile"]["samples"], samples);
    assert!(folded.contains("virtio_iommu::"), "no function of the device in\n{folded}");
    let svg = fs::read_to_string(folder.join("profile.svg")).unwrap();
    assert!(
        svg.contains("virtio_iommu::") && svg.contains("netperf-strict"),
        "the flame graph has the names"
    );
    let report = fs::read_to_string(folder.join("report.html")).unwrap();
    assert!(report.contains("data:image/svg+xml,") && report.contains("Where the time goes"));
}

#[test]
fn without_probes_there_is_no_profile() {
    let store = tempfile::tempdir().unwrap();
    let args = ["netperf-strict", "--modes", "strict", "--duration", "200ms", "--probes", "off"];
    let run = run_json(store.path(), &args);
    assert!(!folder(&store, &run).join("profile.svg").exists());
    assert!(run["probes"]["attached"].as_array().unwrap().is_empty());
}

#[test]
fn the_processors_counts_are_there_or_have_a_reason() {
    let store = tempfile::tempdir().unwrap();
    let run = run_json(store.path(), &["netperf-strict", "--modes", "strict", "--duration", "200ms"]);
    for case in run["cases"].as_array().unwrap() {
        for name in HARDWARE {
            let metric = &case["metrics"][name];
            if metric["value"].is_null() {
                assert!(!metric["reason"].as_str().unwrap().is_empty(), "{name}: {metric}");
            } else {
                assert!(
                    metric["value"].as_f64().unwrap() > 0.0 && metric["unit"] == "1/packet",
                    "{name}: {metric}"
                );
            }
        }
    }
}
