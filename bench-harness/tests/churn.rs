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
