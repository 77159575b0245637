//! Regions that come and go under accesses.

#![allow(unsafe_code, reason = "memfd_create has no safe wrapper in libc")]

use std::{
    fs::File,
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
    assert!(matches!(refused(regular.into()), RamFileError::CanShrink));
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
