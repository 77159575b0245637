//! Endpoints that are real devices: their page tables follow their domain's, whatever fails.

use std::sync::{Arc, Mutex};

use virtio_iommu::{
    passthrough::{Backend, BackendError},
    properties::EndpointProperties,
    spec::{
        EndpointId, IovaRange, Status,
        request::{ATTACH_F_BYPASS, MAP_F_READ},
    },
    state::SaveError,
    table::Mapping,
};

use crate::support::*;

/// What a device sees: all, or these mappings.
#[derive(Clone, Debug, Default, PartialEq)]
enum Seen {
    #[default]
    Nothing,
    All,
    Mappings(Vec<Mapping>),
}

/// Page tables that can be told to fail.
#[derive(Default)]
struct Tables {
    seen: Mutex<Seen>,
    fail: Mutex<Option<BackendError>>,
    fail_flush: Mutex<Option<BackendError>>,
    flushes: Mutex<u32>,
}

impl Tables {
    fn set(&self, seen: Seen) -> Result<(), BackendError> {
        let failed = self.fail.lock().unwrap().map_or(Ok(()), Err);
        *self.seen.lock().unwrap() = if failed.is_ok() { seen } else { Seen::Nothing };
        failed
    }

    fn seen(&self) -> Seen {
        self.seen.lock().unwrap().clone()
    }

    fn starts(&self) -> Vec<u64> {
        let Seen::Mappings(mappings) = self.seen() else { panic!("{:?}", self.seen()) };
        mappings.iter().map(|mapping| mapping.range.start()).collect()
    }

    fn fail_with(&self, error: Option<BackendError>) {
        *self.fail.lock().unwrap() = error;
    }
}

impl Backend for Tables {
    fn show_all(&self) -> Result<(), BackendError> {
        self.set(Seen::All)
    }

    fn show(&self, mappings: &[Mapping]) -> Result<(), BackendError> {
        self.set(Seen::Mappings(mappings.to_vec()))
    }

    fn show_nothing(&self) -> Result<(), BackendError> {
        *self.seen.lock().unwrap() = Seen::Nothing;
        Ok(())
    }

    fn map(&self, mapping: &Mapping) -> Result<(), BackendError> {
        self.fail.lock().unwrap().map_or(Ok(()), Err)?;
        if let Seen::Mappings(mappings) = &mut *self.seen.lock().unwrap() {
            mappings.push(*mapping);
        }
        Ok(())
    }

    fn unmap(&self, range: IovaRange) -> Result<(), BackendError> {
        self.fail.lock().unwrap().map_or(Ok(()), Err)?;
        if let Seen::Mappings(mappings) = &mut *self.seen.lock().unwrap() {
            mappings.retain(|mapping| !range.covers(&mapping.range));
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), BackendError> {
        *self.flushes.lock().unwrap() += 1;
        self.fail_flush.lock().unwrap().map_or(Ok(()), Err)
    }
}

const REAL: u32 = 30;

fn rig() -> (Rig, Arc<Tables>) {
    let rig = Rig::default();
    let tables = Arc::new(Tables::default());
    let properties = EndpointProperties::default();
    rig.device.add_passthrough_endpoint(EndpointId(REAL), properties, tables.clone()).unwrap();
    (rig, tables)
}

#[test]
fn it_sees_what_its_domain_maps_from_attach_to_detach() {
    let (mut rig, tables) = rig();
    let resting = tables.seen();
    assert_eq!(rig.attach(1, 8), Status::Ok);
    assert_eq!(rig.map_flags(1, 0x5000, 0x5fff, 0x1000, MAP_F_READ), Status::Ok);
    assert_eq!(rig.attach(1, REAL), Status::Ok);
    let Seen::Mappings(replayed) = tables.seen() else { panic!("{:?}", tables.seen()) };
    assert_eq!(replayed.len(), 1, "what was mapped before is replayed");
    assert!(replayed[0].perms.read && !replayed[0].perms.write, "read-only stays read-only");
    assert_eq!(rig.map(1, 0x8000, 0x9fff, 0x2000), Status::Ok);
    assert_eq!(tables.starts(), [0x5000, 0x8000]);
    assert_eq!(rig.unmap(1, 0x8000, 0x8fff), Status::Range, "no mapping is split");
    assert_eq!(tables.starts(), [0x5000, 0x8000]);
    assert_eq!(rig.unmap(1, 0, u64::MAX), Status::Ok);
    assert_eq!(tables.seen(), Seen::Mappings(vec![]));
    assert_eq!(rig.map(1, 0, 0xfff, 0), Status::Ok);
    assert_eq!(rig.detach(1, REAL), Status::Ok);
    assert_eq!(tables.seen(), resting);
    assert_eq!(rig.map(1, 0x1000, 0x1fff, 0), Status::Ok, "the domain lives on without it");
}

#[test]
fn what_the_host_refuses_is_mapped_nowhere() {
    let (mut rig, tables) = rig();
    assert_eq!((rig.attach(1, 8), rig.attach(1, REAL)), (Status::Ok, Status::Ok));
    let port = rig.port(8);
    for (error, status) in [
        (BackendError::NoMemory, Status::NoMem),
        (BackendError::NotRam, Status::Inval),
        (BackendError::Refused { errno: 5 }, Status::DevErr),
    ] {
        tables.fail_with(Some(error));
        assert_eq!(rig.map(1, 0, 0xfff, 0x1000), status);
        assert!(!dma_write(&port, 0, b"x"), "the other endpoint sees nothing of it either");
    }
    tables.fail_with(None);
    assert_eq!(rig.map(1, 0, 0xfff, 0x1000), Status::Ok);
    assert!(dma_write(&port, 0, b"x"));
    tables.fail_with(Some(BackendError::Refused { errno: 5 }));
    assert_eq!(rig.unmap(1, 0, 0xfff), Status::DevErr, "an UNMAP that the host refuses is not OK");
}

#[test]
fn what_a_backend_puts_off_is_done_before_the_answer() {
    let (mut rig, tables) = rig();
    assert_eq!(rig.attach(1, REAL), Status::Ok);
    assert_eq!(rig.map(1, 0, 0xfff, 0x1000), Status::Ok);
    assert_eq!(*tables.flushes.lock().unwrap(), 0, "nothing was unmapped");
    assert_eq!(rig.unmap(1, 0, 0xfff), Status::Ok);
    assert_eq!(*tables.flushes.lock().unwrap(), 1);
    assert_eq!(rig.map(1, 0, 0xfff, 0x1000), Status::Ok);
    *tables.fail_flush.lock().unwrap() = Some(BackendError::Refused { errno: 5 });
    assert_eq!(rig.unmap(1, 0, 0xfff), Status::DevErr, "the device may still see it");
    *tables.fail_flush.lock().unwrap() = None;
    assert_eq!(rig.map(1, 0, 0xfff, 0x1000), Status::Ok, "the guest has it no more all the same");
}

#[test]
fn an_attach_that_the_host_refuses_leaves_it_in_no_domain() {
    let (mut rig, tables) = rig();
    assert_eq!(rig.attach(1, 8), Status::Ok);
    assert_eq!(rig.map(1, 0, 0xfff, 0x1000), Status::Ok);
    tables.fail_with(Some(BackendError::NoMemory));
    assert_eq!(rig.attach(1, REAL), Status::NoMem);
    assert_eq!(rig.attach(2, REAL), Status::NoMem);
    assert_eq!(rig.device.domains(), 1, "no domain without an endpoint is left behind");
    assert_eq!(rig.detach(1, REAL), Status::Inval);
    tables.fail_with(None);
    assert_eq!(rig.attach(1, REAL), Status::Ok);
    assert_eq!(tables.starts(), [0]);
}

#[test]
fn bypass_shows_all_and_reset_leaves_nothing_behind() {
    let (mut rig, tables) = rig();
    assert_eq!(rig.attach_flags(3, REAL, ATTACH_F_BYPASS), Status::Ok);
    assert_eq!(tables.seen(), Seen::All);
    assert_eq!(rig.attach(4, REAL), Status::Ok);
    assert_eq!(tables.seen(), Seen::Mappings(vec![]));
    assert_eq!(rig.map(4, 0, 0xfff, 0), Status::Ok);
    // Written by the driver: unattached endpoints are refused.
    virtio_transport::VirtioDevice::write_config(&rig.device, 36, &[0]);
    virtio_transport::VirtioDevice::reset(&rig.device);
    assert_eq!(tables.seen(), Seen::Nothing);
    virtio_transport::VirtioDevice::write_config(&rig.device, 36, &[1]);
    assert_eq!(tables.seen(), Seen::All, "bypass concerns real devices too");
    assert!(rig.device.remove_endpoint(EndpointId(REAL)));
    assert_eq!(tables.seen(), Seen::Nothing);
}

#[test]
fn two_real_devices_in_one_domain_are_told_both_or_neither() {
    let (mut rig, first) = rig();
    let second = Arc::new(Tables::default());
    let properties = EndpointProperties::default();
    rig.device.add_passthrough_endpoint(EndpointId(31), properties, second.clone()).unwrap();
    assert_eq!((rig.attach(1, REAL), rig.attach(1, 31)), (Status::Ok, Status::Ok));
    assert_eq!(rig.map(1, 0, 0xfff, 0), Status::Ok);
    second.fail_with(Some(BackendError::NoMemory));
    assert_eq!(rig.map(1, 0x1000, 0x1fff, 0), Status::NoMem);
    assert_eq!((first.starts(), second.starts()), (vec![0], vec![0]));
}

#[test]
fn a_device_with_a_real_endpoint_is_not_saved() {
    let (rig, _tables) = rig();
    rig.device.pause();
    assert!(matches!(rig.device.save(), Err(SaveError::Passthrough)));
}
