//! A request that is refused on one queue is seen on no other.

use virtio_iommu::properties::{EndpointProperties, Regions, ResvKind, ResvRegion};

use super::*;

/// An ATTACH brings a region, waits for a grace period, and is refused because of a MAP that another queue makes there
/// meanwhile: that one must not be refused because of a region which never comes.
#[test]
fn a_map_beside_a_refused_attach_is_performed() {
    let patience = virtio_iommu::epoch::Patience { spins: 10, yields: 1_000_000, naps: 100_000 };
    let (rig, mut lanes) = start(DeviceOptions { request_queues: 2, patience, ..options() });
    let region = ResvRegion { start: 0x10_0000, end: 0x10_0fff, kind: ResvKind::Reserved };
    rig.endpoint(20, EndpointProperties::with_regions(Regions::new(vec![region]).unwrap()));
    let [first, second] = &mut lanes[..] else { panic!("two queues") };
    assert_eq!(first.status(&rig.device, &attach(1, 8)), Status::Ok);
    // Finds the domain before the ATTACH holds the lock behind which domains are looked up.
    assert_eq!(second.status(&rig.device, &map(1, 1, 1, 5)), Status::Ok);
    let port = rig.port(8);
    thread::scope(|scope| {
        let view = port.pin();
        let device = &rig.device;
        let attach = scope.spawn(move || first.status(device, &attach(1, 20)));
        thread::sleep(Duration::from_millis(50));
        assert!(!attach.is_finished(), "it waits for the guard");
        let mapped = second.status(device, &map(1, 0x100, 0x100, 5));
        drop(view);
        assert_eq!(attach.join().unwrap(), Status::Unsupp);
        assert_eq!(mapped, Status::Ok);
    });
    assert_eq!(second.status(&rig.device, &unmap(1, 0x100, 0x100)), Status::Ok);
    assert_eq!(second.status(&rig.device, &attach(1, 20)), Status::Ok, "nothing of the refused one is left");
    assert_eq!(second.status(&rig.device, &map(1, 0x100, 0x100, 5)), Status::Inval);
}
