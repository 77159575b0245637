//! Requests on several queues at once.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use proptest::prelude::*;
use virtio_iommu::{dma::Access, iotlb::IotlbOptions};
use virtio_transport::ServiceMode;

use super::*;
use crate::{
    histories::{Answer as Found, Event, Op, PAGES, Seed, check},
    oracle::{Expected, Oracle},
    random,
};

const MODES: [ServiceMode; 3] = [ServiceMode::Inline, ServiceMode::Thread, ServiceMode::Poll];

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    /// One request at a time, on whichever queue: the queues are alike.
    #[test]
    fn queues_in_turn_agree_with_the_oracle(
        ops in proptest::collection::vec((random::op(), 0..4usize), 1..60),
        with_iotlb in any::<bool>(),
    ) {
        let iotlb = with_iotlb.then(IotlbOptions::default);
        let options = DeviceOptions { iotlb, ..several(4) };
        let (rig, mut lanes) = start(options.clone());
        let mut oracle = Oracle::of(&options, &[8, 9]);
        for (op, lane) in &ops {
            let (bytes, writable) = op.bytes(4096);
            // Readable and writable bytes lie in slots of that size here.
            if bytes.len() > SLOT_BYTES as usize || writable > SLOT_BYTES as usize {
                continue;
            }
            let answer = lanes[*lane].send(&rig.device, &bytes, writable);
            match oracle.answer(&bytes, writable) {
                Expected::Untouched => assert!(answer.is_untouched(), "{op:?}"),
                Expected::Answered(status) => assert_eq!(answer.status(), status, "{op:?}"),
            }
        }
        for endpoint in [8, 9] {
            random::look(&rig.port(endpoint), &oracle, 4096);
        }
        rig.device.reset();
        assert_eq!(rig.counters().mappings_reserved, 0);
    }
}

/// Each thread keeps to pages of its own, in a domain that all share: each sees exactly what it would see alone.
#[test]
fn disjoint_ranges_agree_with_an_oracle_for_each_queue() {
    const QUEUES: u64 = 3;
    const OWN: u64 = 64;
    for service in MODES {
        let options = DeviceOptions { service, ..several(QUEUES as u16) };
        let (rig, mut lanes) = start(options.clone());
        assert_eq!(lanes[0].status(&rig.device, &attach(1, 8)), Status::Ok);
        let device = &rig.device;
        let oracles: Vec<Oracle> = thread::scope(|scope| {
            let drivers: Vec<_> = lanes
                .iter_mut()
                .zip(0..)
                .map(|(lane, number)| {
                    let mut oracle = Oracle::of(&options, &[8]);
                    oracle.answer(&attach(1, 8), 4);
                    let mut seed = Seed(number);
                    scope.spawn(move || {
                        for _ in 0..2_000 {
                            let first = number * OWN + seed.below(OWN - 8);
                            let last = first + seed.below(8);
                            let request = match seed.below(5) {
                                0..3 => map(1, first, last, seed.below(1000)).to_vec(),
                                3 => unmap(1, first, last).to_vec(),
                                _ => unmap(1, number * OWN, number * OWN + OWN - 1).to_vec(),
                            };
                            let answer = lane.send(device, &request, 4);
                            assert_eq!(Expected::Answered(answer.status()), oracle.answer(&request, 4));
                        }
                        oracle
                    })
                })
                .collect();
            drivers.into_iter().map(|driver| driver.join().unwrap()).collect()
        });
        let port = rig.port(8);
        for page in 0..QUEUES * OWN {
            let found = port.pin().translate(page << 12, Access::Read).ok().map(|found| found.gpa.0);
            let expected = oracles[(page / OWN) as usize].translate(8, page << 12, false);
            assert_eq!(found, expected, "{service:?}: page {page}");
        }
        let (mapped, counters) = (oracles.iter().map(live).sum::<u64>(), rig.counters());
        assert_eq!(counters.mapped - counters.unmapped, mapped, "{service:?}: counters of all queues");
        assert_eq!(counters.statuses.iter().sum::<u64>(), 2_000 * QUEUES + 1, "{service:?}");
        rig.device.reset();
        assert_eq!(rig.counters().mappings_reserved, 0, "{service:?}");
    }
}

fn live(oracle: &Oracle) -> u64 {
    oracle.domains.values().map(|domain| domain.mappings.len() as u64).sum()
}

/// One thread's script on its queue, with a ticket before the kick and after the answer.
fn drive(rig: &Rig, lane: &mut Lane, script: Vec<Op>, ticket: &AtomicU64) -> Vec<Event> {
    let port = rig.port(8);
    let event = |op: Op| {
        let called = ticket.fetch_add(1, Ordering::SeqCst);
        let answer = match op {
            Op::Map { first, last, gpa } => {
                Found::Mapped(lane.status(&rig.device, &map(1, first, last, gpa)) == Status::Ok)
            }
            Op::Unmap { first, last } => match lane.status(&rig.device, &unmap(1, first, last)) {
                Status::Ok => Found::Unmapped,
                Status::Range => Found::Split,
                other => panic!("UNMAP: {other:?}"),
            },
            Op::Translate { page } => {
                let found = port.pin().translate(page << 12, Access::Read);
                Found::Found(found.ok().map(|found| found.gpa.0 >> 12))
            }
        };
        Event { op, answer, called, returned: ticket.fetch_add(1, Ordering::SeqCst) }
    };
    script.into_iter().map(event).collect()
}

/// Overlapping ranges: whatever the queues answer, some order of the requests explains it.
#[test]
fn overlapping_ranges_are_linearizable() {
    for (service, histories) in [(ServiceMode::Inline, 1500), (ServiceMode::Thread, 150)] {
        let (rig, mut lanes) = start(DeviceOptions { service, ..several(3) });
        assert_eq!(lanes[0].status(&rig.device, &attach(1, 8)), Status::Ok);
        for history in 0..histories {
            let ticket = AtomicU64::new(0);
            let mut seed = Seed(history);
            let events = thread::scope(|scope| {
                let drivers: Vec<_> = lanes
                    .iter_mut()
                    .map(|lane| {
                        let script: Vec<Op> = (0..6).map(|_| seed.op()).collect();
                        let (rig, ticket) = (&rig, &ticket);
                        scope.spawn(move || drive(rig, lane, script, ticket))
                    })
                    .collect();
                drivers.into_iter().map(|driver| driver.join().unwrap()).collect::<Vec<_>>()
            });
            check(&events);
            assert_eq!(lanes[0].status(&rig.device, &unmap(1, 0, PAGES - 1)), Status::Ok);
        }
    }
}

/// The domain comes and goes on one queue while the others map and unmap in it.
#[test]
fn domains_come_and_go_under_the_other_queues() {
    for service in [ServiceMode::Inline, ServiceMode::Thread] {
        let (rig, mut lanes) = start(DeviceOptions { service, ..several(3) });
        let (device, stop) = (&rig.device, AtomicBool::new(false));
        let (first, others) = lanes.split_first_mut().unwrap();
        thread::scope(|scope| {
            let _stop = StopOnDrop(&stop);
            for lane in others {
                let stop = &stop;
                scope.spawn(move || {
                    let mut page = u64::from(lane.number) << 24;
                    while !stop.load(Ordering::Relaxed) {
                        page += 1;
                        let mapped = lane.status(device, &map(1, page, page, 7));
                        assert!(matches!(mapped, Status::Ok | Status::NoEnt), "{mapped:?}");
                        let unmapped = lane.status(device, &unmap(1, page, page));
                        assert!(matches!(unmapped, Status::Ok | Status::NoEnt), "{unmapped:?}");
                    }
                });
            }
            for round in 0..300 {
                assert_eq!(first.status(device, &attach(1, 8)), Status::Ok, "{round}");
                assert_eq!(first.status(device, &map(1, 0, 0, 7)), Status::Ok, "{round}");
                if round % 2 == 0 {
                    // The endpoint moves away and comes back.
                    assert_eq!(first.status(device, &attach(2, 8)), Status::Ok);
                    assert_eq!(first.status(device, &detach(2, 8)), Status::Ok);
                } else {
                    assert_eq!(first.status(device, &detach(1, 8)), Status::Ok);
                }
            }
        });
        assert_eq!(rig.counters().grace_stuck, 0);
        assert_eq!((rig.device.domains(), rig.device.table_bytes()), (0, 0));
        rig.device.reset();
        assert_eq!(rig.counters().mappings_reserved, 0, "{service:?}: no mapping was lost count of");
    }
}

struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
