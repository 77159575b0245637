//! "DETACH request".

use virtio_iommu::spec::{Status, request as wire};

use super::support::*;

/// clause: detach_1 "The device MUST ignore reserved."
#[test]
fn detach_1_reserved_is_ignored() {
    let mut rig = Rig::default();
    assert_eq!(rig.attach(1, 8), Status::Ok);
    let detach = wire::Detach { domain: 1, endpoint: 8, reserved: [0xff; 8] };
    assert_eq!(rig.status(&detach.encode()), Status::Ok);
}

/// clause: detach_2 "If the endpoint identified by endpoint doesn't exist, then the device MUST reject the request and set status to VIRTIO_IOMMU_S_NOENT."
#[test]
fn detach_2_an_unknown_endpoint_is_noent() {
    let mut rig = Rig::default();
    assert_eq!(rig.attach(1, 8), Status::Ok);
    assert_eq!(rig.detach(1, 7), Status::NoEnt);
    assert_eq!(rig.detach(2, 7), Status::NoEnt);
}

/// clause: detach_3 "If the domain identified by domain doesn't exist, or if the endpoint identified by endpoint isn't attached to this domain, then the device MAY set the request status to VIRTIO_IOMMU_S_INVAL."
#[test]
fn detach_3_the_wrong_domain_is_inval() {
    let mut rig = Rig::default();
    assert_eq!(rig.attach(1, 8), Status::Ok);
    assert_eq!(rig.attach(2, 9), Status::Ok);
    assert_eq!(rig.detach(3, 8), Status::Inval, "no such domain");
    assert_eq!(rig.detach(2, 8), Status::Inval, "not attached there");
    assert_eq!(rig.detach(1, 8), Status::Ok);
    assert_eq!(rig.detach(1, 8), Status::Inval, "not attached any more");
}

/// clause: detach_4 "The device MUST ensure that after being detached from a domain, the endpoint cannot access any mapping from that domain."
#[test]
fn detach_4_a_detached_endpoint_reaches_no_mapping() {
    let mut rig = Rig::default();
    assert_eq!(rig.attach(1, 8), Status::Ok);
    assert_eq!(rig.attach(1, 9), Status::Ok);
    assert_eq!(rig.map(1, 0x1000, 0x1fff, 0x5000), Status::Ok);
    let (gone, stays) = (rig.port(8), rig.port(9));
    assert!(dma_write(&gone, 0x1000, b"x"));
    assert_eq!(rig.detach(1, 8), Status::Ok);
    assert!(!dma_write(&gone, 0x1000, b"y"));
    assert!(dma_write(&stays, 0x1001, b"z"));
    assert_eq!(rig.peek(0x5000), *b"xz");
}
