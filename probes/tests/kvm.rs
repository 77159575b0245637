//! On a machine with root, eBPF and KVM: the probes count exactly what a guest of our own does.

mod support;

use iommu_probes::{Filter, Group, Kind, ProbeSet, Snapshot, catalogue, common::Key};
use kvm_payload::{Exits, MMIO_ADDRESS, PORT, Payload};
use support::{needs, ready, this_thread};

const PAYLOAD: Payload =
    Payload { cpuids: 50, halts: 0, port_writes: 700, mmio_writes: 300, mmio_reads: 200, doorbells: 100 };
/// `KVM_EXIT_IO`, `KVM_EXIT_HLT`, `KVM_EXIT_MMIO`.
const IO: Key = Key { id: 2, sub: 0 };
const HLT: Key = Key { id: 5, sub: 0 };
const MMIO: Key = Key { id: 6, sub: 0 };

fn kvm_probes() -> iommu_probes::Builder {
    ProbeSet::builder().groups([Group::Kvm]).filter(Filter { tid: Some(this_thread()), ..Filter::default() })
}

/// Runs the guest while the probes watch.
fn observe(probes: &ProbeSet) -> (Snapshot, Exits) {
    let before = probes.snapshot().expect("readable");
    let exits = PAYLOAD.run().expect("KVM was tried before");
    (probes.snapshot().expect("readable").since(&before), exits)
}

#[test]
fn counts_equal_what_the_guest_did() {
    if !ready() {
        return;
    }
    let probes = kvm_probes().start();
    needs(&probes, &["kvm_pio", "kvm_mmio", "kvm_userspace_exit"]);
    let (seen, exits) = observe(&probes);

    let count = |probe: &str, key: Key| {
        seen.probe(probe).and_then(|probe| probe.counts.get(&key)).map_or(0, |count| count.count)
    };
    let out = Key { id: u64::from(PORT), sub: 1 };
    assert_eq!(count("kvm_pio", out), u64::from(PAYLOAD.port_writes));
    assert_eq!(
        seen.probe("kvm_pio").map(|pio| pio.counts[&out].sum),
        Some(u64::from(PAYLOAD.port_writes)),
        "bytes"
    );
    let at = u64::from(MMIO_ADDRESS);
    assert_eq!(count("kvm_mmio", Key { id: at, sub: 2 }), u64::from(PAYLOAD.mmio_writes));
    assert_eq!(count("kvm_mmio", Key { id: at, sub: 1 }), u64::from(PAYLOAD.mmio_reads));
    assert_eq!(count("kvm_userspace_exit", IO), exits.port_writes);
    assert_eq!(count("kvm_userspace_exit", MMIO), exits.mmio_writes + exits.mmio_reads);
    assert_eq!(count("kvm_userspace_exit", HLT), exits.halts);
    assert_eq!(seen.probe("kvm_userspace_exit").map(|all| all.total()), Some(exits.to_userspace()));
    for probe in &seen.probes {
        assert_eq!((probe.lost(), probe.missed), (0, 0), "{}", probe.definition.name);
    }
}

/// Exits that the kernel handles alone are seen by kvm_exit only, which does not fire on every KVM; exits to the VMM are
/// seen by the stand-in on all of them.
#[test]
fn the_latency_histogram_has_an_entry_for_each_exit() {
    if !ready() {
        return;
    }
    let probes = kvm_probes().start();
    needs(&probes, &[catalogue::STAND_IN]);
    let (seen, exits) = observe(&probes);
    let stand_in = seen.probe(catalogue::STAND_IN).expect("attached");
    let entries = |key| stand_in.histograms.get(&key).map_or(0, iommu_probes::LogHistogram::count);
    assert_eq!(entries(IO), exits.port_writes);
    assert_eq!(entries(MMIO), exits.mmio_writes + exits.mmio_reads);
    assert_eq!(stand_in.total(), exits.to_userspace());
    // The halt is the last exit: nothing is entered again.
    assert_eq!(stand_in.tally.seen + stand_in.unmatched() + stand_in.lost(), stand_in.total());
    assert_eq!(stand_in.unmatched(), 1);
    let io = &stand_in.histograms[&IO];
    assert!(io.quantile(0.5) > 0 && io.max() >= io.quantile(0.99), "{io:?}");

    let Some(exact) = seen.probe(catalogue::ROUND_TRIP) else {
        let skipped = probes.skipped().iter().find(|skipped| skipped.name == catalogue::ROUND_TRIP);
        iommu_equipment::missing(
            iommu_equipment::Equipment::Optional,
            &skipped.expect("attached or skipped").reason,
        );
        return;
    };
    if exact.total() == 0 {
        iommu_equipment::missing(
            iommu_equipment::Equipment::Optional,
            format_args!("kvm_exit never fires; {} stands in", catalogue::STAND_IN),
        );
    } else {
        // Interrupts of the host cause further ones.
        assert!(exact.whole().count() >= exits.to_userspace() - 1, "{:?}", exact.tally);
        assert_eq!(exact.tally.seen + exact.unmatched() + exact.lost(), exact.total());
    }
}

/// The invariant with a ring buffer too small for what happens: one page for a thousand records of 48 bytes.
#[test]
fn a_tiny_ring_buffer_loses_events_and_says_how_many() {
    if !ready() {
        return;
    }
    let mut probes = kvm_probes().ring_bytes(4096).start();
    needs(&probes, &["kvm_userspace_exit", catalogue::STAND_IN]);
    let (seen, exits) = observe(&probes);
    let mut taken = std::collections::BTreeMap::<&str, u64>::new();
    let all = probes.drain(|probe, record| {
        *taken.entry(probe.name).or_default() += 1;
        assert_eq!(record.tid, this_thread());
        assert_eq!(record.latency_ns != 0, probe.is_pair(), "{}: {record:?}", probe.name);
    });
    assert_eq!(all, taken.values().sum::<u64>());
    for probe in &seen.probes {
        let name = probe.definition.name;
        let taken = taken.get(name).copied().unwrap_or(0);
        assert_eq!(taken + probe.unmatched() + probe.lost() + probe.tally.ring_full, probe.total(), "{name}");
        assert_eq!(taken, probe.tally.ring_sent, "{name}");
    }
    let single = seen.probe("kvm_userspace_exit").expect("attached");
    assert!(single.tally.ring_full > exits.to_userspace() / 2, "too small for most: {:?}", single.tally);
    assert_eq!(single.tally.seen, exits.to_userspace(), "counts do not need the ring buffer");
}

#[test]
fn full_maps_are_counted_as_losses() {
    if !ready() {
        return;
    }
    // Room for one of the three reasons; the first exit takes it.
    let probes = kvm_probes().max_keys(1).start();
    needs(&probes, &["kvm_userspace_exit", catalogue::STAND_IN]);
    let (seen, exits) = observe(&probes);
    for name in ["kvm_userspace_exit", catalogue::STAND_IN] {
        let probe = seen.probe(name).expect("attached");
        assert_eq!(probe.total(), exits.to_userspace(), "{name}");
        assert_eq!(probe.tally.seen + probe.unmatched() + probe.lost(), probe.total(), "{name}");
        assert_eq!(probe.tally.seen, exits.port_writes, "{name}");
        assert!(probe.lost() > 0, "{name}");
    }
}

/// Each kind reads its values from another place: arguments or a record.
#[test]
fn every_kind_of_hook_counts_the_same() {
    if !ready() {
        return;
    }
    let mut tried = Vec::new();
    for kind in [Kind::TpBtf, Kind::Tracepoint] {
        let probes = kvm_probes().only_kinds([kind]).start();
        if let Some(skipped) = probes.skipped().iter().find(|skipped| skipped.name == "kvm_mmio") {
            iommu_equipment::missing(
                iommu_equipment::Equipment::Optional,
                format_args!("{kind}: {}", skipped.reason),
            );
            continue;
        }
        assert!(
            probes.attached().iter().all(|attached| attached.kind() == kind.name()),
            "{:?}",
            probes.attached()
        );
        let (seen, _) = observe(&probes);
        let counts = |name: &str| seen.probe(name).map(|probe| probe.counts.clone());
        let pairs = seen.probe(catalogue::STAND_IN).map(|probe| probe.whole().count());
        tried.push((counts("kvm_pio"), counts("kvm_mmio"), counts("kvm_userspace_exit"), pairs));
    }
    assert!(!tried.is_empty(), "one of them worked in `ready`");
    assert!(tried.iter().all(|counts| *counts == tried[0]), "{tried:?}");
}

/// What the programs log goes to `tracing`, with the probe's name.
#[test]
fn programs_log_their_first_events() {
    use std::{
        io,
        sync::{Arc, Mutex},
    };

    if !ready() {
        return;
    }
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);
    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("nobody panics with it").write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    tracing::subscriber::with_default(subscriber, || {
        let mut probes = kvm_probes().log(true).start();
        needs(&probes, &["kvm_pio"]);
        observe(&probes);
        probes.flush_log();
    });
    let text = String::from_utf8(lines.0.lock().expect("nobody panics with it").clone()).expect("text");
    let pio: Vec<&str> = text.lines().filter(|line| line.contains("kvm_pio")).collect();
    // Three on each processor that the guest ran on.
    assert!(pio.len() >= 3, "{text}");
    assert!(pio[0].contains("key 3f8/1, value 1"), "port, direction, bytes: {}", pio[0]);
}

#[test]
fn only_whom_the_filter_allows_is_counted() {
    if !ready() {
        return;
    }
    let elsewhere = Filter { comm: Some("nobody-has-this".to_owned()), ..Filter::default() };
    let myself = Filter { tgid: Some(std::process::id()), tid: Some(this_thread()), ..Filter::default() };
    for (filter, wanted) in [(elsewhere, false), (myself, true)] {
        let probes = ProbeSet::builder().groups([Group::Kvm]).filter(filter).start();
        needs(&probes, &["kvm_pio"]);
        let (seen, exits) = observe(&probes);
        let pio = seen.probe("kvm_pio").expect("attached");
        assert_eq!(pio.total(), if wanted { exits.port_writes } else { 0 });
        assert!(wanted || pio.tally.filtered >= exits.port_writes, "{:?}", pio.tally);
    }
}

#[test]
fn a_thread_is_known_by_its_name() {
    if !ready() {
        return;
    }
    let run = || {
        let name = Some("probed-by-name".to_owned());
        let probes = ProbeSet::builder()
            .groups([Group::Kvm])
            .filter(Filter { comm: name, ..Filter::default() })
            .start();
        needs(&probes, &["kvm_pio"]);
        let (seen, exits) = observe(&probes);
        assert_eq!(seen.probe("kvm_pio").map(iommu_probes::ProbeData::total), Some(exits.port_writes));
    };
    let thread = std::thread::Builder::new().name("probed-by-name".to_owned()).spawn(run).expect("a thread");
    thread.join().expect("no assertion failed");
}

#[test]
fn detached_probes_count_nothing_and_attach_again() {
    if !ready() {
        return;
    }
    let mut probes = kvm_probes().start();
    needs(&probes, &["kvm_pio"]);
    for round in 0..3 {
        probes.detach();
        assert!(!probes.is_attached());
        let (seen, _) = observe(&probes);
        assert_eq!(seen.probe("kvm_pio").map(iommu_probes::ProbeData::total), Some(0), "round {round}");
        probes.attach();
        assert!(probes.is_attached());
        let (seen, exits) = observe(&probes);
        assert_eq!(
            seen.probe("kvm_pio").map(iommu_probes::ProbeData::total),
            Some(exits.port_writes),
            "round {round}"
        );
    }
}

/// Every probe is either attached, and says how, or skipped, and says why.
#[test]
fn every_probe_of_the_catalogue_is_accounted_for() {
    let probes = ProbeSet::builder().groups(Group::ALL).start();
    for attached in probes.attached() {
        eprintln!("attached {} to {} as {}", attached.name, attached.target, attached.kind());
        assert!(!attached.kinds.is_empty());
    }
    for skipped in probes.skipped() {
        let reason = skipped.reason.to_string();
        eprintln!("skipped {}: {reason}", skipped.name);
        assert!(!reason.is_empty() && !reason.contains('\n'), "one line: {reason}");
    }
    assert_eq!(probes.attached().len() + probes.skipped().len(), catalogue::all().count());
}
