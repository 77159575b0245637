//! The feature, the configuration, and a driver that wants none of it.

use std::sync::{Arc, atomic::Ordering};

use virtio_bindings::virtio_mmio as reg;
use virtio_iommu::{
    OptionsError,
    device::DeviceError,
    memory::GuestRam,
    spec::private::{F_REQUEST_QUEUES, MAX_REQUEST_QUEUES, REQUEST_QUEUES_OFFSET},
};
use virtio_transport::{MmioTransport, NoInterrupt};

use super::*;

fn config_word(device: &Device, offset: usize) -> u16 {
    let mut bytes = [0; 2];
    device.read_config(offset as u64, &mut bytes);
    u16::from_le_bytes(bytes)
}

#[test]
fn a_device_with_one_request_queue_is_the_standard_one() {
    let rig = Rig::default();
    assert_eq!(rig.device.features() & F_REQUEST_QUEUES, 0);
    assert_eq!(rig.device.queue_max_sizes().len(), 2);
    assert_eq!(rig.device.queue_count(!F_REQUEST_QUEUES), 2);
    let mut past = [0xff; 16];
    rig.device.read_config(40, &mut past);
    assert_eq!(past, [0; 16], "nothing behind the standard configuration");
}

#[test]
fn the_field_says_how_many_and_is_read_only() {
    let (rig, _) = start(several(3));
    assert_eq!(config_word(&rig.device, REQUEST_QUEUES_OFFSET), 3);
    let mut reserved = [0xff; 10];
    rig.device.read_config(42, &mut reserved);
    assert_eq!(reserved, [0; 10]);
    rig.device.write_config(REQUEST_QUEUES_OFFSET as u64, &[9, 9]);
    assert_eq!(config_word(&rig.device, REQUEST_QUEUES_OFFSET), 3);
    // Reads that straddle the end of the standard structure.
    let mut word = [0xff; 4];
    rig.device.read_config(38, &mut word);
    assert_eq!(word, [0, 0, 3, 0]);
}

#[test]
fn absurd_numbers_of_queues_are_refused() {
    for request_queues in [0, MAX_REQUEST_QUEUES + 1, u16::MAX] {
        let ram = GuestRam::new(ram()).unwrap();
        let refused = Device::new(DeviceOptions { request_queues, ..options() }, ram);
        let expected = OptionsError::RequestQueues { request_queues };
        assert!(matches!(refused, Err(DeviceError::Options(found)) if found == expected));
    }
}

/// Registers of a device with three request queues, with these features acknowledged.
fn negotiated(mask: u64) -> (MmioTransport, Arc<Device>) {
    let device = Arc::new(Device::new(several(3), GuestRam::new(ram()).unwrap()).unwrap());
    let registers = MmioTransport::new(device.clone(), Arc::new(NoInterrupt));
    registers.write32(reg::VIRTIO_MMIO_STATUS, 3);
    for half in 0..2 {
        registers.write32(reg::VIRTIO_MMIO_DRIVER_FEATURES_SEL, half);
        let bits = (device.features() & mask) >> (32 * half);
        registers.write32(reg::VIRTIO_MMIO_DRIVER_FEATURES, bits as u32);
    }
    (registers, device)
}

fn queue_max(registers: &MmioTransport, index: u32) -> u32 {
    registers.write32(reg::VIRTIO_MMIO_QUEUE_SEL, index);
    registers.read32(reg::VIRTIO_MMIO_QUEUE_NUM_MAX)
}

/// Enables queue `index` where its rings are for these tests; whether the device took it.
fn enable(registers: &MmioTransport, ring: &Ring) -> bool {
    let QueueLayout { index, size, desc, avail, used } = ring.layout;
    registers.write32(reg::VIRTIO_MMIO_QUEUE_SEL, u32::from(index));
    registers.write32(reg::VIRTIO_MMIO_QUEUE_NUM, u32::from(size));
    registers.write32(reg::VIRTIO_MMIO_QUEUE_DESC_LOW, desc as u32);
    registers.write32(reg::VIRTIO_MMIO_QUEUE_AVAIL_LOW, avail as u32);
    registers.write32(reg::VIRTIO_MMIO_QUEUE_USED_LOW, used as u32);
    registers.write32(reg::VIRTIO_MMIO_QUEUE_READY, 1);
    registers.read32(reg::VIRTIO_MMIO_QUEUE_READY) == 1
}

#[test]
fn a_driver_that_does_not_accept_the_feature_sees_two_queues() {
    let (registers, device) = negotiated(!F_REQUEST_QUEUES);
    let rig = Rig::idle(options());
    let seen = || (0..6).map(|index| queue_max(&registers, index)).collect::<Vec<_>>();
    assert_eq!(seen(), [256, 256, 0, 0, 0, 0], "before FEATURES_OK");
    registers.write32(reg::VIRTIO_MMIO_STATUS, 11);
    assert_eq!(registers.read32(reg::VIRTIO_MMIO_STATUS), 11);
    assert_eq!(seen(), [256, 256, 0, 0, 0, 0]);
    assert!(enable(&registers, &Lane::new(&rig, 0).ring));
    assert!(!enable(&registers, &Lane::new(&rig, 1).ring), "queue 2 is not there");
    registers.write32(reg::VIRTIO_MMIO_STATUS, 15);
    assert_eq!(registers.read32(reg::VIRTIO_MMIO_STATUS), 15);
    assert_eq!(config_word(&device, REQUEST_QUEUES_OFFSET), 0);
    for index in 0..6 {
        registers.write32(reg::VIRTIO_MMIO_QUEUE_NOTIFY, index);
    }
    assert_eq!(device.counters().kicks, 1, "only queue 0 is a request queue");
    // Accepted after a reset, they are there.
    registers.write32(reg::VIRTIO_MMIO_STATUS, 0);
    assert_eq!(seen(), [256, 256, 0, 0, 0, 0]);
    let (registers, _) = negotiated(!0);
    registers.write32(reg::VIRTIO_MMIO_STATUS, 11);
    let seen: Vec<_> = (0..6).map(|index| queue_max(&registers, index)).collect();
    assert_eq!(seen, [256, 256, 256, 256, 0, 0]);
}

/// Another transport may hand over queues that were not negotiated.
#[test]
fn queues_that_were_not_negotiated_are_not_served() {
    let rig = Rig::idle(several(3));
    rig.device.add_emulated_endpoint(EndpointId(8)).unwrap();
    let mut lanes: Vec<_> = (0..3).map(|number| Lane::new(&rig, number)).collect();
    let features = features(&rig) & !F_REQUEST_QUEUES;
    let activation = Activation { features, queues: layouts(&rig, &lanes) };
    rig.device.activate(activation, rig.irq.clone()).unwrap();
    lanes[1].queue(&attach(1, 8), 4);
    lanes[1].kick(&rig.device);
    assert_eq!(lanes[1].ring.pop_used(), None);
    assert_eq!(lanes[0].status(&rig.device, &attach(1, 8)), Status::Ok);
}

#[test]
fn every_queue_answers_and_interrupts_by_its_own_index_and_events_come_at_1() {
    let (mut rig, mut lanes) = start(several(3));
    rig.give_event_buffers(1, 24);
    assert_eq!(lanes[2].status(&rig.device, &attach(1, 8)), Status::Ok);
    assert_eq!(lanes[1].status(&rig.device, &map(1, 5, 5, 7)), Status::Ok);
    assert!(dma_write(&rig.port(8), 0x5000, b"x"));
    assert_eq!(lanes[0].status(&rig.device, &map(1, 5, 5, 8)), Status::Inval, "mapped by another queue");
    assert_eq!(lanes[2].status(&rig.device, &unmap(1, 5, 5)), Status::Ok);
    assert!(!dma_write(&rig.port(8), 0x5000, b"y"));
    assert_eq!(rig.next_fault().map(|fault| fault.endpoint), Some(8));
    let interrupts: Vec<_> = rig.irq.queues.iter().map(|queue| queue.load(Ordering::Relaxed)).collect();
    assert_eq!(interrupts[..5], [1, 1, 1, 2, 0]);
    let counters: Vec<_> =
        rig.device.queue_counters().map(|queue| (queue.kicks, queue.statuses[0])).collect();
    assert_eq!(counters, [(1, 0), (1, 1), (2, 2)]);
    let total = rig.counters();
    assert_eq!((total.kicks, total.batches, total.status(Status::Ok)), (4, 4, 3));
    assert_eq!((total.status(Status::Inval), total.mapped, total.unmapped), (1, 1, 1));
}

#[test]
fn any_of_the_queues_may_be_left_unused() {
    let rig = Rig::idle(several(4));
    rig.device.add_emulated_endpoint(EndpointId(8)).unwrap();
    let mut last = Lane::new(&rig, 3);
    let activation = Activation { features: features(&rig), queues: vec![last.ring.layout] };
    rig.device.activate(activation, rig.irq.clone()).unwrap();
    (0..8).for_each(|index| rig.device.notify(index));
    assert_eq!(last.status(&rig.device, &attach(1, 8)), Status::Ok);
}
