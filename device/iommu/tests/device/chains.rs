//! Chains of every shape: whatever the driver puts on the ring comes back, counted by kind, and the next request works.

use virtio_iommu::{
    request::ChainErrorKind,
    spec::{Status, request as wire},
};
use vm_memory::{Bytes, GuestAddress};

use crate::support::*;

const READABLE: u64 = 0x50000;
const WRITABLE: u64 = 0x60000;

fn attach() -> [u8; 20] {
    wire::Attach { domain: 1, endpoint: 8, flags: 0, reserved: [0; 4] }.encode()
}

/// A rig with an ATTACH at `READABLE` and a filled buffer at `WRITABLE`.
fn rig() -> Rig {
    let rig = Rig::default();
    rig.poke(READABLE, &attach());
    rig.poke(WRITABLE, &[FILL; 64]);
    rig
}

fn survives(rig: &mut Rig, kind: ChainErrorKind) {
    assert_eq!(rig.counters().garbled_of(kind), 1, "counted as {}", kind.name());
    assert_eq!(rig.counters().garbled.iter().sum::<u64>(), 1, "and as nothing else");
    assert_eq!(rig.device.domains(), 0, "nothing was done");
    assert_eq!(rig.attach(1, 8), Status::Ok, "the next request works");
}

#[test]
fn no_tail() {
    for writable in 0..4 {
        let mut rig = rig();
        let answer = rig.send(&attach(), writable);
        assert!(answer.is_untouched());
        survives(&mut rig, ChainErrorKind::NoTail);
    }
    let mut rig = rig();
    assert_eq!(rig.send_buffers(&[(READABLE, 20, 0)]), 0, "no writable descriptor at all");
    survives(&mut rig, ChainErrorKind::NoTail);
}

#[test]
fn short_head() {
    for len in 1..4 {
        let mut rig = rig();
        assert_eq!(rig.send(&attach()[..len], 4).status(), Status::Inval);
        survives(&mut rig, ChainErrorKind::ShortHead);
    }
    let mut rig = rig();
    assert_eq!(rig.send_buffers(&[(WRITABLE, 4, WRITE)]), 4, "no readable descriptor at all");
    assert_eq!(rig.peek(WRITABLE), [Status::Inval as u8, 0, 0, 0]);
    survives(&mut rig, ChainErrorKind::ShortHead);
}

#[test]
fn short_request() {
    let mut rig = rig();
    assert_eq!(rig.send(&attach()[..19], 4).status(), Status::Inval);
    survives(&mut rig, ChainErrorKind::ShortRequest);
}

#[test]
fn an_attach_seen_with_type_zero() {
    // What a driver with its request on a virtually mapped stack sent: the right length, the wrong bytes.
    let mut rig = rig();
    let mut garbled = attach();
    garbled[0] = 0;
    assert!(rig.send(&garbled, 4).is_untouched());
    survives(&mut rig, ChainErrorKind::UnknownType);
}

#[test]
fn fields_split_over_descriptors_of_any_size() {
    let bytes = attach();
    for cut in 0..=20 {
        for tail_cut in 0..=4 {
            let mut rig = rig();
            let answer = rig.send_split(&[&bytes[..cut], &bytes[cut..]], &[tail_cut, 4 - tail_cut]);
            assert_eq!(answer.status(), Status::Ok, "{cut} {tail_cut}");
        }
    }
    let mut rig = rig();
    let singles: Vec<&[u8]> = bytes.chunks(1).collect();
    assert_eq!(rig.send_split(&singles, &[1, 1, 1, 1]).status(), Status::Ok);
}

#[test]
fn the_tail_is_the_last_four_writable_bytes() {
    for writable in [4, 5, 8, 100, 4096] {
        let mut rig = rig();
        let answer = rig.send(&attach(), writable);
        assert_eq!(answer.status(), Status::Ok);
        assert!(answer.bytes.iter().all(|byte| *byte == 0), "what lies before the tail is zero");
    }
}

#[test]
fn bytes_after_the_request_are_ignored() {
    let mut rig = rig();
    let mut long = attach().to_vec();
    long.resize(5000, 0xff);
    assert_eq!(rig.send(&long, 4).status(), Status::Ok);
}

#[test]
fn far_too_many_writable_bytes() {
    let mut rig = rig();
    assert_eq!(rig.send_buffers(&[(READABLE, 20, 0), (0x10_0000, 65537, WRITE)]), 0);
    survives(&mut rig, ChainErrorKind::Oversized);
}

#[test]
fn readable_after_writable() {
    let mut rig = rig();
    assert_eq!(rig.send_buffers(&[(WRITABLE, 4, WRITE), (READABLE, 20, 0)]), 0);
    assert_eq!(rig.peek(WRITABLE), [FILL; 4]);
    survives(&mut rig, ChainErrorKind::Descriptors);
}

#[test]
fn the_wrong_direction() {
    let mut rig = rig();
    // All readable: no tail. All writable: no head.
    assert_eq!(rig.send_buffers(&[(READABLE, 20, 0), (WRITABLE, 4, 0)]), 0);
    survives(&mut rig, ChainErrorKind::NoTail);
}

#[test]
fn zero_length_descriptors_are_passed_over() {
    let mut rig = rig();
    let zero = (0xdead_0000_0000, 0, 0);
    let chain =
        [zero, (READABLE, 20, 0), zero, (WRITABLE, 0, WRITE), (WRITABLE, 4, WRITE), (u64::MAX, 0, WRITE)];
    assert_eq!(rig.send_buffers(&chain), 4);
    assert_eq!(rig.peek(WRITABLE), [0; 4]);
}

#[test]
fn buffers_outside_memory() {
    let hole = RAM_BYTES as u64;
    for (readable, writable) in
        [(hole, WRITABLE), (READABLE, hole), (hole - 10, WRITABLE), (READABLE, hole - 2)]
    {
        let mut rig = rig();
        assert_eq!(rig.send_buffers(&[(readable, 20, 0), (writable, 4, WRITE)]), 0);
        survives(&mut rig, ChainErrorKind::Descriptors);
    }
}

#[test]
fn buffers_that_wrap() {
    for (readable, writable) in [(u64::MAX - 9, WRITABLE), (READABLE, u64::MAX - 2)] {
        let mut rig = rig();
        assert_eq!(rig.send_buffers(&[(readable, 20, 0), (writable, 4, WRITE)]), 0);
        survives(&mut rig, ChainErrorKind::Descriptors);
    }
}

#[test]
fn a_loop() {
    for next in [0, 1] {
        let mut rig = rig();
        rig.requests.put_desc(0, Desc { addr: READABLE, len: 20, flags: NEXT, next: 1 });
        rig.requests.put_desc(1, Desc { addr: READABLE, len: 0, flags: NEXT, next });
        assert_eq!(rig.send_head(0), 0);
        survives(&mut rig, ChainErrorKind::Descriptors);
    }
}

#[test]
fn a_next_index_outside_the_table() {
    for next in [QUEUE_SIZE, u16::MAX] {
        let mut rig = rig();
        rig.requests.put_desc(0, Desc { addr: READABLE, len: 20, flags: NEXT, next });
        assert_eq!(rig.send_head(0), 0);
        survives(&mut rig, ChainErrorKind::Descriptors);
    }
}

#[test]
fn as_many_descriptors_as_the_queue_has() {
    let mut rig = rig();
    let mut chain: Vec<(u64, u32, u16)> = (0..20).map(|i| (READABLE + i, 1, 0)).collect();
    chain.extend((0..232).map(|_| (READABLE, 0, 0)));
    chain.extend((0..4).map(|i| (WRITABLE + i, 1, WRITE)));
    assert_eq!(chain.len(), 256);
    assert_eq!(rig.send_buffers(&chain), 4);
    assert_eq!(rig.peek(WRITABLE), [0; 4]);
}

fn put_indirect(rig: &Rig, table: u64, chain: &[(u64, u32, u16)]) {
    for (i, &(addr, len, flags)) in chain.iter().enumerate() {
        let more = if i + 1 < chain.len() { NEXT } else { 0 };
        rig.requests
            .put_desc_at(table + 16 * i as u64, Desc { addr, len, flags: flags | more, next: i as u16 + 1 });
    }
    let len = 16 * chain.len() as u32;
    rig.requests.put_desc(0, Desc { addr: table, len, flags: INDIRECT, next: 0 });
}

const INDIRECT_TABLE: u64 = 0x70000;

#[test]
fn indirect_when_negotiated() {
    let mut rig = rig();
    put_indirect(&rig, INDIRECT_TABLE, &[(READABLE, 20, 0), (WRITABLE, 4, WRITE)]);
    assert_eq!(rig.send_head(0), 4);
    assert_eq!(rig.peek(WRITABLE), [0; 4]);
}

#[test]
fn indirect_when_not_negotiated() {
    let mut rig = Rig::negotiating(options(), !virtio_iommu::device::F_INDIRECT_DESC);
    rig.poke(READABLE, &attach());
    put_indirect(&rig, INDIRECT_TABLE, &[(READABLE, 20, 0), (WRITABLE, 4, WRITE)]);
    assert_eq!(rig.send_head(0), 0);
    survives(&mut rig, ChainErrorKind::Descriptors);
}

#[test]
fn indirect_tables_that_make_no_sense() {
    let good = [(READABLE, 20, 0), (WRITABLE, 4, WRITE)];
    type Spoil = fn(&Rig);
    let spoilers: [Spoil; 5] = [
        // No multiple of a descriptor, empty, outside memory, beside NEXT, nested.
        |rig| rig.requests.put_desc(0, Desc { addr: INDIRECT_TABLE, len: 31, flags: INDIRECT, next: 0 }),
        |rig| rig.requests.put_desc(0, Desc { addr: INDIRECT_TABLE, len: 0, flags: INDIRECT, next: 0 }),
        |rig| rig.requests.put_desc(0, Desc { addr: 1 << 40, len: 32, flags: INDIRECT, next: 0 }),
        |rig| {
            rig.requests.put_desc(0, Desc { addr: INDIRECT_TABLE, len: 32, flags: INDIRECT | NEXT, next: 1 })
        },
        |rig| {
            let nested = Desc { addr: INDIRECT_TABLE, len: 32, flags: INDIRECT, next: 0 };
            rig.requests.put_desc_at(INDIRECT_TABLE, nested);
        },
    ];
    for spoil in spoilers {
        let mut rig = rig();
        put_indirect(&rig, INDIRECT_TABLE, &good);
        spoil(&rig);
        assert_eq!(rig.send_head(0), 0);
        survives(&mut rig, ChainErrorKind::Descriptors);
    }
}

#[test]
fn the_device_reads_a_request_once() {
    // The answer lies over the request: what was judged is what was read before anything was written.
    let mut rig = rig();
    assert_eq!(rig.send_buffers(&[(READABLE, 20, 0), (READABLE, 24, WRITE)]), 24);
    assert_eq!(rig.peek(READABLE), [0u8; 24]);
    assert_eq!(rig.device.domains(), 1);
}

#[test]
fn buffers_across_memory_regions_and_above_4_gib() {
    let mut rig = rig();
    rig.ram.write_slice(&attach(), GuestAddress(HIGH_RAM + 12)).unwrap();
    assert_eq!(rig.send_buffers(&[(HIGH_RAM + 12, 20, 0), (HIGH_RAM + 100, 4, WRITE)]), 4);
}
