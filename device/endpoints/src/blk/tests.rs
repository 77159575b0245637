//! Requests as they should be, and as they should not.

use std::{fs::File, io::Write as _};

use proptest::prelude::*;
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID,
    VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
};
use virtio_transport::{ServiceMode, VirtioDevice};

use super::*;
use crate::{DirectPort, Direction, Stamped, queues::rig::*};

const HEADER: u64 = 0x8_0000;
const STATUS: u64 = 0x8_1000;
const OK: u8 = VIRTIO_BLK_S_OK as u8;
const IOERR: u8 = VIRTIO_BLK_S_IOERR as u8;
const UNSUPP: u8 = VIRTIO_BLK_S_UNSUPP as u8;
const DISK_BYTES: u64 = 4 << 20;

struct Bench {
    guest: Guest,
    blk: VirtioBlk<DirectPort>,
}

impl Bench {
    fn new(disk: &Disk, queues: u16, mode: ServiceMode) -> Self {
        let guest = Guest::new(queues);
        let ports: Vec<_> = (0..queues).map(|_| guest.port()).collect();
        let blk = VirtioBlk::new(BlkConfig::default(), mode, disk, ports).unwrap();
        guest.start(&blk);
        Self { guest, blk }
    }

    fn ram() -> Self {
        Self::new(&Disk::ram(DISK_BYTES), 1, ServiceMode::Inline)
    }

    /// Used length and status of one request.
    fn request(&mut self, queue: u16, kind: u32, sector: u64, data: &[(u64, u32, bool)]) -> (u32, u8) {
        let mut header = kind.to_le_bytes().to_vec();
        header.extend([0; 4]);
        header.extend(sector.to_le_bytes());
        self.guest.write(HEADER, &header);
        self.guest.write(STATUS, &[0xff]);
        let chain = [&[(HEADER, 16, false)], data, &[(STATUS, 1, true)]].concat();
        let used = self.guest.submit(&self.blk, queue, &chain);
        (used, self.guest.read(STATUS, 1)[0])
    }

    fn store(&mut self, sector: u64, bytes: &[u8]) -> (u32, u8) {
        self.guest.write(BUFFERS, bytes);
        self.request(0, VIRTIO_BLK_T_OUT, sector, &[(BUFFERS, bytes.len() as u32, false)])
    }
}

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 % 251) as u8).collect()
}

#[test]
fn what_is_written_is_read_back_from_every_queue_in_every_mode() {
    for mode in [ServiceMode::Inline, ServiceMode::Thread, ServiceMode::Poll] {
        let mut bench = Bench::new(&Disk::ram(DISK_BYTES), 3, mode);
        let data = bytes(200 * 512);
        assert_eq!(bench.store(7, &data), (1, OK));
        for queue in 0..3 {
            let place = BUFFERS + 0x20_0000;
            let pieces = [(place, 1000, true), (place + 0x10_0000, data.len() as u32 - 1000, true)];
            assert_eq!(bench.request(queue, VIRTIO_BLK_T_IN, 7, &pieces), (data.len() as u32 + 1, OK));
            assert!(bench.guest.read(place, 1000) == data[..1000]);
            assert!(bench.guest.read(place + 0x10_0000, data.len() - 1000) == data[1000..]);
            bench.guest.write(place, &[0; 1000]);
        }
        assert_eq!(bench.request(2, VIRTIO_BLK_T_FLUSH, 0, &[]), (1, OK));
        let counters = bench.blk.counters();
        assert_eq!((counters.reads, counters.writes, counters.flushes, counters.kicks), (3, 1, 1, 5));
        assert_eq!((counters.read_bytes, counters.written_bytes), (3 * 102_400, 102_400));
        assert_eq!((counters.failed, counters.malformed, bench.blk.failed()), (0, 0, None));
    }
}

#[test]
fn a_file_keeps_what_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk");
    File::create(&path).unwrap().write_all(&bytes(8192 + 5)).unwrap();
    let file = File::options().read(true).write(true).open(&path).unwrap();
    let disk = Disk::file(file).unwrap();
    assert_eq!(disk.sectors(), 16);
    let mut bench = Bench::new(&disk, 1, ServiceMode::Inline);
    assert_eq!(bench.store(15, &[9; 512]), (1, OK));
    assert_eq!(bench.request(0, VIRTIO_BLK_T_FLUSH, 0, &[]), (1, OK));
    assert_eq!(bench.request(0, VIRTIO_BLK_T_IN, 1, &[(BUFFERS, 1024, true)]), (1025, OK));
    assert!(bench.guest.read(BUFFERS, 1024) == bytes(8192)[512..1536]);
    let stored = std::fs::read(&path).unwrap();
    assert!(stored[..7680] == bytes(8192)[..7680] && stored[7680..8192] == [9; 512]);
    // The disk fails under the guest.
    File::options().write(true).open(&path).unwrap().set_len(100).unwrap();
    assert_eq!(bench.request(0, VIRTIO_BLK_T_IN, 1, &[(BUFFERS, 512, true)]), (0, IOERR));
}

#[test]
fn the_id_is_told() {
    let mut bench = Bench::ram();
    assert_eq!(bench.request(0, VIRTIO_BLK_T_GET_ID, 0, &[(BUFFERS, 20, true)]), (21, OK));
    assert_eq!(bench.guest.read(BUFFERS, 12), b"iommu-bench\0");
    assert_eq!(bench.request(0, VIRTIO_BLK_T_GET_ID, 0, &[(BUFFERS, 5, true)]), (6, OK));
}

#[test]
fn places_beyond_the_disk_and_broken_sectors_are_ioerr() {
    let mut bench = Bench::ram();
    let last = DISK_BYTES / 512 - 1;
    assert_eq!(bench.request(0, VIRTIO_BLK_T_IN, last, &[(BUFFERS, 512, true)]), (513, OK));
    for (sector, len) in [(last, 1024), (last + 1, 512), (u64::MAX, 512), (1 << 55, 512), (0, 100), (0, 0)] {
        let found = bench.request(0, VIRTIO_BLK_T_IN, sector, &[(BUFFERS, len, true)]);
        assert_eq!(found.1, IOERR, "{sector} {len}");
        let found = bench.request(0, VIRTIO_BLK_T_OUT, sector, &[(BUFFERS, len, false)]);
        assert_eq!(found, (1, IOERR), "{sector} {len}");
    }
    assert_eq!(bench.request(0, 77, 0, &[]), (1, UNSUPP));
    assert_eq!((bench.blk.counters().failed, bench.blk.counters().reads), (13, 1));
}

#[test]
fn hostile_chains_are_returned_and_counted() {
    let mut bench = Bench::ram();
    let Bench { guest, blk } = &mut bench;
    let header = (HEADER, 16, false);
    for chain in [
        vec![header],
        vec![(HEADER, 15, false), (STATUS, 1, true)],
        vec![(STATUS, 1, true)],
        vec![header, (STATUS, 1, true), header],
        vec![header, (u64::MAX, 100, true)],
        vec![header, (STATUS, 0, true)],
    ] {
        assert_eq!(guest.submit(blk, 0, &chain), 0, "{chain:?}");
    }
    assert_eq!((blk.counters().malformed, blk.counters().dma_faults), (6, 0));
    for chain in [[(RAM_BYTES, 16, false), (STATUS, 1, true)], [header, (RAM_BYTES, 1, true)]] {
        assert_eq!(guest.submit(blk, 0, &chain), 0, "{chain:?}");
    }
    assert_eq!(blk.counters().dma_faults, 2);
    assert!(!blk.needs_reset());
    let found = bench.request(0, VIRTIO_BLK_T_IN, 0, &[(RAM_BYTES - 100, 512, true)]);
    assert_eq!(found, (0, IOERR), "data out of reach");
    assert_eq!(bench.request(0, VIRTIO_BLK_T_IN, 0, &[(BUFFERS, 512, true)]), (513, OK));
}

#[test]
fn a_broken_ring_stops_the_device_until_reset() {
    let bench = Bench::new(&Disk::ram(DISK_BYTES), 2, ServiceMode::Inline);
    bench.guest.publish(1, SIZE + 1);
    bench.blk.notify(1);
    assert!(bench.blk.needs_reset());
    assert_eq!(bench.blk.counters().ring_failures, 1);
    bench.blk.reset();
    bench.guest.publish(1, 0);
    bench.guest.start(&bench.blk);
    assert!(!bench.blk.needs_reset());
}

#[test]
fn one_queue_out_of_reach_starts_none() {
    let guest = Guest::new(2);
    let ports = [guest.port(), guest.port()];
    let blk =
        VirtioBlk::new(BlkConfig::default(), ServiceMode::Thread, &Disk::ram(DISK_BYTES), ports).unwrap();
    let mut activation = guest.activation(&blk);
    activation.queues[1].desc = RAM_BYTES;
    assert!(blk.activate(activation, Arc::new(virtio_transport::NoInterrupt)).is_err());
    guest.start(&blk);
    blk.reset();
}

#[test]
fn features_and_configuration_say_what_it_can_do() {
    let bench = Bench::new(&Disk::ram(DISK_BYTES), 2, ServiceMode::Inline);
    let features = bench.blk.features();
    let offered = [VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_MQ]
        .map(|bit| 1 << bit);
    assert_eq!(features, VERSION_1 | ACCESS_PLATFORM | offered.iter().sum::<u64>());
    assert!(bench.blk.accepts_features(features) && !bench.blk.accepts_features(features & !ACCESS_PLATFORM));
    let mut space = [0xff; 40];
    bench.blk.read_config(0, &mut space);
    assert_eq!(space[..8], 8192_u64.to_le_bytes());
    assert_eq!(
        (space[12], space[20..24].to_vec(), space[34], space[36..].to_vec()),
        (254, vec![0, 2, 0, 0], 2, vec![0; 4])
    );
    bench.blk.read_config(u64::MAX, &mut space);
    assert_eq!(space, [0; 40]);
}

#[test]
fn what_cannot_be_built_is_refused() {
    let guest = Guest::new(1);
    let disk = Disk::ram(DISK_BYTES);
    let made = |config, ports: usize| {
        let ports: Vec<_> = (0..ports).map(|_| guest.port()).collect();
        VirtioBlk::new(config, ServiceMode::Inline, &disk, ports).err()
    };
    let config = BlkConfig::default;
    assert!(matches!(
        made(BlkConfig { queue_size: 100, ..config() }, 1),
        Some(BlkError::QueueSize { size: 100 })
    ));
    assert!(matches!(
        made(BlkConfig { blk_size: 256, ..config() }, 1),
        Some(BlkError::BlockSize { bytes: 256 })
    ));
    assert!(matches!(made(config(), 0), Some(BlkError::Queues { queues: 0 })));
    assert!(matches!(made(config(), 65), Some(BlkError::Queues { queues: 65 })));
    assert!(made(config(), 64).is_none());
}

#[test]
fn an_observer_sees_the_data_of_each_request() {
    let mut guest = Guest::new(1);
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let sink = Arc::clone(&seen);
    let observer =
        Stamped::new(|| 1, move |direction, bytes, _| sink.lock().unwrap().push((direction, bytes)));
    let disk = Disk::ram(DISK_BYTES);
    let ports = [(guest.port(), observer)];
    let blk = VirtioBlk::with_observers(BlkConfig::default(), ServiceMode::Inline, &disk, ports).unwrap();
    guest.start(&blk);
    guest.write(HEADER, &[0; 16]);
    guest.submit(&blk, 0, &[(HEADER, 16, false), (BUFFERS, 512, true), (STATUS, 1, true)]);
    guest.write(HEADER, &[1]);
    guest.submit(&blk, 0, &[(HEADER, 16, false), (BUFFERS, 1024, false), (STATUS, 1, true)]);
    assert_eq!(*seen.lock().unwrap(), [(Direction::ToGuest, 512), (Direction::FromGuest, 1024)]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Random descriptors over random headers; the device's writes may hit the ring itself.
    #[test]
    fn random_chains_never_panic(
        table in prop::collection::vec(
            (prop_oneof![4 => 0..RAM_BYTES, 2 => Just(HEADER), 1 => any::<u64>()],
             prop_oneof![2 => 0..2000_u32, 2 => Just(16), 1 => any::<u32>()],
             prop_oneof![4 => 0..4_u16, 1 => any::<u16>()], prop_oneof![8 => 0..16_u16, 1 => any::<u16>()]), 16),
        kind in prop_oneof![3 => 0..12_u32, 1 => any::<u32>()],
        sector in prop_oneof![3 => 0..9000_u64, 1 => any::<u64>()],
    ) {
        let mut bench = Bench::ram();
        let header = [kind.to_le_bytes().as_slice(), &[0; 4], &sector.to_le_bytes()].concat();
        bench.guest.write(HEADER, &header);
        for (at, desc) in (0..).zip(&table) {
            bench.guest.describe(0, at, *desc);
        }
        for head in 0..16 {
            bench.guest.offer(0, head);
        }
        bench.blk.notify(0);
        prop_assert_eq!(bench.blk.failed(), None);
    }
}
