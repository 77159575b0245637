//! The lab's NVMe disk and VFIO's own cost, through the command.

#![allow(clippy::print_stderr, reason = "a test that cannot run here says so")]

mod common;

use std::path::Path;

use common::{lab, outcome, run_json};
use serde_json::Value;

/// Where the lab's disk is.
const DISK: &str = "0000:00:10.0";

fn cases(run: &Value) -> &Vec<Value> {
    run["cases"].as_array().unwrap()
}

fn count(case: &Value, name: &str) -> u64 {
    case["counts"][name].as_u64().unwrap_or_else(|| panic!("{} lacks {name}: {}", case["id"], case["counts"]))
}

#[test]
fn tests_of_disks_and_engines_run_on_a_real_disk() {
    if !lab() {
        return;
    }
    let store = tempfile::tempdir().unwrap();
    let mut args = vec!["fio-randread-4k", "--machine", "lab", "--endpoint", "passthrough"];
    args.extend(["--allow-writes", DISK, "--duration", "80ms", "--modes", "off,strict", "--probes", "off"]);
    for set in [
        "tests=FIO_RANDREAD,FIO_RANDWRITE,IOTLB_CHURN",
        "disk_mib=1",
        "guest_memory_mib=32",
        "FIO_RANDWRITE.block_bytes=64K",
        "FIO_RANDWRITE.frag_bytes=4096",
        "FIO_RANDWRITE.queue_depth=8",
        "FIO_RANDWRITE.ring_size=256",
        "IOTLB_CHURN.transfer_bytes=4K",
        "IOTLB_CHURN.dma_direction=read",
        "IOTLB_CHURN.working_set_pages=64",
        "IOTLB_CHURN.remap_every=16",
    ] {
        args.extend(["--set", set]);
    }
    let run = run_json(store.path(), &args);
    assert_eq!(cases(&run).len(), 6, "three tests, two modes");
    for case in cases(&run) {
        let (id, counts) = (&case["id"], &case["counts"]);
        assert_eq!(case["params"]["device"], DISK, "{id}");
        assert!(count(case, "packets") > 0 && count(case, "bytes_verified") > 0, "{id}: {counts}");
        let (packets, maps) = (count(case, "packets"), count(case, "dma_maps"));
        match case["test"].as_str().unwrap() {
            "FIO_RANDREAD" => assert_eq!(maps, packets, "{id}: one piece"),
            "FIO_RANDWRITE" => assert_eq!(maps, 16 * packets, "{id}: sixteen pieces, behind a list"),
            _ => assert!((maps * 16).abs_diff(packets) < 16 * 8, "{id}: {maps} maps of {packets} transfers"),
        }
        if case["mode"] == "strict" {
            assert_eq!(count(case, "requests_map"), count(case, "vfio_maps"), "{id}");
            assert_eq!(count(case, "vfio_bytes_mapped"), count(case, "vfio_bytes_unmapped"), "{id}");
            assert_eq!(count(case, "faults"), 0, "{id}");
        }
    }
}

#[test]
fn a_disk_is_not_written_to_unless_it_is_named() {
    if !lab() {
        return;
    }
    // As on metal: the command itself, inside. Another device's address allows nothing.
    let command = ["run", "fio-randwrite-4k", "--endpoint", "passthrough", "--bind"];
    let out = outcome(&[&["lab", "--"], &command[..], &["--allow-writes", "0000:00:02.0"]].concat());
    assert_eq!(out.code, 2, "{}", out.stderr);
    assert!(out.stderr.contains(&format!("--allow-writes {DISK}")), "{}", out.stderr);
}

#[test]
fn vfios_own_cost_has_pinning_split_out() {
    if !lab() {
        return;
    }
    let store = tempfile::tempdir().unwrap();
    let args = ["vfio-map", "--machine", "lab", "--duration", "200ms", "--set", "map_bytes=2M"];
    let run = run_json(store.path(), &args);
    assert_eq!(cases(&run).len(), 3, "three kinds of pages");
    let figure = |case: &Value, name: &str| -> f64 {
        case["metrics"][name]["value"]
            .as_f64()
            .unwrap_or_else(|| panic!("{}: {}", case["id"], case["metrics"]))
    };
    for case in cases(&run) {
        let (id, bytes) = (&case["id"], case["params"]["map_bytes"].as_u64().unwrap());
        let cycles = count(case, "packets");
        assert!(cycles > 0, "{id}");
        assert_eq!(count(case, "vfio_maps"), 2 * cycles, "{id}");
        assert_eq!(count(case, "vfio_bytes_mapped"), 2 * cycles * bytes, "{id}");
        assert_eq!(count(case, "vfio_bytes_unmapped"), 2 * cycles * bytes, "{id}");
        for histogram in ["vfio_map_latency", "vfio_remap_latency", "vfio_unmap_latency"] {
            assert_eq!(case["histograms"][histogram]["count"], cycles, "{id}: {histogram}");
        }
        let share = figure(case, "vfio_pin_share") + figure(case, "vfio_unpin_share");
        assert!(share > 0.0 && share < 1.0, "{id}: {share}");
        assert!(figure(case, "vfio_pin_time") > 0.0 && figure(case, "vfio_unpin_time") > 0.0, "{id}");
    }
}

#[test]
fn without_vfio_it_is_a_missing_prerequisite() {
    if Path::new("/dev/vfio/vfio").exists() {
        iommu_equipment::missing(
            iommu_equipment::Equipment::Optional,
            "this machine has VFIO, so that nothing is missing",
        );
        return;
    }
    let store = tempfile::tempdir().unwrap();
    for (args, code, says) in [
        (&["vfio-map"][..], 3, "--machine lab"),
        (&["vfio-map", "--bind"], 3, "--machine lab"),
        (&["fio-randread-4k", "--endpoint", "passthrough"], 3, "--machine lab"),
        (&["vfio-map", "--endpoint", "emulated"], 2, "its endpoint is passthrough"),
        (&["vfio-map", "--modes", "strict"], 2, "its mode is off"),
        (&["vfio-map", "--packets", "10"], 2, "--duration"),
        (&["fio-randread-4k", "--allow-writes", "disk"], 2, "0000:01:00.0"),
        (&["fio-randread-4k", "--allow-in-use", "disk"], 2, "0000:01:00.0"),
        (&["iotlb-churn", "--endpoint", "passthrough"], 2, "transfer_bytes=4K"),
        (&["dma-throughput", "--endpoint", "passthrough", "--set", "transfer_bytes=4K"], 2, "neighbour=none"),
    ] {
        let mut line = vec!["run"];
        line.extend(args);
        let folder = store.path().to_str().unwrap();
        line.extend(["--out", folder]);
        let out = outcome(&line);
        assert_eq!(out.code, code, "{args:?}: {}", out.stderr);
        assert!(out.stderr.contains(says), "{args:?}: {}", out.stderr);
    }
}
