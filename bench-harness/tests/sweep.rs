//! `--sweep`: one run, a case for each value, curves in its report.

mod common;

use std::path::Path;

use common::{outcome, run_json};
use serde_json::Value;

fn folder(store: &Path) -> std::path::PathBuf {
    let mut entries = std::fs::read_dir(store).unwrap().map(|entry| entry.unwrap().path());
    entries.find(|path| path.join("run.json").is_file()).unwrap()
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn a_grid_is_one_run_with_a_curve_for_each_line() {
    let store = tempfile::tempdir().unwrap();
    let args = [
        "iotlb-churn",
        "--duration",
        "160ms",
        "--modes",
        "lazy,strict",
        "--sweep",
        "working_set_pages=16,64,256",
        "--sweep",
        "iotlb_entries=16,64",
    ];
    let run = run_json(store.path(), &args);
    assert_eq!(run["cases"].as_array().unwrap().len(), 3 * 2 * 2);
    let folder = folder(store.path());
    let sweep = json(&folder.join("sweep.json"));
    assert_eq!(sweep["schema"], "iommu-bench/sweep/1");
    assert_eq!(sweep["run_id"], run["run_id"]);
    assert_eq!(sweep["axes"][0], serde_json::json!({"key": "working_set_pages", "values": [16, 64, 256]}));
    assert_eq!(sweep["axes"][1]["key"], "iotlb_entries");

    let heat = json(&folder.join("heat.json"));
    assert_eq!(heat["schema"], "iommu-bench/heat/1");
    for (case, of_run) in heat["cases"].as_array().unwrap().iter().zip(run["cases"].as_array().unwrap()) {
        assert_eq!(case["case"], of_run["id"]);
        let slices = case["slices"].as_array().unwrap();
        assert_eq!(slices.len(), 8);
        let buckets = slices.iter().flat_map(|slice| slice["latency"]["map_latency"].as_array().unwrap());
        let operations: u64 = buckets.map(|bucket| bucket[1].as_u64().unwrap()).sum();
        assert_eq!(of_run["histograms"]["map_latency"]["count"], operations, "slices add up to the case");
        assert!(slices.is_sorted_by_key(|slice| slice["at_ns"].as_u64().unwrap()));
    }

    let page = std::fs::read_to_string(folder.join("report.html")).unwrap();
    let curves = page.split("<section id=\"curves\">").nth(1).unwrap().split("</section>").next().unwrap();
    // Two metrics by time and three of models, against each of the two keys, for each value of the other.
    assert_eq!(curves.matches("<svg").count(), 5 * 2 + 5 * 3);
    assert!(curves.contains("IOTLB misses per packet (modelled) against working set pages"));
}

#[test]
fn what_cannot_be_swept_is_a_usage_error_that_says_what_can() {
    for (sweep, said) in [
        ("flowz=1,2", "did you mean `flows`"),
        ("flows=1,0", "a whole number from 1 to 1024"),
        ("flows=2", "a curve needs 2"),
        ("modes=off,strict", "working_set_pages"),
        ("flows", "KEY=VALUE"),
    ] {
        let out = outcome(&["run", "netperf-strict", "--sweep", sweep]);
        assert_eq!(out.code, 2, "{sweep}: {}", out.stderr);
        assert!(out.stderr.contains(said) && out.stderr.contains("--sweep"), "{sweep}: {}", out.stderr);
    }
}
