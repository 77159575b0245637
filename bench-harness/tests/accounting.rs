//! What a run counts through the real stack is what its parameters say, by formulas that know nothing of the drivers.

mod common;

use std::collections::BTreeMap;

use common::{count, run_json};
use iommu_workloads::{Scenario, accounting, scenario::Device};

/// Page sizes the local machine's IOMMU offers.
const PAGE_SIZE_MASK: u64 = !0xfff;

/// Runs the matrix with these settings and compares every count that the formulas give.
fn check(packets: u64, settings: &[&str]) {
    check_scenario("netperf-matrix", packets, settings);
}

/// As [`check`], for any scenario.
fn check_scenario(name: &str, packets: u64, settings: &[&str]) {
    let store = tempfile::tempdir().unwrap();
    let mut scenario = Scenario::built_in(name).unwrap();
    let n = packets.to_string();
    let mut args = vec![name, "--packets", &n];
    // Neither lazy mode's timer nor a full ring is a function of the parameters.
    for setting in settings.iter().chain(&["flush_ms=1000", "iommu_ring_size=4096"]) {
        scenario.set(setting).unwrap();
        args.extend(["--set", setting]);
    }
    let run = run_json(store.path(), &args);
    let specs: BTreeMap<String, _> =
        scenario.expand().unwrap().into_iter().map(|case| (case.id.clone(), case)).collect();
    let cases = run["cases"].as_array().unwrap();
    assert_eq!(cases.len(), specs.len());
    for case in cases {
        let spec = &specs[case["id"].as_str().unwrap()];
        let expected = accounting::expected(spec, packets, PAGE_SIZE_MASK).unwrap();
        for (name, value) in expected.counts.named() {
            // The peer verifies what the guest transmits: in a result both ends are counted.
            let both = name == "bytes_verified" && spec.test.device() == Device::Nic;
            let value = if both { expected.counts.bytes_moved } else { value };
            // Not derived here: how often a full ring was met, what was reported; kicks of the endpoint follow below.
            if !["ring_full", "faults_reported", "kicks_endpoint"].contains(&name) {
                assert_eq!(count(case, name), Some(value), "{name} of {}", spec.id);
            }
        }
        if let Some(kicks) = expected.kicks_endpoint {
            assert_eq!(count(case, "kicks_endpoint"), Some(kicks), "kicks_endpoint of {}", spec.id);
        }
        assert_eq!(
            count(case, "ring_full"),
            Some(0),
            "the formulas hold while the ring never fills: {}",
            spec.id
        );
    }
}

#[test]
fn matrix() {
    check(300, &[]);
}

#[test]
fn several_flows_and_recycled_pages() {
    check(300, &["flows=3", "rx_recycle=0.5", "window_bytes=1M", "message_bytes=64,16K"]);
}

#[test]
fn jumbo_frames_without_segmentation_and_sparse_acks() {
    check(300, &["mtu=9000", "tso_bytes=8948", "ack_every=4", "message_bytes=16K"]);
}

#[test]
fn short_flush_queue() {
    check(300, &["flush_entries=16", "message_bytes=1448"]);
}

#[test]
fn more_packets_than_a_slice_holds() {
    check(20_500, &["tests=TCP_RR", "modes=off,strict", "message_bytes=1"]);
}

#[test]
fn storms_of_mappings() {
    check_scenario("map-storm", 1000, &["threads=1"]);
}

#[test]
fn dma_engines_and_churn() {
    check_scenario("dma-throughput", 200, &["guest_memory_mib=64"]);
    check_scenario("iotlb-churn", 4000, &["working_set_pages=16,256"]);
}

#[test]
fn disks() {
    for name in ["fio-randread-4k", "fio-randread-64k", "fio-randwrite-4k", "fio-randwrite-64k"] {
        check_scenario(name, 300, &["disk_mib=4"]);
    }
}
