//! Hosts that refuse: no device reaches what a request has taken away once that is answered with anything but DEVERR, and a
//! refused request changes nothing.

use std::sync::Arc;

use virtio_iommu::{
    DeviceOptions,
    passthrough::{Backend, BackendError},
    properties::EndpointProperties,
    spec::{
        EndpointId, Status,
        request::{self as wire, ATTACH_F_BYPASS},
    },
};
use virtio_transport::VirtioDevice;

use crate::{
    backends::{ALWAYS, Call, EIO, Host},
    support::*,
};

const REAL: u32 = 30;

fn with(options: DeviceOptions, hosts: &[&Arc<Host>]) -> Rig {
    let rig = Rig::new(options);
    for (host, id) in hosts.iter().zip(REAL..) {
        let host: Arc<dyn Backend> = Arc::clone(*host) as _;
        rig.device.add_passthrough_endpoint(EndpointId(id), EndpointProperties::default(), host).unwrap();
    }
    rig
}

fn rig(host: Host) -> (Rig, Arc<Host>) {
    let host = Arc::new(host);
    (with(options(), &[&host]), host)
}

/// Sends requests with one kick; their status bytes.
fn batch(rig: &mut Rig, requests: &[Vec<u8>]) -> Vec<Status> {
    for (bytes, n) in requests.iter().zip(0..) {
        let at = 0x10_0000 + 0x100 * u64::from(n);
        rig.poke(at, bytes);
        rig.poke(at + 0x80, &[FILL; 4]);
        rig.requests.put_chain(2 * n, &[(at, bytes.len() as u32, 0), (at + 0x80, 4, WRITE)]);
        rig.requests.make_available(2 * n);
    }
    rig.kick();
    (0..requests.len() as u64)
        .map(|n| {
            assert!(rig.requests.pop_used().is_some());
            let [status, ..] = rig.peek::<4>(0x10_0080 + 0x100 * n);
            Status::from_wire(status).unwrap()
        })
        .collect()
}

fn unmap(domain: u32, start: u64, end: u64) -> Vec<u8> {
    wire::Unmap { domain, virt_start: start, virt_end: end, reserved: [0; 4] }.encode().to_vec()
}

fn detach(domain: u32, endpoint: u32) -> Vec<u8> {
    wire::Detach { domain, endpoint, reserved: [0; 8] }.encode().to_vec()
}

#[test]
fn detach_is_deverr_and_blocks_until_everything_is_taken_away() {
    for error in [EIO, BackendError::NoMemory, BackendError::NotRam] {
        let (mut rig, host) = rig(Host::default());
        assert_eq!((rig.attach(1, 8), rig.attach(1, REAL)), (Status::Ok, Status::Ok));
        assert_eq!(rig.map(1, 0x1000, 0x1fff, 0x5000), Status::Ok);
        host.refuse(Call::ShowNothing, ALWAYS, error);
        assert_eq!(rig.detach(1, REAL), Status::DevErr, "{error}");
        assert!(host.reaches(0x1000));
        assert_eq!(rig.detach(1, REAL), Status::Inval, "it is detached all the same");
        assert_eq!(rig.unmap(1, 0x1000, 0x1fff), Status::DevErr, "the device that left still reaches it");
        for domain in [1, 2] {
            assert_eq!(rig.attach(domain, REAL), Status::DevErr, "it joins none");
            assert_eq!(rig.attach_flags(3, REAL, ATTACH_F_BYPASS), Status::DevErr);
        }
        host.relent();
        assert_eq!(rig.unmap(1, 0x1000, 0x1fff), Status::Ok);
        assert!(host.is_dark());
        assert_eq!(rig.attach(2, REAL), Status::Ok);
    }
}

/// UNMAP and DETACH in one batch: what is put off is left behind in a domain that has gone meanwhile.
#[test]
fn an_unmap_put_off_before_a_failing_detach_is_deverr() {
    for shared in [false, true] {
        let (mut rig, host) = rig(Host::putting_off());
        if shared {
            assert_eq!(rig.attach(1, 8), Status::Ok);
        }
        assert_eq!(rig.attach(1, REAL), Status::Ok);
        assert_eq!(rig.map(1, 0x1000, 0x1fff, 0x5000), Status::Ok);
        host.refuse(Call::ShowNothing, ALWAYS, EIO);
        let answers = batch(&mut rig, &[unmap(1, 0, 0xffff), detach(1, REAL)]);
        assert_eq!(answers, [Status::DevErr; 2], "shared {shared}");
        host.relent();
        assert_eq!(rig.attach(2, REAL), Status::Ok);
        assert!(host.is_dark());
    }
}

#[test]
fn a_failing_move_is_refused_and_the_endpoint_stays() {
    for flags in [0, ATTACH_F_BYPASS] {
        let host = Arc::new(Host::default());
        let mut rig = with(DeviceOptions { max_mappings: 4, ..options() }, &[&host]);
        assert_eq!(rig.attach(1, REAL), Status::Ok);
        let page = |n: u64| (n << 12, (n << 12) + 0xfff);
        for n in 0..4 {
            assert_eq!(rig.map(1, page(n).0, page(n).1, 0), Status::Ok);
        }
        let call = if flags == 0 { Call::Show } else { Call::ShowAll };
        host.refuse(call, 1, BackendError::NoMemory);
        assert_eq!(rig.attach_flags(2, REAL, flags), Status::NoMem);
        assert!((0..4).all(|n| host.reaches(n << 12)) && !host.reaches_all(), "it sees what it saw");
        assert_eq!(rig.device.domains(), 1);
        assert_eq!(rig.counters().mappings_reserved, 4);
        assert_eq!(rig.unmap(1, page(0).0, page(0).1), Status::Ok);
        assert_eq!(rig.map(1, page(7).0, page(7).1, 0), Status::Ok, "the cap is where it was");
        assert!(!host.reaches(0) && host.reaches(page(7).0), "and its domain goes on");
        assert_eq!(rig.attach_flags(2, REAL, flags), Status::Ok);
        for n in 0..4 {
            if flags == 0 {
                assert_eq!(rig.map(2, page(n).0, page(n).1, 0), Status::Ok, "credits came back");
            }
        }
    }
}

/// Neither the new view nor the old one can be had: the endpoint stays where it is and sees nothing until it can.
#[test]
fn a_move_that_cannot_be_undone_leaves_the_device_dark_until_it_can() {
    let (mut rig, host) = rig(Host::default());
    assert_eq!(rig.attach(1, REAL), Status::Ok);
    assert_eq!(rig.map(1, 0x1000, 0x1fff, 0x5000), Status::Ok);
    host.refuse(Call::Show, ALWAYS, BackendError::NoMemory);
    assert_eq!(rig.attach(2, REAL), Status::NoMem);
    assert!(host.is_dark());
    assert_eq!(rig.map(1, 0x2000, 0x2fff, 0x5000), Status::NoMem, "mapped everywhere or nowhere");
    assert_eq!(rig.unmap(1, 0x1000, 0x1fff), Status::Ok);
    host.relent();
    assert_eq!(rig.map(1, 0x3000, 0x3fff, 0x5000), Status::Ok);
    assert!(!host.reaches(0x1000) && !host.reaches(0x2000) && host.reaches(0x3000));
    // The same, and what it sees cannot be taken away either.
    host.refuse(Call::Show, 2, BackendError::NoMemory);
    host.refuse(Call::ShowNothing, ALWAYS, EIO);
    assert_eq!(rig.attach(2, REAL), Status::DevErr);
    assert_eq!(rig.map(1, 0x4000, 0x4fff, 0x5000), Status::DevErr);
    assert_eq!(rig.unmap(1, 0x3000, 0x3fff), Status::DevErr);
    host.relent();
    assert_eq!(rig.unmap(1, 0x3000, 0x3fff), Status::Ok);
    assert_eq!(rig.detach(1, REAL), Status::Ok);
    assert!(host.is_dark());
}

#[test]
fn an_endpoint_is_removed_only_when_nothing_is_left() {
    for attached in [false, true] {
        let host = Arc::new(Host::default());
        let mut rig = with(DeviceOptions { boot_bypass: true, ..options() }, &[&host]);
        if attached {
            assert_eq!(rig.attach(1, REAL), Status::Ok);
            assert_eq!(rig.map(1, 0, 0xfff, 0x5000), Status::Ok);
        }
        host.refuse(Call::ShowNothing, 2, EIO);
        assert!(!rig.device.remove_endpoint(EndpointId(REAL)));
        assert_eq!(rig.device.domains(), 0, "it is detached all the same");
        assert!(!rig.device.remove_endpoint(EndpointId(REAL)));
        assert!(host.reaches(0));
        assert!(rig.device.remove_endpoint(EndpointId(REAL)));
        assert!(host.is_dark());
        assert_eq!(rig.attach(1, REAL), Status::NoEnt);
    }
}

#[test]
fn bypass_and_reset_that_fail_leave_a_device_blocked_and_say_so() {
    let host = Arc::new(Host::default());
    let mut rig = with(DeviceOptions { boot_bypass: true, ..options() }, &[&host]);
    assert!(host.reaches_all());
    host.refuse(Call::ShowNothing, ALWAYS, EIO);
    rig.device.write_config(36, &[0]);
    assert!(rig.device.needs_reset(), "a write has no other answer");
    assert_eq!(rig.irq.config.load(std::sync::atomic::Ordering::Relaxed), 1);
    assert_eq!(rig.attach(1, REAL), Status::DevErr);
    rig.device.reset();
    assert!(rig.device.needs_reset(), "the next driver is told, too");
    host.relent();
    rig.device.reset();
    assert!(!rig.device.needs_reset() && host.is_dark());
    let features = rig.device.features() & !virtio_iommu::device::F_EVENT_IDX;
    rig.zero_rings();
    rig.activate(features);
    assert_eq!(rig.attach(1, REAL), Status::Ok);
    assert_eq!(rig.map(1, 0, 0xfff, 0x5000), Status::Ok);
    host.refuse(Call::ShowNothing, 1, EIO);
    rig.device.reset();
    assert!(rig.device.needs_reset() && host.reaches(0));
    rig.device.system_reset();
    assert!(!rig.device.needs_reset() && host.reaches_all(), "boot bypass");
}

#[test]
fn what_an_unmap_leaves_is_deverr_until_it_is_gone() {
    for host in [Host::default(), Host::putting_off()] {
        let (mut rig, host) = rig(host);
        assert_eq!(rig.attach(1, REAL), Status::Ok);
        assert_eq!(rig.map(1, 0x1000, 0x2fff, 0x5000), Status::Ok);
        host.refuse(Call::Unmap, 2, BackendError::NoMemory);
        host.refuse(Call::Flush, 2, BackendError::NoMemory);
        assert_eq!(rig.unmap(1, 0x1000, 0x2fff), Status::DevErr);
        assert_eq!(
            rig.unmap(1, 0x2000, 0x2fff),
            Status::DevErr,
            "nothing is mapped there, and it is reachable"
        );
        assert!(host.reaches(0x2000));
        assert_eq!(rig.unmap(1, 0x2000, 0x2fff), Status::Ok);
        assert!(host.is_dark());
    }
}

/// Two hosts in a domain, the second refuses a MAP: the first has nothing of it when that is answered.
#[test]
fn a_refused_map_is_flushed_before_its_answer() {
    let hosts = [Arc::new(Host::putting_off()), Arc::new(Host::putting_off())];
    let mut rig = with(options(), &[&hosts[0], &hosts[1]]);
    assert_eq!((rig.attach(1, REAL), rig.attach(1, REAL + 1)), (Status::Ok, Status::Ok));
    hosts[1].refuse(Call::Map, 1, BackendError::NoMemory);
    assert_eq!(rig.map(1, 0x1000, 0x1fff, 0x5000), Status::NoMem);
    assert!(hosts.iter().all(|host| host.is_dark()));
    for failing in [Call::Unmap, Call::Flush] {
        hosts[1].refuse(Call::Map, 1, BackendError::NoMemory);
        hosts[0].refuse(failing, ALWAYS, BackendError::NoMemory);
        assert_eq!(rig.map(1, 0x1000, 0x1fff, 0x5000), Status::DevErr, "{failing:?}");
        hosts[0].relent();
        assert_eq!(rig.unmap(1, 0x1000, 0x1fff), Status::Ok);
        assert!(hosts.iter().all(|host| host.is_dark()));
    }
    let counters = rig.counters();
    assert_eq!(counters.statuses.iter().sum::<u64>(), 2 + 1 + 2 * 2, "each answer counted once");
    rig.device.reset();
    assert_eq!(rig.counters().mappings_reserved, 0);
}

/// "A MAP without READ and WRITE is a mapping that allows nothing" (`docs/error-precedence.md`): no host has such mappings.
#[test]
fn a_mapping_that_allows_nothing_is_the_tables_alone() {
    let (mut rig, host) = rig(Host::putting_off());
    assert_eq!(rig.attach(1, REAL), Status::Ok);
    for flags in [0, wire::MAP_F_MMIO] {
        assert_eq!(rig.map(1, 0x1000, 0x1fff, 0x5000), Status::Ok);
        let unmap = unmap(1, 0x1000, 0x1fff);
        let map = wire::Map { domain: 1, virt_start: 0x1000, virt_end: 0x1fff, phys_start: 0x5000, flags };
        assert_eq!(batch(&mut rig, &[unmap, map.encode().to_vec()]), [Status::Ok; 2]);
        assert!(host.is_dark(), "what was put off there is gone");
        assert_eq!(rig.map(1, 0x1000, 0x1fff, 0x5000), Status::Inval, "it takes its addresses");
        assert_eq!(rig.attach(2, REAL), Status::Ok);
        assert_eq!((rig.attach(1, 8), rig.map_flags(1, 0x1000, 0x1fff, 0, flags)), (Status::Ok, Status::Ok));
        assert_eq!(rig.attach(1, REAL), Status::Ok, "nor is it replayed");
        assert!(host.is_dark());
        assert_eq!(rig.unmap(1, 0, u64::MAX), Status::Ok);
        assert_eq!(rig.detach(1, 8), Status::Ok);
    }
    // What cannot be taken away there would be reachable.
    assert_eq!(rig.map(1, 0x1000, 0x1fff, 0x5000), Status::Ok);
    host.refuse(Call::Flush, 2, EIO);
    assert_eq!(rig.unmap(1, 0x1000, 0x1fff), Status::DevErr);
    assert_eq!(rig.map_flags(1, 0x1000, 0x1fff, 0x5000, 0), Status::DevErr);
    assert_eq!(rig.map_flags(1, 0x1000, 0x1fff, 0x5000, 0), Status::Ok);
    assert!(host.is_dark());
}
