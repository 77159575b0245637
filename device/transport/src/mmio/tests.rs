//! The register block against a device that records what it is told.

use std::sync::atomic::Ordering::SeqCst;

use proptest::prelude::*;
use virtio_bindings::virtio_config::{VIRTIO_CONFIG_S_NEEDS_RESET, VIRTIO_F_RING_RESET, VIRTIO_F_VERSION_1};

use super::*;
use crate::{
    NoInterrupt, QueueLayout,
    recorder::{ACK_DRIVER, OFFERED, Recorder},
    registers::{DRIVER_OK, FAILED, FEATURES_OK},
};

fn block() -> (MmioTransport, Arc<Recorder>) {
    let device = Arc::new(Recorder::default());
    (MmioTransport::new(device.clone(), Arc::new(NoInterrupt)), device)
}

fn acknowledge(block: &MmioTransport, features: u64) -> u32 {
    block.write32(reg::VIRTIO_MMIO_STATUS, 1);
    block.write32(reg::VIRTIO_MMIO_STATUS, ACK_DRIVER);
    for (sel, bits) in [(1, (features >> 32) as u32), (0, features as u32)] {
        block.write32(reg::VIRTIO_MMIO_DRIVER_FEATURES_SEL, sel);
        block.write32(reg::VIRTIO_MMIO_DRIVER_FEATURES, bits);
    }
    block.write32(reg::VIRTIO_MMIO_STATUS, ACK_DRIVER | FEATURES_OK);
    block.read32(reg::VIRTIO_MMIO_STATUS)
}

fn set_up_queue_1(block: &MmioTransport) {
    block.write32(reg::VIRTIO_MMIO_QUEUE_SEL, 1);
    block.write32(reg::VIRTIO_MMIO_QUEUE_NUM, 128);
    let addresses = [
        (reg::VIRTIO_MMIO_QUEUE_DESC_LOW, 0x1000),
        (reg::VIRTIO_MMIO_QUEUE_DESC_HIGH, 1),
        (reg::VIRTIO_MMIO_QUEUE_AVAIL_LOW, 0x2000),
        (reg::VIRTIO_MMIO_QUEUE_AVAIL_HIGH, 2),
        (reg::VIRTIO_MMIO_QUEUE_USED_LOW, 0x3000),
        (reg::VIRTIO_MMIO_QUEUE_USED_HIGH, 3),
    ];
    for (register, value) in addresses {
        block.write32(register, value);
    }
    block.write32(reg::VIRTIO_MMIO_QUEUE_READY, 1);
}

fn drive(block: &MmioTransport) {
    assert_eq!(acknowledge(block, OFFERED), ACK_DRIVER | FEATURES_OK);
    set_up_queue_1(block);
    block.write32(reg::VIRTIO_MMIO_STATUS, ACK_DRIVER | FEATURES_OK | DRIVER_OK);
}

#[test]
fn identity_registers() {
    let (block, _) = block();
    assert_eq!(block.read32(0), 0x7472_6976);
    assert_eq!(block.read32(4), 2);
    assert_eq!(block.read32(8), 23);
    assert_eq!(block.read32(reg::VIRTIO_MMIO_SHM_LEN_LOW), u32::MAX);
    assert_eq!(block.read32(reg::VIRTIO_MMIO_QUEUE_NOTIFY), 0);
}

#[test]
fn features_are_offered_by_halves_without_what_the_transport_lacks() {
    let (block, _) = block();
    let half = |sel| {
        block.write32(reg::VIRTIO_MMIO_DEVICE_FEATURES_SEL, sel);
        block.read32(reg::VIRTIO_MMIO_DEVICE_FEATURES)
    };
    assert_eq!([half(0), half(1), half(2), half(u32::MAX)], [0b101, 1, 0, 0]);
}

#[test]
fn features_ok_is_refused_for_unoffered_bits_and_without_version_1() {
    let (block, device) = block();
    assert_eq!(acknowledge(&block, OFFERED | 2), ACK_DRIVER);
    assert_eq!(acknowledge(&block, 0b101), ACK_DRIVER);
    assert_eq!(acknowledge(&block, OFFERED | 1 << VIRTIO_F_RING_RESET), ACK_DRIVER);
    device.insist_on_bit_0.store(true, SeqCst);
    assert_eq!(acknowledge(&block, OFFERED & !1), ACK_DRIVER);
    assert_eq!(acknowledge(&block, OFFERED), ACK_DRIVER | FEATURES_OK);
    assert!(block.refused_writes() >= 4);
}

#[test]
fn features_above_63_are_refused() {
    let (block, _) = block();
    block.write32(reg::VIRTIO_MMIO_DRIVER_FEATURES_SEL, 2);
    block.write32(reg::VIRTIO_MMIO_DRIVER_FEATURES, 1);
    assert_eq!(acknowledge(&block, OFFERED), ACK_DRIVER);
    block.write32(reg::VIRTIO_MMIO_STATUS, 0);
    assert_eq!(acknowledge(&block, OFFERED), ACK_DRIVER | FEATURES_OK);
}

#[test]
fn driver_ok_hands_over_what_was_programmed() {
    let (block, device) = block();
    drive(&block);
    let activations = device.activations.lock().unwrap();
    let queue =
        QueueLayout { index: 1, size: 128, desc: 0x1_0000_1000, avail: 0x2_0000_2000, used: 0x3_0000_3000 };
    assert_eq!(activations.len(), 1);
    assert_eq!((activations[0].features, &activations[0].queues), (OFFERED, &vec![queue]));
}

#[test]
fn driver_ok_without_features_ok_does_nothing() {
    let (block, device) = block();
    block.write32(reg::VIRTIO_MMIO_STATUS, ACK_DRIVER | DRIVER_OK);
    assert_eq!(block.read32(reg::VIRTIO_MMIO_STATUS), ACK_DRIVER);
    block.write32(reg::VIRTIO_MMIO_STATUS, ACK_DRIVER | FAILED);
    block.write32(reg::VIRTIO_MMIO_STATUS, ACK_DRIVER | FAILED | FEATURES_OK | DRIVER_OK);
    assert!(device.activations.lock().unwrap().is_empty());
}

#[test]
fn nothing_is_programmable_while_the_device_runs() {
    let (block, device) = block();
    drive(&block);
    block.write32(reg::VIRTIO_MMIO_QUEUE_READY, 0);
    assert_eq!(block.read32(reg::VIRTIO_MMIO_QUEUE_READY), 1);
    block.write32(reg::VIRTIO_MMIO_DRIVER_FEATURES, 0);
    block.write32(reg::VIRTIO_MMIO_STATUS, ACK_DRIVER | FEATURES_OK);
    assert_eq!(block.read32(reg::VIRTIO_MMIO_STATUS), ACK_DRIVER | FEATURES_OK | DRIVER_OK);
    block.write32(reg::VIRTIO_MMIO_STATUS, ACK_DRIVER | FEATURES_OK | DRIVER_OK);
    assert_eq!(device.activations.lock().unwrap().len(), 1);
    assert_eq!(block.refused_writes(), 3);
}

#[test]
fn queue_sizes_and_readiness_are_checked() {
    let (block, _) = block();
    acknowledge(&block, OFFERED);
    assert_eq!(block.read32(reg::VIRTIO_MMIO_QUEUE_NUM_MAX), 64);
    for bad in [0, 3, 128, 1 << 16, u32::MAX] {
        block.write32(reg::VIRTIO_MMIO_QUEUE_NUM, bad);
    }
    block.write32(reg::VIRTIO_MMIO_QUEUE_READY, 2);
    assert_eq!((block.read32(reg::VIRTIO_MMIO_QUEUE_READY), block.refused_writes()), (0, 6));
    block.write32(reg::VIRTIO_MMIO_QUEUE_SEL, 2);
    assert_eq!(block.read32(reg::VIRTIO_MMIO_QUEUE_NUM_MAX), 0);
    block.write32(reg::VIRTIO_MMIO_QUEUE_READY, 1);
    assert_eq!((block.read32(reg::VIRTIO_MMIO_QUEUE_READY), block.refused_writes()), (0, 7));
}

#[test]
fn kicks_pass_only_between_driver_ok_and_reset() {
    let (block, device) = block();
    block.write32(reg::VIRTIO_MMIO_QUEUE_NOTIFY, 0);
    drive(&block);
    for value in [1, 2, 0x1_0000, u32::MAX] {
        block.write32(reg::VIRTIO_MMIO_QUEUE_NOTIFY, value);
    }
    block.write32(reg::VIRTIO_MMIO_STATUS, 0);
    block.write32(reg::VIRTIO_MMIO_QUEUE_NOTIFY, 1);
    assert_eq!(*device.kicks.lock().unwrap(), [1]);
    assert_eq!(device.resets.load(SeqCst), 1);
}

#[test]
fn reset_clears_everything_programmed() {
    let (block, device) = block();
    drive(&block);
    device.interrupt.lock().unwrap().as_ref().unwrap().queue(1);
    assert_eq!(block.read32(reg::VIRTIO_MMIO_INTERRUPT_STATUS), 1);
    block.write32(reg::VIRTIO_MMIO_STATUS, 0);
    assert_eq!(block.read32(reg::VIRTIO_MMIO_STATUS), 0);
    assert_eq!(block.read32(reg::VIRTIO_MMIO_INTERRUPT_STATUS), 0);
    block.write32(reg::VIRTIO_MMIO_QUEUE_SEL, 1);
    assert_eq!(block.read32(reg::VIRTIO_MMIO_QUEUE_READY), 0);
    drive(&block);
    assert_eq!(device.activations.lock().unwrap().len(), 2);
}

#[test]
fn interrupts_are_acknowledged_bit_by_bit() {
    let (block, device) = block();
    drive(&block);
    let line = device.interrupt.lock().unwrap().clone().unwrap();
    line.queue(0);
    line.queue(1);
    line.config();
    assert_eq!(block.read32(reg::VIRTIO_MMIO_INTERRUPT_STATUS), 3);
    block.write32(reg::VIRTIO_MMIO_INTERRUPT_ACK, 1);
    assert_eq!(block.read32(reg::VIRTIO_MMIO_INTERRUPT_STATUS), 2);
    block.write32(reg::VIRTIO_MMIO_INTERRUPT_ACK, u32::MAX);
    assert_eq!(block.read32(reg::VIRTIO_MMIO_INTERRUPT_STATUS), 0);
}

#[test]
fn a_refused_activation_needs_reset_and_says_so() {
    let (block, device) = block();
    device.refuse_activation.store(true, SeqCst);
    drive(&block);
    let needs_reset = ACK_DRIVER | FEATURES_OK | DRIVER_OK | VIRTIO_CONFIG_S_NEEDS_RESET;
    assert_eq!(block.read32(reg::VIRTIO_MMIO_STATUS), needs_reset);
    assert_eq!(block.read32(reg::VIRTIO_MMIO_INTERRUPT_STATUS), 2);
    block.write32(reg::VIRTIO_MMIO_QUEUE_NOTIFY, 1);
    assert!(device.kicks.lock().unwrap().is_empty());
    block.write32(reg::VIRTIO_MMIO_STATUS, 0);
    assert_eq!(block.read32(reg::VIRTIO_MMIO_STATUS), 0);
}

#[test]
fn a_failed_device_needs_reset_while_it_is_active() {
    let (block, device) = block();
    device.failed.store(true, SeqCst);
    assert_eq!(block.read32(reg::VIRTIO_MMIO_STATUS), 0);
    drive(&block);
    assert_ne!(block.read32(reg::VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET, 0);
    // The driver repeats the bit in a read, modify, write: no effect, no complaint.
    block.write32(reg::VIRTIO_MMIO_STATUS, block.read32(reg::VIRTIO_MMIO_STATUS));
    assert_eq!(block.refused_writes(), 0);
}

#[test]
fn config_space_in_any_width_registers_in_one() {
    let (block, device) = block();
    assert_eq!(block.read32(0x104), 0x1716_1514);
    let mut two = [0; 2];
    block.read(0x107, &mut two);
    assert_eq!(two, [0x17, 0]);
    let mut one = [9; 1];
    block.read(0, &mut one);
    assert_eq!(one, [0]);
    let mut word = [0; 4];
    block.read(0, &mut word);
    assert_eq!(&word, b"virt");
    block.write(0x124, &[1]);
    block.write32(0x100, 7);
    assert_eq!(device.written.load(SeqCst), 5);
    device.generation.store(8, SeqCst);
    assert_eq!(block.read32(reg::VIRTIO_MMIO_CONFIG_GENERATION), 8);
}

/// Values a driver would write, to get deep into the state machine, and any others.
fn value() -> impl Strategy<Value = u32> {
    prop_oneof![
        prop::sample::select(vec![0, 1, 2, 3, 4, 8, 11, 15, 64, 0x80, 0x8f, 128, u32::MAX]),
        any::<u32>(),
    ]
}

fn offset() -> impl Strategy<Value = u32> {
    prop_oneof![
        8 => (0..0x110u32 / 4).prop_map(|word| word * 4),
        4 => Just(reg::VIRTIO_MMIO_STATUS),
        1 => any::<u32>(),
    ]
}

proptest! {
    #[test]
    fn any_sequence_of_writes_leaves_a_sane_block(accesses in prop::collection::vec((offset(), value()), 0..200)) {
        let (block, device) = block();
        for (offset, value) in accesses {
            block.write32(offset, value);
            block.read32(offset);
            let status = block.read32(reg::VIRTIO_MMIO_STATUS);
            // DRIVER_OK implies FEATURES_OK implies ACKNOWLEDGE and DRIVER.
            prop_assert!(status & DRIVER_OK == 0 || status & FEATURES_OK != 0);
            prop_assert!(status & FEATURES_OK == 0 || status & ACK_DRIVER == ACK_DRIVER);
        }
        for activation in &*device.activations.lock().unwrap() {
            prop_assert_eq!(activation.features & !OFFERED, 0);
            prop_assert_ne!(activation.features & 1 << VIRTIO_F_VERSION_1, 0);
            for queue in &activation.queues {
                prop_assert!(queue.size.is_power_of_two());
                prop_assert!(queue.size <= device.queue_max_sizes()[usize::from(queue.index)]);
            }
        }
    }

    #[test]
    fn a_reset_always_restores_the_reset_state(accesses in prop::collection::vec((offset(), value()), 0..100)) {
        let (block, _) = block();
        for (offset, value) in accesses {
            block.write32(offset, value);
        }
        block.write32(reg::VIRTIO_MMIO_STATUS, 0);
        prop_assert_eq!(block.read32(reg::VIRTIO_MMIO_STATUS), 0);
        drive(&block);
        prop_assert_ne!(block.read32(reg::VIRTIO_MMIO_STATUS) & DRIVER_OK, 0);
    }
}
