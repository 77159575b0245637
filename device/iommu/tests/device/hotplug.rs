//! Endpoints that come and go.

use virtio_iommu::{
    OptionsError,
    endpoint::PortError,
    spec::{EndpointId, Status},
};

use crate::support::*;

#[test]
fn an_endpoint_can_come_at_any_time() {
    let mut rig = Rig::default();
    assert_eq!(rig.attach(1, 20), Status::NoEnt);
    rig.device.add_emulated_endpoint(EndpointId(20)).unwrap();
    let again = rig.device.add_emulated_endpoint(EndpointId(20));
    assert_eq!(again, Err(OptionsError::Exists { endpoint: EndpointId(20) }));
    assert_eq!(rig.attach(1, 20), Status::Ok);
    assert_eq!(rig.map(1, 0, 0xfff, 0x5000), Status::Ok);
    assert!(dma_write(&rig.port(20), 0, b"x"));
}

#[test]
fn a_removed_endpoint_reaches_nothing_and_its_domain_goes_with_it() {
    let mut rig = Rig::default();
    assert_eq!(rig.attach(1, 8), Status::Ok);
    assert_eq!(rig.map(1, 0, 0xfff, 0x5000), Status::Ok);
    let port = rig.port(8);
    assert!(rig.device.remove_endpoint(EndpointId(8)));
    assert!(!rig.device.remove_endpoint(EndpointId(8)));
    assert!(!dma_write(&port, 0, b"x"));
    assert_eq!(rig.counters().faults.faults(), 0, "there is no endpoint a fault could name");
    assert_eq!(rig.map(1, 0x1000, 0x1fff, 0), Status::NoEnt);
    assert_eq!(rig.detach(1, 8), Status::NoEnt);
    assert!(matches!(rig.device.endpoint_port(EndpointId(8)), Err(PortError::NoEndpoint { .. })));
    // Another endpoint with the same ID is another endpoint.
    rig.device.add_emulated_endpoint(EndpointId(8)).unwrap();
    assert_eq!(rig.attach(1, 8), Status::Ok);
    assert_eq!(rig.map(1, 0, 0xfff, 0x5000), Status::Ok);
    assert!(!dma_write(&port, 0, b"x") && dma_write(&rig.port(8), 0, b"y"));
}

#[test]
fn the_other_endpoints_of_the_domain_stay() {
    let mut rig = Rig::default();
    assert_eq!((rig.attach(1, 8), rig.attach(1, 9)), (Status::Ok, Status::Ok));
    assert_eq!(rig.map(1, 0, 0xfff, 0x5000), Status::Ok);
    assert!(rig.device.remove_endpoint(EndpointId(8)));
    assert!(dma_write(&rig.port(9), 0, b"x"));
}

#[test]
fn mappings_of_a_removed_endpoint_are_given_back() {
    let mut rig = Rig::new(virtio_iommu::DeviceOptions { max_mappings: 2, ..options() });
    for _ in 0..5 {
        assert_eq!(rig.attach(1, 8), Status::Ok);
        assert_eq!(rig.map(1, 0, 0xfff, 0), Status::Ok);
        assert_eq!(rig.map(1, 0x1000, 0x1fff, 0), Status::Ok);
        assert!(rig.device.remove_endpoint(EndpointId(8)));
        rig.device.add_emulated_endpoint(EndpointId(8)).unwrap();
    }
}
