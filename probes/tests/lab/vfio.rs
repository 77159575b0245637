//! Mappings of known sizes for a device behind the kernel's VFIO, and an access that none of them allows.

use std::{
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use iommu_passthrough::{
    Container, Endpoint, PciDevice, VfioFunction,
    bind::{Bound, Plan},
    sysfs::SYSFS,
    usage::Host,
};
use iommu_probes::{Filter, Group, Kind, ProbeData, ProbeSet, Snapshot, catalogue};
use iommu_workloads::pci::PciFunction;
use virtio_iommu::{
    passthrough::Backend,
    spec::{Gpa, IovaRange},
    table::{Mapping, Perms},
};
use vm_memory::{GuestAddress, GuestMemoryMmap};

use crate::{Check, during, nothing_lost};

pub(crate) const CHECKS: &[Check] = &[
    ("vfio_maps_of_a_page_are_exact", vfio_maps_of_a_page_are_exact),
    ("vfio_bytes_of_every_size_are_exact", vfio_bytes_of_every_size_are_exact),
    ("vfio_counts_are_the_same_by_every_kind", vfio_counts_are_the_same_by_every_kind),
    ("vfio_faults_are_seen", vfio_faults_are_seen),
];

const PAGE: u64 = 4096;
/// Below 2^28: the device has so many address lines.
const IOVA: u64 = 1 << 24;
const MEMORY_BYTES: usize = 16 << 20;
/// QEMU's teaching device.
const EDU: (u16, u16) = (0x1234, 0x11e8);

/// The device and what it sees of its memory. Dropped in this order.
struct Rig {
    endpoint: Endpoint,
    container: Arc<Container>,
    _bound: Bound,
}

fn rig() -> Rig {
    let all = PciDevice::all(Path::new(SYSFS)).unwrap();
    let edu = all.into_iter().find(|device| device.id().unwrap() == EDU).expect("the lab has the device");
    let plan = Plan::new(&edu, &Host::default()).unwrap();
    let bound = Bound::new(&edu, plan, Path::new("/run/bindings")).unwrap();
    let container = Arc::new(Container::open(&edu).unwrap());
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY_BYTES)]).unwrap();
    let endpoint = Endpoint::new(Arc::clone(&container), Arc::new(memory), None);
    // Attached now: what the kernel tries out on the way is not counted.
    endpoint.show(&[]).unwrap();
    Rig { endpoint, container, _bound: bound }
}

impl Rig {
    fn map(&self, iova: u64, bytes: u64, gpa: u64) {
        let range = IovaRange::new(iova, iova + bytes - 1).unwrap();
        let perms = Perms { read: true, write: true, mmio: false };
        self.endpoint.map(&Mapping { range, gpa: Gpa(gpa), perms }).unwrap();
    }

    fn unmap(&self, iova: u64, bytes: u64) {
        self.endpoint.unmap(IovaRange::new(iova, iova + bytes - 1).unwrap()).unwrap();
    }

    /// Maps so many single pages and takes them away again.
    fn pages(&self, count: u64) {
        for n in 0..count {
            self.map(IOVA + n * PAGE, PAGE, 2 * n * PAGE);
        }
        for n in 0..count {
            self.unmap(IOVA + n * PAGE, PAGE);
        }
    }
}

/// This process's own events.
fn own() -> Filter {
    Filter { tgid: Some(std::process::id()), ..Filter::default() }
}

fn probes(filter: Filter) -> ProbeSet {
    ProbeSet::builder().groups([Group::Iommu, Group::Vfio]).filter(filter).start()
}

fn probe<'s>(seen: &'s Snapshot, name: &str) -> &'s ProbeData {
    seen.probe(name).unwrap_or_else(|| panic!("{name} is not attached"))
}

/// Events, and the sum of their values.
fn events(seen: &Snapshot, name: &str) -> (u64, u64) {
    probe(seen, name).counts.values().fold((0, 0), |all, one| (all.0 + one.count, all.1 + one.sum))
}

/// Pairs of a key, the time they took, ns, and the sum of their values.
fn pairs(seen: &Snapshot, name: &str, key: &str) -> (u64, u64, u64) {
    let probe = probe(seen, name);
    assert_eq!(probe.unmatched(), 0, "{name}: {:?}", probe.tally);
    let of_key = probe.histograms.iter().filter(|(one, _)| probe.key_name(one) == key).map(|(_, one)| one);
    of_key.fold((0, 0, 0), |all, one| (all.0 + one.count(), all.1 + one.sum(), all.2 + one.carried()))
}

fn vfio_maps_of_a_page_are_exact() {
    const COUNT: u64 = 200;
    let rig = rig();
    let probes = probes(own());
    let (seen, ()) = during(&probes, || rig.pages(COUNT));
    nothing_lost(&seen);
    assert_eq!(events(&seen, "iommu_map_event"), (COUNT, COUNT * PAGE));
    assert_eq!(events(&seen, "iommu_unmap_event"), (COUNT, COUNT * PAGE));
    let sizes = &probe(&seen, "iommu_map_event").histograms;
    assert!(sizes.values().all(|sizes| sizes.max() == PAGE && sizes.min() == PAGE), "{sizes:?}");

    let (maps, map_ns, _) = pairs(&seen, "vfio_iommu_type1_ioctl", "IOMMU_MAP_DMA");
    let (pins, pin_ns, pinned) = pairs(&seen, "vfio_pin_pages", "");
    let (found, found_ns, pages) = pairs(&seen, "pin_user_pages_remote", "");
    let (tables, tables_ns, mapped) = pairs(&seen, "iommu_map", "");
    eprintln!("MAP {map_ns} ns: pinning {pin_ns} (of it the memory manager {found_ns}), tables {tables_ns}");
    assert_eq!((maps, pins, found, tables), (COUNT, COUNT, COUNT, COUNT));
    assert_eq!((pinned, pages, mapped), (COUNT, COUNT, COUNT * PAGE));
    assert!(found_ns <= pin_ns && pin_ns + tables_ns <= map_ns, "parts are parts");

    let (unmaps, unmap_ns, _) = pairs(&seen, "vfio_iommu_type1_ioctl", "IOMMU_UNMAP_DMA");
    let (removals, removal_ns, _) = pairs(&seen, "vfio_unmap_unpin", "");
    let (cleared, cleared_ns, unmapped) = pairs(&seen, "iommu_unmap_fast", "");
    let (_, sync_ns, _) = pairs(&seen, "intel_iommu_tlb_sync", "");
    let (_, unpin_ns, unpinned) = pairs(&seen, "vfio_unpin_pages", "");
    eprintln!(
        "UNMAP {unmap_ns} ns: one mapping {removal_ns} (tables {cleared_ns}, IOTLB {sync_ns}, unpinning {unpin_ns})"
    );
    assert_eq!((unmaps, removals, cleared), (COUNT, COUNT, COUNT));
    assert_eq!((unmapped, unpinned), (COUNT * PAGE, COUNT));
    assert!(removal_ns <= unmap_ns && cleared_ns + sync_ns + unpin_ns <= removal_ns, "parts are parts");

    // A function that the compiler may have merged into its caller.
    match seen.probe("vfio_sync_unpin") {
        Some(sync) => assert_eq!((sync.total(), sync.unmatched()), (COUNT, 0), "{:?}", sync.tally),
        None => iommu_equipment::missing(
            iommu_equipment::Equipment::Optional,
            "this kernel has no function vfio_sync_unpin() to probe",
        ),
    }

    let (waits, _, descriptors) = pairs(&seen, "qi_submit_sync", "");
    let submitted = probe(&seen, "qi_submit");
    let kinds: Vec<_> =
        submitted.counts.iter().map(|(key, count)| (submitted.key_name(key), count.count)).collect();
    eprintln!("{waits} waits for {kinds:?}");
    assert_eq!(events(&seen, "qi_submit").0, descriptors, "each descriptor by its kind");
    let pages = kinds.iter().find(|(kind, _)| kind == "IOTLB, pages").map_or(0, |(_, count)| *count);
    assert!(pages >= COUNT, "an invalidation for each UNMAP: {kinds:?}");
}

fn vfio_bytes_of_every_size_are_exact() {
    let rig = rig();
    let probes = probes(own());
    let sizes = [PAGE, 3 * PAGE, 64 << 10, 2 << 20, 8 << 20];
    let bytes: u64 = sizes.iter().sum();
    let work = || {
        for size in sizes {
            rig.map(IOVA, size, 0);
            rig.unmap(IOVA, size);
        }
    };
    let (seen, ()) = during(&probes, work);
    nothing_lost(&seen);
    let (maps, mapped) = events(&seen, "iommu_map_event");
    let (unmaps, unmapped) = events(&seen, "iommu_unmap_event");
    eprintln!("{} mappings: {maps} runs mapped, {unmaps} unmapped", sizes.len());
    assert_eq!((mapped, unmapped), (bytes, bytes));
    assert_eq!(pairs(&seen, "vfio_pin_pages", "").2, bytes / PAGE);
    assert_eq!(pairs(&seen, "vfio_unpin_pages", "").2, bytes / PAGE);
    assert_eq!(pairs(&seen, "iommu_map", "").0, maps, "one call for each event");
}

fn vfio_counts_are_the_same_by_every_kind() {
    let rig = rig();
    let names = ["iommu_map", "iommu_unmap_fast", "pin_user_pages_remote"];
    let mut found = Vec::new();
    for kinds in [[Kind::Fentry, Kind::Fexit], [Kind::Kprobe, Kind::Kretprobe]] {
        let definitions = names.map(|name| catalogue::named(name).unwrap());
        let probes = ProbeSet::builder().definitions(definitions).filter(own()).only_kinds(kinds).start();
        let (seen, ()) = during(&probes, || rig.pages(20));
        found.push(names.map(|name| {
            let (count, _, values) = pairs(&seen, name, "");
            (count, values)
        }));
    }
    assert_eq!(found[0], found[1]);
    assert_eq!(found[0], [(20, 20 * PAGE), (20, 20 * PAGE), (20, 20)]);
}

/// Fault interrupts come in whichever process's name; a filter that lets nobody pass does not hide them.
fn vfio_faults_are_seen() {
    let rig = rig();
    let function = VfioFunction::new(Arc::clone(&rig.container)).unwrap();
    let probes = probes(Filter { comm: Some("nobody".to_owned()), ..Filter::default() });
    let faults = || probe(&probes.snapshot().unwrap(), "dmar_fault").total();
    assert_eq!(faults(), 0);
    // From the device's buffer to where nothing is mapped: source, target, bytes, and the command "to memory, begin".
    for (register, value) in [(0x80, 0x4_0000), (0x88, IOVA as u32), (0x90, 64), (0x98, 3)] {
        function.bar_write(0, register, &u32::to_le_bytes(value));
    }
    let since = Instant::now();
    while faults() == 0 {
        assert!(since.elapsed() < Duration::from_secs(30), "no fault was seen");
        thread::sleep(Duration::from_millis(5));
    }
    rig.pages(1);
    assert_eq!(events(&probes.snapshot().unwrap(), "iommu_map_event").0, 0, "a mapping has somebody's name");
}
