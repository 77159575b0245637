//! A MAP that takes the place of what another queue is still removing, with IOTLBs.

use virtio_iommu::{dma::Access, epoch::Patience, iotlb::IotlbOptions};
use virtio_transport::ServiceMode;

use super::*;

fn options(patience: Option<Patience>) -> DeviceOptions {
    let several = several(2);
    let patience = patience.unwrap_or(several.patience);
    DeviceOptions { iotlb: Some(IotlbOptions::default()), service: ServiceMode::Thread, patience, ..several }
}

/// Waits until the UNMAP on another queue has taken its mappings from the table.
fn unmapped(rig: &Rig, mappings: u64) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while rig.counters().unmapped < mappings {
        assert!(Instant::now() < deadline, "the UNMAP was not performed");
        thread::yield_now();
    }
}

#[test]
fn a_map_is_answered_when_no_guard_has_the_entries_of_what_it_replaces() {
    // What is unmapped, and the page that is mapped anew. The mapping is pages 16 to 31.
    for (unmapped_pages, page) in [((16, 31), 16), ((0, 100), 20), ((0, 1 << 30), 31)] {
        let (rig, mut lanes) = start(options(None));
        let [first, second] = &mut lanes[..] else { panic!("two queues") };
        assert_eq!(first.status(&rig.device, &attach(1, 8)), Status::Ok);
        assert_eq!(first.status(&rig.device, &map(1, 16, 31, 7)), Status::Ok);
        let port = rig.port(8);
        let gpa = |view: &virtio_iommu::EndpointDma<'_>| {
            view.translate(page << 12, Access::Read).ok().map(|found| found.gpa.0 >> 12)
        };
        let old = Some(7 + page - 16);
        let view = port.pin();
        assert_eq!(gpa(&view), old);
        let unmap = first.queue(&unmap(1, unmapped_pages.0, unmapped_pages.1), 4);
        first.kick(&rig.device);
        unmapped(&rig, 1);
        // Elsewhere the place is free, and nothing is waited for.
        assert_eq!(second.status(&rig.device, &map(1, 1 << 31, 1 << 31, 9)), Status::Ok);
        let again = second.queue(&map(1, page, page, 99), 4);
        second.kick(&rig.device);
        thread::sleep(Duration::from_millis(50));
        assert_eq!(gpa(&view), old, "what the guard found stays while it is live");
        assert_eq!(second.ring.pop_used(), None, "answered, and the old entry is still used");
        drop(view);
        assert_eq!((second.wait(), first.wait()), (4, 4));
        assert_eq!([again, unmap].map(|at| rig.peek::<4>(at)), [[0; 4]; 2]);
        assert_eq!(gpa(&port.pin()), Some(99));
        // A MAP that waits is not an invalidation.
        assert_eq!(rig.counters().invalidations, 1);
    }
}

/// A guard that is never dropped: a MAP in the place of what it may still use is refused and maps nothing, on
/// whichever queue, until a grace period has been waited for.
#[test]
fn a_map_whose_wait_is_given_up_is_refused_and_maps_nothing() {
    let short = Patience { spins: 10, yields: 10, naps: 10 };
    let (rig, mut lanes) = start(options(Some(short)));
    let [first, second] = &mut lanes[..] else { panic!("two queues") };
    assert_eq!(first.status(&rig.device, &attach(1, 8)), Status::Ok);
    assert_eq!(first.status(&rig.device, &map(1, 16, 31, 7)), Status::Ok);
    let (port, other) = (rig.port(8), rig.port(8));
    let view = port.pin();
    let translate = |page: u64| other.pin().translate(page << 12, Access::Read).is_ok();
    assert_eq!(first.status(&rig.device, &unmap(1, 0, 63)), Status::DevErr);
    for (lane, elsewhere) in [(&mut *second, 64), (&mut *first, 65)] {
        assert_eq!(lane.status(&rig.device, &map(1, 16, 16, 9)), Status::DevErr);
        assert!(!translate(16), "a refused MAP has mapped its page");
        assert_eq!(
            lane.status(&rig.device, &map(1, elsewhere, elsewhere, 9)),
            Status::Ok,
            "nothing was unmapped there"
        );
        assert!(view_is_live(&view));
        // Nothing is left in the way, and what was mapped elsewhere can be unmapped, but not waited for.
        assert_eq!(lane.status(&rig.device, &unmap(1, elsewhere, elsewhere)), Status::DevErr);
    }
    let counters = rig.counters();
    assert_eq!((counters.mapped - counters.unmapped, counters.grace_stuck), (0, 5));
    // A new worker knows of what the one before could not wait for.
    rig.device.pause();
    rig.device.resume().unwrap();
    assert_eq!(lanes[0].status(&rig.device, &map(1, 17, 17, 9)), Status::DevErr);
    drop(view);
    for (number, page) in [(1, 16), (0, 17), (1, 18)] {
        assert_eq!(lanes[number].status(&rig.device, &map(1, page, page, 9)), Status::Ok, "page {page}");
        assert!(translate(page));
    }
    rig.device.reset();
    assert_eq!(rig.counters().mappings_reserved, 0);
}

#[test]
fn an_unmap_that_removes_nothing_makes_no_map_wait() {
    let short = Patience { spins: 10, yields: 10, naps: 10 };
    let (rig, mut lanes) = start(options(Some(short)));
    assert_eq!(lanes[0].status(&rig.device, &attach(1, 8)), Status::Ok);
    assert_eq!(lanes[0].status(&rig.device, &map(1, 100, 103, 7)), Status::Ok);
    let port = rig.port(8);
    let view = port.pin();
    let mut free = 20;
    // Nothing is there, or a mapping would be split.
    for (range, status) in [((20, 63), Status::Ok), ((20, 101), Status::Range), ((0, 101), Status::Range)] {
        assert_eq!(lanes[0].status(&rig.device, &unmap(1, range.0, range.1)), status);
        for number in [1, 0] {
            free += 1;
            let answer = lanes[number].status(&rig.device, &map(1, free, free, 9));
            assert_eq!(answer, Status::Ok, "page {free} after UNMAP of {range:?}");
        }
    }
    assert!(view_is_live(&view));
    assert_eq!(rig.counters().grace_stuck, 0);
}

/// Two processors at full speed: whenever the MAP is answered OK, an access that begins then finds what it mapped.
#[test]
fn a_map_that_races_with_an_unmap_is_what_later_accesses_find() {
    for service in [ServiceMode::Inline, ServiceMode::Thread] {
        let (rig, mut lanes) = start(DeviceOptions { service, ..options(None) });
        assert_eq!(lanes[0].status(&rig.device, &attach(1, 8)), Status::Ok);
        assert_eq!(lanes[0].status(&rig.device, &map(1, 5, 5, 0)), Status::Ok);
        let (device, port) = (&rig.device, rig.port(8));
        let found = || port.pin().translate(5 << 12, Access::Read).ok().map(|found| found.gpa.0 >> 12);
        let [first, second] = &mut lanes[..] else { panic!("two queues") };
        for round in 1..500 {
            // In the IOTLB, like every page in use.
            assert_eq!(found(), Some(round - 1));
            thread::scope(|scope| {
                let unmapped = scope.spawn(|| first.status(device, &unmap(1, 5, 5)));
                while second.status(device, &map(1, 5, 5, round)) != Status::Ok {
                    thread::yield_now();
                }
                assert_eq!(found(), Some(round), "{service:?}: the answer was there before the access");
                assert_eq!(unmapped.join().unwrap(), Status::Ok);
            });
        }
    }
}

/// Names the view at the point where it must still be live.
fn view_is_live(view: &virtio_iommu::EndpointDma<'_>) -> bool {
    view.translate(1 << 40, Access::Read).is_err()
}
