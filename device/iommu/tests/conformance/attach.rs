//! "ATTACH request".

use virtio_iommu::{
    DeviceOptions,
    properties::{EndpointProperties, Regions, ResvKind, ResvRegion},
    spec::{Status, request as wire},
};

use super::support::*;

fn with_region(start: u64, end: u64, kind: ResvKind) -> EndpointProperties {
    EndpointProperties::with_regions(Regions::new(vec![ResvRegion { start, end, kind }]).unwrap())
}

/// clause: attach_1 "If the reserved field of an ATTACH request is not zero, the device MUST reject the request and set status to VIRTIO_IOMMU_S_INVAL."
#[test]
fn attach_1_reserved_must_be_zero() {
    let mut rig = Rig::default();
    for byte in 0..4 {
        let mut reserved = [0; 4];
        reserved[byte] = 1;
        let attach = wire::Attach { domain: 1, endpoint: 8, flags: 0, reserved };
        assert_eq!(rig.status(&attach.encode()), Status::Inval);
    }
    assert_eq!(rig.device.domains(), 0);
}

/// clause: attach_2 "If the device does not recognize a flags bit, it MUST reject the request and set status to VIRTIO_IOMMU_S_INVAL."
#[test]
fn attach_2_unknown_flags_are_rejected() {
    let mut rig = Rig::default();
    for bit in 1..32 {
        assert_eq!(rig.attach_flags(1, 8, 1 << bit), Status::Inval);
    }
    assert_eq!(rig.attach_flags(1, 8, wire::ATTACH_F_BYPASS), Status::Ok);
    // Without BYPASS_CONFIG the device does not recognise that flag either.
    let mut legacy = Rig::new(DeviceOptions { legacy_bypass: true, ..options() });
    assert_eq!(legacy.attach_flags(1, 8, wire::ATTACH_F_BYPASS), Status::Inval);
    let mut declined = Rig::negotiating(options(), !virtio_iommu::spec::feature::BYPASS_CONFIG);
    assert_eq!(declined.attach_flags(1, 8, wire::ATTACH_F_BYPASS), Status::Inval);
}

/// clause: attach_3 "If the endpoint identified by endpoint doesn't exist, the device MUST reject the request and set status to VIRTIO_IOMMU_S_NOENT."
#[test]
fn attach_3_an_unknown_endpoint_is_noent() {
    let mut rig = Rig::default();
    for endpoint in [0, 7, 10, u32::MAX] {
        assert_eq!(rig.attach(1, endpoint), Status::NoEnt);
    }
}

/// clause: attach_4 "If another endpoint is already attached to the domain identified by domain, then the device MAY attach the endpoint identified by endpoint to the domain."
#[test]
fn attach_4_a_domain_takes_a_second_endpoint() {
    let mut rig = Rig::default();
    assert_eq!(rig.attach(1, 8), Status::Ok);
    assert_eq!(rig.map(1, 0x1000, 0x1fff, 0x5000), Status::Ok);
    assert_eq!(rig.attach(1, 9), Status::Ok);
    assert!(dma_write(&rig.port(8), 0x1000, b"a"));
    assert!(dma_write(&rig.port(9), 0x1001, b"b"));
    assert_eq!(rig.peek(0x5000), *b"ab");
}

/// clause: attach_5 "If it cannot do so, the device MUST reject the request and set status to VIRTIO_IOMMU_S_UNSUPP."
#[test]
fn attach_5_an_endpoint_that_does_not_fit_in_is_unsupp() {
    let mut rig = Rig::default();
    rig.endpoint(20, with_region(0x10_0000, 0x10_ffff, ResvKind::Identity));
    assert_eq!(rig.attach(1, 8), Status::Ok);
    assert_eq!(rig.attach(1, 20), Status::Unsupp);
    assert!(!dma_write(&rig.port(20), 0x10_0000, b"x"));
}

/// clause: attach_6 "If the domain already exists and the VIRTIO_IOMMU_ATTACH_F_BYPASS flag is not consistent with that domain, the device SHOULD reject the request and set status to VIRTIO_IOMMU_S_INVAL."
#[test]
fn attach_6_the_bypass_flag_must_match_the_domain() {
    let mut rig = Rig::default();
    assert_eq!(rig.attach(1, 8), Status::Ok);
    assert_eq!(rig.attach_flags(1, 9, wire::ATTACH_F_BYPASS), Status::Inval);
    assert_eq!(rig.attach_flags(1, 8, wire::ATTACH_F_BYPASS), Status::Inval);
    assert_eq!(rig.attach_flags(2, 9, wire::ATTACH_F_BYPASS), Status::Ok);
    assert_eq!(rig.attach(2, 8), Status::Inval);
}

/// clause: attach_7 "If the endpoint identified by endpoint is already attached to another domain, then the device SHOULD first detach it from that domain and attach it to the one identified by domain."
#[test]
fn attach_7_an_attached_endpoint_moves_to_the_other_domain() {
    let mut rig = Rig::default();
    assert_eq!(rig.attach(1, 8), Status::Ok);
    assert_eq!(rig.map(1, 0x1000, 0x1fff, 0x5000), Status::Ok);
    assert_eq!(rig.attach(2, 9), Status::Ok);
    assert_eq!(rig.map(2, 0x1000, 0x1fff, 0x6000), Status::Ok);
    assert_eq!(rig.attach(2, 8), Status::Ok);
    assert!(dma_write(&rig.port(8), 0x1000, b"x"));
    assert_eq!((rig.peek(0x5000), rig.peek(0x6000)), ([0], *b"x"));
}

/// clause: attach_8 "In that case the device SHOULD behave as if the driver issued a DETACH request with this endpoint, followed by the ATTACH request."
#[test]
fn attach_8_moving_is_detach_then_attach() {
    let mut rig = Rig::default();
    assert_eq!(rig.attach(1, 8), Status::Ok);
    assert_eq!(rig.map(1, 0x1000, 0x1fff, 0x5000), Status::Ok);
    assert_eq!(rig.attach(2, 8), Status::Ok);
    // Domain 1 lost its last endpoint and ceased to exist; attaching to it creates a new one, without the mapping.
    assert_eq!(rig.map(1, 0x2000, 0x2fff, 0x5000), Status::NoEnt);
    assert_eq!(rig.detach(1, 8), Status::Inval);
    assert_eq!(rig.attach(1, 8), Status::Ok);
    assert!(!dma_write(&rig.port(8), 0x1000, b"x"));
    // Attaching where it is attached already is no move: nothing is lost.
    assert_eq!(rig.map(1, 0x1000, 0x1fff, 0x5000), Status::Ok);
    assert_eq!(rig.attach(1, 8), Status::Ok);
    assert!(dma_write(&rig.port(8), 0x1000, b"x"));
}

/// clause: attach_9 "If the device cannot do so, it MUST reject the request and set status to VIRTIO_IOMMU_S_UNSUPP."
#[test]
fn attach_9_a_move_that_cannot_be_is_unsupp_and_changes_nothing() {
    let mut rig = Rig::default();
    rig.endpoint(20, with_region(0x10_0000, 0x10_ffff, ResvKind::Identity));
    assert_eq!(rig.attach(1, 8), Status::Ok);
    assert_eq!(rig.attach(2, 20), Status::Ok);
    assert_eq!(rig.map(2, 0x1000, 0x1fff, 0x5000), Status::Ok);
    assert_eq!(rig.attach(1, 20), Status::Unsupp);
    assert!(dma_write(&rig.port(20), 0x1000, b"x"));
}

/// clause: attach_10 "If properties of the endpoint (obtained with a PROBE request) are compatible with properties of other endpoints already attached to the requested domain, then the device SHOULD attach the endpoint."
#[test]
fn attach_10_compatible_properties_are_attached() {
    let mut rig = Rig::default();
    rig.endpoint(20, with_region(0x10_0000, 0x10_ffff, ResvKind::Reserved));
    rig.endpoint(21, with_region(0x10_8000, 0x11_ffff, ResvKind::Reserved));
    let wide = EndpointProperties { page_size_mask: Some(!0x3ff), ..EndpointProperties::default() };
    rig.endpoint(22, wide);
    for endpoint in [20, 21, 22] {
        assert_eq!(rig.attach(1, endpoint), Status::Ok);
    }
    assert_eq!(rig.map(1, 0x11_0000, 0x11_0fff, 0), Status::Inval, "reserved by endpoint 21");
    assert_eq!(rig.detach(1, 21), Status::Ok);
    assert_eq!(rig.map(1, 0x11_0000, 0x11_0fff, 0), Status::Ok, "reserved by nobody any more");
}

/// clause: attach_11 "Otherwise the device SHOULD reject the request and set status to VIRTIO_IOMMU_S_UNSUPP."
#[test]
fn attach_11_incompatible_properties_are_unsupp() {
    let mut rig = Rig::default();
    assert_eq!(rig.attach(1, 8), Status::Ok);
    assert_eq!(rig.map(1, 0x10_0000, 0x10_0fff, 0x5000), Status::Ok);
    let coarse = EndpointProperties { page_size_mask: Some(!0xffff), ..EndpointProperties::default() };
    let narrow = EndpointProperties { input_range: Some((0, 0xffff_ffff)), ..EndpointProperties::default() };
    rig.endpoint(20, coarse);
    rig.endpoint(21, narrow);
    rig.endpoint(22, with_region(0x10_0000, 0x10_ffff, ResvKind::Reserved));
    for endpoint in [20, 21, 22] {
        assert_eq!(rig.attach(1, endpoint), Status::Unsupp, "endpoint {endpoint}");
    }
    // In domains of their own they are welcome, and the domain is as they are.
    assert_eq!(rig.attach(2, 20), Status::Ok);
    assert_eq!(rig.map(2, 0, 0xfff, 0), Status::Range);
    assert_eq!(rig.map(2, 0, 0xffff, 0), Status::Ok);
    assert_eq!(rig.attach(3, 21), Status::Ok);
    assert_eq!(rig.map(3, 1 << 32, (1 << 32) + 0xfff, 0), Status::Range);
}

/// clause: attach_12 "A device that does not reject the request MUST attach the endpoint."
#[test]
fn attach_12_an_attach_that_is_not_rejected_attaches() {
    let mut rig = Rig::default();
    for domain in [0, 1, u32::MAX] {
        assert_eq!(rig.attach(domain, 8), Status::Ok);
        assert_eq!(rig.map(domain, 0x1000, 0x1fff, 0x5000), Status::Ok);
        assert!(dma_write(&rig.port(8), 0x1000, b"x"));
        assert_eq!(rig.detach(domain, 8), Status::Ok);
    }
}
