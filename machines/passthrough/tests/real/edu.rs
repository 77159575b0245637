//! The backend alone, with the teaching device behind it.

use iommu_passthrough::endpoint::{Counts, properties};
use virtio_iommu::{passthrough::Backend, properties::ResvKind, spec::IovaRange};

use crate::{
    rig::{CHUNK, IOVA, KernelLog, PAGE, edu, mapping, rig},
    trace::{Trace, Traced},
};

pub(crate) fn the_host_says_what_is_reserved() {
    let rig = rig();
    let limits = rig.container.limits().unwrap();
    assert_eq!(limits.page_sizes & 0xfff, 0, "{limits:?}");
    assert_ne!(limits.page_sizes & PAGE, 0, "{limits:?}");
    assert!(!limits.ranges.is_empty() && limits.mappings_left.is_some(), "{limits:?}");
    let found = properties(&edu(), &rig.container).unwrap();
    let regions: Vec<_> = found.regions.clone().into();
    assert!(regions.iter().any(|r| r.start == 0xfee0_0000 && r.kind == ResvKind::Msi), "{regions:?}");
    let host = edu().reserved_regions().unwrap();
    assert!(!host.is_empty(), "the kernel reserves the interrupts' window at least");
    for region in &host {
        assert!(regions.iter().any(|r| r.start <= region.start && region.end <= r.end), "{region:?}");
    }
}

pub(crate) fn a_device_reaches_what_is_mapped_and_nothing_after_unmap() {
    let rig = rig();
    rig.fill(0, 0x5a);
    rig.fill(PAGE, 0);
    rig.endpoint.show(&[mapping(IOVA, 2 * PAGE, 0, true)]).unwrap();
    rig.copy(IOVA, false);
    rig.copy(IOVA + PAGE, true);
    assert_eq!(rig.chunk(PAGE), [0x5a; CHUNK], "through the device and back");
    rig.fill(PAGE, 0xee);
    let mut log = KernelLog::from_now();
    rig.endpoint.unmap(IovaRange::new(IOVA, IOVA + 2 * PAGE - 1).unwrap()).unwrap();
    rig.copy(IOVA + PAGE, true);
    log.wait_for(&["DMAR", "DMA Write", "101000"], || rig.copy(IOVA + PAGE, true));
    assert_eq!(rig.chunk(PAGE), [0xee; CHUNK], "a DMA after UNMAP changes nothing");
    assert_eq!(rig.endpoint.live_bytes(), 0);
}

pub(crate) fn read_only_stays_read_only() {
    let rig = rig();
    rig.fill(0, 0x77);
    rig.endpoint.show(&[mapping(IOVA, PAGE, 0, false)]).unwrap();
    // Writing first: QEMU reports no fault where a read has put the entry into its IOTLB.
    let mut log = KernelLog::from_now();
    rig.copy(IOVA, true);
    log.wait_for(&["DMAR", "DMA Write", "100000"], || rig.copy(IOVA, true));
    assert_eq!(rig.chunk(0), [0x77; CHUNK], "the device may not write");
    rig.copy(IOVA, false);
    rig.fill(0, 0x11);
    rig.copy(IOVA, true);
    assert_eq!(rig.chunk(0), [0x11; CHUNK], "after reading it may not either");
    // It may read: what it has read comes out where it may write.
    rig.endpoint.show(&[mapping(IOVA, PAGE, 0, true)]).unwrap();
    rig.copy(IOVA, true);
    assert_eq!(rig.chunk(0), [0x77; CHUNK]);
}

pub(crate) fn bytes_are_those_of_the_kernels_tracepoints() {
    let rig = rig();
    rig.endpoint.show(&[]).unwrap();
    let before = rig.endpoint.counts();
    let trace = Trace::of(std::process::id());
    // One mapping of many pages, whose pages lie anywhere in the host: only the bytes are those asked for.
    rig.endpoint.map(&mapping(IOVA, 48 * PAGE, 0, true)).unwrap();
    rig.endpoint.map(&mapping(IOVA + 64 * PAGE, PAGE, 64 * PAGE, false)).unwrap();
    let everything = IovaRange::new(IOVA, IOVA + 65 * PAGE - 1).unwrap();
    rig.endpoint.unmap(everything).unwrap();
    let (traced, text) = trace.end();
    let after = rig.endpoint.counts();
    let bytes = 49 * PAGE;
    assert_eq!((after.maps - before.maps, after.unmaps - before.unmaps), (2, 1));
    let counted = Counts {
        bytes_mapped: after.bytes_mapped - before.bytes_mapped,
        bytes_unmapped: after.bytes_unmapped - before.bytes_unmapped,
        ..Counts::default()
    };
    assert_eq!((counted.bytes_mapped, counted.bytes_unmapped), (bytes, bytes));
    let Traced { bytes_mapped, bytes_unmapped, .. } = traced;
    assert_eq!((bytes_mapped, bytes_unmapped), (bytes, bytes), "{text}");
}
