//! Regions that come and go under accesses.

#![allow(unsafe_code, reason = "memfd_create has no safe wrapper in libc")]

use std::{
    fs::{self, File},
    os::fd::{FromRawFd, OwnedFd},
    os::unix::fs::FileExt,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use super::*;

const GIB: u64 = 1 << 30;

fn memfd(bytes: u64, flags: libc::c_uint) -> File {
    // SAFETY: the name is a C string; the result is checked.
    let fd = unsafe { libc::memfd_create(c"ram".as_ptr(), flags) };
    assert!(fd >= 0);
    // SAFETY: the descriptor is new and nobody else's.
    let file = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
    file.set_len(bytes).unwrap();
    file
}

fn ram(bytes: u64) -> (File, RamFile) {
    let file = memfd(bytes, libc::MFD_ALLOW_SEALING);
    let copy = file.try_clone().unwrap();
    (file, RamFile::new(copy.into()).unwrap())
}

#[test]
fn only_memory_that_cannot_shrink_is_accepted() {
    let (file, checked) = ram(8192);
    assert_eq!(checked.bytes(), 8192);
    assert!(file.set_len(4096).is_err(), "the seal was added");
    let refused = |fd: OwnedFd| RamFile::new(fd).unwrap_err();
    assert!(matches!(refused(memfd(4096, 0).into()), RamFileError::CanShrink), "cannot be sealed");
    let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    assert!(matches!(refused(socket.into()), RamFileError::NotMemory { .. }));
    let device = File::open("/dev/zero").unwrap();
    assert!(matches!(refused(device.into()), RamFileError::NotMemory { .. }));
    let regular = File::open(std::env::current_exe().unwrap()).unwrap();
    let RamFileError::NotMemory { name } = refused(regular.into()) else { panic!("an ordinary file") };
    assert!(name.starts_with('/'), "{name}");
}

#[test]
fn malformed_regions_are_refused_without_trace() {
    let space = AddressSpace::new(GIB).unwrap();
    let (_file, file) = ram(0x10000);
    space.map(0x4000, 0x4000, &file, 0, true).unwrap();
    let refused = |gpa, len, offset| space.map(gpa, len, &file, offset, true).unwrap_err();
    for (gpa, len, offset) in [
        (0, 0, 0),
        (1, 0x1000, 0),
        (0, 0x1001, 0),
        (0, 0x1000, 7),
        (u64::MAX - 0xfff, 0x1000, 0),
        (0, u64::MAX - 0xfff, 0x2000),
        (0, 0x1000, u64::MAX - 0xfff),
    ] {
        assert!(
            matches!(refused(gpa, len, offset), SpaceError::Shape { .. }),
            "{gpa:#x} {len:#x} {offset:#x}"
        );
    }
    assert!(matches!(refused(GIB - 0x1000, 0x2000, 0), SpaceError::TooHigh { .. }));
    assert!(matches!(refused(0, 0x1000, 0x10000), SpaceError::Outside { .. }));
    for (gpa, len) in [(0x4000, 0x4000), (0x3000, 0x2000), (0x7000, 0x1000), (0, 0x10000)] {
        assert!(matches!(refused(gpa, len, 0), SpaceError::Overlap { other: 0x4000, .. }));
    }
    for (gpa, len) in [(0x4000, 0x1000), (0, 0x4000), (0x5000, 0x3000)] {
        assert!(matches!(space.unmap(gpa, len), Err(SpaceError::NoRegion { .. })));
    }
    assert_eq!((space.regions(), space.mapped_bytes()), (1, 0x4000));
}

#[test]
fn the_number_of_regions_is_bounded() {
    let space = AddressSpace::new(GIB).unwrap();
    let (_file, file) = ram(0x1000);
    for page in 0..10_000_u64 {
        let mapped = space.map(page * 0x2000, 0x1000, &file, 0, true);
        assert_eq!(mapped.is_ok(), page < MAX_SPACE_REGIONS as u64);
    }
    space.unmap_all().unwrap();
    assert_eq!(space.regions(), 0);
    space.map(0, 0x1000, &file, 0, true).unwrap();
}

#[test]
fn what_is_mapped_is_the_file_and_what_is_unmapped_is_not() {
    let space = Arc::new(AddressSpace::new(4 * GIB).unwrap());
    let ram_view = GuestRam::of_space(space.clone());
    let (raw, file) = ram(0x4000);
    assert_eq!(ram_view.read(0x1000, &mut [0]), Err(DmaError::NotRam { gpa: 0x1000 }));
    space.map(3 * GIB, 0x2000, &file, 0x2000, true).unwrap();
    space.map(0x1000, 0x1000, &file, 0, false).unwrap();
    ram_view.write(3 * GIB + 0x1ffe, b"hi").unwrap();
    let mut found = [0; 2];
    raw.read_exact_at(&mut found, 0x3ffe).unwrap();
    assert_eq!(&found, b"hi");
    assert!(ram_view.contains(3 * GIB, 0x2000) && !ram_view.contains(3 * GIB, 0x2001));
    assert_eq!(ram_view.write(0x1000, b"x"), Err(DmaError::NotRam { gpa: 0x1000 }), "read-only");
    raw.write_all_at(b"rom", 0).unwrap();
    let mut rom = [0; 3];
    ram_view.read(0x1000, &mut rom).unwrap();
    assert_eq!(&rom, b"rom");
    // A slice outlives its region: it reads nothing of the file's and does not reach it.
    let stale = ram_view.slice(3 * GIB + 0x1ffe, 2, Access::Write).unwrap();
    space.unmap(3 * GIB, 0x2000).unwrap();
    let mut seen = [1_u8; 2];
    stale.copy_to(&mut seen);
    stale.copy_from(b"no");
    raw.read_exact_at(&mut found, 0x3ffe).unwrap();
    assert_eq!((seen, &found), ([0; 2], b"hi"));
    assert!(ram_view.read(3 * GIB, &mut [0]).is_err());
}

/// Readers beside a writer that swaps two files: accesses see one of them, or (late ones) empty memory, never faults.
#[test]
fn accesses_beside_changes_meet_a_file_or_nothing() {
    let space = Arc::new(AddressSpace::new(GIB).unwrap());
    let files = [1_u8, 2].map(|byte| {
        let (raw, file) = ram(0x2000);
        raw.write_all_at(&[byte; 0x2000], 0).unwrap();
        file
    });
    let (stop, hits) = (AtomicBool::new(false), [const { AtomicU64::new(0) }; 2]);
    std::thread::scope(|scope| {
        for (gpa, hits) in [0x10_0000, 0x10_1fc0].into_iter().zip(&hits) {
            let (view, stop) = (GuestRam::of_space(space.clone()), &stop);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    if let Ok(slice) = view.slice(gpa, 64, Access::Read) {
                        let mut bytes = [9_u8; 64];
                        slice.copy_to(&mut bytes);
                        assert!(bytes.iter().all(|byte| *byte <= 2));
                        hits.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        let mut rounds = 0;
        while rounds < 500 || hits.iter().any(|hits| hits.load(Ordering::Relaxed) < 500) {
            space.map(0x10_0000, 0x2000, &files[rounds % 2], 0, !rounds.is_multiple_of(3)).unwrap();
            space.unmap(0x10_0000, 0x2000).unwrap();
            rounds += 1;
        }
        stop.store(true, Ordering::Relaxed);
    });
}

/// Regions without a file keep others from their addresses, and the other way round.
#[test]
fn overlap_is_checked_whatever_the_regions_are() {
    let space = Arc::new(AddressSpace::new(GIB).unwrap());
    let view = GuestRam::of_space(space.clone());
    let (_file, file) = ram(0x4000);
    let map = |kind: u8, gpa, len| match kind {
        0 => space.map_unreachable(gpa, len),
        kind => space.map(gpa, len, &file, 0, kind == 2),
    };
    for (first, second) in (0..3).flat_map(|first| (0..3).map(move |second| (first, second))) {
        map(first, 0x8000, 0x4000).unwrap();
        for (gpa, len) in [(0x8000, 0x4000), (0x7000, 0x2000), (0xb000, 0x1000), (0x9000, 0x1000)] {
            let refused = map(second, gpa, len);
            assert!(
                matches!(refused, Err(SpaceError::Overlap { other: 0x8000, .. })),
                "{first} {second} {gpa:#x}"
            );
        }
        assert_eq!(view.contains(0x8000, 1), first != 0);
        space.unmap(0x8000, 0x4000).unwrap();
        assert!(!view.contains(0x8000, 1) && !view.contains(0xbfff, 1));
    }
    assert!(matches!(space.map_unreachable(0, 0), Err(SpaceError::Shape { .. })));
    assert!(matches!(space.map_unreachable(u64::MAX, 1), Err(SpaceError::Shape { .. })));
}

/// Runs `body` in a process of its own, which a signal would end, and says what became of it.
fn in_a_child(test: &str, body: impl FnOnce()) {
    const CHILD: &str = "MEMORY_TEST_CHILD";
    if std::env::var_os(CHILD).is_some() {
        return body();
    }
    // One at a time: some change how many huge pages the machine has.
    static TURN: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("memory::tests::{test}"), "--nocapture", "--test-threads=1"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success(), "{}: {text}{}", child.status, String::from_utf8_lossy(&child.stderr));
    assert!(text.contains("1 passed"), "{text}");
    text.lines().filter(|line| line.contains("SKIPPED")).for_each(|line| println!("{line}"));
}

/// A file that loses pages under a mapping: truncated here (which a sealed file cannot be), as a stand-in for whatever
/// else makes an access raise SIGBUS.
#[test]
fn an_access_without_a_page_meets_empty_memory() {
    in_a_child("an_access_without_a_page_meets_empty_memory", || {
        let space = Arc::new(AddressSpace::new(GIB).unwrap());
        let view = GuestRam::of_space(space.clone());
        let raw = memfd(0x4000, libc::MFD_ALLOW_SEALING);
        raw.write_all_at(&[7; 0x4000], 0).unwrap();
        let file = RamFile::unchecked(OwnedFd::from(raw.try_clone().unwrap()), 0x4000);
        space.map(0x10000, 0x4000, &file, 0, true).unwrap();
        raw.set_len(0x2000).unwrap();
        let byte = |gpa| {
            let mut byte = [9];
            view.read(gpa, &mut byte).unwrap();
            byte[0]
        };
        assert_eq!((byte(0x10000), byte(0x11fff), space.lost()), (7, 7, 0));
        assert_eq!((byte(0x12000), space.lost()), (0, 1));
        view.write(0x13ff8, b"gone").unwrap();
        assert_eq!((byte(0x13ff8), byte(0x13000), space.lost()), (b'g', 0, 2), "a page at a time");
        space.unmap(0x10000, 0x4000).unwrap();
        space.map(0x10000, 0x2000, &file, 0, true).unwrap();
        assert_eq!((byte(0x10000), space.lost()), (7, 2));
    });
}

/// A fault outside of guest memory ends the process as ever.
#[test]
fn faults_elsewhere_are_not_swallowed() {
    use std::os::unix::process::ExitStatusExt as _;
    const CHILD: &str = "MEMORY_TEST_ELSEWHERE";
    if std::env::var_os(CHILD).is_some() {
        let _space = AddressSpace::new(GIB).unwrap();
        let file = memfd(0x1000, 0);
        let raw = std::os::fd::AsRawFd::as_raw_fd(&file);
        // SAFETY: a new mapping; the access to it ends this process, which is the point.
        unsafe {
            let at = libc::mmap(std::ptr::null_mut(), 0x2000, libc::PROT_READ, libc::MAP_SHARED, raw, 0);
            at.cast::<u8>().add(0x1000).read_volatile();
        }
        return;
    }
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "memory::tests::faults_elsewhere_are_not_swallowed"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    assert_eq!(child.status.signal(), Some(libc::SIGBUS));
}

const HUGE: u64 = 2 << 20;

/// Huge pages that this process asked the kernel for; given back when dropped.
struct HugePages {
    path: String,
    before: u64,
}

impl HugePages {
    /// As many free pages of this size as asked for. `None`, and said so, where they cannot be had.
    fn reserve(page_bytes: u64, pages: u64) -> Option<Self> {
        let folder = format!("/sys/kernel/mm/hugepages/hugepages-{}kB", page_bytes >> 10);
        let number =
            |name: &str| fs::read_to_string(format!("{folder}/{name}")).ok()?.trim().parse::<u64>().ok();
        let path = format!("{folder}/nr_hugepages");
        let reserved = number("nr_hugepages").zip(number("free_hugepages")).and_then(|(before, free)| {
            let pool = Self { path: path.clone(), before };
            fs::write(&path, (before + pages.saturating_sub(free)).to_string()).ok()?;
            (number("free_hugepages")? >= pages).then_some(pool)
        });
        if reserved.is_none() {
            iommu_equipment::missing(
                iommu_equipment::Equipment::Optional,
                format_args!("{pages} huge pages of {} KiB cannot be reserved in {path}", page_bytes >> 10),
            );
        }
        reserved
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        if let Err(error) = fs::write(&self.path, self.before.to_string()) {
            println!("{}: {error}", self.path);
        }
    }
}

fn huge_ram(page_bytes: u64, bytes: u64) -> (File, RamFile) {
    let size = page_bytes.trailing_zeros() << libc::MAP_HUGE_SHIFT;
    let file = memfd(bytes, libc::MFD_ALLOW_SEALING | libc::MFD_HUGETLB | size);
    let checked = RamFile::new(file.try_clone().unwrap().into()).unwrap();
    assert_eq!(checked.page_bytes(), page_bytes);
    (file, checked)
}

/// The pieces that QEMU sends of memory in huge pages, none of them aligned to those.
#[test]
fn pieces_of_huge_pages_may_lie_anywhere() {
    in_a_child("pieces_of_huge_pages_may_lie_anywhere", || {
        for (page, pages) in [(HUGE, 6), (GIB, 1)] {
            let Some(_pool) = HugePages::reserve(page, pages) else { continue };
            let space = Arc::new(AddressSpace::new(4 * GIB).unwrap());
            let view = GuestRam::of_space(space.clone());
            let (_raw, file) = huge_ram(page, pages * page);
            let pieces = [
                (0, 0xa_0000, 0, true),
                (0xc_0000, 0x4_0000, 0xc_0000, true),
                (0x10_0000, 0x70_0000, 0x10_0000, true),
                // Elsewhere than in the file, and one page of 4 KiB.
                (0x8000_1000, 0x1000, 0x1f_f000, true),
                (0x8000_2000, 0x1000, 0xf000, false),
            ];
            for round in 1..=3_u8 {
                for (gpa, len, offset, writable) in pieces {
                    space.map(gpa, len, &file, offset, writable).unwrap();
                }
                assert_eq!(space.mapped_bytes(), pieces.iter().map(|piece| piece.1).sum::<u64>());
                for (gpa, len, _, _) in pieces {
                    assert!(view.contains(gpa, len) && !view.contains(gpa, len + 1), "{gpa:#x}");
                }
                for gap in [0xa_0000, 0xb_ffff, 0x80_0000, 0x8000_0000, 0x8000_3000] {
                    assert!(!view.contains(gap, 1), "{gap:#x}");
                }
                // The same byte of the file, by each piece that has it.
                let byte = |gpa| {
                    let mut byte = [0];
                    view.read(gpa, &mut byte).unwrap();
                    byte[0]
                };
                view.write(0x1f_f123, &[round]).unwrap();
                view.write(0xf010, &[round + 100]).unwrap();
                assert_eq!((byte(0x8000_1123), byte(0x8000_2010)), (round, round + 100));
                view.write(0x7f_ffff, &[round]).unwrap();
                assert!(matches!(
                    space.map(0x9_f000, 0x1000, &file, 0, true),
                    Err(SpaceError::Overlap { .. })
                ));
                // One by one, in another order: the others stay.
                for (index, (gpa, len, _, _)) in pieces.iter().rev().enumerate() {
                    space.unmap(*gpa, *len).unwrap();
                    assert!(!view.contains(*gpa, 1));
                    assert_eq!(space.regions(), pieces.len() - 1 - index);
                }
            }
            // The next client has ordinary pages at the same addresses.
            let (_raw, small) = ram(0x80_0000);
            space.map(0, 0x80_0000, &small, 0, true).unwrap();
            view.write(0xb_0000, b"small").unwrap();
            space.unmap_all().unwrap();
            assert_eq!(space.lost(), 0);
        }
    });
}

/// Sealed huge memory for which there are no pages is refused with a remedy, and leaves nothing behind.
#[test]
fn huge_pages_that_are_not_there_are_refused() {
    in_a_child("huge_pages_that_are_not_there_are_refused", || {
        let free = fs::read_to_string("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages");
        let Some(free) = free.ok().and_then(|free| free.trim().parse::<u64>().ok()) else {
            return iommu_equipment::missing(
                iommu_equipment::Equipment::Optional,
                "the kernel has no huge pages of 2 MiB",
            );
        };
        let space = Arc::new(AddressSpace::new(4 * GIB).unwrap());
        let (_raw, file) = huge_ram(HUGE, (free + 8) * HUGE);
        for writable in [true, false] {
            let error = space.map(0x1000, (free + 8) * HUGE - 0x1000, &file, 0x1000, writable).unwrap_err();
            let SpaceError::Huge { page_bytes: HUGE, ref source, .. } = error else { panic!("{error}") };
            assert_eq!(source.raw_os_error(), Some(libc::ENOMEM), "{error}");
            assert!(error.to_string().contains("nr_hugepages"), "{error}");
            assert_eq!((space.regions(), space.mapped_bytes()), (0, 0));
        }
        let (_raw, small) = ram(0x4000);
        space.map(0, 0x4000, &small, 0, true).unwrap();
        let view = GuestRam::of_space(space.clone());
        view.write(0x1000, b"x").unwrap();
        assert_eq!(space.lost(), 0);
    });
}

/// A hole punched into huge memory after it was accepted, while another process takes the page.
#[test]
fn a_hole_in_huge_memory_is_survived() {
    in_a_child("a_hole_in_huge_memory_is_survived", || {
        let Some(_pool) = HugePages::reserve(HUGE, 3) else { return };
        let space = Arc::new(AddressSpace::new(GIB).unwrap());
        let view = GuestRam::of_space(space.clone());
        let (raw, file) = huge_ram(HUGE, 2 * HUGE);
        space.map(0x10_0000, 0x30_0000, &file, 0x10_0000, true).unwrap();
        view.write(0x10_0000, b"first").unwrap();
        view.write(0x20_0000, b"second").unwrap();
        let fd = std::os::fd::AsRawFd::as_raw_fd(&raw);
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        // SAFETY: fallocate takes integers.
        assert_eq!(unsafe { libc::fallocate(fd, mode, 0, HUGE as i64) }, 0);
        let free = fs::read_to_string("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages").unwrap();
        let free: u64 = free.trim().parse().unwrap();
        let taken = memfd(free * HUGE, libc::MFD_HUGETLB);
        let fd = std::os::fd::AsRawFd::as_raw_fd(&taken);
        // SAFETY: as above.
        assert_eq!(unsafe { libc::fallocate(fd, 0, 0, (free * HUGE) as i64) }, 0);
        let mut bytes = [1; 6];
        view.read(0x10_0000, &mut bytes).unwrap();
        assert_eq!((bytes, space.lost()), ([0; 6], 1));
        view.read(0x20_0000, &mut bytes).unwrap();
        assert_eq!((&bytes, space.lost()), (b"second", 1), "the other page is there");
        space.unmap(0x10_0000, 0x30_0000).unwrap();
    });
}
