//! Two cards, two guests.

use virtio_transport::ServiceMode;

use super::*;
use crate::queues::rig::{BUFFERS, Guest, WRITE};

fn pair(mode: ServiceMode) -> [(Nic<crate::DirectPort>, Guest); 2] {
    let (a, b) = CableEnd::pair();
    let config = || NicConfig { access_platform: false, queue_size: 64, ..NicConfig::default() };
    [a, b].map(|end| {
        let guest = Guest::new(2);
        (Nic::new(config(), mode, end, [guest.port(), guest.port()]).unwrap(), guest)
    })
}

fn frame(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed)).collect()
}

/// Offers receive buffers of `len` bytes as chains `from..to`.
fn post((nic, guest): &mut (Nic<crate::DirectPort>, Guest), range: std::ops::Range<u16>, len: u32) {
    for head in range {
        let at = BUFFERS + 0x20_0000 + u64::from(head) * 0x2000;
        guest.describe(RX, head, (at, len, WRITE, 0));
        guest.offer(RX, head);
    }
    nic.notify(RX);
}

const RX: u16 = crate::RX_QUEUE;
const TX: u16 = crate::TX_QUEUE;

fn send((nic, guest): &mut (Nic<crate::DirectPort>, Guest), header: [u8; HEADER_BYTES], frame: &[u8]) {
    guest.write(BUFFERS, &[&header[..], frame].concat());
    let used = guest.submit(nic, TX, &[(BUFFERS, (HEADER_BYTES + frame.len()) as u32, false)]);
    assert_eq!(used, 0);
}

fn received(guest: &mut Guest) -> Vec<(u32, u32)> {
    for _ in 0..200_000 {
        let used = guest.collect(RX);
        if !used.is_empty() {
            return used;
        }
        std::thread::yield_now();
    }
    Vec::new()
}

#[test]
fn what_one_card_sends_the_other_receives() {
    for mode in [ServiceMode::Inline, ServiceMode::Thread, ServiceMode::Poll] {
        let [mut a, mut b] = pair(mode);
        a.1.start(&a.0);
        b.1.start(&b.0);
        post(&mut b, 0..8, 0x2000);
        for number in 0..8_u8 {
            let sent = frame(100 + usize::from(number), number);
            send(&mut a, [0; HEADER_BYTES], &sent);
            let used = received(&mut b.1);
            assert_eq!(used, [(number.into(), (HEADER_BYTES + sent.len()) as u32)], "{mode:?}");
            let at = BUFFERS + 0x20_0000 + u64::from(number) * 0x2000;
            let bytes = b.1.read(at, HEADER_BYTES + sent.len());
            assert_eq!((bytes[10], &bytes[HEADER_BYTES..]), (1, &sent[..]));
        }
        a.0.reset();
        b.0.reset();
        let (sent, got) = (a.0.counters(), b.0.counters());
        assert_eq!((sent.tx_frames, sent.tx_bytes), (got.rx_frames, got.rx_bytes));
        assert_eq!((got.rx_frames, got.dropped, got.malformed), (8, 0, 0));
    }
}

#[test]
fn a_long_frame_is_spread_over_buffers_and_waits_for_them() {
    let [mut a, mut b] = pair(ServiceMode::Inline);
    a.1.start(&a.0);
    b.1.start(&b.0);
    post(&mut b, 0..2, 1000);
    let sent = frame(2500, 9);
    send(&mut a, [0; HEADER_BYTES], &sent);
    assert_eq!(b.1.collect(RX), [], "two buffers are not enough");
    post(&mut b, 2..4, 1000);
    assert_eq!(b.1.collect(RX), [(0, 1000), (1, 1000), (2, 512)]);
    let piece = |head: u64, len| b.1.read(BUFFERS + 0x20_0000 + head * 0x2000, len);
    let bytes = [piece(0, 1000), piece(1, 1000), piece(2, 512)].concat();
    assert_eq!((bytes[10], &bytes[HEADER_BYTES..]), (3, &sent[..]));
}

#[test]
fn a_sender_waits_when_the_cable_is_full_and_goes_on_when_it_is_not() {
    let [mut a, mut b] = pair(ServiceMode::Inline);
    a.1.start(&a.0);
    b.1.start(&b.0);
    let mut sent = 0;
    // More than the cable holds: 64 wait there, the rest in the ring.
    for round in 0..2 {
        for head in 0..48 {
            a.1.describe(TX, head, (BUFFERS, 100, 0, 0));
            a.1.offer(TX, head);
        }
        a.0.notify(TX);
        sent += a.1.collect(TX).len();
        assert_eq!(sent, if round == 0 { 48 } else { 64 });
    }
    for round in 0..4_u16 {
        post(&mut b, round * 16..round * 16 + 16, 0x1000);
        assert_eq!(b.1.collect(RX).len(), 16);
    }
    assert_eq!(sent + a.1.collect(TX).len(), 96, "room on the cable woke the sender");
    assert_eq!((b.0.counters().rx_frames, a.0.counters().dropped), (64, 0));
}

#[test]
fn frames_to_a_card_that_is_down_are_dropped() {
    let [mut a, mut b] = pair(ServiceMode::Inline);
    a.1.start(&a.0);
    send(&mut a, [0; HEADER_BYTES], &frame(64, 1));
    assert_eq!(a.0.counters().dropped, 1);
    b.1.start(&b.0);
    send(&mut a, [0; HEADER_BYTES], &frame(64, 1));
    b.0.reset();
    b.1.clear_rings();
    b.1.start(&b.0);
    post(&mut b, 0..1, 0x1000);
    assert_eq!(b.1.collect(RX), [], "what waited was lost with the reset");
    send(&mut a, [0; HEADER_BYTES], &frame(64, 2));
    assert_eq!(b.1.collect(RX).len(), 1);
}

#[test]
fn offloads_pass_through_when_both_cards_have_them() {
    let [mut a, mut b] = pair(ServiceMode::Inline);
    a.1.start(&a.0);
    b.1.start(&b.0);
    post(&mut b, 0..1, 0x1000);
    // NEEDS_CSUM, TCPv4, header length 54, segments of 1448, checksum at 34 + 16; the last field is the device's.
    let header = [1, 1, 54, 0, 0xa8, 5, 34, 0, 16, 0, 9, 9];
    send(&mut a, header, &frame(3000, 3));
    let got = b.1.read(BUFFERS + 0x20_0000, HEADER_BYTES);
    assert_eq!(got, [1, 1, 54, 0, 0xa8, 5, 34, 0, 16, 0, 1, 0]);
}

#[test]
fn headers_that_lie_are_dropped() {
    let all = NicConfig::default().features();
    let check = |header: [u8; 10], sender, receiver| {
        let mut whole = [0; HEADER_BYTES];
        whole[..10].copy_from_slice(&header);
        offload::pass_on(&whole, 100, sender, receiver)
    };
    assert_eq!(check([0; 10], 0, 0), Ok([0; HEADER_BYTES]));
    let csum = [1, 0, 0, 0, 0, 0, 34, 0, 16, 0];
    assert!(check(csum, all, all).is_ok());
    assert_eq!(check(csum, 0, all), Err(offload::Lost::Malformed), "not negotiated");
    assert_eq!(check(csum, all, 0), Err(offload::Lost::Unwanted));
    assert_eq!(check([1, 0, 0, 0, 0, 0, 90, 0, 9, 0], all, all), Err(offload::Lost::Malformed), "outside");
    assert_eq!(check([1, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff], all, all), Err(offload::Lost::Malformed));
    assert_eq!(check([0, 1, 0, 0, 1, 0, 0, 0, 0, 0], all, all), Err(offload::Lost::Malformed), "TSO alone");
    assert_eq!(check([1, 1, 0, 0, 0, 0, 34, 0, 16, 0], all, all), Err(offload::Lost::Malformed), "no size");
    assert_eq!(check([1, 3, 0, 0, 1, 0, 34, 0, 16, 0], all, all), Err(offload::Lost::Malformed), "UDP");
}

#[test]
fn malformed_chains_do_no_harm() {
    let [mut a, b] = pair(ServiceMode::Inline);
    a.1.start(&a.0);
    b.1.start(&b.0);
    for (addr, len, counter) in [(BUFFERS, 5, 1), (BUFFERS, 0x20000, 2), (u64::MAX - 64, 100, 2)] {
        a.1.submit(&a.0, TX, &[(addr, len, false)]);
        assert_eq!(a.0.counters().malformed.min(counter), counter.min(2));
    }
    let counters = a.0.counters();
    assert_eq!(counters.malformed + counters.dma_faults, 3);
    assert!(!a.0.needs_reset());
    assert_eq!(b.0.counters().rx_frames, 0);
}
