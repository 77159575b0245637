//! `run --machine lab --probes on`: in the lab every kind of probe attaches, and what they saw comes out with the run.
//!
//! That the probes count right there is checked by `probes/tests/lab`.

mod common;

use common::{lab, run_json};
use serde_json::Value;

/// The kind that a probe is attached by; none if it is not.
fn kind<'r>(run: &'r Value, name: &str) -> Option<&'r str> {
    let attached = run["probes"]["attached"].as_array().unwrap();
    attached.iter().find(|probe| probe["name"] == name)?["kind"].as_str()
}

#[test]
fn probes_inside_the_lab_come_out_with_the_run() {
    if !lab() {
        return;
    }
    let store = tempfile::tempdir().unwrap();
    let machine = ["netperf-strict", "--machine", "lab", "--endpoint", "passthrough"];
    let run = run_json(
        store.path(),
        &[&machine[..], &["--probes", "on", "--duration", "500ms", "--modes", "strict"]].concat(),
    );
    // One of each kind: of a module, of the kernel itself, a function of each, and samples.
    for (name, expected) in [
        ("kvm_exit", "tracepoint"),
        ("iommu_map_event", "tp_btf"),
        ("iommu_map", "fentry+fexit"),
        ("vfio_iommu_type1_ioctl", "kprobe+kretprobe"),
        ("profile", "perf_event"),
    ] {
        assert_eq!(kind(&run, name), Some(expected), "{name}: {}", run["probes"]);
    }
    // Samples may be, on a machine that is slow to read them.
    let mut lost = run["probes"]["lost"].as_object().unwrap().iter().filter(|(name, _)| *name != "profile");
    assert!(lost.all(|(_, lost)| *lost == 0), "{}", run["probes"]["lost"]);
    // What the probes saw of VFIO: every ioctl was made of its parts.
    let data = run["probes"]["data"].as_array().unwrap();
    let seen = |name: &str| data.iter().find(|probe| probe["name"] == name).unwrap();
    for operation in ["IOMMU_MAP_DMA", "IOMMU_UNMAP_DMA"] {
        let count = &seen("vfio_iommu_type1_ioctl")["histograms"][operation]["count"];
        assert!(count.as_u64() > Some(0), "{operation}: {}", run["probes"]["data"]);
    }
    let [events, calls] = ["iommu_map_event", "iommu_map"].map(|name| seen(name)["count"].as_u64());
    assert_eq!(events, calls, "one call for each event");
    // Uprobes: every request of the device in the pass of its own, none missed.
    let breakdown = run["probes"]["breakdown"].as_array().unwrap();
    assert!(!breakdown.is_empty());
    for one in breakdown {
        assert_eq!(one["requests"], one["counted"], "{}: {}", one["case"], one["request"]);
    }
    let folder = store.path().join(run["run_id"].as_str().unwrap());
    let profile = std::fs::read_to_string(folder.join("profile.folded")).unwrap();
    assert!(profile.contains("iommu"), "{profile}");
    let report = std::fs::read_to_string(folder.join("report.html")).unwrap();
    assert!(report.contains("fentry+fexit"), "the report says how each is attached");
    for operation in ["MAP", "UNMAP"] {
        assert!(report.contains(&format!(" {operation}, divided")), "{operation}");
    }
}
