//! A driver that does what it must not.

use std::sync::atomic::Ordering;

use proptest::prelude::*;
use virtio_bindings::{virtio_config::*, virtio_mmio as reg, virtio_net::*};
use virtio_transport::{Activation, ServiceMode, VirtioDevice};

use super::rig::*;
use crate::{
    NetConfig, NetError, VirtioNet,
    frame::{Kind, MAX_CHAIN_BYTES},
};

fn unmerged() -> NetConfig {
    NetConfig { mergeable: false, ..NetConfig::default() }
}

/// Offers one chain and returns what was counted: malformed, faults, dropped. The chain comes back with length 0.
fn counts_of(descs: &[Desc]) -> (u64, u64, u64) {
    let mut rig = Rig::new(NetConfig::default()).start();
    for (at, desc) in (0..).zip(descs) {
        rig.tx.describe(at, *desc);
    }
    rig.tx.offer(0);
    rig.kick();
    assert_eq!(rig.tx.collect(), [(0, 0)]);
    assert!(!rig.nic.needs_reset());
    let counters = rig.nic.counters();
    assert_eq!(counters.tx_frames, 0);
    (counters.malformed, counters.dma_faults, counters.frames_dropped)
}

#[test]
fn malformed_chains_are_dropped_and_returned() {
    assert_eq!(counts_of(&[(BUFFERS, 0, 0, 0)]), (1, 0, 1), "zero length");
    assert_eq!(counts_of(&[(BUFFERS, 77, 0, 0)]), (1, 0, 1), "shorter than the headers");
    assert_eq!(counts_of(&[(BUFFERS, MAX_CHAIN_BYTES as u32 + 1, 0, 0)]), (1, 0, 1), "too long");
    assert_eq!(
        counts_of(&[(BUFFERS, u32::MAX, NEXT, 1), (BUFFERS, u32::MAX, 0, 0)]),
        (1, 0, 1),
        "absurdly long"
    );
    assert_eq!(counts_of(&[(BUFFERS, 100, NEXT, 0)]), (1, 0, 1), "a loop");
    assert_eq!(counts_of(&[(BUFFERS, 100, NEXT, SIZE)]), (1, 0, 1), "next beyond the table");
    assert_eq!(counts_of(&[(BUFFERS, 100, WRITE, 0)]), (1, 0, 1), "nothing to read");
    assert_eq!(counts_of(&[(u64::MAX - 10, 100, 0, 0)]), (1, 0, 1), "wraps");
    assert_eq!(counts_of(&[(BUFFERS, 100, 0, 0)]), (1, 0, 1), "zeroes are no frame");
}

#[test]
fn a_fault_drops_the_frame() {
    assert_eq!(counts_of(&[(RAM_BYTES, 100, 0, 0)]), (0, 1, 1), "outside memory");
    assert_eq!(counts_of(&[(RAM_BYTES - 50, 100, 0, 0)]), (0, 1, 1), "across its end");
    assert_eq!(counts_of(&[(BUFFERS, 50, NEXT, 1), (1 << 60, 50, 0, 0)]), (0, 1, 1), "in the second buffer");
}

#[test]
fn payload_lengths_that_lie_are_refused() {
    let mut rig = Rig::new(unmerged()).start();
    for announced in [101, 0x1_0000, u32::MAX] {
        let mut lying = frame(Kind::Data, 0, &[1; 100], 0, 1);
        lying[22..26].copy_from_slice(&announced.to_le_bytes());
        rig.send(&lying, 12);
        rig.kick();
    }
    rig.send(&frame(Kind::Request, 0, &[1; 100], 65537, 0), 12);
    rig.kick();
    assert_eq!((rig.nic.counters().malformed, rig.nic.counters().tx_frames), (4, 0));
}

#[test]
fn receive_buffers_too_small_lose_the_frame() {
    let mut rig = Rig::new(unmerged()).start();
    rig.post(2, 100);
    rig.send(&frame(Kind::Request, 0, &[1; 10], 23, 0), 12);
    rig.send(&frame(Kind::Request, 0, &[1; 10], 23, 0), 12);
    rig.kick();
    assert_eq!(rig.rx.collect(), [(0, 0), (1, 0)]);
    assert_eq!((rig.nic.counters().rx_too_small, rig.nic.counters().rx_frames), (2, 0));
}

#[test]
fn receive_buffers_out_of_reach_lose_the_frame() {
    let mut rig = Rig::new(NetConfig::default()).start();
    rig.rx.describe(0, (RAM_BYTES, 4096, WRITE, 0));
    rig.rx.describe(1, (BUFFERS, 4096, NEXT, 1));
    rig.rx.describe(2, (RX_BUFFERS, 4096, WRITE, 0));
    for head in 0..3 {
        rig.rx.offer(head);
    }
    rig.send(&frame(Kind::Request, 0, &[1; 10], 5, 0), 12);
    rig.send(&frame(Kind::Request, 1, &[1; 10], 5, 0), 12);
    rig.kick();
    // The fault costs a frame, the loop only its chain.
    assert_eq!(rig.rx.collect(), [(0, 0), (1, 0), (2, HEADERS as u32 + 5)]);
    let counters = rig.nic.counters();
    assert_eq!((counters.dma_faults, counters.malformed, counters.rx_frames), (1, 1, 1));
}

#[test]
fn a_broken_ring_stops_the_device_until_reset() {
    let rig = Rig::new(unmerged()).start();
    rig.tx.publish(SIZE + 1);
    rig.kick();
    rig.kick();
    assert!(rig.nic.needs_reset());
    assert_eq!((rig.nic.counters().ring_failures, rig.line.configs.load(Ordering::SeqCst)), (1, 1));
    rig.nic.reset();
    rig.tx.publish(0);
    rig.nic.activate(rig.activation(), rig.line.clone()).unwrap();
    assert!(!rig.nic.needs_reset());
}

#[test]
fn rings_out_of_reach_are_refused_at_activation() {
    let rig = Rig::new(unmerged());
    for (desc, used) in
        [(RAM_BYTES, rig.tx.layout.used), (rig.tx.layout.desc, RAM_BYTES - 4), (8, 0), (!15, 0)]
    {
        let mut activation = rig.activation();
        activation.queues[1].desc = desc;
        activation.queues[1].used = used;
        assert!(rig.nic.activate(activation, rig.line.clone()).is_err());
        rig.nic.reset();
    }
    rig.nic.activate(rig.activation(), rig.line.clone()).unwrap();
}

#[test]
fn a_device_without_queues_is_harmless() {
    for mode in [ServiceMode::Inline, ServiceMode::Thread, ServiceMode::Poll] {
        let rig = Rig::in_mode(unmerged(), mode);
        rig.nic.activate(Activation { features: 0, queues: vec![] }, rig.line.clone()).unwrap();
        rig.kick();
        rig.nic.notify(u16::MAX);
        rig.nic.reset();
        assert_eq!((rig.nic.failed(), rig.nic.needs_reset()), (None, false));
    }
}

#[test]
fn features_are_refused_without_access_platform_or_what_they_need() {
    let rig = Rig::new(unmerged());
    let all = rig.nic.features();
    assert!(rig.nic.accepts_features(all));
    assert!(!rig.nic.accepts_features(all & !(1 << VIRTIO_F_ACCESS_PLATFORM)));
    assert!(!rig.nic.accepts_features(all & !(1 << VIRTIO_NET_F_CSUM)));
    assert!(!rig.nic.accepts_features(all & !(1 << VIRTIO_NET_F_GUEST_CSUM)));
    assert!(rig.nic.accepts_features(1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_F_ACCESS_PLATFORM));
    assert_eq!(all & 1 << VIRTIO_NET_F_MRG_RXBUF, 0);
}

#[test]
fn configuration_space_is_bounded() {
    let rig = Rig::new(NetConfig { mtu: Some(1500), ..unmerged() });
    let block = rig.transport();
    let mut space = [0xff; 16];
    block.read_config(0, &mut space);
    assert_eq!(space, [2, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0xdc, 5, 0, 0, 0, 0]);
    let mut beyond = [0xff; 2];
    block.read_config(u64::MAX, &mut beyond);
    assert_eq!(beyond, [0; 2]);
    block.write_config(0, &[9; 6]);
    assert_eq!((block.read32(0x100), block.read32(reg::VIRTIO_MMIO_DEVICE_ID)), (2, 1));
}

#[test]
fn absurd_queue_sizes_are_refused() {
    let rig = Rig::new(unmerged());
    for size in [0, 3, 40000] {
        let port = crate::DirectPort::new(virtio_iommu::memory::GuestRam::new(rig.memory.clone()).unwrap());
        let made = VirtioNet::new(NetConfig { queue_size: size, ..unmerged() }, ServiceMode::Inline, port);
        assert!(matches!(made, Err(NetError::QueueSize { size: refused }) if refused == size));
    }
}

fn descriptor() -> impl Strategy<Value = Desc> {
    let addr = prop_oneof![4 => 0..RAM_BYTES, 1 => any::<u64>(), 1 => RAM_BYTES - 100..RAM_BYTES + 100];
    let len = prop_oneof![2 => 0..200u32, 1 => 0..70000u32, 1 => any::<u32>()];
    let flags = prop_oneof![4 => 0..4u16, 1 => any::<u16>()];
    let next = prop_oneof![8 => 0..SIZE, 1 => any::<u16>()];
    (addr, len, flags, next)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Random descriptors in both rings; writes of the device may even hit the rings themselves.
    #[test]
    fn random_descriptors_never_panic(
        rx in prop::collection::vec(descriptor(), 16),
        tx in prop::collection::vec(descriptor(), 16),
        jump in prop_oneof![8 => Just(0u16), 1 => any::<u16>()],
        mergeable: bool,
        indirect: bool,
    ) {
        let mut rig = Rig::new(NetConfig { mergeable, indirect, ..NetConfig::default() }).start();
        for (at, (rx, tx)) in (0..).zip(rx.iter().zip(&tx)) {
            rig.rx.describe(at, *rx);
            rig.tx.describe(at, *tx);
        }
        // Some real frames among them, so that answers flow.
        rig.send(&frame(Kind::Request, 1, &[7; 50], 3000, 0), 12);
        for head in 0..16 {
            rig.rx.offer(head);
            rig.tx.offer(head);
        }
        rig.kick();
        if jump != 0 {
            rig.tx.publish(jump);
            rig.kick();
        }
        prop_assert_eq!(rig.nic.failed(), None);
        let counters = rig.nic.counters();
        prop_assert!(counters.bytes_verified <= counters.tx_payload_bytes);
        rig.nic.reset();
    }
}
