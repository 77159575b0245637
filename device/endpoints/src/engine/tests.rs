//! Transfers as they should go, and as they should not.

use proptest::prelude::*;
use virtio_transport::NoInterrupt;

use super::*;
use crate::{DirectPort, Stamped, queues::rig::*};

const MODES: [ServiceMode; 3] = [ServiceMode::Inline, ServiceMode::Thread, ServiceMode::Poll];

fn engine(guest: &Guest, mode: ServiceMode) -> DmaEngine<DirectPort> {
    DmaEngine::new(EngineConfig::default(), mode, guest.port()).unwrap()
}

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 % 251) as u8).collect()
}

#[test]
fn what_was_read_can_be_read_back_in_every_mode_and_after_a_reset() {
    for mode in MODES {
        let mut guest = Guest::new(1);
        let engine = engine(&guest, mode);
        for round in 0..2 {
            guest.start(&engine);
            let data = bytes(70_000 + round);
            guest.write(BUFFERS, &data);
            let len = data.len() as u32;
            let chain = [(BUFFERS, 1000, false), (BUFFERS + 1000, len - 1000, false)];
            assert_eq!(guest.submit(&engine, 0, &chain), 0);
            let back = [(BUFFERS + 0x20_0000, 5, true), (BUFFERS + 0x30_0000, len - 5, true)];
            assert_eq!(guest.submit(&engine, 0, &back), len);
            assert_eq!(guest.read(BUFFERS + 0x20_0000, 5), data[..5]);
            assert!(guest.read(BUFFERS + 0x30_0000, data.len() - 5) == data[5..]);
            engine.reset();
            guest.clear_rings();
        }
        let counters = engine.counters();
        assert_eq!((counters.transfers, counters.read_bytes, counters.written_bytes), (4, 140_001, 140_001));
        assert_eq!((counters.malformed, counters.dma_faults, engine.failed()), (0, 0, None));
    }
}

#[test]
fn the_longest_transfer_passes_and_one_byte_more_does_not() {
    let mut guest = Guest::new(1);
    let engine = engine(&guest, ServiceMode::Inline);
    guest.start(&engine);
    let mut space = [0; 4];
    engine.read_config(0, &mut space);
    assert_eq!(u32::from_le_bytes(space), MAX_TRANSFER_BYTES);
    assert_eq!(guest.submit(&engine, 0, &[(BUFFERS, MAX_TRANSFER_BYTES, true)]), MAX_TRANSFER_BYTES);
    assert_eq!(guest.submit(&engine, 0, &[(BUFFERS, MAX_TRANSFER_BYTES + 1, true)]), 0);
    assert_eq!(guest.submit(&engine, 0, &[(BUFFERS, MAX_TRANSFER_BYTES, false), (BUFFERS, 1, false)]), 0);
    assert_eq!((engine.counters().transfers, engine.counters().malformed), (1, 2));
}

#[test]
fn what_is_out_of_reach_faults_and_the_engine_goes_on() {
    let mut guest = Guest::new(1);
    let engine = engine(&guest, ServiceMode::Inline);
    guest.start(&engine);
    assert_eq!(guest.submit(&engine, 0, &[(RAM_BYTES, 64, false)]), 0);
    assert_eq!(guest.submit(&engine, 0, &[(RAM_BYTES - 10, 64, true)]), 0);
    assert_eq!(guest.submit(&engine, 0, &[(BUFFERS, 64, true)]), 64);
    assert_eq!((engine.counters().dma_faults, engine.counters().transfers), (2, 1));
}

#[test]
fn a_broken_ring_stops_it_until_reset() {
    let guest = Guest::new(1);
    let engine = engine(&guest, ServiceMode::Inline);
    guest.start(&engine);
    guest.publish(0, SIZE + 1);
    engine.notify(0);
    engine.notify(7);
    assert!(engine.needs_reset());
    assert_eq!(engine.counters().ring_failures, 1);
    engine.reset();
    guest.publish(0, 0);
    guest.start(&engine);
    assert!(!engine.needs_reset());
    let again = engine.activate(guest.activation(&engine), Arc::new(NoInterrupt));
    assert!(again.is_err(), "it is active");
}

#[test]
fn layouts_features_and_sizes_that_cannot_be_are_refused() {
    let guest = Guest::new(1);
    let engine = engine(&guest, ServiceMode::Inline);
    let mut activation = guest.activation(&engine);
    activation.queues[0].used = RAM_BYTES;
    assert!(engine.activate(activation, Arc::new(NoInterrupt)).is_err());
    guest.start(&engine);
    assert!(!engine.accepts_features(VERSION_1));
    let config = EngineConfig { queue_size: 3, ..EngineConfig::default() };
    let made = DmaEngine::new(config, ServiceMode::Inline, guest.port());
    assert!(matches!(made, Err(EngineError::QueueSize { size: 3 })));
}

#[test]
fn an_observer_sees_each_direction() {
    let mut guest = Guest::new(1);
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let sink = Arc::clone(&seen);
    let observer = Stamped::new(
        || 5,
        move |direction, bytes, ticks| sink.lock().unwrap().push((direction, bytes, ticks)),
    );
    let config = EngineConfig::default();
    let engine = DmaEngine::with_observers(config, ServiceMode::Inline, [(guest.port(), observer)]).unwrap();
    guest.start(&engine);
    guest.submit(&engine, 0, &[(BUFFERS, 64, false), (BUFFERS, 32, true)]);
    assert_eq!(*seen.lock().unwrap(), [(Direction::FromGuest, 64, 0), (Direction::ToGuest, 32, 0)]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Random descriptors; writes of the device may even hit the ring itself.
    #[test]
    fn random_descriptors_never_panic(
        table in prop::collection::vec(
            (prop_oneof![4 => 0..RAM_BYTES, 1 => any::<u64>()], prop_oneof![2 => 0..200_u32, 1 => any::<u32>()],
             prop_oneof![4 => 0..4_u16, 1 => any::<u16>()], prop_oneof![8 => 0..16_u16, 1 => any::<u16>()]), 16),
    ) {
        let mut guest = Guest::new(1);
        let engine = engine(&guest, ServiceMode::Inline);
        guest.start(&engine);
        for (at, desc) in (0..).zip(&table) {
            guest.describe(0, at, *desc);
        }
        for head in 0..16 {
            guest.offer(0, head);
        }
        engine.notify(0);
        prop_assert_eq!(engine.failed(), None);
    }
}
