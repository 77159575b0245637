//! The cases of QEMU's virtio-iommu qtest, as the bytes its driver puts on the ring.

use virtio_iommu::{
    DeviceOptions,
    spec::{Status, config::Config},
};
use virtio_transport::VirtioDevice;

use crate::support::*;

fn request(kind: u8, words: &[u32], tail: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind, 0, 0, 0];
    bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    bytes.extend_from_slice(tail);
    bytes
}

fn attach_detach(rig: &mut Rig, kind: u8, domain: u32, endpoint: u32) -> Status {
    rig.status(&request(kind, &[domain, endpoint, 0, 0], &[]))
}

fn map(rig: &mut Rig, domain: u32, start: u64, end: u64, phys: u64, flags: u32) -> Status {
    let mut fields = Vec::new();
    for address in [start, end, phys] {
        fields.extend(address.to_le_bytes());
    }
    fields.extend(flags.to_le_bytes());
    rig.status(&request(3, &[domain], &fields))
}

/// QEMU's client leaves `reserved` uninitialised; here it is set to something that is surely not zero.
fn unmap(rig: &mut Rig, domain: u32, start: u64, end: u64) -> Status {
    let mut fields = Vec::new();
    for address in [start, end] {
        fields.extend(address.to_le_bytes());
    }
    fields.extend([0x5a; 4]);
    rig.status(&request(4, &[domain], &fields))
}

#[test]
fn pci_config() {
    let rig = Rig::idle(DeviceOptions::default());
    let mut bytes = [0; 40];
    rig.device.read_config(0, &mut bytes);
    let config = Config::decode(&bytes);
    assert_eq!(config.input_start, 0);
    assert!(config.input_end >= u64::from(u32::MAX));
    assert_eq!((config.domain_start, config.domain_end, config.bypass), (0, u32::MAX, 1));
}

#[test]
fn attach_detach_sequence() {
    let mut rig = Rig::new(byte_granule());
    assert_eq!(attach_detach(&mut rig, 1, 0, 8), Status::Ok);
    assert_eq!(attach_detach(&mut rig, 1, 0, 77), Status::NoEnt);
    assert_eq!(attach_detach(&mut rig, 2, 0, 77), Status::NoEnt);
    assert_eq!(attach_detach(&mut rig, 1, 1, 8), Status::Ok);
    assert_eq!(attach_detach(&mut rig, 2, 0, 8), Status::Inval);
    assert_eq!(attach_detach(&mut rig, 2, 1, 8), Status::Ok);
}

#[test]
fn map_unmap_sequence() {
    let mut rig = Rig::new(byte_granule());
    assert_eq!(map(&mut rig, 4, 0, 0xfff, 0xa1000, 1), Status::NoEnt);
    assert_eq!(attach_detach(&mut rig, 1, 1, 8), Status::Ok);
    assert_eq!(map(&mut rig, 1, 0, 0xfff, 0xa1000, 1), Status::Ok);
    assert_eq!(map(&mut rig, 1, 0, 0xffff, 0xa1000, 1), Status::Inval);
    assert_eq!(unmap(&mut rig, 4, 0x10, 0xfff), Status::NoEnt);
    assert_eq!(unmap(&mut rig, 1, 0x10, 0xfff), Status::Range);
    assert_eq!(unmap(&mut rig, 1, 0, 0x1000), Status::Ok);

    // The examples of the specification, one after the other in one domain.
    assert_eq!(unmap(&mut rig, 1, 0, 4), Status::Ok);
    assert_eq!(map(&mut rig, 1, 0, 9, 0xa1000, 1), Status::Ok);
    assert_eq!(unmap(&mut rig, 1, 0, 9), Status::Ok);
    assert_eq!(map(&mut rig, 1, 0, 4, 0xa1000, 1), Status::Ok);
    assert_eq!(map(&mut rig, 1, 5, 9, 0xa1000, 1), Status::Ok);
    assert_eq!(unmap(&mut rig, 1, 0, 9), Status::Ok);
    assert_eq!(map(&mut rig, 1, 0, 9, 0xa1000, 1), Status::Ok);
    assert_eq!(unmap(&mut rig, 1, 0, 4), Status::Range);
    assert_eq!(unmap(&mut rig, 1, 0, 10), Status::Ok);
    assert_eq!(map(&mut rig, 1, 0, 4, 0xa1000, 1), Status::Ok);
    assert_eq!(map(&mut rig, 1, 5, 9, 0xa1000, 1), Status::Ok);
    assert_eq!(unmap(&mut rig, 1, 0, 4), Status::Ok);
    assert_eq!(unmap(&mut rig, 1, 5, 9), Status::Ok);
    assert_eq!(map(&mut rig, 1, 0, 4, 0xa1000, 1), Status::Ok);
    assert_eq!(unmap(&mut rig, 1, 0, 9), Status::Ok);
    assert_eq!(map(&mut rig, 1, 0, 4, 0xa1000, 1), Status::Ok);
    assert_eq!(map(&mut rig, 1, 10, 14, 0xa1000, 1), Status::Ok);
    assert_eq!(unmap(&mut rig, 1, 0, 14), Status::Ok);
    assert_eq!(attach_detach(&mut rig, 2, 1, 8), Status::Ok);
}
