//! Answers that are changed because the grace period was given up.

use std::sync::Arc;

use virtio_iommu::{
    dma::Access,
    passthrough::{Backend, BackendError},
    properties::EndpointProperties,
    spec::{EndpointId, IovaRange, Status},
    table::Mapping,
};
use virtio_transport::VirtioDevice;

use crate::support::*;

/// A real device whose host has no room for mappings.
struct Full(BackendError);

impl Backend for Full {
    fn show_all(&self) -> Result<(), BackendError> {
        Ok(())
    }

    fn show(&self, _mappings: &[Mapping]) -> Result<(), BackendError> {
        Ok(())
    }

    fn show_nothing(&self) -> Result<(), BackendError> {
        Ok(())
    }

    fn map(&self, _mapping: &Mapping) -> Result<(), BackendError> {
        Err(self.0)
    }

    fn unmap(&self, _range: IovaRange) -> Result<(), BackendError> {
        Err(self.0)
    }
}

/// How many requests have been answered with each of these.
fn answered<const N: usize>(rig: &Rig, statuses: [Status; N]) -> [u64; N] {
    let counters = rig.counters();
    statuses.map(|status| counters.statuses[status as usize])
}

#[test]
fn a_changed_answer_is_counted_back_from_what_it_was() {
    use Status::{DevErr, Inval, NoMem, Ok};
    for (error, first) in [
        (BackendError::NoMemory, NoMem),
        (BackendError::NotRam, Inval),
        (BackendError::Refused { errno: 5 }, DevErr),
    ] {
        let mut rig = Rig::default();
        let properties = EndpointProperties::default();
        rig.device.add_passthrough_endpoint(EndpointId(30), properties, Arc::new(Full(error))).unwrap();
        assert_eq!((rig.attach(1, 30), rig.attach(1, 8)), (Ok, Ok));
        assert_eq!(rig.map(1, 0x1000, 0x1fff, 0x5000), first);
        assert_eq!(answered(&rig, [Ok, first]), [2, 1]);
        let port = rig.port(8);
        let view = port.pin();
        // Refused by the host, and the view may have used it: the grace period is given up.
        assert_eq!(rig.map(1, 0x1000, 0x1fff, 0x5000), DevErr, "{error}");
        drop(view);
        let expected = if first == DevErr { [2, 2, 2] } else { [2, 1, 1] };
        assert_eq!(answered(&rig, [Ok, first, DevErr]), expected, "{error}");
        // What took something away and was answered OK.
        assert_eq!(rig.detach(1, 30), Ok);
        let view = port.pin();
        assert_eq!(rig.detach(1, 8), DevErr);
        drop(view);
        assert_eq!(answered(&rig, [Ok, DevErr]), [3, expected[2] + 1], "{error}");
    }
}

/// "A grace period given up during reset": the next driver finds a device that needs a reset, until one has waited.
#[test]
fn a_reset_that_gives_a_grace_period_up_leaves_the_device_in_need_of_another() {
    let mut rig = Rig::default();
    assert_eq!((rig.attach(1, 8), rig.map(1, 0x1000, 0x1fff, 0x5000)), (Status::Ok, Status::Ok));
    let port = rig.port(8);
    let view = port.pin();
    assert!(view.translate(0x1000, Access::Read).is_ok());
    let features = rig.device.features() & !virtio_iommu::device::F_EVENT_IDX;
    for stuck in 1..=2 {
        rig.restart(features);
        assert!(rig.device.needs_reset(), "an access under what the reset took away may still run");
        assert_eq!((rig.counters().grace_stuck, rig.counters().mappings_reserved), (stuck, 0));
        assert!(view.translate(0x1000, Access::Read).is_err(), "a look-up of its own after the reset");
    }
    drop(view);
    assert!(rig.device.needs_reset(), "nothing has waited for it yet");
    rig.restart(features);
    assert!(!rig.device.needs_reset());
    assert_eq!((rig.attach(1, 8), rig.counters().grace_stuck), (Status::Ok, 2));
}
