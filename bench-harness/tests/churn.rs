//! IOTLB churn: what the modelled IOTLB counts is what the mode and the parameters imply.

mod common;

use common::{cases, count, run_json};
use serde_json::Value;

/// Transfers, and after how many of them a page is mapped anew.
const TRANSFERS: u64 = 8000;
const REMAP_EVERY: u64 = 16;

/// The case with so large a working set.
fn sized<'r>(run: &'r Value, mode: &str, pages: u64) -> &'r Value {
    let all = cases(run, mode, "IOTLB_CHURN");
    all.into_iter().find(|case| case["params"]["working_set_pages"] == pages).unwrap()
}

fn iotlb(case: &Value, name: &str) -> u64 {
    count(case, &format!("iotlb_{name}")).unwrap_or_else(|| panic!("no iotlb_{name} in {}", case["id"]))
}

#[test]
fn invalidations_are_exactly_what_strict_and_lazy_imply() {
    let store = tempfile::tempdir().unwrap();
    let transfers = TRANSFERS.to_string();
    // A timer that never fires leaves the queue's length as the only reason to flush.
    let args = ["iotlb-churn", "--packets", &transfers, "--set", "flush_ms=1000"];
    let run = run_json(store.path(), &args);
    let unmaps = TRANSFERS / REMAP_EVERY;
    for pages in [16, 64, 256, 1024, 4096, 16384] {
        let strict = sized(&run, "strict", pages);
        let lazy = sized(&run, "lazy", pages);
        for case in [strict, lazy] {
            assert_eq!(count(case, "dma_unmaps"), Some(unmaps), "{}", case["id"]);
            assert_eq!(iotlb(case, "lookups"), iotlb(case, "hits") + iotlb(case, "misses"));
            // Each page maps by itself, so a miss is a fill, and an entry leaves by an UNMAP or for another.
            assert_eq!(iotlb(case, "fills"), iotlb(case, "misses"), "{}", case["id"]);
            assert_eq!(iotlb(case, "flushes"), 0, "{}", case["id"]);
            assert!(iotlb(case, "invalidations") <= unmaps, "{}", case["id"]);
        }
        // Strict waits for every page it takes away; lazy for one in each full queue of 256.
        assert_eq!(count(strict, "invalidations"), Some(unmaps));
        assert_eq!(count(lazy, "invalidations"), Some((unmaps - 1) / 256));
    }
}

#[test]
fn misses_grow_once_the_working_set_is_larger_than_the_iotlb() {
    let store = tempfile::tempdir().unwrap();
    let transfers = TRANSFERS.to_string();
    let args =
        ["iotlb-churn", "--packets", &transfers, "--set", "iotlb_entries=256", "--set", "iotlb_ways=16"];
    let run = run_json(store.path(), &args);
    for mode in ["strict", "lazy"] {
        let ratio = |pages| {
            let case = sized(&run, mode, pages);
            iotlb(case, "misses") as f64 / iotlb(case, "lookups") as f64
        };
        // What fits misses for what was mapped anew only; nothing goes to make room.
        assert_eq!(iotlb(sized(&run, mode, 64), "evictions"), 0, "{mode}");
        assert!(iotlb(sized(&run, mode, 4096), "evictions") > TRANSFERS / 2, "{mode}");
        assert!(ratio(64) * 4.0 < ratio(4096) && ratio(4096) < 0.5, "{mode}: {} {}", ratio(64), ratio(4096));
        // In strict mode a page that was mapped anew misses once: it, and the first uses, are all there is.
        let fits = sized(&run, mode, 16);
        let reused = TRANSFERS / REMAP_EVERY;
        assert!(iotlb(fits, "misses") <= reused + 16 + 8, "{mode}: {}", iotlb(fits, "misses"));
    }
}

#[test]
fn without_an_iotlb_its_counts_are_absent_rather_than_zero() {
    let store = tempfile::tempdir().unwrap();
    let run = run_json(store.path(), &["iotlb-churn", "--packets", "100", "--set", "working_set_pages=16"]);
    for case in run["cases"].as_array().unwrap() {
        let translates = case["mode"] != "identity";
        assert_eq!(count(case, "iotlb_lookups").is_some(), translates, "{}", case["id"]);
        let metric = &case["metrics"]["modelled_iotlb_misses_per_packet"];
        assert_eq!(metric.is_object(), translates, "{}", case["id"]);
    }
    let run = run_json(
        store.path(),
        &["iotlb-churn", "--packets", "100", "--set", "working_set_pages=16", "--set", "iotlb_entries=0"],
    );
    for case in run["cases"].as_array().unwrap() {
        assert_eq!(count(case, "iotlb_lookups"), None, "{}", case["id"]);
    }
}

/// `churn.json` of the only run in a store.
fn churn(store: &std::path::Path) -> Value {
    let mut entries = std::fs::read_dir(store).unwrap().map(|entry| entry.unwrap().path());
    let folder = entries.find(|path| path.join("run.json").is_file()).unwrap();
    let page = std::fs::read_to_string(folder.join("report.html")).unwrap();
    assert!(page.contains("id=\"churn\"") && page.contains("Miss ratio against capacity (modelled)"));
    serde_json::from_str(&std::fs::read_to_string(folder.join("churn.json")).unwrap()).unwrap()
}

#[test]
fn the_recorded_stream_has_the_invalidations_of_the_mode_and_the_misses_of_the_device() {
    let transfers = TRANSFERS.to_string();
    let run = |store: &std::path::Path| {
        let mut args = vec!["iotlb-churn", "--packets", &transfers, "--set", "flush_ms=1000"];
        for set in ["working_set_pages=64,1024", "iotlb_entries=256", "iotlb_ways=16"] {
            args.extend(["--set", set]);
        }
        run_json(store, &args)
    };
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let result = run(first.path());
    let churn_of = churn(first.path());
    assert_eq!(
        (&churn_of["schema"], &churn_of["run_id"]),
        (&"iommu-bench/churn/1".into(), &result["run_id"])
    );
    for (case, stored) in
        result["cases"].as_array().unwrap().iter().zip(churn_of["cases"].as_array().unwrap())
    {
        assert_eq!(stored["case"], case["id"]);
        if case["mode"] == "identity" {
            assert_eq!(stored["reason"], "nothing is translated in mode identity");
            assert!(case["metrics"].get("modelled_miss_ratio").is_none());
            continue;
        }
        let recording = &stored["recording"];
        let (counted, modelled) = (&recording["counted"], &recording["modelled"]);
        // One page goes every 16 transfers; in lazy mode the requests for some of them are still queued at the end.
        let expected = recording["packets"].as_u64().unwrap() / REMAP_EVERY;
        let queued = if case["mode"] == "lazy" { 32 } else { 1 };
        let invalidations = counted["invalidations"].as_u64().unwrap();
        assert!(expected.abs_diff(invalidations) <= queued, "{}: {invalidations} {expected}", case["id"]);
        assert_eq!(modelled["capacity_entries"], 256);
        let ratio = modelled["miss_ratio"].as_f64().unwrap();
        // The model has no sets and saw another stretch of the stream than the device's IOTLB, of the same kind.
        let device = iotlb(case, "misses") as f64 / iotlb(case, "lookups") as f64;
        assert!((ratio - device).abs() < 0.03, "{}: modelled {ratio}, counted {device}", case["id"]);
        let metric = case["metrics"]["modelled_miss_ratio"]["value"].as_f64().unwrap();
        assert!((metric - ratio).abs() < 1e-3, "{metric} {ratio}");
        let windows = counted["windows"].as_array().unwrap();
        let window = counted["window_accesses"].as_u64().unwrap();
        assert!(counted["accesses"].as_u64().unwrap().abs_diff(windows.len() as u64 * window) <= window);
    }
    run(second.path());
    assert_eq!(churn_of["cases"], churn(second.path())["cases"], "the same seed records the same stream");
}

#[test]
fn recording_is_left_out_when_asked_and_says_why_there_is_none() {
    let store = tempfile::tempdir().unwrap();
    let run = run_json(store.path(), &["map-storm", "--packets", "100", "--set", "threads=1"]);
    let folder = store.path().join(run["run_id"].as_str().unwrap());
    let churn = std::fs::read_to_string(folder.join("churn.json")).unwrap();
    assert!(churn.contains("accesses nothing"), "{churn}");
    let store = tempfile::tempdir().unwrap();
    let run = run_json(store.path(), &["netperf-strict", "--packets", "100", "--churn", "0"]);
    assert!(!store.path().join(run["run_id"].as_str().unwrap()).join("churn.json").exists());
    for case in run["cases"].as_array().unwrap() {
        assert!(case["metrics"].get("modelled_miss_ratio").is_none());
    }
    let out = common::outcome(&["run", "netperf-strict", "--churn", "lots"]);
    assert_eq!(out.code, 2);
    assert!(out.stderr.contains("such as 128K"), "{}", out.stderr);
}
