//! Reserved regions: platforms, IDENTITY, merging, policies.

use virtio_iommu::{
    DeviceOptions,
    endpoint::UnattachedPolicy,
    properties::{EndpointProperties, NPlusI, Platform, Regions, ResvKind, ResvRegion},
    spec::{EndpointId, Status, probe::ResvMem},
};

use crate::support::*;

fn properties(regions: &[(u64, u64, ResvKind)]) -> EndpointProperties {
    let regions = regions.iter().map(|&(start, end, kind)| ResvRegion { start, end, kind }).collect();
    EndpointProperties::with_regions(Regions::new(regions).unwrap())
}

fn reported(rig: &mut Rig, endpoint: u32) -> Vec<(u8, u64, u64)> {
    let bytes = rig.probe(endpoint);
    bytes
        .chunks_exact(24)
        .map_while(|bytes| ResvMem::decode(bytes.try_into().unwrap()))
        .map(|region| (region.subtype as u8, region.start, region.end))
        .collect()
}

#[test]
fn x86_reports_the_fixed_window_and_arm_none() {
    let mut x86 = Rig::new(DeviceOptions { platform: Platform::X86, ..options() });
    assert_eq!(reported(&mut x86, 8), [(1, 0xfee0_0000, 0xfeef_ffff)]);
    let mut arm = Rig::new(DeviceOptions { platform: Platform::Arm, ..options() });
    assert_eq!(reported(&mut arm, 8), []);
    // On Arm the doorbell is an address like any other: the driver maps it.
    assert_eq!(arm.attach(1, 8), Status::Ok);
    assert_eq!(arm.map_flags(1, 0xfee0_0000, 0xfee0_0fff, 0x0802_0000, 6), Status::Ok);
}

#[test]
fn a_passed_through_endpoint_reports_what_the_host_reserves() {
    let mut rig = Rig::new(DeviceOptions { platform: Platform::Arm, ..options() });
    // The host's own MSI window and bridge windows: RESERVED for the guest, never MSI.
    let host = [(0x0800_0000, 0x080f_ffff), (0xf000_0000, 0xf0ff_ffff)];
    rig.endpoint(20, Platform::Arm.passthrough(host).unwrap());
    assert_eq!(reported(&mut rig, 20), [(0, 0x0800_0000, 0x080f_ffff), (0, 0xf000_0000, 0xf0ff_ffff)]);
    let x86 = Platform::X86.passthrough([(0xfee0_0000, 0xfeef_ffff), (0, 0xfff)]).unwrap();
    rig.endpoint(21, x86);
    assert_eq!(reported(&mut rig, 21), [(0, 0, 0xfff), (1, 0xfee0_0000, 0xfeef_ffff)]);
}

#[test]
fn identity_regions_are_mapped_by_the_device_and_never_removed() {
    let mut rig = Rig::default();
    rig.endpoint(20, properties(&[(0x10_0000, 0x10_ffff, ResvKind::Identity)]));
    assert_eq!(reported(&mut rig, 20), [(0, 0x10_0000, 0x10_ffff)], "the wire has no other word for it");
    assert_eq!(rig.attach(1, 20), Status::Ok);
    let port = rig.port(20);
    assert!(dma_write(&port, 0x10_0000, b"rmrr"));
    assert_eq!(rig.peek(0x10_0000), *b"rmrr");
    assert_eq!(rig.unmap(1, 0, u64::MAX), Status::Ok);
    assert!(dma_write(&port, 0x10_fffc, b"rmrr"), "UNMAP of everything leaves it");
    assert!(!dma_write(&port, 0x10_fffd, b"rmrr"), "it ends where it ends");
    assert_eq!(rig.map(1, 0x10_0000, 0x10_0fff, 0x5000), Status::Inval);
    // A buffer that crosses from a mapping into the region.
    assert_eq!(rig.map(1, 0xf_f000, 0xf_ffff, 0x5000), Status::Ok);
    assert!(dma_write(&port, 0xf_fffe, b"abcd"));
    assert_eq!((rig.peek(0x5ffe), rig.peek(0x10_0000)), (*b"ab", *b"cd"));
    assert_eq!(rig.detach(1, 20), Status::Ok);
    assert!(!dma_write(&port, 0x10_0000, b"x"));
}

#[test]
fn n_plus_i_is_a_policy() {
    for policy in [NPlusI::Refuse, NPlusI::Allow] {
        let mut rig = Rig::new(DeviceOptions { n_plus_i: policy, ..options() });
        rig.endpoint(20, properties(&[(0x10_0000, 0x10_ffff, ResvKind::Identity)]));
        assert_eq!(rig.attach(1, 20), Status::Ok);
        let expected = if policy == NPlusI::Allow { Status::Ok } else { Status::Unsupp };
        assert_eq!(rig.attach(1, 8), expected);
        assert_eq!(dma_write(&rig.port(8), 0x10_0000, b"x"), policy == NPlusI::Allow);
        assert!(dma_write(&rig.port(20), 0x10_0000, b"x"));
        if policy == NPlusI::Allow {
            // The region goes with the endpoint that brought it.
            assert_eq!(rig.detach(1, 20), Status::Ok);
            assert!(!dma_write(&rig.port(8), 0x10_0000, b"x"));
        }
    }
}

#[test]
fn every_pair_of_the_merge_table_in_a_live_domain() {
    use ResvKind::{Identity as I, Msi as M, Reserved as R};
    let at = (0x10_0000, 0x10_ffff);
    let list = |kind: Option<ResvKind>| properties(&kind.map_or(vec![], |kind| vec![(at.0, at.1, kind)]));
    for (a, b, mapped, accessible) in [
        (None, None, Status::Ok, false),
        (None, Some(R), Status::Inval, false),
        (None, Some(M), Status::Inval, false),
        (Some(R), Some(R), Status::Inval, false),
        (Some(R), Some(M), Status::Inval, false),
        (Some(R), Some(I), Status::Inval, true),
        (Some(M), Some(M), Status::Inval, false),
        (Some(M), Some(I), Status::Inval, true),
        (Some(I), Some(I), Status::Inval, true),
    ] {
        for (first, second) in [(a, b), (b, a)] {
            let mut rig = Rig::default();
            rig.endpoint(20, list(first));
            rig.endpoint(21, list(second));
            assert_eq!(
                (rig.attach(1, 20), rig.attach(1, 21)),
                (Status::Ok, Status::Ok),
                "{first:?} {second:?}"
            );
            for endpoint in [20, 21] {
                let reached = dma_write(&rig.port(endpoint), at.0, b"x");
                assert_eq!(reached, accessible, "{first:?} {second:?}");
            }
            assert_eq!(rig.map(1, at.0, at.0 + 0xfff, 0), mapped, "{first:?} {second:?}");
        }
    }
}

#[test]
fn unattached_endpoints_and_their_identity_regions() {
    for policy in [UnattachedPolicy::Abort, UnattachedPolicy::AllowIdentity] {
        let rig = Rig::new(DeviceOptions { unattached: policy, ..options() });
        rig.endpoint(20, properties(&[(0x10_0000, 0x10_ffff, ResvKind::Identity)]));
        let allowed = policy == UnattachedPolicy::AllowIdentity;
        assert_eq!(dma_write(&rig.port(20), 0x10_0000, b"x"), allowed);
        assert!(!dma_write(&rig.port(20), 0x11_0000, b"x"));
        assert!(!dma_write(&rig.port(8), 0x10_0000, b"x"), "another endpoint's region");
    }
}

#[test]
fn endpoint_limits_that_leave_nothing_are_refused() {
    let rig = Rig::default();
    for (id, properties) in [
        (20, EndpointProperties { page_size_mask: Some(0), ..EndpointProperties::default() }),
        (21, EndpointProperties { input_range: Some((1 << 50, 1 << 51)), ..EndpointProperties::default() }),
        (22, EndpointProperties { input_range: Some((1, 0xfff)), ..EndpointProperties::default() }),
    ] {
        assert!(rig.device.add_endpoint(EndpointId(id), properties).is_err(), "endpoint {id}");
    }
}
