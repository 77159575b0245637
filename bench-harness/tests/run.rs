//! Runs through the whole stack, as the command does them.

mod common;

use std::path::Path;

use common::{bench, cases, count, outcome, run_json, try_run_json};
use iommu_results::metric;
use serde_json::Value;

/// Folders of complete runs in a store.
fn stored(store: &Path) -> Vec<std::path::PathBuf> {
    let Ok(entries) = std::fs::read_dir(store) else { return Vec::new() };
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .filter(|path| path.is_dir() && !path.file_name().unwrap().to_string_lossy().starts_with('.'))
        .collect()
}

#[test]
fn json_is_the_stored_run_and_follows_the_schema() {
    let store = tempfile::tempdir().unwrap();
    let out = outcome(&[
        "run",
        "netperf-strict",
        "--duration",
        "400ms",
        "--seed",
        "5",
        "--json",
        "--out",
        store.path().to_str().unwrap(),
    ]);
    assert_eq!(out.code, 0, "{}", out.stderr);
    let folders = stored(store.path());
    assert_eq!(folders.len(), 1);
    assert_eq!(out.stdout, std::fs::read_to_string(folders[0].join("run.json")).unwrap());
    assert!(folders[0].join("report.html").is_file());

    let run: Value = serde_json::from_str(&out.stdout).unwrap();
    assert_eq!(run["schema"], "iommu-bench/run/1");
    assert_eq!(run["run_id"].as_str(), folders[0].file_name().unwrap().to_str());
    assert_eq!((&run["scenario"], &run["machine"]), (&"netperf-strict".into(), &"local".into()));
    assert_eq!((&run["seed"], &run["partial"]), (&5.into(), &false.into()));
    assert!(run["environment"].is_object() && run["warnings"].is_array() && run["revision"].is_string());
    // What can be attached depends on who runs the tests; whatever cannot says why.
    let (attached, skipped) =
        (run["probes"]["attached"].as_array().unwrap(), run["probes"]["skipped"].as_array().unwrap());
    assert!(attached.len() + skipped.len() > 0);
    assert!(attached.iter().all(|one| ["name", "kind", "target"].iter().all(|key| one[*key].is_string())));
    assert!(
        skipped
            .iter()
            .all(|one| one["name"].is_string() && one["reason"].as_str().is_some_and(|why| !why.is_empty()))
    );
    assert!(run["probes"]["lost"].is_object());
    assert_eq!(run["cases"].as_array().unwrap().len(), 4);
    for case in run["cases"].as_array().unwrap() {
        let main = if case["test"] == "TCP_RR" { "transactions" } else { "throughput" };
        for name in [main, "cpu_per_packet"] {
            let metric = &case["metrics"][name];
            let (lo, hi) = (metric["ci"][0].as_f64().unwrap(), metric["ci"][1].as_f64().unwrap());
            let value = metric["value"].as_f64().unwrap();
            assert!(lo <= value && value <= hi && value > 0.0, "{name}: {metric}");
            assert_eq!((&metric["level"], &metric["n"]), (&0.99.into(), &8.into()));
        }
        assert!(case["params"]["service"] != "auto", "the service in use is recorded");
        assert_eq!(count(case, "bytes_moved"), count(case, "bytes_verified"));
        assert!(case["histograms"]["dma_latency"]["count"].as_u64().unwrap() > 0);
    }
    for test in ["TCP_STREAM", "TCP_RR"] {
        let strict = cases(&run, "strict", test)[0];
        for name in ["map_latency", "unmap_latency", "request_service", "grace_wait"] {
            let histogram = &strict["histograms"][name];
            assert_eq!(histogram["unit"], "ns", "{test} {name}");
            assert!(histogram["count"].as_u64().unwrap() > 0, "{test} {name}");
        }
    }
    let relative = run["relative"].as_array().unwrap();
    assert_eq!(relative.len(), 4, "two tests, two metrics each");
    for entry in relative {
        assert!(entry["case"].as_str().unwrap().contains("/strict/"), "{entry}");
        assert!(entry["baseline"].as_str().unwrap().contains("/off/"), "{entry}");
        let ratio = entry["ratio"].as_f64().unwrap();
        assert!(entry["ci"][0].as_f64().unwrap() <= ratio && ratio <= entry["ci"][1].as_f64().unwrap());
    }
}

#[test]
fn summary_is_plain_text_of_80_columns_with_the_reports_path() {
    let store = tempfile::tempdir().unwrap();
    let out = outcome(&["run", "netperf-strict", "--quick", "--out", store.path().to_str().unwrap()]);
    assert_eq!(out.code, 0, "{}", out.stderr);
    assert!(!out.stdout.contains('\u{1b}'), "no terminal, no colour");
    let report = out.stdout.lines().find_map(|line| line.strip_prefix("Report: ")).unwrap();
    assert!(Path::new(report).is_file());
    let too_long: Vec<_> = out.stdout.lines().filter(|line| line.chars().count() > 80).collect();
    assert!(too_long.iter().all(|line| line.starts_with("Report: ")), "{too_long:?}");
}

#[test]
fn quiet_prints_nothing_and_every_run_has_its_own_folder() {
    let store = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let args =
            ["run", "netperf-strict", "--packets", "50", "--quiet", "--out", store.path().to_str().unwrap()];
        let out = outcome(&args);
        assert_eq!((out.code, out.stdout.as_str(), out.stderr.as_str()), (0, "", ""));
    }
    assert_eq!(stored(store.path()).len(), 2);
}

#[test]
fn same_seed_same_counts_byte_for_byte() {
    let store = tempfile::tempdir().unwrap();
    let counts = |seed: &str| {
        let args = ["netperf-matrix", "--packets", "500", "--seed", seed];
        let run = run_json(store.path(), &args);
        let cases = run["cases"].as_array().unwrap();
        let recorded = |case: &Value| case["metrics"]["modelled_miss_ratio"].to_string();
        let all: Vec<_> = cases
            .iter()
            .map(|case| (case["id"].clone(), case["counts"].to_string(), recorded(case)))
            .collect();
        (all, run)
    };
    let (first, run) = counts("11");
    let (second, _) = counts("11");
    assert_eq!(first, second);
    for case in run["cases"].as_array().unwrap() {
        for (name, metric) in case["metrics"].as_object().unwrap() {
            if !metric::series(name).unwrap().is_timing() {
                // Counted or modelled: no clock takes part, so they repeat as well.
                continue;
            }
            assert!(
                metric["value"].is_null() && metric["reason"].as_str().unwrap().contains("virtual"),
                "{metric}"
            );
        }
        assert_eq!(case["params"]["service"], "inline");
    }
    assert!(run["relative"].as_array().unwrap().is_empty());
}

#[test]
fn off_and_identity_send_no_requests() {
    let store = tempfile::tempdir().unwrap();
    let run = run_json(store.path(), &["netperf-matrix", "--modes", "off,identity", "--packets", "500"]);
    for case in run["cases"].as_array().unwrap() {
        for name in ["requests_map", "requests_unmap", "invalidations", "kicks_iommu"] {
            assert_eq!(count(case, name).unwrap_or(0), 0, "{name} of {}", case["id"]);
        }
        assert!(count(case, "packets").unwrap() >= 500, "{}", case["id"]);
    }
}

#[test]
fn strict_waits_for_every_unmapped_buffer() {
    let store = tempfile::tempdir().unwrap();
    let run = run_json(store.path(), &["netperf-matrix", "--modes", "strict", "--packets", "500"]);
    for case in run["cases"].as_array().unwrap() {
        let unmaps = count(case, "dma_unmaps").unwrap();
        assert!(unmaps > 0, "{}", case["id"]);
        assert_eq!(count(case, "invalidations").unwrap(), unmaps, "{}", case["id"]);
        assert_eq!(count(case, "faults"), Some(0), "{}", case["id"]);
    }
}

#[test]
fn lazy_flushes_at_256_entries() {
    let store = tempfile::tempdir().unwrap();
    // A timer that never fires within the run leaves the queue's length as the only reason to flush.
    let args = ["netperf-lazy", "--modes", "lazy", "--packets", "1000", "--set", "flush_ms=1000"];
    let run = run_json(store.path(), &args);
    for case in run["cases"].as_array().unwrap() {
        let (unmaps, flushes) = (count(case, "dma_unmaps").unwrap(), count(case, "invalidations").unwrap());
        assert_eq!(count(case, "flushes_timer"), Some(0), "{}", case["id"]);
        // The flush happens when 256 are held back and one more comes.
        assert_eq!(flushes, (unmaps - 1) / 256, "{}: {unmaps} unmaps", case["id"]);
        assert!(flushes > 0, "{}", case["id"]);
    }
}

#[test]
fn every_service_mode_moves_verified_bytes() {
    let store = tempfile::tempdir().unwrap();
    for service in ["inline", "thread", "poll"] {
        let set = format!("service={service}");
        let run = run_json(store.path(), &["netperf-strict", "--duration", "160ms", "--set", &set]);
        for case in run["cases"].as_array().unwrap() {
            assert_eq!(case["params"]["service"], service);
            let moved = count(case, "bytes_moved").unwrap();
            assert!(moved > 0, "{service} {}", case["id"]);
            assert_eq!(count(case, "bytes_verified"), Some(moved), "{service} {}", case["id"]);
        }
    }
}

#[test]
fn store_that_cannot_be_written_is_named_and_the_summary_still_printed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a-file");
    std::fs::write(&file, "in the way").unwrap();
    for store in [file.as_path(), Path::new("/proc/no-such-store")] {
        let store = store.to_str().unwrap();
        let out = outcome(&["run", "netperf-strict", "--quick", "--out", store]);
        assert_eq!(out.code, 4, "{}", out.stderr);
        assert!(out.stderr.contains(store), "{}", out.stderr);
        assert!(out.stdout.contains("netperf-strict on local"), "{}", out.stdout);
        let (run, out) = try_run_json(Path::new(store), &["netperf-strict", "--packets", "50"]);
        assert_eq!(out.code, 4, "{}", out.stderr);
        assert_eq!(run["partial"], false);
    }
}

#[test]
fn report_is_made_again_byte_for_byte() {
    let store = tempfile::tempdir().unwrap();
    run_json(store.path(), &["netperf-strict", "--duration", "160ms"]);
    let folder = stored(store.path()).remove(0);
    let page = folder.join("report.html");
    let before = std::fs::read(&page).unwrap();
    std::fs::write(&page, "scribbled over").unwrap();
    let name = folder.file_name().unwrap();
    let out = bench().arg("report").arg(name).arg("--out").arg(store.path()).output().unwrap();
    assert_eq!(out.status.code(), Some(0), "{}", String::from_utf8_lossy(&out.stderr));
    assert!(before == std::fs::read(&page).unwrap(), "the report differs");
    std::fs::write(folder.join("run.json"), "{}").unwrap();
    let out = bench().arg("report").arg(&folder).output().unwrap();
    assert_eq!(out.status.code(), Some(4));
    assert!(String::from_utf8_lossy(&out.stderr).contains("run.json"));
}

#[test]
fn every_slice_is_kept_and_the_means_are_those_of_the_slices() {
    let store = tempfile::tempdir().unwrap();
    let run = run_json(store.path(), &["netperf-strict", "--duration", "80ms"]);
    let stored = iommu_results::Store::load(store.path().join(run["run_id"].as_str().unwrap())).unwrap();
    assert_eq!(stored.verify().unwrap(), iommu_results::Integrity::Verified);
    let series = stored.series().unwrap().expect("a run has its slices");
    assert_eq!(series.cases.len(), stored.run.cases.len());
    for case in &stored.run.cases {
        for (name, metric) in
            case.metrics.iter().filter(|(name, _)| metric::series(name).unwrap().is_timing())
        {
            // A counter that the processor does not have has neither value nor slices.
            let Some(value) = metric.value() else {
                assert!(series.of(&case.id, name).is_none(), "{} {name}", case.id);
                continue;
            };
            let slices = series.of(&case.id, name).unwrap();
            let rounds: Vec<u32> = slices.slices.iter().map(|slice| slice.round).collect();
            assert_eq!(rounds, (0..8).collect::<Vec<_>>(), "{} {name}", case.id);
            assert!(slices.slices.is_sorted_by(|a, b| a.at_ns < b.at_ns));
            let mean = slices.values().iter().sum::<f64>() / 8.0;
            assert!((mean / value - 1.0).abs() < 1e-9, "{} {name}", case.id);
        }
        for (name, summary) in &case.histograms {
            let means = series.of(&case.id, name).unwrap().values();
            let (low, high) = (summary.min as f64, summary.max as f64 + 1.0);
            assert!(means.iter().all(|mean| (low..=high).contains(mean)), "{} {name}: {means:?}", case.id);
        }
    }
}
