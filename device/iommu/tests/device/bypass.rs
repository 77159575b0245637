//! Bypass in all its forms: boot, configuration field, domain, legacy feature.

use std::sync::Arc;

use virtio_bindings::virtio_mmio as reg;
use virtio_iommu::{
    Device, DeviceOptions,
    memory::GuestRam,
    spec::{Status, feature, request::ATTACH_F_BYPASS},
};
use virtio_transport::{MmioTransport, NoInterrupt, VirtioDevice};

use crate::support::*;

#[test]
fn boot_bypass_applies_before_any_driver() {
    for boot_bypass in [false, true] {
        let rig = Rig::idle(DeviceOptions { boot_bypass, ..options() });
        rig.device.add_emulated_endpoint(virtio_iommu::spec::EndpointId(8)).unwrap();
        assert_eq!(dma_write(&rig.port(8), 0x5000, b"x"), boot_bypass);
    }
}

#[test]
fn boot_bypass_applies_even_if_the_driver_declines_the_feature() {
    let rig = Rig::negotiating(DeviceOptions { boot_bypass: true, ..options() }, !feature::BYPASS_CONFIG);
    assert!(dma_write(&rig.port(8), 0x5000, b"x"));
    // The field is not the driver's to write then.
    rig.device.write_config(36, &[0]);
    assert!(dma_write(&rig.port(8), 0x5000, b"x"));
}

/// "When the VIRTIO_IOMMU_F_BYPASS_CONFIG feature is negotiated, the driver MAY write to bypass": FEATURES_OK ends the
/// negotiation, whether or not DRIVER_OK has followed.
#[test]
fn the_field_is_not_the_drivers_from_features_ok_on_without_the_feature() {
    for mask in [!0, !feature::BYPASS_CONFIG] {
        let memory = GuestRam::new(ram()).unwrap();
        let device = Arc::new(Device::new(DeviceOptions { boot_bypass: true, ..options() }, memory).unwrap());
        let registers = MmioTransport::new(device.clone(), Arc::new(NoInterrupt));
        let write = |value| {
            registers.write_config(36, &[value]);
            let mut field = [9];
            registers.read_config(36, &mut field);
            field[0]
        };
        registers.write32(reg::VIRTIO_MMIO_STATUS, 3);
        assert_eq!((write(0), write(1)), (0, 1), "the offer counts");
        for half in 0..2 {
            registers.write32(reg::VIRTIO_MMIO_DRIVER_FEATURES_SEL, half);
            let bits = (device.features() & mask) >> (32 * half);
            registers.write32(reg::VIRTIO_MMIO_DRIVER_FEATURES, bits as u32);
        }
        for status in [11, 15] {
            registers.write32(reg::VIRTIO_MMIO_STATUS, status);
            assert_eq!(registers.read32(reg::VIRTIO_MMIO_STATUS), status);
            assert_eq!(write(0), u8::from(mask != !0), "status {status}");
        }
        // A reset begins anew.
        registers.write32(reg::VIRTIO_MMIO_STATUS, 0);
        assert_eq!((write(1), write(0)), (1, 0));
    }
}

#[test]
fn the_field_decides_for_unattached_endpoints_only() {
    let mut rig = Rig::default();
    assert_eq!(rig.attach(1, 8), Status::Ok);
    for bypass in [1, 0, 1, 0] {
        rig.device.write_config(36, &[bypass]);
        assert!(!dma_write(&rig.port(8), 0x5000, b"x"));
        assert_eq!(dma_write(&rig.port(9), 0x5000, b"x"), bypass == 1);
    }
    rig.device.write_config(36, &[1]);
    assert_eq!(rig.detach(1, 8), Status::Ok);
    assert!(dma_write(&rig.port(8), 0x5000, b"x"), "after DETACH the endpoint may be in bypass mode");
}

#[test]
fn a_bypass_domain_is_one_to_one_and_goes_with_its_last_endpoint() {
    let mut rig = Rig::default();
    assert_eq!(rig.attach_flags(1, 8, ATTACH_F_BYPASS), Status::Ok);
    assert_eq!(rig.attach_flags(1, 9, ATTACH_F_BYPASS), Status::Ok);
    assert!(dma_write(&rig.port(8), 0x5000, b"x") && dma_write(&rig.port(9), HIGH_RAM, b"y"));
    assert_eq!(rig.detach(1, 8), Status::Ok);
    assert!(!dma_write(&rig.port(8), 0x5000, b"z"));
    assert_eq!(rig.detach(1, 9), Status::Ok);
    assert_eq!(rig.attach(1, 8), Status::Ok, "the ID is free for another kind of domain");
    assert_eq!(rig.map(1, 0, 0xfff, 0), Status::Ok);
}

#[test]
fn legacy_bypass_must_be_negotiated() {
    let legacy = DeviceOptions { legacy_bypass: true, boot_bypass: true, ..options() };
    let mut rig = Rig::idle(legacy.clone());
    rig.device.add_emulated_endpoint(virtio_iommu::spec::EndpointId(8)).unwrap();
    assert!(!dma_write(&rig.port(8), 0x5000, b"x"), "not before DRIVER_OK");
    rig.activate(rig.device.features() & !virtio_iommu::device::F_EVENT_IDX);
    assert!(dma_write(&rig.port(8), 0x5000, b"x"));
    assert_eq!(rig.attach(1, 8), Status::Ok);
    assert!(!dma_write(&rig.port(8), 0x5000, b"x"));
    assert_eq!(rig.detach(1, 8), Status::Ok);
    assert!(dma_write(&rig.port(8), 0x5000, b"x"));
    let mut byte = [9];
    rig.device.read_config(36, &mut byte);
    assert_eq!(byte, [0], "there is no bypass field");
    let declined = Rig::negotiating(legacy, !feature::BYPASS);
    assert!(!dma_write(&declined.port(8), 0x5000, b"x"));
}

#[test]
fn reset_detaches_and_keeps_bypass() {
    let mut rig = Rig::default();
    rig.device.write_config(36, &[1]);
    assert_eq!(rig.attach(1, 8), Status::Ok);
    assert_eq!(rig.map(1, 0x1000, 0x1fff, 0x6000), Status::Ok);
    assert_eq!(rig.attach_flags(2, 9, ATTACH_F_BYPASS), Status::Ok);
    rig.device.reset();
    assert_eq!((rig.device.domains(), rig.counters().mappings_reserved), (0, 0));
    let port = rig.port(8);
    assert!(dma_write(&port, 0x1000, b"one to one"));
    assert_eq!(rig.peek(0x1000), *b"one to one");
    rig.device.system_reset();
    assert!(!dma_write(&port, 0x1000, b"x"), "boot bypass is off in this machine");
}
