//! Several queue pairs and the control queue.

use proptest::prelude::*;
use virtio_bindings::{virtio_mmio as reg, virtio_net::*};
use virtio_iommu::memory::GuestRam;
use virtio_transport::{Activation, MmioTransport, NoInterrupt, ServiceMode, VirtioDevice};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use std::sync::Arc;

use super::rig::*;
use crate::{
    DirectPort, MAX_QUEUE_PAIRS, NetConfig, NetError, NoObserver, VirtioNet,
    frame::{Kind, NET_HEADER_BYTES},
};

const PAIRS: u16 = 3;
const CONTROL: u16 = 2 * PAIRS;
const MQ: u64 = 1 << VIRTIO_NET_F_MQ;
const CTRL_VQ: u64 = 1 << VIRTIO_NET_F_CTRL_VQ;
/// What the status byte holds before the device writes it.
const UNWRITTEN: u8 = 0x77;

fn card(pairs: usize, mode: ServiceMode) -> (Arc<Nic>, Arc<GuestMemoryMmap>) {
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), RAM_BYTES as usize)]).unwrap();
    let memory = Arc::new(memory);
    let port = || DirectPort::new(GuestRam::new(Arc::clone(&memory)).unwrap());
    let config = NetConfig { mergeable: false, access_platform: false, ..NetConfig::default() };
    let ports = (0..pairs).map(|_| (port(), NoObserver));
    (Arc::new(VirtioNet::with_observers(config, mode, ports).unwrap()), memory)
}

/// A card with rings of all its queues.
struct Multi {
    memory: Arc<GuestMemoryMmap>,
    nic: Arc<Nic>,
    line: Arc<Line>,
    rings: Vec<Ring>,
}

impl Multi {
    /// All of a card's queues in use, the control queue at `control`.
    fn start(mode: ServiceMode, features: u64, control: u16) -> Self {
        let (nic, memory) = card(usize::from(PAIRS), mode);
        let queues = if features & MQ != 0 { CONTROL + 1 } else { 3 };
        let ring = |index: u16| Ring::new(&memory, index, 0x1_0000 + 0x4000 * u64::from(index));
        let rings: Vec<_> = (0..queues).map(ring).collect();
        assert_eq!(rings.last().map(|ring| ring.layout.index), Some(control));
        let activation = Activation { features, queues: rings.iter().map(|ring| ring.layout).collect() };
        let line = Arc::new(Line::default());
        nic.activate(activation, line.clone()).unwrap();
        Self { memory, nic, line, rings }
    }

    fn all(mode: ServiceMode) -> Self {
        let (nic, _) = card(usize::from(PAIRS), mode);
        Self::start(mode, nic.features(), CONTROL)
    }

    /// Sends a command cut into `cut` and the rest, with `status` writable bytes; used length and status byte.
    fn command(&mut self, bytes: &[u8], cut: usize, status: u32) -> (u32, u8) {
        let at = BUFFERS - 0x1000;
        self.memory.write_slice(bytes, GuestAddress(at)).unwrap();
        self.memory.write_slice(&[UNWRITTEN; 16], GuestAddress(at + 0x800)).unwrap();
        let (control, cut) = (self.rings.len() - 1, cut.min(bytes.len()));
        let ring = &mut self.rings[control];
        let parts = [
            (at, cut as u32, 0),
            (at + cut as u64, (bytes.len() - cut) as u32, 0),
            (at + 0x800, status, WRITE),
        ];
        let parts: Vec<_> = parts.into_iter().filter(|part| part.1 > 0).collect();
        for (number, &(addr, len, flags)) in (0..).zip(&parts) {
            let more = if usize::from(number) + 1 < parts.len() { NEXT } else { 0 };
            ring.describe(number, (addr, len, flags | more, number + 1));
        }
        ring.offer(0);
        self.nic.notify(control as u16);
        let used = loop {
            if let Some(&used) = self.rings[control].collect().first() {
                break used;
            }
            std::thread::yield_now();
        };
        assert_eq!(used.0, 0);
        (used.1, self.memory.read_obj(GuestAddress(at + 0x800)).unwrap())
    }

    fn set_pairs(&mut self, pairs: u16) -> (u32, u8) {
        let [low, high] = pairs.to_le_bytes();
        self.command(&[VIRTIO_NET_CTRL_MQ as u8, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET as u8, low, high], 2, 1)
    }

    /// A request on a pair, with room for its answer; not waited for.
    fn ask(&mut self, pair: u16, seq: u32) {
        let at = BUFFERS + 0x1000 * u64::from(pair);
        let into = RX_BUFFERS + 0x1000 * u64::from(pair);
        let rx = &mut self.rings[usize::from(2 * pair)];
        rx.describe(0, (into, 0x800, WRITE, 0));
        rx.offer(0);
        let bytes = [[0; NET_HEADER_BYTES].as_slice(), &frame(Kind::Request, seq, &[7; 100], 50, 0)].concat();
        self.memory.write_slice(&bytes, GuestAddress(at)).unwrap();
        let tx = &mut self.rings[usize::from(2 * pair + 1)];
        tx.describe(0, (at, bytes.len() as u32, 0, 0));
        tx.offer(0);
        self.nic.notify(2 * pair + 1);
    }

    /// What came back on a pair: sequence number of the answer, if there is one.
    fn answer(&mut self, pair: u16) -> Option<u32> {
        let used = self.rings[usize::from(2 * pair)].collect();
        let &(_, len) = used.first()?;
        let mut bytes = vec![0; len as usize];
        self.memory.read_slice(&mut bytes, GuestAddress(RX_BUFFERS + 0x1000 * u64::from(pair))).unwrap();
        let (header, payload) = split(&bytes);
        assert_eq!((header.kind, payload.len()), (Kind::Response, 50));
        Some(header.seq)
    }
}

#[test]
fn a_card_with_one_pair_has_no_control_queue() {
    let (nic, _) = card(1, ServiceMode::Inline);
    assert_eq!(nic.features() & (MQ | CTRL_VQ), 0);
    assert_eq!((nic.queue_max_sizes().len(), nic.queue_count(0), nic.queue_count(!0)), (2, 2, 2));
    let mut pairs = [0xff; 2];
    nic.read_config(8, &mut pairs);
    assert_eq!(pairs, [0, 0]);
}

#[test]
fn impossible_numbers_of_pairs_are_refused() {
    let ram = GuestRam::new(Arc::new(
        GuestMemoryMmap::from_ranges(&[(GuestAddress(0), RAM_BYTES as usize)]).unwrap(),
    ));
    let ram = ram.unwrap();
    for pairs in [0, usize::from(MAX_QUEUE_PAIRS) + 1] {
        let ports = (0..pairs).map(|_| (DirectPort::new(ram.clone()), NoObserver));
        let made = VirtioNet::with_observers(NetConfig::default(), ServiceMode::Inline, ports);
        assert!(matches!(made, Err(NetError::QueuePairs { pairs: found }) if found == pairs));
    }
}

#[test]
fn features_and_queues_go_together() {
    let (nic, _) = card(usize::from(PAIRS), ServiceMode::Inline);
    let all = nic.features();
    assert_eq!(all & (MQ | CTRL_VQ), MQ | CTRL_VQ);
    assert!(nic.accepts_features(all) && nic.accepts_features(all & !MQ));
    assert!(nic.accepts_features(all & !MQ & !CTRL_VQ));
    assert!(!nic.accepts_features(all & !CTRL_VQ), "MQ needs the control queue");
    let mut pairs = [0; 2];
    nic.read_config(8, &mut pairs);
    assert_eq!(u16::from_le_bytes(pairs), PAIRS);
    let count = |features| nic.queue_count(features);
    assert_eq!((count(0), count(all), count(all & !MQ), count(all & !MQ & !CTRL_VQ)), (2, 7, 3, 2));
    // As the driver sees it, before FEATURES_OK.
    let registers = MmioTransport::new(nic.clone(), Arc::new(NoInterrupt));
    registers.write32(reg::VIRTIO_MMIO_QUEUE_SEL, 2);
    assert_eq!(registers.read32(reg::VIRTIO_MMIO_QUEUE_NUM_MAX), 0);
}

#[test]
fn answers_come_on_the_pair_their_flow_was_sent_on() {
    for mode in [ServiceMode::Inline, ServiceMode::Thread, ServiceMode::Poll] {
        let mut card = Multi::all(mode);
        assert_eq!(card.set_pairs(PAIRS), (1, VIRTIO_NET_OK as u8), "{mode:?}");
        for round in 0..50 {
            // The same flow wanders from pair to pair.
            for pair in 0..PAIRS {
                card.ask(pair, round * 10 + u32::from(pair));
            }
            for pair in 0..PAIRS {
                let answer = loop {
                    if let Some(answer) = card.answer(pair) {
                        break answer;
                    }
                    std::thread::yield_now();
                };
                assert_eq!(answer, round * 10 + u32::from(pair), "{mode:?}");
            }
            card.rings.iter_mut().for_each(|ring| drop(ring.collect()));
        }
        card.nic.reset();
        let each: Vec<_> = card.nic.pair_counters().map(|pair| (pair.tx_frames, pair.rx_frames)).collect();
        assert_eq!(each, [(50, 50); 3], "{mode:?}");
        let total = card.nic.counters();
        assert_eq!((total.tx_frames, total.commands, total.frames_dropped), (150, 1, 0));
    }
}

#[test]
fn only_the_pairs_in_use_are_served() {
    let mut card = Multi::all(ServiceMode::Inline);
    (0..PAIRS).for_each(|pair| card.ask(pair, 1));
    let answers = |card: &mut Multi| (0..PAIRS).map(|pair| card.answer(pair)).collect::<Vec<_>>();
    assert_eq!(answers(&mut card), [Some(1), None, None], "one pair is in use after reset");
    assert_eq!(card.set_pairs(2), (1, VIRTIO_NET_OK as u8));
    // What the driver had queued early waits for the next kick.
    (0..PAIRS).for_each(|pair| card.nic.notify(2 * pair + 1));
    assert_eq!(answers(&mut card), [None, Some(1), None]);
    assert_eq!(card.set_pairs(1), (1, VIRTIO_NET_OK as u8));
    (0..PAIRS).for_each(|pair| card.ask(pair, 2));
    assert_eq!(answers(&mut card), [Some(2), None, None], "taken out of use");
    let interrupts: Vec<_> =
        card.line.queues.iter().map(|queue| queue.load(std::sync::atomic::Ordering::SeqCst)).collect();
    assert_eq!((interrupts[4], interrupts[5], interrupts[6]), (0, 0, 2));
    // A reset puts all but the first out of use.
    assert_eq!(card.set_pairs(3), (1, VIRTIO_NET_OK as u8));
    card.nic.reset();
    let again = Activation {
        features: card.nic.features(),
        queues: card.rings.iter().map(|ring| ring.layout).collect(),
    };
    card.memory.write_slice(&[0; 0x4000 * 7], GuestAddress(0x1_0000)).unwrap();
    card.rings = (0..=CONTROL)
        .map(|index| Ring::new(&card.memory, index, 0x1_0000 + 0x4000 * u64::from(index)))
        .collect();
    card.nic.activate(again, card.line.clone()).unwrap();
    (0..PAIRS).for_each(|pair| card.ask(pair, 3));
    assert_eq!(answers(&mut card), [Some(3), None, None]);
}

#[test]
fn bad_commands_are_answered_with_an_error_and_change_nothing() {
    let mut card = Multi::all(ServiceMode::Inline);
    assert_eq!(card.set_pairs(2), (1, VIRTIO_NET_OK as u8));
    let (mq, set) = (VIRTIO_NET_CTRL_MQ as u8, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET as u8);
    let refused: [&[u8]; 10] = [
        &[mq, set, 0, 0],
        &[mq, set, 4, 0],
        &[mq, set, 0xff, 0xff],
        &[mq, set, 3, 1],
        &[mq, set, 3],
        &[mq, set],
        &[mq],
        &[mq, set, 3, 0, 0],
        &[mq, 1, 3, 0],
        &[VIRTIO_NET_CTRL_RX as u8, set, 1],
    ];
    for (number, bytes) in (1..).zip(refused) {
        for cut in [0, 1, 2, bytes.len()] {
            assert_eq!(card.command(bytes, cut, 1), (1, VIRTIO_NET_ERR as u8), "{bytes:?} cut at {cut}");
        }
        assert_eq!(card.nic.counters().commands_refused, 4 * number);
    }
    // A command without anything to say, and one without room for an answer.
    assert_eq!(card.command(&[], 0, 1), (1, VIRTIO_NET_ERR as u8));
    assert_eq!(card.command(&[mq, set, 3, 0], 2, 0), (0, UNWRITTEN));
    assert_eq!(card.nic.counters().malformed, 1);
    (0..PAIRS).for_each(|pair| card.ask(pair, 1));
    let answers: Vec<_> = (0..PAIRS).map(|pair| card.answer(pair)).collect();
    assert_eq!(answers, [Some(1), Some(1), None], "two pairs, as before");
    assert!(!card.nic.needs_reset());
}

#[test]
fn a_command_out_of_reach_is_refused_and_survived() {
    let mut card = Multi::all(ServiceMode::Inline);
    let control = usize::from(CONTROL);
    card.rings[control].describe(0, (1 << 60, 4, NEXT, 1));
    card.rings[control].describe(1, (BUFFERS, 1, WRITE, 0));
    card.rings[control].offer(0);
    card.nic.notify(CONTROL);
    assert_eq!(card.rings[control].collect(), [(0, 1)]);
    assert_eq!(card.memory.read_obj::<u8>(GuestAddress(BUFFERS)).unwrap(), VIRTIO_NET_ERR as u8);
    let counters = card.nic.counters();
    assert_eq!((counters.dma_faults, counters.commands_refused), (1, 1));
    assert_eq!(card.set_pairs(2), (1, VIRTIO_NET_OK as u8));
}

#[test]
fn a_driver_without_mq_has_its_control_queue_at_2() {
    let (nic, _) = card(usize::from(PAIRS), ServiceMode::Inline);
    let mut card = Multi::start(ServiceMode::Inline, nic.features() & !MQ, 2);
    assert_eq!(card.set_pairs(1), (1, VIRTIO_NET_OK as u8));
    card.ask(0, 9);
    assert_eq!(card.answer(0), Some(9));
}

#[test]
fn pairs_come_and_go_under_traffic() {
    let mut card = Multi::all(ServiceMode::Thread);
    for round in 0..200_u32 {
        let pairs = 1 + (round % u32::from(PAIRS)) as u16;
        assert_eq!(card.set_pairs(pairs), (1, VIRTIO_NET_OK as u8));
        for pair in 0..pairs {
            card.ask(pair, round);
        }
        for pair in 0..pairs {
            while card.answer(pair) != Some(round) {
                std::thread::yield_now();
            }
        }
        card.rings.iter_mut().for_each(|ring| drop(ring.collect()));
    }
    assert_eq!((card.nic.counters().frames_dropped, card.nic.failed()), (0, None));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_the_control_queue_says_the_card_goes_on(
        commands in proptest::collection::vec((proptest::collection::vec(0..6u8, 0..8), 0..9usize, 0..3u32), 1..20),
    ) {
        let mut card = Multi::all(ServiceMode::Inline);
        for (bytes, cut, status) in &commands {
            if bytes.is_empty() && *status == 0 {
                continue;
            }
            let (len, byte) = card.command(bytes, *cut, *status);
            prop_assert_eq!(len, u32::from(*status > 0));
            let known = bytes.len() == 4 && bytes[..2] == [4, 0] && (1..=3).contains(&bytes[2]) && bytes[3] == 0;
            let expected = if known { VIRTIO_NET_OK as u8 } else { VIRTIO_NET_ERR as u8 };
            prop_assert_eq!(byte, if *status > 0 { expected } else { UNWRITTEN });
        }
        card.ask(0, 5);
        prop_assert_eq!(card.answer(0), Some(5));
        prop_assert!(!card.nic.needs_reset());
    }
}
