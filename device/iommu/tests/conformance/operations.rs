//! "Device operations".

use virtio_iommu::spec::{EndpointId, Status, request as wire};

use super::support::*;

/// clause: operations_1 "The device SHOULD set status to VIRTIO_IOMMU_S_OK if a request succeeds."
#[test]
fn operations_1_success_is_status_ok() {
    let mut rig = Rig::default();
    assert_eq!(rig.attach(1, 8), Status::Ok);
    assert_eq!(rig.map(1, 0, 0xfff, 0), Status::Ok);
    assert_eq!(rig.unmap(1, 0, 0xfff), Status::Ok);
    assert_eq!(rig.detach(1, 8), Status::Ok);
    assert_eq!(rig.probe_sized(8, 512).status(), Status::Ok);
}

/// clause: operations_2a "If a request type is not recognized, the device SHOULD NOT write the buffer and SHOULD set the used length to zero."
#[test]
fn operations_2a_an_unknown_type_writes_nothing() {
    let mut rig = Rig::default();
    for kind in [0u8, 6, 0x7f, 0xff] {
        let answer = rig.send(&[kind; 36], 64);
        assert!(answer.bytes.iter().all(|byte| *byte == FILL));
    }
}

/// clause: operations_2b "If a request type is not recognized, the device SHOULD NOT write the buffer and SHOULD set the used length to zero."
#[test]
fn operations_2b_an_unknown_type_has_used_length_zero() {
    let mut rig = Rig::default();
    for kind in [0u8, 6, 0x7f, 0xff] {
        assert_eq!(rig.send(&[kind; 36], 64).used_len, 0);
    }
}

/// clause: operations_3a "The device MUST ignore field reserved of struct virtio_iommu_req_head and SHOULD set field reserved of struct virtio_iommu_req_tail to zero."
#[test]
fn operations_3a_reserved_of_the_head_is_ignored() {
    let mut rig = Rig::default();
    let mut attach = wire::Attach { domain: 1, endpoint: 8, flags: 0, reserved: [0; 4] }.encode();
    attach[1..4].fill(0xff);
    assert_eq!(rig.status(&attach), Status::Ok);
    let map = wire::Map { domain: 1, virt_start: 0, virt_end: 0xfff, phys_start: 0, flags: 1 };
    let mut map = map.encode();
    map[1..4].fill(0xff);
    assert_eq!(rig.status(&map), Status::Ok);
}

/// clause: operations_3b "The device MUST ignore field reserved of struct virtio_iommu_req_head and SHOULD set field reserved of struct virtio_iommu_req_tail to zero."
#[test]
fn operations_3b_reserved_of_the_tail_is_zero() {
    let mut rig = Rig::default();
    // One request that succeeds, one that fails; `FILL` was there before.
    for domain in [1u32, 2] {
        let map = wire::Map { domain, virt_start: 0, virt_end: 0xfff, phys_start: 0, flags: 1 };
        if domain == 1 {
            rig.attach(1, 8);
        }
        let answer = rig.send(&map.encode(), 4);
        assert_eq!((answer.used_len, &answer.bytes[1..]), (4, &[0u8, 0, 0][..]));
    }
}

/// clause: operations_4 "The device SHOULD NOT let unattached endpoints that are not in bypass mode access the guest-physical address space."
#[test]
fn operations_4_unattached_endpoints_reach_nothing() {
    let rig = Rig::default();
    rig.poke(0x5000, b"secret");
    let port = rig.port(8);
    assert_eq!(port.id(), EndpointId(8));
    assert_eq!(dma_read(&port, 0x5000, 6), None);
    assert!(!dma_write(&port, 0x5000, b"x"));
    assert_eq!(rig.peek(0x5000), *b"secret");
    assert_eq!(rig.counters().faults.unattached, 2);
}
