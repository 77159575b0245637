//! Clients that mean no good, or know no better: the right reply or none, and the next one is served.

use std::{
    io::{Read, Write},
    os::fd::AsFd,
    time::Duration,
};

mod common;
use common::*;
use proptest::prelude::*;

const PATIENCE: Duration = Duration::from_secs(30);
const SHORT: Duration = Duration::from_millis(200);

/// Another client gets on as if nothing had been.
fn still_serves(rig: &Rig) {
    let mut client = Client::new(rig);
    assert_eq!(client.ask(REGION_READ, &access(7, 0, 2)).unwrap()[16..], [0xf4, 0x1a]);
    assert_eq!(rig.device.space().regions(), 0, "nothing of the last client's is left");
}

#[test]
fn garbage_is_hung_up_on() {
    let rig = rig(PATIENCE);
    for seed in 0..50_u8 {
        let mut client = Client::raw(&rig);
        let garbage: Vec<u8> = (0..200_u32).map(|i| (i * 97 + 31 + u32::from(seed) * 57) as u8 | 1).collect();
        client.stream.write_all(&garbage).unwrap();
        let mut answer = Vec::new();
        // A reset is an end, too: it means that bytes were left unread.
        let _ = client.stream.read_to_end(&mut answer);
        assert!(answer.len() <= 16, "at most one refusal");
    }
    still_serves(&rig);
    assert_eq!(rig.server.counters().hung_up, 50);
}

#[test]
fn sizes_that_cannot_be() {
    let rig = rig(PATIENCE);
    for size in [0, 15, 100_000, u32::MAX as usize] {
        let mut client = Client::new(&rig);
        client.stream.write_all(&header(101, REGION_READ, size, 0)).unwrap();
        assert_eq!(client.reply(), Some(Err(EMSGSIZE)), "{size}");
        assert!(client.is_hung_up());
    }
    let mut client = Client::new(&rig);
    for (command, len) in [
        (DMA_MAP, 0),
        (DMA_MAP, 31),
        (DMA_MAP, 33),
        (DMA_UNMAP, 23),
        (GET_INFO, 0),
        (REGION_INFO, 31),
        (IRQ_INFO, 3),
        (SET_IRQS, 19),
        (REGION_READ, 15),
        (REGION_READ, 17),
        (REGION_WRITE, 0),
        (RESET, 1),
    ] {
        assert_eq!(client.ask(command, &vec![0; len]), Err(EINVAL), "{command} {len}");
    }
    assert_eq!(client.ask(REGION_READ, &access(7, 0, u32::MAX.into())), Err(EINVAL));
    assert_eq!(client.ask(REGION_WRITE, &[access(7, 0, 8), vec![0; 7]].concat()), Err(EINVAL));
}

#[test]
fn commands_that_are_none_or_out_of_turn() {
    let rig = rig(PATIENCE);
    let mut client = Client::raw(&rig);
    assert_eq!(client.ask(GET_INFO, &[0; 16]), Err(EINVAL), "before VERSION");
    for version in [
        &[1, 0, 0, 0][..],
        &[0, 0],
        &[0, 0, 0, 0, b'{'],
        &[0, 0, 0, 0, b'{', 0],
        &[0, 0, 0, 0, b'[', b']', 0],
        &[0; 6000],
    ] {
        assert_eq!(client.ask(VERSION, version), Err(EINVAL), "{:?}", &version[..2]);
    }
    let deep = [&[0; 4][..], "{\"a\":".repeat(500).as_bytes(), &[0]].concat();
    assert_eq!(client.ask(VERSION, &deep), Err(EINVAL));
    assert!(client.ask(VERSION, &[0, 0, 0, 0]).is_ok(), "without capabilities");
    assert_eq!(client.ask(VERSION, &[0, 0, 0, 0]), Err(EINVAL), "a second time");
    for command in [0, 15, 77, u16::MAX] {
        assert_eq!(client.ask(command, &[]), Err(EINVAL));
    }
    for command in [6, 11, 12, 14] {
        assert_eq!(client.ask(command, &[0; 32]), Err(ENOTSUP));
    }
    client.post(GET_INFO, 1, &[0; 16], &[]);
    assert_eq!(client.reply(), Some(Err(EINVAL)), "a reply to nothing");
}

#[test]
fn memory_that_is_none() {
    let rig = rig(PATIENCE);
    let mut client = Client::new(&rig);
    let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    let null = std::fs::File::open("/dev/null").unwrap();
    let regular = tempfile::tempfile().unwrap();
    regular.set_len(0x10000).unwrap();
    let event = eventfd();
    for fd in [socket.as_fd(), null.as_fd(), regular.as_fd(), event.as_fd()] {
        assert_eq!(client.map(fd, 0, 0x1000, 0), Err(EBADF));
    }
    assert_eq!(client.ask(DMA_MAP, &dma_map(0, 0x1000_0000, 0, 3)), Err(EINVAL), "RAM without a file");
    let ram = memfd(0x4000);
    let two = [ram.as_fd(), ram.as_fd()];
    assert_eq!(client.ask_with(DMA_MAP, &dma_map(0, 0x1000, 0, 3), &two), Err(EINVAL));
    assert_eq!(client.ask_with(RESET, &[], &two[..1]), Err(EINVAL));
    for flags in [0, 2, 4, 7, u32::MAX.into()] {
        assert_eq!(
            client.ask_with(DMA_MAP, &dma_map(0, 0x1000, 0, flags), &two[..1]),
            Err(EINVAL),
            "{flags}"
        );
    }
    assert_eq!(rig.device.space().regions(), 0);
    client.map(&ram, 0, 0x4000, 0).unwrap();
    assert!(ram.set_len(0).is_err(), "memory that is lent cannot be taken away");
}

#[test]
fn offsets_negative_wrapping_and_overlapping() {
    let rig = rig(PATIENCE);
    let mut client = Client::new(&rig);
    let ram = memfd(0x4000);
    client.map(&ram, 0x8000, 0x4000, 0).unwrap();
    let minus_one_page = u64::MAX - 0xfff;
    for (address, size, offset) in [
        (0, 0x1000, minus_one_page),
        (0, 0x1000, 1 << 63),
        (minus_one_page, 0x2000, 0),
        (minus_one_page, 0x1000, 0),
        (0, minus_one_page, 0x1000),
        (0, 0, 0),
        (0, 0x1001, 0),
        (0x10, 0x1000, 0),
        (0, 0x8000, 0),
        (1 << 40, 0x1000, 0),
    ] {
        assert_eq!(
            client.map(&ram, address, size, offset),
            Err(EINVAL),
            "{address:#x} {size:#x} {offset:#x}"
        );
    }
    for (address, size) in [(0x8000, 0x4000), (0x7000, 0x2000), (0xb000, 0x1000)] {
        assert_eq!(client.map(&ram, address, size, 0), Err(EEXIST), "{address:#x}");
    }
    client.ask(DMA_MAP, &dma_map(0x10_0000, 0x1000, 0, 1)).unwrap();
    assert_eq!(client.map(&ram, 0x10_0000, 0x1000, 0), Err(EEXIST), "over a ROM");
    assert_eq!(client.ask(DMA_MAP, &dma_map(0x10_0000, 0x1000, 0, 1)), Err(EEXIST));
    for (address, size, flags) in [(0x8000, 0x4000, 1), (0x9000, 0x1000, 1), (0, 0x1_0000, 1)] {
        assert_eq!(client.ask(DMA_MAP, &dma_map(address, size, 0, flags)), Err(EEXIST), "a ROM over RAM");
    }
    for (address, size, flags) in [(0x8000, 0x1000, 0), (0, 0x1000, 0), (0x8000, 0x4000, 1), (0, 0x1000, 2)] {
        assert_eq!(client.ask(DMA_UNMAP, &dma_unmap(address, size, flags)), Err(EINVAL));
    }
    assert_eq!(rig.device.space().regions(), 1);
}

#[test]
fn ten_thousand_maps() {
    let rig = rig(PATIENCE);
    let mut client = Client::new(&rig);
    let ram = memfd(0x1000);
    let mut accepted = 0;
    for page in 0..10_000 {
        match client.map(&ram, page * 0x2000, 0x1000, 0) {
            Ok(()) => accepted += 1,
            Err(errno) => assert_eq!(errno, ENOSPC),
        }
    }
    assert_eq!(accepted, virtio_iommu::memory::MAX_SPACE_REGIONS);
    drop(client);
    still_serves(&rig);
}

#[test]
fn regions_and_interrupts_that_are_not_there() {
    let rig = rig(PATIENCE);
    let mut client = Client::new(&rig);
    for (region, offset, count) in [
        (9, 0, 1),
        (u64::from(u32::MAX), 0, 1),
        (7, 256, 1),
        (7, u64::MAX, 2),
        (0, 0x3fff, 2),
        (1, 0, 4),
        (8, 0, 1),
    ] {
        assert_eq!(client.ask(REGION_READ, &access(region, offset, count)), Err(EINVAL));
        let write = [access(region, offset, count), vec![0; count as usize]].concat();
        assert_eq!(client.ask(REGION_WRITE, &write), Err(EINVAL));
    }
    assert_eq!(
        client.ask(REGION_INFO, &fields(&[(32, 4), (0, 4), (9, 4), (0, 20)].map(|(v, w)| (v, w.min(8))))),
        Err(EINVAL)
    );
    assert_eq!(client.ask(IRQ_INFO, &fields(&[(16, 4), (0, 4), (5, 4), (0, 4)])), Err(EINVAL));
    for (flags, index, start, count) in [
        (0x24, 5, 0, 0),
        (0x21, 2, 0, 4),
        (0x21, 2, u32::MAX.into(), 2),
        (0x21, 2, 3, 1),
        (0x20, 2, 0, 1),
        (0x27, 2, 0, 1),
        (0x01, 2, 0, 1),
        (0x39, 2, 0, 1),
        (0x22, 2, 0, 3),
    ] {
        assert_eq!(
            client.ask(SET_IRQS, &set_irqs(flags, index, start, count)),
            Err(EINVAL),
            "{flags:#x} {index}"
        );
    }
    assert_eq!(
        client.ask(SET_IRQS, &set_irqs(0x09, 2, 0, 1)),
        Err(ENOTSUP),
        "MSI-X vectors cannot be masked"
    );
    let (pipe, fd) = (std::io::pipe().unwrap(), eventfd());
    let set = set_irqs(0x24, 2, 0, 2);
    assert_eq!(client.ask_with(SET_IRQS, &set, &[fd.as_fd(), pipe.1.as_fd()]), Err(EBADF), "a pipe");
    assert_eq!(client.ask_with(SET_IRQS, &set, &[fd.as_fd()]), Err(EINVAL), "one descriptor for two vectors");
    client.ask(SET_IRQS, &set_irqs(0x21, 2, 0, 3)).unwrap();
    assert_eq!(signalled(&fd), 0, "nothing was taken of what was refused");
}

#[test]
fn more_descriptors_than_a_message_may_have() {
    let rig = rig(PATIENCE);
    let mut client = Client::new(&rig);
    let fds: Vec<_> = (0..60).map(|_| eventfd()).collect();
    client.post(SET_IRQS, 0, &set_irqs(0x24, 2, 0, 60), &fds.iter().map(AsFd::as_fd).collect::<Vec<_>>());
    assert!(client.is_hung_up());
    still_serves(&rig);
}

/// As many as the kernel passes with one message (SCM_MAX_FD), none of which blocks: the next client is not to blame.
#[test]
fn all_the_descriptors_a_message_can_have() {
    let rig = rig(PATIENCE);
    let null = std::fs::File::open("/dev/null").unwrap();
    for _ in 0..20 {
        let mut client = Client::new(&rig);
        client.post(GET_INFO, 0, &[0; 16], &vec![null.as_fd(); 253]);
        assert!(client.is_hung_up());
        still_serves(&rig);
    }
}

#[test]
fn whoever_stalls_half_way_is_hung_up_on() {
    let rig = rig(SHORT);
    let mut idle = Client::new(&rig);
    std::thread::sleep(2 * SHORT);
    assert!(idle.ask(GET_INFO, &[0; 16]).is_ok(), "between messages there is all the time in the world");
    drop(idle);
    for part in [1, 15, 16, 31] {
        let mut client = Client::new(&rig);
        client.map(memfd(0x1000), 0, 0x1000, 0).unwrap();
        let message = [header(7, REGION_READ, 32, 0), access(7, 0, 2)].concat();
        client.stream.write_all(&message[..part]).unwrap();
        assert!(client.is_hung_up());
        still_serves(&rig);
    }
    assert_eq!(rig.server.counters().hung_up, 4);
}

#[test]
fn whoever_does_not_take_replies_is_hung_up_on() {
    let rig = rig(SHORT);
    let mut client = Client::new(&rig);
    let message = [header(7, REGION_READ, 32, 0), access(0, 0, 0x4000)].concat();
    client.stream.set_write_timeout(Some(Duration::from_millis(50))).unwrap();
    let mut sent = 0;
    while client.stream.write_all(&message).is_ok() && sent < 100_000 {
        sent += 1;
    }
    assert!(sent < 100_000, "the server stops to read");
    still_serves(&rig);
    assert_eq!(rig.server.counters().hung_up, 1);
}

#[test]
fn a_second_client_is_turned_away() {
    let rig = rig(PATIENCE);
    let mut first = Client::new(&rig);
    assert!(Client::raw(&rig).is_hung_up());
    assert!(first.ask(GET_INFO, &[0; 16]).is_ok());
    drop(first);
    still_serves(&rig);
    assert_eq!(rig.server.counters().turned_away, 1);
}

/// Whoever comes after the other has gone is not a second client, however soon that is.
#[test]
fn a_client_that_comes_back_at_once_is_served() {
    let rig = rig(PATIENCE);
    (0..3000).for_each(|_| drop(Client::new(&rig)));
    assert_eq!(rig.server.counters().turned_away, 0);
}

#[test]
fn a_client_that_never_pauses_does_not_keep_the_server() {
    let rig = rig(PATIENCE);
    let mut client = Client::new(&rig);
    let sender = std::thread::spawn(move || {
        let message = [header(7, REGION_WRITE, 33, 0x10), access(0, 0x14, 1), vec![0]].concat();
        while client.stream.write_all(&message).is_ok() {}
    });
    while rig.server.counters().messages < 1000 {
        std::thread::yield_now();
    }
    drop(rig);
    sender.join().unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Whatever well-framed messages say, each is answered, and the next client finds everything in order.
    #[test]
    fn any_messages_are_answered(
        messages in prop::collection::vec((0_u16..17, prop::collection::vec(any::<u8>(), 0..80), 0_usize..3), 1..40),
    ) {
        let rig = rig(PATIENCE);
        let mut client = Client::new(&rig);
        let ram = memfd(0x10000);
        for (command, payload, fds) in messages {
            let fds = vec![ram.as_fd(); fds];
            client.post(command, 0, &payload, &fds);
            prop_assert!(client.reply().is_some());
        }
        drop(client);
        still_serves(&rig);
    }
}
