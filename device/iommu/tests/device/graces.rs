//! Requests that end only when accesses under what they changed have ended: each is watched while a guard is held.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use virtio_iommu::{
    DeviceOptions, EndpointPort,
    dma::{Access, DmaMemory},
    endpoint::UnattachedPolicy,
    epoch::Patience,
    passthrough::BackendError,
    properties::{EndpointProperties, Regions, ResvKind, ResvRegion},
    spec::{EndpointId, Status},
};
use virtio_transport::VirtioDevice;

use crate::{
    backends::{Call, Host},
    support::*,
};

const REAL: u32 = 30;

fn patient() -> DeviceOptions {
    let patience = Patience { spins: 10, yields: 1_000_000, naps: 100_000 };
    DeviceOptions { patience, ..options() }
}

fn with_region(kind: ResvKind) -> EndpointProperties {
    let region = ResvRegion { start: 0x10_0000, end: 0x10_ffff, kind };
    EndpointProperties::with_regions(Regions::new(vec![region]).unwrap())
}

/// Runs `request` while a guard of `port` is held: it must not end before the guard does, and must after.
fn ends_with_the_guard<T: Send>(
    rig: &mut Rig,
    port: &EndpointPort,
    request: impl FnOnce(&mut Rig) -> T + Send,
) -> T {
    let (begun, ended) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        let view = port.pin();
        let (begun, ended) = (&begun, &ended);
        let request = scope.spawn(move || {
            begun.store(true, Ordering::Release);
            let answer = request(rig);
            ended.store(true, Ordering::Release);
            answer
        });
        while !begun.load(Ordering::Acquire) {
            thread::yield_now();
        }
        thread::sleep(Duration::from_millis(50));
        let early = ended.load(Ordering::Acquire);
        drop(view);
        let answer = request.join().unwrap();
        assert!(!early, "answered while an access under what it changed may run");
        answer
    })
}

#[test]
fn an_attach_out_of_bypass_waits() {
    let mut rig = Rig::new(DeviceOptions { boot_bypass: true, ..patient() });
    let port = rig.port(8);
    assert_eq!(ends_with_the_guard(&mut rig, &port, |rig| rig.attach(1, 8)), Status::Ok);
}

#[test]
fn an_attach_that_brings_regions_waits() {
    let mut rig = Rig::new(patient());
    rig.endpoint(20, with_region(ResvKind::Reserved));
    assert_eq!(rig.attach(1, 8), Status::Ok);
    let port = rig.port(8);
    assert_eq!(ends_with_the_guard(&mut rig, &port, |rig| rig.attach(1, 20)), Status::Ok);
    assert_eq!(rig.map(1, 0x10_0000, 0x10_0fff, 0), Status::Inval);
}

#[test]
fn an_attach_of_a_real_device_waits() {
    let mut rig = Rig::new(patient());
    let host = Arc::new(Host::default());
    rig.device.add_passthrough_endpoint(EndpointId(REAL), EndpointProperties::default(), host).unwrap();
    assert_eq!(rig.attach(1, 8), Status::Ok);
    // The regions stay as they are: it is the list of mappings that requests under way may still change.
    rig.device.add_endpoint(EndpointId(21), EndpointProperties::default()).unwrap();
    let port = rig.port(8);
    assert_eq!(rig.attach(1, 21), Status::Ok);
    assert_eq!(ends_with_the_guard(&mut rig, &port, |rig| rig.attach(1, REAL)), Status::Ok);
}

#[test]
fn bypass_off_waits() {
    for system_reset in [false, true] {
        let mut rig = Rig::new(patient());
        rig.device.write_config(36, &[1]);
        let port = rig.port(8);
        ends_with_the_guard(&mut rig, &port, |rig| {
            if system_reset { rig.device.system_reset() } else { rig.device.write_config(36, &[0]) }
        });
        assert!(!dma_write(&port, 0x5000, b"x"));
    }
}

/// The other endpoints of the domain see the mapping until the host has refused it.
#[test]
fn a_refused_map_waits() {
    let mut rig = Rig::new(patient());
    let host = Arc::new(Host::default());
    let properties = EndpointProperties::default();
    rig.device.add_passthrough_endpoint(EndpointId(REAL), properties, host.clone()).unwrap();
    assert_eq!((rig.attach(1, 8), rig.attach(1, REAL)), (Status::Ok, Status::Ok));
    let port = rig.port(8);
    host.hold();
    host.refuse(Call::Map, 1, BackendError::NoMemory);
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        let (ended, rig) = (&ended, &mut rig);
        let request = scope.spawn(move || {
            let status = rig.map(1, 0x1000, 0x1fff, 0x5000);
            ended.store(true, Ordering::Release);
            status
        });
        host.wait_for_map();
        let view = port.pin();
        let seen = view.slice(0x1000, 1, Access::Write).is_ok();
        host.release();
        thread::sleep(Duration::from_millis(50));
        let early = ended.load(Ordering::Acquire);
        drop(view);
        assert_eq!(request.join().unwrap(), Status::NoMem);
        assert!(seen && !early, "seen {seen}, early {early}");
    });
    assert!(!dma_write(&port, 0x1000, b"x"));
}

/// With the legacy feature bypass ends with what was negotiated, before endpoints are detached.
#[test]
fn legacy_bypass_ends_before_endpoints_are_detached() {
    for attached in [false, true] {
        let mut rig = Rig::new(DeviceOptions { legacy_bypass: true, ..patient() });
        let host = Arc::new(Host::default());
        let properties = EndpointProperties::default();
        rig.device.add_passthrough_endpoint(EndpointId(REAL), properties, host.clone()).unwrap();
        assert!(host.reaches_all());
        if attached {
            assert_eq!(rig.attach(1, REAL), Status::Ok);
            assert!(host.is_dark());
        }
        let shown = host.calls(Call::ShowAll);
        rig.device.reset();
        assert!(host.is_dark(), "attached {attached}");
        assert_eq!(host.calls(Call::ShowAll), shown, "not even for a moment");
        let features = rig.device.features() & !virtio_iommu::device::F_EVENT_IDX;
        rig.restart(features);
        assert!(host.reaches_all());
    }
}

#[test]
fn an_unattached_endpoint_that_leaves_its_regions_is_reported() {
    let unattached = UnattachedPolicy::AllowIdentity;
    let mut rig = Rig::new(DeviceOptions { unattached, ..options() });
    rig.endpoint(20, with_region(ResvKind::Identity));
    rig.give_event_buffers(4, 24);
    let port = rig.port(20);
    assert!(dma_write(&port, 0x10_0000, b"x"));
    assert_eq!(rig.next_fault(), None, "within its region it may");
    assert!(!dma_write(&port, 0x5000, b"x"));
    let fault = rig.next_fault().expect("an event");
    assert_eq!((fault.endpoint, fault.address), (20, 0x5000));
    assert!(!dma_write(&rig.port(8), 0x10_0000, b"x"), "another one's region");
    assert_eq!(rig.next_fault().map(|fault| fault.endpoint), Some(8));
}

/// A MAP that fails takes nothing from the cap, however often and of whatever size.
#[test]
fn failed_maps_take_nothing() {
    let mut rig = Rig::new(DeviceOptions { max_mappings: 4, ..options() });
    assert_eq!((rig.attach(1, 8), rig.map(1, 0x8000, 0x8fff, 0)), (Status::Ok, Status::Ok));
    let bytes = rig.device.table_bytes();
    for _ in 0..700 {
        assert_eq!(rig.map(1, 0x8000, 0x8fff, 0), Status::Inval);
        assert_eq!(rig.map(1, 0x1000, 0x8fff, 0), Status::Inval, "several slots, the last one taken");
    }
    assert_eq!(rig.device.table_bytes(), bytes);
    for page in 0..3_u64 {
        assert_eq!(rig.map(1, page << 12, (page << 12) + 0xfff, 0), Status::Ok, "{page}");
    }
    assert_eq!(rig.map(1, 0x9000, 0x9fff, 0), Status::NoMem);
    rig.device.reset();
    assert_eq!(rig.counters().mappings_reserved, 0);
}
