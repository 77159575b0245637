//! What of the catalogue a distribution's kernel takes, and how.

use iommu_probes::{Group, Kind, ProbeSet, catalogue};

use crate::Check;

pub(crate) const CHECKS: &[Check] = &[
    ("every_probe_attaches_as_well_as_can_be", every_probe_attaches_as_well_as_can_be),
    ("functions_of_the_kernel_also_take_breakpoints", functions_of_the_kernel_also_take_breakpoints),
];

/// Other hardware's drivers, and functions that the compiler is free to merge into their callers.
const MAY_BE_MISSING: [&str; 5] =
    ["smmu_cmdq_issue", "viommu_send_reqs_sync", "iommufd_ioctl", "dmar_fault_do_one", "vfio_sync_unpin"];

/// The best kind for what a probe is on: the kernel itself, or a module.
fn best(name: &str) -> &'static str {
    match catalogue::named(name).unwrap().group {
        Group::Kvm => "tracepoint",
        Group::Vfio if name != "pin_user_pages_remote" => "kprobe+kretprobe",
        _ if name.starts_with("dma_") || name.ends_with("_event") || name == "qi_submit" => "tp_btf",
        _ if name == "io_page_fault" => "tp_btf",
        _ if name.starts_with("dmar_fault") => "fentry",
        _ => "fentry+fexit",
    }
}

fn every_probe_attaches_as_well_as_can_be() {
    let probes = ProbeSet::builder().groups(Group::ALL).start();
    for skipped in probes.skipped() {
        eprintln!("skipped {}: {}", skipped.name, skipped.reason);
        assert!(MAY_BE_MISSING.contains(&skipped.name), "{}: {}", skipped.name, skipped.reason);
    }
    for attached in probes.attached() {
        eprintln!("attached {} to {} as {}", attached.name, attached.target, attached.kind());
        assert_eq!(attached.kind(), best(attached.name), "{}", attached.name);
    }
    assert_eq!(probes.attached().len() + probes.skipped().len(), catalogue::all().count());
}

fn functions_of_the_kernel_also_take_breakpoints() {
    let names = ["iommu_map", "iommu_unmap", "iommu_unmap_fast", "qi_submit_sync", "dmar_fault"];
    let definitions = names.map(|name| catalogue::named(name).unwrap());
    let probes =
        ProbeSet::builder().definitions(definitions).only_kinds([Kind::Kprobe, Kind::Kretprobe]).start();
    assert!(probes.skipped().is_empty(), "{:?}", probes.skipped());
    for attached in probes.attached() {
        let single = attached.name == "dmar_fault";
        assert_eq!(attached.kind(), if single { "kprobe" } else { "kprobe+kretprobe" }, "{}", attached.name);
    }
}
