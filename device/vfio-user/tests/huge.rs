//! Guest memory in huge pages, as a client sends it: pieces that begin and end anywhere, and pages that are not there.

use std::{
    fs::{self, File},
    os::{fd::AsFd, unix::fs::FileExt},
    time::Duration,
};

mod common;
use common::*;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use virtio_iommu::{
    dma::{Access, DmaMemory},
    memory::GuestRam,
};

const PATIENCE: Duration = Duration::from_secs(30);
const HUGE: u64 = 2 << 20;
const ENOMEM: u32 = 12;

/// The kernel's pool of huge pages: one test at a time changes it, and gives back what it took.
struct Pool {
    before: u64,
    _turn: std::sync::MutexGuard<'static, ()>,
}

const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";

fn number(name: &str) -> Option<u64> {
    fs::read_to_string(format!("{POOL}/{name}")).ok()?.trim().parse().ok()
}

impl Pool {
    /// So many free pages. `None`, and said so, where they cannot be had.
    #[allow(clippy::print_stderr, reason = "what a test went without belongs into its log")]
    fn with(pages: u64) -> Option<Self> {
        static TURN: std::sync::Mutex<()> = std::sync::Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let pool = number("nr_hugepages").zip(number("free_hugepages")).and_then(|(before, free)| {
            let pool = Self { before, _turn: turn };
            if pages > free {
                fs::write(format!("{POOL}/nr_hugepages"), (before + pages - free).to_string()).ok()?;
            }
            (number("free_hugepages")? >= pages).then_some(pool)
        });
        if pool.is_none() {
            eprintln!("SKIPPED: {pages} huge pages cannot be reserved in {POOL}");
        }
        pool
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let _ = fs::write(format!("{POOL}/nr_hugepages"), self.before.to_string());
    }
}

fn huge_memfd(bytes: u64) -> File {
    let flags = MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC | MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB;
    let file = File::from(memfd_create("huge", flags).unwrap());
    file.set_len(bytes).unwrap();
    file
}

/// The pieces that QEMU sends of a machine's memory at one file: below and above the legacy areas, a ROM in between.
const PIECES: [(u64, u64, u64); 4] =
    [(0, 0xa_0000, 3), (0xc_0000, 0x2_0000, 1), (0xe_0000, 0x2_0000, 3), (0x10_0000, 7 << 20, 3)];

#[test]
fn pieces_of_huge_pages_come_and_go_and_so_does_the_next_client() {
    let Some(_pool) = Pool::with(4) else { return };
    let rig = rig(PATIENCE);
    let view = GuestRam::of_space(rig.device.space().clone());
    for (round, sealed) in [(1_u8, false), (2, true), (3, true)] {
        let ram = huge_memfd(4 * HUGE);
        if sealed {
            fcntl_add_seals(&ram, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL).unwrap();
        }
        let mut client = Client::new(&rig);
        for (start, len, flags) in PIECES {
            client.ask_with(DMA_MAP, &dma_map(start, len, start, flags), &[ram.as_fd()]).unwrap();
        }
        // Over all of them, over an end, with a file and without.
        for (start, len) in [(0, 8 << 20), (0x9_f000, 0x2000), (0x10_0000, 7 << 20)] {
            assert_eq!(client.map(&ram, start, len, start), Err(EEXIST));
            assert_eq!(client.ask(DMA_MAP, &dma_map(start, len, 0, 1)), Err(EEXIST));
        }
        for at in [0x9_ffff, 0xe_0000, 0x7f_ffff] {
            view.write(at, &[round]).unwrap();
        }
        assert!(
            view.slice(0xc_0000, 1, Access::Write).is_err() && view.slice(0xc_0000, 1, Access::Read).is_ok()
        );
        assert!(view.slice(0xa_0000, 1, Access::Read).is_err(), "between the pieces");
        assert_eq!(client.ask(DMA_UNMAP, &dma_unmap(0, 8 << 20, 0)), Err(EINVAL), "no piece");
        if round == 1 {
            for (start, len, _) in PIECES {
                client.ask(DMA_UNMAP, &dma_unmap(start, len, 0)).unwrap();
                assert!(
                    view.slice(start, 1, Access::Read).is_err()
                        && view.slice(start + len - 1, 1, Access::Read).is_err()
                );
            }
        } else if round == 2 {
            client.ask(DMA_UNMAP, &dma_unmap(0, 0, 2)).unwrap();
        }
        // The third is gone without a word.
        drop(client);
        let mut next = Client::new(&rig);
        assert_eq!((rig.device.space().regions(), rig.device.space().mapped_bytes()), (0, 0));
        // Ordinary pages at the same addresses, out of the huge file's reach.
        let small = memfd(1 << 20);
        next.map(&small, 0, 1 << 20, 0).unwrap();
        view.write(0x9_ffff, b"!").unwrap();
        next.ask(DMA_UNMAP, &dma_unmap(0, 1 << 20, 0)).unwrap();
        let mut byte = [0];
        small.read_exact_at(&mut byte, 0x9_ffff).unwrap();
        assert_eq!(byte, *b"!");
    }
    assert_eq!((rig.device.space().lost(), rig.server.counters().hung_up), (0, 0));
}

/// Sealed memory for which there are no pages: an access would end the process.
#[test]
fn huge_pages_that_are_not_there_are_refused_and_nothing_is_left() {
    let Some(_pool) = Pool::with(0) else { return };
    let rig = rig(PATIENCE);
    let bytes = (number("free_hugepages").unwrap() + 8) * HUGE;
    let ram = huge_memfd(bytes);
    fcntl_add_seals(&ram, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL).unwrap();
    let mut client = Client::new(&rig);
    for flags in [1, 3] {
        for (start, offset) in [(0, 0), (0x1000, 0x1000), (1 << 32, 0)] {
            let map = dma_map(start, bytes - offset, offset, flags);
            assert_eq!(client.ask_with(DMA_MAP, &map, &[ram.as_fd()]), Err(ENOMEM));
        }
    }
    let small = memfd(1 << 20);
    client.map(&small, 0, 1 << 20, 0).unwrap();
    let view = GuestRam::of_space(rig.device.space().clone());
    view.write(0x1000, b"x").unwrap();
    assert!(view.slice(1 << 20, 1, Access::Read).is_err());
    assert!(client.ask(GET_INFO, &[0; 16]).is_ok());
    assert_eq!((rig.device.space().regions(), rig.device.space().lost()), (1, 0));
}
