//! "UNMAP request".

use virtio_iommu::spec::{Status, request as wire};

use super::support::*;

fn attached() -> Rig {
    let mut rig = Rig::default();
    assert_eq!(rig.attach(1, 8), Status::Ok);
    rig
}

fn unmap_with_reserved(rig: &mut Rig) -> Status {
    let unmap = wire::Unmap { domain: 1, virt_start: 0, virt_end: 0xfff, reserved: [1, 2, 3, 4] };
    rig.status(&unmap.encode())
}

/// clause: unmap_1a "If the reserved field of an UNMAP request is not zero, the device MAY set the request status to VIRTIO_IOMMU_S_INVAL, in which case the device MAY perform the UNMAP operation."
#[test]
fn unmap_1a_nonzero_reserved_is_not_refused() {
    // QEMU's own test client leaves the field uninitialised.
    let mut rig = attached();
    assert_eq!(unmap_with_reserved(&mut rig), Status::Ok);
}

/// clause: unmap_1b "If the reserved field of an UNMAP request is not zero, the device MAY set the request status to VIRTIO_IOMMU_S_INVAL, in which case the device MAY perform the UNMAP operation."
#[test]
fn unmap_1b_nonzero_reserved_is_performed() {
    let mut rig = attached();
    assert_eq!(rig.map(1, 0, 0xfff, 0x5000), Status::Ok);
    unmap_with_reserved(&mut rig);
    assert!(!dma_write(&rig.port(8), 0, b"x"));
}

/// clause: unmap_2 "If domain does not exist, the device SHOULD set the request status to VIRTIO_IOMMU_S_NOENT."
#[test]
fn unmap_2_an_unknown_domain_is_noent() {
    let mut rig = attached();
    assert_eq!(rig.unmap(4, 0x10, 0xfff), Status::NoEnt);
}

/// clause: unmap_3 "If the domain is a bypass domain, the device SHOULD reject the request and set status to VIRTIO_IOMMU_S_INVAL."
#[test]
fn unmap_3_a_bypass_domain_is_inval() {
    let mut rig = Rig::default();
    assert_eq!(rig.attach_flags(1, 8, wire::ATTACH_F_BYPASS), Status::Ok);
    assert_eq!(rig.unmap(1, 0, u64::MAX), Status::Inval);
}

fn splitting() -> (Rig, Vec<Status>) {
    let mut rig = attached();
    assert_eq!(rig.map(1, 0x1000, 0x4fff, 0x5000), Status::Ok);
    assert_eq!(rig.map(1, 0x8000, 0x8fff, 0xa000), Status::Ok);
    // At either end, in the middle, and with a whole mapping in the range beside the split one.
    let ranges = [(0x1000, 0x1fff), (0x4000, 0x4fff), (0x2000, 0x2fff), (0x2000, 0x8fff), (0x1000, 0x8800)];
    let statuses = ranges.map(|(start, end)| rig.unmap(1, start, end)).to_vec();
    (rig, statuses)
}

/// clause: unmap_4a "If a mapping affected by the range is not covered in its entirety by the range (the UNMAP request would split the mapping), then the device SHOULD set the request status to VIRTIO_IOMMU_S_RANGE, and SHOULD NOT remove any mapping."
#[test]
fn unmap_4a_a_split_is_range() {
    let (_, statuses) = splitting();
    assert_eq!(statuses, [Status::Range; 5]);
}

/// clause: unmap_4b "If a mapping affected by the range is not covered in its entirety by the range (the UNMAP request would split the mapping), then the device SHOULD set the request status to VIRTIO_IOMMU_S_RANGE, and SHOULD NOT remove any mapping."
#[test]
fn unmap_4b_a_split_removes_nothing() {
    let (rig, _) = splitting();
    let port = rig.port(8);
    for page in [1u64, 2, 3, 4, 8] {
        assert!(dma_write(&port, page << 12, b"x"), "page {page}");
    }
    assert_eq!(rig.counters().unmapped, 0);
}

/// clause: unmap_5 "If part of the range or the full range is not covered by an existing mapping, then the device SHOULD remove all mappings affected by the range and set the request status to VIRTIO_IOMMU_S_OK."
#[test]
fn unmap_5_gaps_are_passed_over() {
    let mut rig = attached();
    assert_eq!(rig.unmap(1, 0, 0xffff), Status::Ok, "nothing mapped");
    assert_eq!(rig.map(1, 0x1000, 0x1fff, 0x5000), Status::Ok);
    assert_eq!(rig.map(1, 0x4000, 0x5fff, 0x5000), Status::Ok);
    assert_eq!(rig.unmap(1, 0, 0xffff), Status::Ok);
    let port = rig.port(8);
    for page in [1u64, 4, 5] {
        assert!(!dma_write(&port, page << 12, b"x"));
    }
    assert_eq!(rig.counters().unmapped, 2);
}
