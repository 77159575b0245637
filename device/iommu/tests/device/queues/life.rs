//! Reset, failure, saving and restoring with several queues.

use virtio_iommu::{
    memory::GuestRam,
    spec::private::F_REQUEST_QUEUES,
    state::{FormatError, RestoreError, State, decode, encode},
};
use virtio_transport::ServiceMode;

use super::*;

fn queue_on_all(lanes: &mut [Lane], request: &[u8]) {
    for lane in lanes {
        lane.queue(request, 4);
    }
}

#[test]
fn reset_stops_every_queue() {
    for service in [ServiceMode::Inline, ServiceMode::Thread, ServiceMode::Poll] {
        let (rig, mut lanes) = start(DeviceOptions { service, ..several(3) });
        for round in 0..20 {
            assert_eq!(lanes[0].status(&rig.device, &attach(1, 8)), Status::Ok, "{service:?} {round}");
            // Every queue has requests to serve while the device is reset.
            for lane in &mut lanes {
                for page in 0..100 {
                    lane.queue(&map(1, page, page, 7), 4);
                }
                lane.kick(&rig.device);
            }
            rig.device.reset();
            let used: Vec<_> = lanes.iter().map(|lane| lane.ring.used_index()).collect();
            queue_on_all(&mut lanes, &map(1, 0, 0, 7));
            lanes.iter().for_each(|lane| lane.kick(&rig.device));
            let after: Vec<_> = lanes.iter().map(|lane| lane.ring.used_index()).collect();
            assert_eq!(after, used, "{service:?}: a queue was served after reset");
            assert_eq!((rig.device.domains(), rig.counters().mappings_reserved), (0, 0));
            lanes = begin(&rig);
        }
    }
}

#[test]
fn a_broken_queue_breaks_the_device_and_not_the_other_queues() {
    let (rig, mut lanes) = start(several(3));
    assert_eq!(lanes[0].status(&rig.device, &attach(1, 8)), Status::Ok);
    // An available index that is further ahead than the ring is long.
    let avail = lanes[1].ring.layout.avail + 2;
    rig.poke(avail, &(QUEUE_SIZE + 7).to_le_bytes());
    lanes[1].kick(&rig.device);
    assert!(rig.device.needs_reset());
    assert_eq!(lanes[2].status(&rig.device, &map(1, 0, 0, 7)), Status::Ok);
    lanes[1].kick(&rig.device);
    assert_eq!(lanes[1].ring.pop_used(), None);
    rig.device.reset();
    assert!(!rig.device.needs_reset());
    let mut lanes = begin(&rig);
    assert_eq!(lanes[1].status(&rig.device, &attach(1, 8)), Status::Ok);
}

#[test]
fn a_queue_that_cannot_be_served_leaves_none_running() {
    let rig = Rig::idle(several(3));
    rig.device.add_emulated_endpoint(EndpointId(8)).unwrap();
    let mut lanes: Vec<_> = (0..3).map(|number| Lane::new(&rig, number)).collect();
    let mut queues = layouts(&rig, &lanes);
    queues[2].used = 1 << 50;
    let refused = rig.device.activate(Activation { features: features(&rig), queues }, rig.irq.clone());
    assert!(refused.is_err());
    lanes[0].queue(&attach(1, 8), 4);
    lanes[0].kick(&rig.device);
    assert_eq!(lanes[0].ring.pop_used(), None, "the first queue had been started");
    let mut lanes = begin(&rig);
    assert_eq!(lanes[2].status(&rig.device, &attach(1, 8)), Status::Ok);
}

fn fresh(rig: &Rig, request_queues: u16) -> Device {
    let device = Device::new(several(request_queues), GuestRam::new(rig.ram.clone()).unwrap()).unwrap();
    device.add_emulated_endpoint(EndpointId(8)).unwrap();
    device.add_emulated_endpoint(EndpointId(9)).unwrap();
    device
}

/// A device whose three queues stand at different places.
fn busy() -> (Rig, Vec<Lane>, State) {
    let (rig, mut lanes) = start(several(3));
    assert_eq!(lanes[0].status(&rig.device, &attach(1, 8)), Status::Ok);
    for page in 0..3 {
        assert_eq!(lanes[1].status(&rig.device, &map(1, page, page, 7)), Status::Ok);
    }
    assert_eq!(lanes[2].status(&rig.device, &map(1, 9, 9, 7)), Status::Ok);
    rig.device.pause();
    let state = rig.device.save().unwrap();
    (rig, lanes, state)
}

#[test]
fn every_queue_goes_on_where_it_was() {
    let (rig, mut lanes, state) = busy();
    let indices: Vec<_> = state.queues.iter().map(|queue| (queue.index, queue.next_avail)).collect();
    assert_eq!(indices, [(0, 1), (2, 3), (3, 1), (1, 0)]);
    // Requests that were queued while nobody served.
    queue_on_all(&mut lanes, &unmap(1, 0, 2));
    let again = decode(&encode(&state).unwrap()).unwrap();
    assert_eq!(again, state);
    let device = fresh(&rig, 3);
    device.restore(&again, rig.irq.clone()).unwrap();
    assert_eq!(lanes.iter_mut().map(Lane::wait).collect::<Vec<_>>(), [4; 3]);
    assert_eq!((device.counters().unmapped, device.counters().batches), (3, 3));
    device.pause();
    queue_on_all(&mut lanes, &map(1, 20, 20, 7));
    device.resume().unwrap();
    assert_eq!(lanes.iter_mut().map(Lane::wait).collect::<Vec<_>>(), [4; 3]);
    assert_eq!(device.counters().mapped, 1, "three asked for the same page");
}

#[test]
fn states_of_other_numbers_of_queues_are_refused() {
    let (rig, _, state) = busy();
    for request_queues in [1, 2, 4] {
        let device = fresh(&rig, request_queues);
        let refused = device.restore(&state, rig.irq.clone());
        assert!(matches!(refused, Err(RestoreError::Identity { .. })), "{request_queues}: {refused:?}");
    }
    let not_negotiated = State { negotiated: state.negotiated & !F_REQUEST_QUEUES, ..state.clone() };
    let refused = fresh(&rig, 3).restore(&not_negotiated, rig.irq.clone());
    assert!(matches!(refused, Err(RestoreError::Queue { index: 2, .. })), "{refused:?}");
    let mut beyond = state;
    beyond.queues[2].index = 4;
    let refused = fresh(&rig, 3).restore(&beyond, rig.irq.clone());
    assert!(matches!(refused, Err(RestoreError::Queue { index: 4, .. })), "{refused:?}");
}

/// Version 2 of the format, byte for byte.
#[test]
fn version_2_is_pinned_and_is_only_for_several_queues() {
    let (_, _, state) = busy();
    let bytes = encode(&state).unwrap();
    let (head, body) = bytes.split_at(bytes.iter().position(|byte| *byte == b'\n').unwrap() + 1);
    assert!(head.starts_with(b"virtio-iommu/state/2 "));
    let golden = include_bytes!("../../../../../dev/fuzz/corpus/state/golden-queues");
    assert_eq!(String::from_utf8_lossy(body), String::from_utf8_lossy(golden));
    // The same content under the other version's number.
    let renamed = String::from_utf8(bytes).unwrap().replacen("state/2", "state/1", 1);
    let refused = decode(renamed.as_bytes());
    assert!(matches!(refused, Err(FormatError::Version { found: 1, holds: 2 })), "{refused:?}");
    let rig = Rig::default();
    rig.device.pause();
    let standard = String::from_utf8(encode(&rig.device.save().unwrap()).unwrap()).unwrap();
    let refused = decode(standard.replacen("state/1", "state/2", 1).as_bytes());
    assert!(matches!(refused, Err(FormatError::Version { found: 2, holds: 1 })), "{refused:?}");
}

/// An idle queue's cache keeps a domain alive, but none of the memory its table may use.
#[test]
fn a_dead_domains_tables_are_given_back_whatever_idle_queues_remember() {
    for max_table_bytes in [64 << 10, 100 << 10] {
        let (rig, mut lanes) = start(DeviceOptions { max_table_bytes, ..several(3) });
        let [first, second, third] = &mut lanes[..] else { panic!("three queues") };
        // Pages far apart, so that each takes tables of its own; how many there is room for in two domains.
        let fill = |queues: &mut [&mut Lane]| {
            let mut mapped = 0;
            for domain in [1, 2] {
                for page in 0u64.. {
                    let requested = map(domain, page << 19, page << 19, 7);
                    let statuses: Vec<_> =
                        queues.iter_mut().map(|queue| queue.status(&rig.device, &requested)).collect();
                    if statuses[0] == Status::NoMem {
                        break;
                    }
                    // The same on the other queues, so that they remember the domain.
                    assert_eq!(statuses[0], Status::Ok);
                    assert!(statuses[1..].iter().all(|status| *status == Status::Inval), "{statuses:?}");
                    mapped += 1;
                }
            }
            mapped
        };
        let attach_both = |queue: &mut Lane| {
            for (domain, endpoint) in [(1, 8), (2, 9)] {
                assert_eq!(queue.status(&rig.device, &attach(domain, endpoint)), Status::Ok);
            }
        };
        attach_both(first);
        let room = fill(&mut [first, second, third]);
        assert!(room > 2, "{room} mappings");
        for round in 0..5 {
            for (domain, endpoint) in [(1, 8), (2, 9)] {
                assert_eq!(first.status(&rig.device, &detach(domain, endpoint)), Status::Ok);
            }
            assert_eq!(rig.device.table_bytes(), 0);
            attach_both(first);
            // The second and third queue are idle, or remember the new domains from now on.
            let again = if round < 4 { fill(&mut [first]) } else { fill(&mut [first, second, third]) };
            assert_eq!(again, room, "round {round}: {max_table_bytes} bytes hold fewer tables");
        }
        rig.device.reset();
        assert_eq!(rig.counters().mappings_reserved, 0);
    }
}
