//! Requests that take long: they end when a reset waits, and memory is short only while it is used.

use std::{
    thread,
    time::{Duration, Instant},
};

use virtio_iommu::{
    DeviceOptions,
    device::RequestKind,
    spec::{Status, request as wire},
};
use virtio_transport::VirtioDevice;

use crate::support::*;

const GIB: u64 = 1 << 30;
const PAGE: u64 = 4096;
/// A mapping each gibibyte, two tables each: an UNMAP of all takes long.
const FAR_APART: u64 = 30_000;

fn map_far_apart(rig: &mut Rig, domain: u32, count: u64) {
    for number in 0..count {
        assert_eq!(rig.map(domain, number * GIB, number * GIB + PAGE - 1, 0), Status::Ok);
    }
}

/// Queues `count` times the same request without a kick.
fn queue(rig: &mut Rig, readable: &[u8], count: u16) {
    let (request, tail) = (0x80000, 0x81000);
    rig.poke(request, readable);
    rig.requests.put_chain(0, &[(request, readable.len() as u32, 0), (tail, 4, WRITE)]);
    (0..count).for_each(|_| rig.requests.make_available(0));
}

fn unmaps(rig: &Rig) -> u64 {
    rig.counters().requests_of(RequestKind::Unmap)
}

fn unmap_all(domain: u32) -> [u8; 28] {
    wire::Unmap { domain, virt_start: 0, virt_end: u64::MAX, reserved: [0; 4] }.encode()
}

#[test]
fn a_reset_does_not_wait_for_what_the_guest_queued() {
    let mut rig = Rig::new(options());
    for round in 0..2 {
        assert_eq!(rig.attach(1, 8), Status::Ok);
        map_far_apart(&mut rig, 1, FAR_APART);
        let before = unmaps(&rig);
        queue(&mut rig, &unmap_all(1), QUEUE_SIZE - 1);
        let waited = thread::scope(|scope| {
            scope.spawn(|| rig.kick());
            while unmaps(&rig) == before {
                thread::yield_now();
            }
            let start = Instant::now();
            rig.device.reset();
            start.elapsed()
        });
        // 100 ms without other work on the machine; a machine that is busy gets more.
        assert!(waited < Duration::from_secs(2), "round {round}: {waited:?}");
        assert!(unmaps(&rig) < before + u64::from(QUEUE_SIZE - 1), "the ring was not served");
        assert_eq!(rig.device.domains(), 0);
        assert!(!dma_write(&rig.port(8), 0, b"x"), "nothing of it can be reached");
        // The next driver has all of the room again.
        rig.zero_rings();
        rig.activate(rig.device.features() & !virtio_iommu::device::F_EVENT_IDX);
        assert_eq!(rig.attach(1, 8), Status::Ok);
        assert_eq!(rig.map(1, 0, PAGE - 1, 0), Status::Ok);
        assert_eq!(rig.unmap(1, 0, u64::MAX), Status::Ok);
        assert_eq!(rig.detach(1, 8), Status::Ok);
        rig.restart(rig.device.features() & !virtio_iommu::device::F_EVENT_IDX);
        assert_eq!((rig.counters().mappings_reserved, rig.device.table_bytes()), (0, 0), "round {round}");
    }
}

#[test]
fn what_a_reset_left_is_not_charged_to_the_next_driver() {
    let caps = DeviceOptions { max_mappings: 200, max_table_bytes: 4096 * 450, ..options() };
    let mut rig = Rig::new(caps);
    for _ in 0..4 {
        assert_eq!(rig.attach(3, 8), Status::Ok);
        map_far_apart(&mut rig, 3, 200);
        assert_eq!(rig.map(3, 200 * GIB, 200 * GIB + PAGE - 1, 0), Status::NoMem);
        rig.restart(rig.device.features() & !virtio_iommu::device::F_EVENT_IDX);
    }
}

#[test]
fn a_pause_waits_for_one_request_and_the_rest_is_served_afterwards() {
    let mut rig = Rig::new(options());
    assert_eq!(rig.attach(1, 8), Status::Ok);
    map_far_apart(&mut rig, 1, 5000);
    let before = unmaps(&rig);
    queue(&mut rig, &unmap_all(1), 40);
    thread::scope(|scope| {
        scope.spawn(|| rig.kick());
        while unmaps(&rig) == before {
            thread::yield_now();
        }
        rig.device.pause();
    });
    rig.device.resume().unwrap();
    rig.kick();
    let mut answered = 0;
    while let Some((head, len)) = rig.requests.pop_used() {
        assert_eq!((head, len), (0, 4));
        answered += 1;
    }
    assert_eq!((answered, unmaps(&rig) - before), (40, 40), "each once");
    assert_eq!(rig.map(1, 0, PAGE - 1, 0), Status::Ok);
}

#[test]
fn a_map_finds_the_memory_that_another_domain_does_not_use_any_more() {
    // Root tables apart, either domain can fill the memory alone.
    for pages in [1, 3] {
        let mut rig = Rig::new(DeviceOptions { max_table_bytes: 40 * 4096, ..options() });
        assert_eq!((rig.attach(1, 8), rig.attach(2, 9)), (Status::Ok, Status::Ok));
        for (domain, other) in [(1, 2), (2, 1), (1, 2), (2, 1)] {
            let at = |number: u64| (number * GIB + PAGE, number * GIB + PAGE * (pages + 1) - 1);
            let fits = (0..100).take_while(|n| rig.map(domain, at(*n).0, at(*n).1, 0) == Status::Ok).count();
            assert!(fits >= 15, "domain {domain} got {fits} beside an empty domain {other}");
            for number in 0..fits as u64 {
                assert_eq!(rig.unmap(domain, at(number).0, at(number).1), Status::Ok);
            }
        }
    }
}

#[test]
fn a_domain_that_goes_makes_room_within_its_batch() {
    let mut rig = Rig::new(DeviceOptions { max_mappings: 4, ..options() });
    assert_eq!(rig.attach(1, 8), Status::Ok);
    map_far_apart(&mut rig, 1, 4);
    let flags = wire::MAP_F_READ;
    let requests: [Vec<u8>; 3] = [
        wire::Detach { domain: 1, endpoint: 8, reserved: [0; 8] }.encode().into(),
        wire::Attach { domain: 2, endpoint: 8, flags: 0, reserved: [0; 4] }.encode().into(),
        wire::Map { domain: 2, virt_start: 0, virt_end: PAGE - 1, phys_start: 0, flags }.encode().into(),
    ];
    for (number, request) in requests.iter().enumerate() {
        let (at, head) = (0x80000 + 0x100 * number as u64, 2 * number as u16);
        rig.poke(at, request);
        rig.requests.put_chain(head, &[(at, request.len() as u32, 0), (at + 0x80, 4, WRITE)]);
        rig.requests.make_available(head);
    }
    rig.kick();
    for number in 0..3 {
        assert_eq!(rig.peek::<1>(0x80080 + 0x100 * number), [Status::Ok as u8], "request {number}");
    }
}
