//! A guest that exceeds every cap in turn, and goes on normally after each.

use virtio_iommu::{DeviceOptions, spec::Status};

use crate::support::*;

fn works(rig: &mut Rig) {
    assert_eq!(rig.attach(7, 9), Status::Ok);
    assert_eq!(rig.map(7, 0x4000_0000, 0x4000_0fff, 0x5000), Status::Ok);
    assert!(dma_write(&rig.port(9), 0x4000_0000, b"fine"));
    assert_eq!(rig.unmap(7, 0x4000_0000, 0x4000_0fff), Status::Ok);
    assert_eq!(rig.detach(7, 9), Status::Ok);
}

#[test]
fn domains() {
    let mut rig = Rig::new(DeviceOptions { max_domains: 2, ..options() });
    rig.device.add_emulated_endpoint(virtio_iommu::spec::EndpointId(10)).unwrap();
    assert_eq!(rig.attach(1, 8), Status::Ok);
    assert_eq!(rig.attach(2, 9), Status::Ok);
    assert_eq!(rig.attach(3, 10), Status::NoMem);
    // Into a domain that exists, and out of one that ceases to exist with it.
    assert_eq!(rig.attach(2, 10), Status::Ok);
    assert_eq!(rig.attach(3, 8), Status::Ok);
    assert_eq!(rig.detach(2, 9), Status::Ok);
    assert_eq!(rig.detach(2, 10), Status::Ok);
    works(&mut rig);
}

#[test]
fn mappings() {
    for cap in [1u64, 3, 300, 1000] {
        let mut rig = Rig::new(DeviceOptions { max_mappings: cap, ..options() });
        assert_eq!(rig.attach(1, 8), Status::Ok);
        let page = |i: u64| (i << 12, (i << 12) + 0xfff);
        for i in 0..cap {
            assert_eq!(rig.map(1, page(i).0, page(i).1, 0), Status::Ok, "{i} of {cap}");
        }
        for _ in 0..3 {
            assert_eq!(rig.map(1, page(cap).0, page(cap).1, 0), Status::NoMem);
        }
        assert_eq!(rig.map(1, 1, 2, 0), Status::Range, "what is wrong with a request comes first");
        assert_eq!(rig.unmap(1, page(0).0, page(0).1), Status::Ok);
        assert_eq!(rig.map(1, page(cap).0, page(cap).1, 0), Status::Ok);
        assert_eq!(rig.map(1, page(0).0, page(0).1, 0), Status::NoMem);
        // A domain that ceases to exist gives its mappings back.
        assert_eq!(rig.detach(1, 8), Status::Ok);
        works(&mut rig);
        assert_eq!(rig.attach(1, 8), Status::Ok);
        for i in 0..cap {
            assert_eq!(rig.map(1, page(i).0, page(i).1, 0), Status::Ok, "{i} of {cap} again");
        }
    }
}

#[test]
fn table_memory() {
    let mut rig = Rig::new(DeviceOptions { max_table_bytes: 64 << 10, ..options() });
    assert_eq!(rig.attach(1, 8), Status::Ok);
    let mut status = Status::Ok;
    let mut made = 0u64;
    // One page in each gibibyte: as many tables as it takes.
    while status == Status::Ok {
        let start = made << 30;
        status = rig.map(1, start, start + 0xfff, 0);
        made += u64::from(status == Status::Ok);
        assert!(made < 4096, "the cap is never reached");
    }
    assert_eq!(status, Status::NoMem);
    assert!(made > 0 && rig.device.table_bytes() <= 64 << 10);
    assert!(dma_write(&rig.port(8), 0, b"x"), "what is there stays");
    assert_eq!(rig.unmap(1, 0, 0xfff), Status::Ok);
    assert_eq!(
        rig.map(1, made << 30, (made << 30) + 0xfff, 0),
        Status::Ok,
        "what one gave back another takes"
    );
    assert_eq!(rig.unmap(1, 0, u64::MAX), Status::Ok);
    works(&mut rig);
    assert_eq!(rig.detach(1, 8), Status::Ok);
    works(&mut rig);
}

#[test]
fn table_memory_is_shared_by_all_domains() {
    let cap = 64 << 10;
    let mut rig = Rig::new(DeviceOptions { max_table_bytes: cap, ..options() });
    assert_eq!((rig.attach(1, 8), rig.attach(2, 9)), (Status::Ok, Status::Ok));
    let fill = |rig: &mut Rig, domain| {
        (0..4096u64).take_while(|n| rig.map(domain, n << 30, (n << 30) + 0xfff, 0) == Status::Ok).count()
    };
    let first = fill(&mut rig, 1);
    assert!(first > 1);
    assert_eq!(fill(&mut rig, 2), 0, "one domain's tables leave nothing for the other");
    assert!(rig.device.table_bytes() <= cap);
    assert_eq!(rig.detach(1, 8), Status::Ok);
    assert!(fill(&mut rig, 2) >= first, "DETACH gives back what the domain had");
    assert_eq!(rig.detach(2, 9), Status::Ok);
    assert_eq!(rig.device.table_bytes(), 0, "back to the start");
    works(&mut rig);
}

#[test]
fn table_memory_of_bytes() {
    let mut rig = Rig::new(DeviceOptions { max_table_bytes: 640, ..byte_granule() });
    assert_eq!(rig.attach(1, 8), Status::Ok);
    for i in 0..10 {
        assert_eq!(rig.map(1, i, i, 0), Status::Ok);
    }
    assert_eq!(rig.map(1, 10, 10, 0), Status::NoMem);
    assert_eq!(rig.unmap(1, 0, 9), Status::Ok);
    works(&mut rig);
}

#[test]
fn event_backlog_and_no_event_buffers() {
    let mut rig = Rig::new(DeviceOptions { event_backlog: 4, ..options() });
    let port = rig.port(8);
    for _ in 0..100 {
        assert!(!dma_write(&port, 0x1000, b"x"));
    }
    let faults = rig.counters().faults;
    assert_eq!((faults.faults(), faults.dropped_no_buffer, faults.delivered), (100, 100, 0));
    rig.give_event_buffers(2, 24);
    for _ in 0..3 {
        assert!(!dma_write(&port, 0x1000, b"x"));
    }
    assert_eq!(rig.counters().faults.delivered, 2);
    works(&mut rig);
}

#[test]
fn endpoints_whose_properties_do_not_fit_are_refused() {
    use virtio_iommu::{OptionsError, properties::*, spec::EndpointId};
    let rig = Rig::new(DeviceOptions { probe_size: 47, ..options() });
    let region = |start| ResvRegion { start, end: start, kind: ResvKind::Reserved };
    let two = EndpointProperties::with_regions(Regions::new(vec![region(0), region(2)]).unwrap());
    let refused = rig.device.add_endpoint(EndpointId(20), two);
    let expected = OptionsError::TooManyRegions { endpoint: EndpointId(20), bytes: 48, probe_size: 47 };
    assert_eq!(refused, Err(expected));
}
