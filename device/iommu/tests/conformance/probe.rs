//! "PROBE request".

use virtio_iommu::{
    DeviceOptions,
    properties::{EndpointProperties, Regions, ResvKind, ResvRegion},
    spec::{Status, request as wire},
};

use super::support::*;

fn two_regions(rig: &Rig) {
    let region = |start, kind| ResvRegion { start, end: start + 0xfff, kind };
    let regions = vec![region(0x1000, ResvKind::Reserved), region(0xfee0_0000, ResvKind::Msi)];
    rig.endpoint(20, EndpointProperties::with_regions(Regions::new(regions).unwrap()));
}

/// clause: probe_1 "The device MUST ignore field reserved of a PROBE request."
#[test]
fn probe_1_reserved_is_ignored() {
    let mut rig = Rig::default();
    let probe = wire::Probe { endpoint: 8, reserved: [0xff; 64] };
    assert_eq!(rig.send(&probe.encode(), 516).status(), Status::Ok);
}

/// clause: probe_2 "If the endpoint identified by endpoint doesn't exist, then the device SHOULD reject the request and set status to VIRTIO_IOMMU_S_NOENT."
#[test]
fn probe_2_an_unknown_endpoint_is_noent() {
    let mut rig = Rig::default();
    let answer = rig.probe_sized(7, 512);
    assert_eq!(answer.status(), Status::NoEnt);
    assert!(answer.bytes[..512].iter().all(|byte| *byte == 0), "zeroed before the tail");
}

fn not_offered() -> Answer {
    Rig::new(DeviceOptions { probe: false, ..options() }).probe_sized(8, 512)
}

/// clause: probe_3a "If the device does not offer the VIRTIO_IOMMU_F_PROBE feature, and if the driver sends a VIRTIO_IOMMU_T_PROBE request, then the device SHOULD NOT write the buffer and SHOULD set the used length to zero."
#[test]
fn probe_3a_not_offered_writes_nothing() {
    assert!(not_offered().bytes.iter().all(|byte| *byte == FILL));
}

/// clause: probe_3b "If the device does not offer the VIRTIO_IOMMU_F_PROBE feature, and if the driver sends a VIRTIO_IOMMU_T_PROBE request, then the device SHOULD NOT write the buffer and SHOULD set the used length to zero."
#[test]
fn probe_3b_not_offered_has_used_length_zero() {
    assert_eq!(not_offered().used_len, 0);
}

/// clause: probe_4 "The device SHOULD set field reserved of a property to zero."
#[test]
fn probe_4_reserved_of_a_property_is_zero() {
    let mut rig = Rig::default();
    // The upper four bits of the first half-word.
    assert_eq!(rig.probe(8)[1] & 0xf0, 0);
}

/// clause: probe_5 "The device MUST write the size of a property without the struct virtio_iommu_probe_property header, in bytes, into length."
#[test]
fn probe_5_length_leaves_out_the_header() {
    let mut rig = Rig::default();
    assert_eq!(rig.probe(8)[..4], [1, 0, 20, 0]);
}

/// clause: probe_6 "When two properties follow each other, the device MUST put the second property exactly (length + 4) bytes after the beginning of the first one."
#[test]
fn probe_6_properties_follow_each_other() {
    let mut rig = Rig::default();
    two_regions(&rig);
    let bytes = rig.probe(20);
    let length = usize::from(u16::from_le_bytes([bytes[2], bytes[3]]));
    let second = &bytes[length + 4..];
    assert_eq!(second[..8], [1, 0, 20, 0, 1, 0, 0, 0], "type, length, subtype MSI");
    assert_eq!(second[8..16], 0xfee0_0000u64.to_le_bytes());
}

/// clause: probe_7 "If the properties list is smaller than probe_size, the device SHOULD NOT write any property."
#[test]
fn probe_7_a_small_buffer_gets_no_property() {
    let mut rig = Rig::default();
    for size in [0, 1, 24, 511] {
        let answer = rig.probe_sized(8, size);
        assert!(answer.bytes[..size].iter().all(|byte| *byte == 0));
    }
}

/// clause: probe_8 "It SHOULD reject the request and set status to VIRTIO_IOMMU_S_INVAL."
#[test]
fn probe_8_a_small_buffer_is_inval() {
    let mut rig = Rig::default();
    for size in [0, 1, 24, 511] {
        assert_eq!(rig.probe_sized(8, size).status(), Status::Inval);
    }
}

/// clause: probe_9 "If the device doesn't fill all probe_size bytes with properties, it SHOULD fill the remaining bytes of properties with zeroes."
#[test]
fn probe_9_the_rest_is_zero() {
    let mut rig = Rig::default();
    let bytes = rig.probe(8);
    assert_eq!(bytes.len(), 512);
    assert!(bytes[24..].iter().all(|byte| *byte == 0));
    // Also in a buffer that is larger than it need be.
    let answer = rig.probe_sized(8, 700);
    assert_eq!(answer.status(), Status::Ok);
    assert!(answer.bytes[24..700].iter().all(|byte| *byte == 0));
}
