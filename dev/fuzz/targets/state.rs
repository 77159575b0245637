//! Restoring whatever the input says: refused whole, or a device that saves what it was given and goes on working.
#![no_main]

#[path = "../../../device/iommu/tests/support/mod.rs"]
mod support;

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use support::{Rig, options};
use virtio_iommu::{
    DeviceOptions,
    spec::EndpointId,
    state::{decode, encode},
};
use virtio_transport::{NoInterrupt, VirtioDevice};

/// The input with a first line that fits, so that the checksum does not stop everything at the door.
fn signed(body: &[u8], version: u32) -> Vec<u8> {
    // CRC-32C, bit by bit.
    let crc = !body.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ if crc & 1 != 0 { 0x82f6_3b78 } else { 0 })
    });
    let mut bytes = format!("virtio-iommu/state/{version} {} {crc:08x}\n", body.len()).into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

fuzz_target!(|input: &[u8]| {
    let _ = decode(input);
    // Version 2 is that of several request queues.
    let Some(state) = [1, 2].into_iter().find_map(|version| decode(&signed(input, version)).ok()) else {
        return;
    };
    let request_queues = if state.identity.request_queues == 1 { 1 } else { 3 };
    let rig = Rig::idle(DeviceOptions { request_queues, ..options() });
    rig.device.add_emulated_endpoint(EndpointId(8)).unwrap();
    rig.device.add_emulated_endpoint(EndpointId(9)).unwrap();
    let before = rig.device.save().unwrap();
    match rig.device.restore(&state, Arc::new(NoInterrupt)) {
        Err(_) if rig.device.domains() == 0 => {
            assert_eq!(rig.device.save().unwrap(), before, "refused, but something was left behind");
        }
        Err(error) => panic!("{error} left domains behind"),
        Ok(()) => {
            rig.device.pause();
            let again = rig.device.save().unwrap();
            assert_eq!(again.domains, state.domains);
            assert_eq!(decode(&encode(&again).unwrap()).unwrap(), again);
        }
    }
    rig.device.reset();
    assert_eq!(rig.device.counters().mappings_reserved, 0);
});
