//! Frames that go as they should.

use std::sync::{
    Arc, Mutex, OnceLock, Weak,
    atomic::{AtomicU64, Ordering},
};

use virtio_transport::{Interrupt, ServiceMode, VirtioDevice};

use super::rig::*;
use crate::{
    Direction, NetConfig, NetCounters, RX_QUEUE, Stamped,
    frame::{Kind, MAX_PAYLOAD_BYTES, NET_HEADER_BYTES, NUM_BUFFERS_OFFSET},
};

fn payload(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 % 251) as u8).collect()
}

fn unmerged() -> NetConfig {
    NetConfig { mergeable: false, ..NetConfig::default() }
}

#[test]
fn data_is_verified_and_acknowledged_exactly() {
    let mut rig = Rig::new(unmerged()).start();
    rig.post(8, 128);
    let data = payload(3 * 1448);
    // Three segments a frame, one ACK for two: after two frames three ACKs.
    for seq in 0..2 {
        rig.send(&frame(Kind::Data, seq, &data, 0, 2), 12);
        rig.kick();
    }
    assert_eq!(rig.tx.collect(), [(0, 0); 2]);
    assert_eq!(rig.rx.collect(), [(0, HEADERS as u32), (1, HEADERS as u32), (2, HEADERS as u32)]);
    let received = rig.bytes(RX_BUFFERS, HEADERS);
    assert_eq!(received[NUM_BUFFERS_OFFSET..NET_HEADER_BYTES], [1, 0]);
    let (ack, rest) = split(&received);
    assert_eq!((ack.kind, ack.flow, ack.seq, rest.len()), (Kind::Ack, 5, 0, 0));
    assert_eq!((ack.destination, ack.source), ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]));
    let bytes = 2 * data.len() as u64;
    let counters = NetCounters {
        tx_frames: 2,
        rx_frames: 3,
        acks: 3,
        tx_payload_bytes: bytes,
        bytes_verified: bytes,
        kicks: 2,
        ..NetCounters::default()
    };
    assert_eq!(rig.nic.counters(), counters);
    assert_eq!((counters.packets(), counters.bytes_moved(), counters.verify()), (5, bytes, Ok(())));
    assert_eq!(rig.line.queues.each_ref().map(|count| count.load(Ordering::SeqCst))[..2], [2, 2]);
}

#[test]
fn a_request_gets_its_response() {
    let mut rig = Rig::new(unmerged()).start();
    rig.post(1, 4096);
    rig.send(&frame(Kind::Request, 9, &payload(1), 1000, 0), 78);
    rig.kick();
    assert_eq!(rig.rx.collect(), [(0, HEADERS as u32 + 1000)]);
    let received = rig.bytes(RX_BUFFERS, HEADERS + 1000);
    let (response, body) = split(&received);
    assert_eq!((response.kind, response.seq, response.payload_len), (Kind::Response, 9, 1000));
    assert_eq!(response.crc, crc32c::crc32c(body));
    assert_eq!(rig.nic.counters().rx_payload_bytes, 1000);
}

#[test]
fn a_64_kib_frame_passes_both_ways_through_merged_buffers() {
    let mut rig = Rig::new(NetConfig::default()).start();
    rig.post(50, 1536);
    let data = payload(MAX_PAYLOAD_BYTES);
    rig.send(&frame(Kind::Request, 3, &data, MAX_PAYLOAD_BYTES as u32, 0), 40);
    rig.kick();
    let used = rig.rx.collect();
    let total = HEADERS + MAX_PAYLOAD_BYTES;
    assert_eq!(used.len(), total.div_ceil(1536));
    assert_eq!(used.iter().map(|(_, len)| *len as usize).sum::<usize>(), total);
    let pieces = used
        .iter()
        .map(|(head, len)| rig.bytes(RX_BUFFERS + u64::from(*head) * BUFFER_STRIDE, *len as usize));
    let received: Vec<u8> = pieces.flatten().collect();
    assert_eq!(received[NUM_BUFFERS_OFFSET..NET_HEADER_BYTES], (used.len() as u16).to_le_bytes());
    let (response, body) = split(&received);
    assert_eq!((response.crc, body.len()), (crc32c::crc32c(body), MAX_PAYLOAD_BYTES));
    assert_eq!(rig.nic.counters().bytes_moved(), 2 * MAX_PAYLOAD_BYTES as u64);
}

#[test]
fn corruption_is_counted_and_reported() {
    let mut rig = Rig::new(unmerged()).start();
    rig.post(1, 128);
    let mut damaged = frame(Kind::Data, 0, &payload(1448), 0, 1);
    *damaged.last_mut().unwrap() ^= 0x80;
    rig.send(&damaged, 12);
    rig.kick();
    let counters = rig.nic.counters();
    assert_eq!((counters.crc_mismatches, counters.bytes_verified, counters.frames_dropped), (1, 0, 1));
    assert!(counters.verify().is_err());
    assert_eq!((rig.tx.collect(), rig.rx.collect()), (vec![(0, 0)], vec![]));
}

#[test]
fn without_buffers_frames_wait_then_transmission_stops_and_all_resumes() {
    let mut rig = Rig::new(NetConfig { wire_frames: 4, ..unmerged() }).start();
    assert!(!rig.rx.wants_kicks() && rig.tx.wants_kicks());
    let ask = frame(Kind::Request, 0, &payload(1), 1, 0);
    for _ in 0..6 {
        rig.send(&ask, 12);
    }
    rig.kick();
    // Four answers wait, two requests were not taken; the device wants to hear of buffers.
    assert_eq!((rig.tx.collect().len(), rig.nic.counters().tx_frames), (4, 4));
    assert!(rig.rx.wants_kicks());
    rig.post(6, 128);
    rig.nic.notify(RX_QUEUE);
    assert_eq!((rig.tx.collect().len(), rig.rx.collect().len()), (2, 6));
    assert!(!rig.rx.wants_kicks());
    assert_eq!(rig.nic.counters().frames_dropped, 0);
}

/// 32 round trips, each waited for; the rings are new.
fn round_trips(rig: &mut Rig) {
    rig.post(32, 256);
    for seq in 0..32 {
        rig.send(&frame(Kind::Request, seq, &payload(100), 100, 0), 12);
        if rig.tx.wants_kicks() {
            rig.kick();
        }
        while rig.rx.collect().is_empty() {
            std::thread::yield_now();
        }
    }
}

#[test]
fn it_serves_in_every_mode_and_again_after_a_reset() {
    for mode in [ServiceMode::Inline, ServiceMode::Thread, ServiceMode::Poll] {
        let mut rig = Rig::in_mode(unmerged(), mode).start();
        round_trips(&mut rig);
        rig.nic.reset();
        rig.clear_rings();
        let mut rig = rig.start();
        round_trips(&mut rig);
        rig.nic.reset();
        let counters = rig.nic.counters();
        assert_eq!(
            (counters.tx_frames, counters.rx_frames, counters.bytes_verified),
            (64, 64, 6400),
            "{mode:?}"
        );
        assert!(!rig.nic.needs_reset());
    }
}

#[test]
fn an_observer_sees_every_frame_and_can_be_read_after_reset() {
    let ticks = AtomicU64::new(0);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&seen);
    let observer = Stamped::new(
        move || ticks.fetch_add(7, Ordering::SeqCst),
        move |direction, bytes, ticks| sink.lock().unwrap().push((direction, bytes, ticks)),
    );
    let mut rig = Rig::observed(unmerged(), ServiceMode::Inline, observer).start();
    rig.post(1, 128);
    rig.send(&frame(Kind::Request, 0, &payload(30), 20, 0), 12);
    rig.kick();
    assert_eq!(*seen.lock().unwrap(), [(Direction::FromGuest, 30, 7), (Direction::ToGuest, 20, 7)]);
    assert!(rig.nic.observer(|_| ()).is_none());
    rig.nic.reset();
    assert!(rig.nic.observer(|_| ()).is_some());
}

/// An interrupt handler that kicks, as a driver that refills its ring does.
struct KickBack(OnceLock<Weak<Nic>>);

impl Interrupt for KickBack {
    fn queue(&self, index: u16) {
        if let Some(nic) = self.0.get().and_then(Weak::upgrade) {
            nic.notify(index);
        }
    }
    fn config(&self) {}
}

#[test]
fn an_interrupt_handler_may_kick() {
    let mut rig = Rig::new(unmerged());
    let line = Arc::new(KickBack(OnceLock::new()));
    line.0.set(Arc::downgrade(&rig.nic)).unwrap();
    rig.nic.activate(rig.activation(), line).unwrap();
    rig.post(1, 128);
    rig.send(&frame(Kind::Request, 0, &payload(1), 1, 0), 12);
    rig.kick();
    assert_eq!((rig.rx.collect().len(), rig.nic.counters().kicks, rig.nic.failed()), (1, 3, None));
}

#[test]
fn a_flood_of_acknowledgements_comes_in_bounded_bursts() {
    let mut rig = Rig::new(unmerged()).start();
    // One frame of 65536 one-byte segments, each to be acknowledged, and a receive ring of 64.
    let mut flood = frame(Kind::Data, 0, &payload(MAX_PAYLOAD_BYTES), 0, 1);
    flood[36..38].copy_from_slice(&1u16.to_le_bytes());
    rig.post(SIZE, 128);
    rig.send(&flood, 12);
    rig.kick();
    assert_eq!(rig.rx.collect().len(), usize::from(SIZE));
    let mut delivered = u64::from(SIZE);
    while rig.rx.wants_kicks() {
        rig.post(SIZE, 128);
        rig.nic.notify(RX_QUEUE);
        delivered += rig.rx.collect().len() as u64;
    }
    assert_eq!((delivered, rig.nic.counters().acks), (65536, 65536));
}
