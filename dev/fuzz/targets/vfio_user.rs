//! Messages of a vfio-user client: framing, requests, and what they do to a virtio-iommu behind them.
//!
//! The input is the byte stream, cut into pieces by the first byte; descriptors come with each piece whose number is
//! divisible by the second.
#![no_main]

use std::sync::Arc;

use iommu_vfio_user::{Lent, PciDevice, Session, frame::Framer};
use libfuzzer_sys::fuzz_target;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use virtio_iommu::{
    Device, DeviceOptions,
    memory::{AddressSpace, GuestRam, MAX_SPACE_REGIONS},
};

fn memory() -> Lent {
    let fd = memfd_create("ram", MemfdFlags::ALLOW_SEALING).unwrap();
    ftruncate(&fd, 1 << 16).unwrap();
    fd.into()
}

fuzz_target!(|data: &[u8]| {
    let [piece, every, stream @ ..] = data else { return };
    let space = Arc::new(AddressSpace::new(1 << 32).unwrap());
    let iommu = Device::new(DeviceOptions::default(), GuestRam::of_space(space.clone())).unwrap();
    let device = PciDevice::new(Arc::new(iommu), space.clone());
    let (mut framer, mut session, mut rest, mut number) = (Framer::default(), Session::new(), stream, 0_usize);
    while !rest.is_empty() {
        let len = framer.wanted().min(usize::from(*piece).max(1)).min(rest.len());
        let (bytes, more) = rest.split_at(len);
        rest = more;
        let fds = if number.is_multiple_of(usize::from(*every)) { vec![memory()] } else { Vec::new() };
        number += 1;
        let Ok(frame) = framer.push(bytes, fds) else { break };
        let Some(frame) = frame else { continue };
        let (header, fds) = (frame.header, frame.fds.len());
        let (reply, refusal) = session.handle(&device, frame);
        let wanted = !(header.no_reply() && header.is_command());
        assert_eq!(reply.is_some(), wanted && (refusal.is_some() || !header.no_reply()));
        if let Some(reply) = reply {
            assert_eq!(reply[..4], [header.id.to_le_bytes(), header.command.to_le_bytes()].concat());
            assert_eq!(u32::from_le_bytes([reply[4], reply[5], reply[6], reply[7]]) as usize, reply.len());
            assert_eq!(reply[8] & 0x20 != 0, refusal.is_some());
        }
        assert!(fds <= 16 && space.regions() <= MAX_SPACE_REGIONS);
    }
});
