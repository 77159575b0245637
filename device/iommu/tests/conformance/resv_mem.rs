//! "Property RESV_MEM".

use virtio_iommu::{
    properties::{EndpointProperties, Regions, RegionsError, ResvKind, ResvRegion},
    spec::Status,
};

use super::support::*;

fn region(start: u64, end: u64, kind: ResvKind) -> ResvRegion {
    ResvRegion { start, end, kind }
}

/// clause: resv_mem_1 "The device SHOULD set reserved to zero."
#[test]
fn resv_mem_1_reserved_is_zero() {
    let mut rig = Rig::default();
    assert_eq!(rig.probe(8)[5..8], [0; 3]);
}

/// clause: resv_mem_2 "The device SHOULD NOT present more than one VIRTIO_IOMMU_RESV_MEM_T_MSI property per endpoint."
#[test]
fn resv_mem_2_one_msi_region_at_most() {
    let two = vec![region(0, 0xfff, ResvKind::Msi), region(0x2000, 0x2fff, ResvKind::Msi)];
    assert_eq!(Regions::new(two), Err(RegionsError::SeveralMsi { count: 2 }));
    let mut rig = Rig::default();
    let msi = rig.probe(8).chunks(24).filter(|p| p.len() == 24 && p[0] == 1 && p[4] == 1).count();
    assert_eq!(msi, 1, "x86 has one");
}

/// clause: resv_mem_3 "The device SHOULD NOT present multiple RESV_MEM properties that overlap each other for the same endpoint."
#[test]
fn resv_mem_3_regions_do_not_overlap() {
    let two = vec![region(0x1000, 0x2fff, ResvKind::Reserved), region(0x2fff, 0x3fff, ResvKind::Identity)];
    assert_eq!(Regions::new(two), Err(RegionsError::Overlap { at: 0x2fff }));
}

/// clause: resv_mem_4 "The device SHOULD reject a MAP request that overlaps a RESV_MEM region."
#[test]
fn resv_mem_4_map_over_a_region_is_rejected() {
    let mut rig = Rig::default();
    let regions = vec![
        region(0x10_0000, 0x10_0fff, ResvKind::Reserved),
        region(0x20_0000, 0x20_0fff, ResvKind::Identity),
    ];
    rig.endpoint(20, EndpointProperties::with_regions(Regions::new(regions).unwrap()));
    assert_eq!(rig.attach(1, 8), Status::Ok);
    assert_eq!(rig.attach(2, 20), Status::Ok);
    for (domain, start, end) in [
        (1, 0xfee0_0000, 0xfee0_0fff),
        (1, 0xfedf_f000, 0xfee0_0fff),
        (1, 0xfeef_f000, 0xfef0_0fff),
        (1, 0, 0xffff_ffff),
        (2, 0x10_0000, 0x10_0fff),
        (2, 0x20_0000, 0x20_0fff),
    ] {
        assert_eq!(rig.map(domain, start, end, 0), Status::Inval, "{domain} {start:#x}");
    }
    assert_eq!(rig.map(1, 0xfedf_f000, 0xfedf_ffff, 0), Status::Ok);
    assert_eq!(rig.map(1, 0xfef0_0000, 0xfef0_0fff, 0), Status::Ok);
}

/// clause: resv_mem_5 "The device SHOULD NOT allow accesses from the endpoint to RESV_MEM regions to affect any other component than the endpoint and the driver."
#[test]
fn resv_mem_5_accesses_to_a_region_reach_nobody() {
    let mut rig = Rig::default();
    rig.poke(0x10_0000, b"other");
    let regions = vec![region(0x10_0000, 0x10_0fff, ResvKind::Reserved)];
    rig.endpoint(20, EndpointProperties::with_regions(Regions::new(regions).unwrap()));
    assert_eq!(rig.attach(1, 20), Status::Ok);
    let port = rig.port(20);
    assert_eq!(dma_read(&port, 0x10_0000, 5), None);
    assert!(!dma_write(&port, 0x10_0000, b"x"));
    assert_eq!(rig.peek(0x10_0000), *b"other");
}
