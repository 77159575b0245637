//! Faults on the event queue.

use std::{
    sync::{Arc, Mutex, atomic::Ordering},
    thread,
};

use virtio_iommu::{
    EndpointPort,
    spec::{
        EndpointId, Status,
        fault::{F_ADDRESS, F_READ, F_WRITE, Fault, Reason},
        request::MAP_F_READ,
    },
};
use virtio_transport::{Activation, Interrupt, VirtioDevice};

use crate::support::*;

#[test]
fn each_cause_has_its_record_counter_and_interrupt() {
    let mut rig = Rig::default();
    rig.give_event_buffers(8, 24);
    assert_eq!(rig.attach(1, 8), Status::Ok);
    assert_eq!(rig.map_flags(1, 0x1000, 0x1fff, 0x5000, MAP_F_READ), Status::Ok);
    assert!(!dma_write(&rig.port(9), 0x10, b"x"));
    assert_eq!(dma_read(&rig.port(8), 0x2345, 1), None);
    assert!(!dma_write(&rig.port(8), 0x1800, b"x"));
    let expected = [
        Fault { reason: Reason::Domain, flags: F_WRITE | F_ADDRESS, endpoint: 9, address: 0x10 },
        Fault { reason: Reason::Mapping, flags: F_READ | F_ADDRESS, endpoint: 8, address: 0x2345 },
        Fault { reason: Reason::Mapping, flags: F_WRITE | F_ADDRESS, endpoint: 8, address: 0x1800 },
    ];
    for fault in expected {
        assert_eq!(rig.next_fault(), Some(fault));
    }
    let faults = rig.counters().faults;
    assert_eq!((faults.unattached, faults.not_mapped, faults.permission), (1, 1, 1), "told apart here");
    assert_eq!((faults.delivered, faults.dropped(), faults.waiting), (3, 0, 0));
    assert_eq!(rig.irq.queues[1].load(Ordering::Relaxed), 3);
}

#[test]
fn the_address_of_a_buffer_that_crosses_is_the_first_byte_missing() {
    let mut rig = Rig::default();
    rig.give_event_buffers(1, 24);
    assert_eq!(rig.attach(1, 8), Status::Ok);
    assert_eq!(rig.map(1, 0x1000, 0x1fff, 0x5000), Status::Ok);
    assert_eq!(rig.map(1, 0x2000, 0x2fff, 0x9000), Status::Ok);
    assert!(!dma_write(&rig.port(8), 0x1ff0, &[7; 0x2000]));
    assert_eq!(rig.next_fault().unwrap().address, 0x3000);
    assert_eq!((rig.peek(0x5ff0), rig.peek(0x9fff)), ([7], [7]), "what lies before was written");
}

#[test]
fn larger_buffers_get_24_bytes() {
    let mut rig = Rig::default();
    rig.give_event_buffers(1, 64);
    assert!(!dma_write(&rig.port(8), 0x10, b"x"));
    let (len, bytes) = rig.next_event().unwrap();
    assert_eq!((len, &bytes[24..]), (24, &[FILL; 40][..]));
}

#[test]
fn buffers_that_cannot_be_used_are_returned_and_counted() {
    let mut rig = Rig::default();
    for desc in [
        Desc { addr: 0x50000, len: 24, flags: 0, next: 0 },
        Desc { addr: 1 << 40, len: 24, flags: WRITE, next: 0 },
        Desc { addr: 0x50000, len: 24, flags: WRITE | NEXT, next: QUEUE_SIZE },
    ] {
        rig.events.put_desc(5, desc);
        rig.events.make_available(5);
        assert!(!dma_write(&rig.port(8), 0x10, b"x"));
        assert_eq!(rig.events.pop_used(), Some((5, 0)), "{desc:?}");
    }
    assert_eq!(rig.counters().faults.dropped_bad_buffer, 3);
    assert_eq!(rig.attach(1, 8), Status::Ok);
}

#[test]
fn a_broken_event_queue_stops_reports_and_needs_a_reset() {
    let mut rig = Rig::default();
    rig.events.make_available(QUEUE_SIZE);
    assert!(!rig.device.needs_reset());
    let config = rig.irq.config.load(Ordering::Relaxed);
    assert!(!dma_write(&rig.port(8), 0x10, b"x"));
    assert!(!dma_write(&rig.port(8), 0x10, b"x"));
    assert_eq!(rig.counters().faults.dropped_no_queue, 2);
    assert!(rig.device.needs_reset());
    assert_eq!(rig.irq.config.load(Ordering::Relaxed), config + 1, "told once, not per fault");
    assert_eq!(rig.attach(1, 8), Status::Ok, "requests are served all the same");
    rig.device.reset();
    assert!(!rig.device.needs_reset());
}

#[test]
fn faults_of_many_threads_are_all_accounted_for() {
    let mut rig = Rig::default();
    rig.give_event_buffers(100, 24);
    std::thread::scope(|scope| {
        for endpoint in [8, 9, 8, 9] {
            let port = rig.port(endpoint);
            scope.spawn(move || {
                for i in 0..250 {
                    assert!(!dma_write(&port, i << 12, b"x"));
                }
            });
        }
    });
    rig.device.notify(1);
    let faults = rig.counters().faults;
    assert_eq!(faults.faults(), 1000);
    assert_eq!(faults.delivered + faults.dropped(), 1000);
    assert_eq!(faults.waiting, 0);
    let delivered = std::iter::from_fn(|| rig.next_fault()).count() as u64;
    assert_eq!((delivered, faults.delivered), (100, 100));
}

#[test]
fn without_an_event_queue_faults_are_counted() {
    let rig = Rig::idle(options());
    rig.device.add_emulated_endpoint(virtio_iommu::spec::EndpointId(8)).unwrap();
    assert!(!dma_write(&rig.port(8), 0x10, b"x"));
    assert_eq!(rig.counters().faults.dropped_no_queue, 1);
}

/// Has another thread fault at the moment when the device has emptied the backlog and still holds the event queue.
struct FaultsAgain(Mutex<Vec<EndpointPort>>);

impl Interrupt for FaultsAgain {
    fn queue(&self, index: u16) {
        assert_eq!(index, 1);
        let port = self.0.lock().unwrap().pop();
        if let Some(port) = port {
            let late = thread::spawn(move || dma_read(&port, 0x9000, 1));
            assert_eq!(late.join().unwrap(), None);
        }
    }

    fn config(&self) {}
}

#[test]
fn a_fault_that_comes_while_another_is_delivered_is_not_left_behind() {
    for late in [1, 3] {
        let mut rig = Rig::idle(options());
        rig.device.add_emulated_endpoint(EndpointId(8)).unwrap();
        let interrupt = FaultsAgain(Mutex::new((0..late).map(|_| rig.port(8)).collect()));
        let features = rig.device.features() & !virtio_iommu::device::F_EVENT_IDX;
        let queues = vec![rig.requests.layout, rig.events.layout];
        rig.device.activate(Activation { features, queues }, Arc::new(interrupt)).unwrap();
        rig.give_event_buffers(8, 24);
        assert_eq!(dma_read(&rig.port(8), 0x1000, 1), None);
        let addresses: Vec<u64> =
            std::iter::from_fn(|| rig.next_fault()).map(|fault| fault.address).collect();
        let expected: Vec<u64> = [0x1000].into_iter().chain((0..late).map(|_| 0x9000)).collect();
        assert_eq!(addresses, expected);
        let faults = rig.counters().faults;
        assert_eq!((faults.delivered, faults.waiting), (late + 1, 0));
    }
}
