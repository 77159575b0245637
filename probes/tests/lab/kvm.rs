//! A guest with known exits, under the lab's own KVM.

use std::collections::BTreeMap;

use iommu_probes::{Filter, Group, ProbeSet, Snapshot};
use kvm_payload::{DOORBELL_ADDRESS, Exits, MMIO_ADDRESS, Payload};

use crate::{Check, during, nothing_lost};

pub(crate) const CHECKS: &[Check] = &[("kvm_exits_by_reason_are_exact", kvm_exits_by_reason_are_exact)];

const PAYLOADS: [Payload; 3] = [
    Payload { cpuids: 0, halts: 0, port_writes: 0, mmio_writes: 0, mmio_reads: 0, doorbells: 0 },
    Payload { cpuids: 51, halts: 7, port_writes: 0, mmio_writes: 33, mmio_reads: 0, doorbells: 11 },
    Payload { cpuids: 500, halts: 100, port_writes: 700, mmio_writes: 300, mmio_reads: 200, doorbells: 90 },
];

fn kvm_exits_by_reason_are_exact() {
    for payload in PAYLOADS {
        let filter = Filter { tgid: Some(std::process::id()), ..Filter::default() };
        let probes = ProbeSet::builder().groups([Group::Kvm]).filter(filter).start();
        assert!(probes.skipped().is_empty(), "{:?}", probes.skipped());
        let (seen, exits) = during(&probes, || payload.run().unwrap());
        check(&seen, &payload, &exits);
    }
}

fn check(seen: &Snapshot, payload: &Payload, exits: &Exits) {
    nothing_lost(seen);
    let by_reason = latencies(seen, "kvm_exit");
    let count = |reason: &str| by_reason.get(reason).copied().unwrap_or(0);
    let faults = counts(seen, "kvm_page_fault");
    let faults_at = |address: u32| faults.get(&format!("{address:#x}")).copied().unwrap_or(0);
    eprintln!("{payload:?}: exits {by_reason:?}, page faults {faults:?}");
    // AMD's name and Intel's; the processor has one of the two.
    assert_eq!(count("IOIO") + count("IO_INSTRUCTION"), u64::from(payload.port_writes));
    assert_eq!(count("CPUID"), u64::from(payload.cpuids));
    // Nothing follows the last one: its pair has no end.
    assert_eq!(count("HLT"), u64::from(payload.halts));
    let all = seen.probe("kvm_exit").unwrap();
    assert_eq!(all.unmatched(), 1, "{:?}", all.tally);
    assert_eq!(all.total(), all.tally.seen + 1);
    // Every access to an address without memory leaves the guest: as a page fault, or on Intel's as a marked entry from
    // the second one on.
    assert_eq!(count("NPF") + count("EPT_VIOLATION"), faults.values().sum::<u64>());
    let accesses = payload.mmio_writes + payload.mmio_reads + payload.doorbells;
    let faulted = faults_at(MMIO_ADDRESS) + faults_at(DOORBELL_ADDRESS);
    assert_eq!(faulted + count("EPT_MISCONFIG"), u64::from(accesses));
    let expected = ["IOIO", "IO_INSTRUCTION", "CPUID", "HLT", "NPF", "EPT_VIOLATION", "EPT_MISCONFIG"];
    let interrupts = ["INTR", "EXTERNAL_INTERRUPT", "PREEMPTION_TIMER"];
    let known = |reason: &&String| expected.iter().chain(&interrupts).any(|known| known == reason);
    assert!(by_reason.keys().all(|reason| known(&reason)), "{by_reason:?}");
    assert_eq!(by_reason.values().sum::<u64>(), all.tally.seen);
    assert_eq!(seen.probe("kvm_userspace_exit").unwrap().total(), exits.to_userspace());
    assert_eq!(counts(seen, "kvm_userspace_exit").get("HLT"), Some(&u64::from(payload.halts + 1)));
}

fn latencies(seen: &Snapshot, name: &str) -> BTreeMap<String, u64> {
    let probe = seen.probe(name).unwrap();
    probe.histograms.iter().map(|(key, one)| (probe.key_name(key), one.count())).collect()
}

fn counts(seen: &Snapshot, name: &str) -> BTreeMap<String, u64> {
    let probe = seen.probe(name).unwrap();
    probe.counts.iter().map(|(key, count)| (probe.key_name(key), count.count)).collect()
}
