//! "MAP request".

use virtio_iommu::spec::{
    Status,
    request::{self as wire, MAP_F_READ, MAP_F_WRITE},
};

use super::support::*;

fn attached() -> Rig {
    let mut rig = Rig::default();
    assert_eq!(rig.attach(1, 8), Status::Ok);
    rig
}

/// clause: map_1 "If virt_start, phys_start or (virt_end + 1) is not aligned on the page granularity, the device SHOULD reject the request and set status to VIRTIO_IOMMU_S_RANGE."
#[test]
fn map_1_unaligned_addresses_are_range() {
    let mut rig = attached();
    for (start, end, phys) in [(1, 0xfff, 0), (0, 0x1000, 0), (0, 0xffe, 0), (0, 0xfff, 0x800), (0, 0, 0)] {
        assert_eq!(rig.map(1, start, end, phys), Status::Range, "{start:#x} {end:#x} {phys:#x}");
    }
    assert_eq!(rig.map(1, 0, 0xfff, 0), Status::Ok);
}

/// clause: map_2 "If a mapping already exists in the requested range, the device SHOULD reject the request and set status to VIRTIO_IOMMU_S_INVAL."
#[test]
fn map_2_an_existing_mapping_in_the_range_is_inval() {
    let mut rig = attached();
    assert_eq!(rig.map(1, 0x4000, 0x7fff, 0), Status::Ok);
    for (start, end) in [(0x4000, 0x7fff), (0x4000, 0x4fff), (0x7000, 0x8fff), (0x3000, 0x4fff), (0, 0xffff)]
    {
        assert_eq!(rig.map(1, start, end, 0), Status::Inval, "{start:#x} {end:#x}");
    }
    assert_eq!(rig.map(1, 0x3000, 0x3fff, 0), Status::Ok);
    assert_eq!(rig.map(1, 0x8000, 0x8fff, 0), Status::Ok);
}

/// clause: map_3 "If the device doesn't recognize a flags bit, it MUST reject the request and set status to VIRTIO_IOMMU_S_INVAL."
#[test]
fn map_3_unknown_flags_are_inval() {
    let mut rig = attached();
    for bit in 3..32 {
        assert_eq!(rig.map_flags(1, 0, 0xfff, 0, MAP_F_READ | 1 << bit), Status::Inval);
    }
    assert_eq!(rig.map_flags(1, 0, 0xfff, 0, MAP_F_READ | wire::MAP_F_MMIO), Status::Ok);
    // MMIO "is only available when the VIRTIO_IOMMU_F_MMIO feature has been negotiated".
    let mut plain = Rig::negotiating(options(), !virtio_iommu::spec::feature::MMIO);
    assert_eq!(plain.attach(1, 8), Status::Ok);
    assert_eq!(plain.map_flags(1, 0, 0xfff, 0, MAP_F_READ | wire::MAP_F_MMIO), Status::Inval);
}

/// clause: map_4 "If domain does not exist, the device SHOULD reject the request and set status to VIRTIO_IOMMU_S_NOENT."
#[test]
fn map_4_an_unknown_domain_is_noent() {
    let mut rig = attached();
    assert_eq!(rig.map(2, 0, 0xfff, 0), Status::NoEnt);
}

/// clause: map_5 "If the domain is a bypass domain, the device SHOULD reject the request and set status to VIRTIO_IOMMU_S_INVAL."
#[test]
fn map_5_a_bypass_domain_is_inval() {
    let mut rig = Rig::default();
    assert_eq!(rig.attach_flags(1, 8, wire::ATTACH_F_BYPASS), Status::Ok);
    assert_eq!(rig.map(1, 0, 0xfff, 0), Status::Inval);
    assert!(dma_write(&rig.port(8), 0x5000, b"x"), "bypass is one to one");
    assert_eq!(rig.peek(0x5000), *b"x");
}

/// clause: map_6 "The device MUST NOT allow writes to a range mapped without the VIRTIO_IOMMU_MAP_F_WRITE flag."
#[test]
fn map_6_no_writes_without_the_write_flag() {
    let mut rig = attached();
    let port = rig.port(8);
    for (page, flags) in [(1u64, MAP_F_READ), (2, 0)] {
        let start = page << 12;
        assert_eq!(rig.map_flags(1, start, start + 0xfff, 0x5000, flags), Status::Ok);
        assert!(!dma_write(&port, start, b"x"));
    }
    assert_eq!(rig.peek(0x5000), [0]);
    assert_eq!(dma_read(&port, 0x1000, 1), Some(vec![0]));
    let faults = rig.counters().faults;
    assert_eq!((faults.permission, faults.not_mapped), (2, 0));
}

/// clause: map_7 "However, if the underlying architecture does not support write-only mappings, the device MAY allow reads to a range mapped with VIRTIO_IOMMU_MAP_F_WRITE but not VIRTIO_IOMMU_MAP_F_READ."
#[test]
fn map_7_write_only_mappings_are_supported_so_reads_fail() {
    let mut rig = attached();
    let port = rig.port(8);
    assert_eq!(rig.map_flags(1, 0x1000, 0x1fff, 0x5000, MAP_F_WRITE), Status::Ok);
    assert!(dma_write(&port, 0x1000, b"x"));
    assert_eq!(dma_read(&port, 0x1000, 1), None);
}
