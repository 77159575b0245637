//! Bounds on the work and the memory of operations, counted in slots looked at.

use virtio_iommu_spec::{Gpa, IovaRange};

use super::*;
use crate::{
    epoch::{Fences, Participant},
    halt::Halt,
    table::Perms,
};

const PAGE: u64 = 4096;
const GIB: u64 = 1 << 30;
/// Slots that any operation may look at, whatever the tables hold.
const CONSTANT: u64 = 16 * 512;
/// Slots for each mapping that is removed: up to three tables of its own, visited and unlinked.
const EACH: u64 = 8 * 512;

fn radix(max_bytes: u64) -> (RadixTable, Participant) {
    let epoch = Epoch::new(Fences::Symmetric);
    let participant = epoch.register().unwrap();
    (RadixTable::new(&epoch, 12, 48, &Budget::new(max_bytes)).unwrap(), participant)
}

fn mapping(start: u64, len: u64) -> Mapping {
    Mapping { range: IovaRange::new(start, start + (len - 1)).unwrap(), gpa: Gpa(0), perms: Perms::RW }
}

/// Slots that `operation` looks at.
fn work<T>(table: &RadixTable, operation: impl FnOnce() -> T) -> (T, u64) {
    let before = table.visits.load(Ordering::Relaxed);
    let result = operation();
    (result, table.visits.load(Ordering::Relaxed) - before)
}

/// Leaves `count` empty tables of the lowest level behind, `stride` bytes apart, as a guest can: by UNMAPs of one page.
fn leave_empty_tables(table: &RadixTable, participant: &Participant, count: u64, stride: u64) {
    let guard = participant.pin();
    for number in 0..count {
        table.map(&guard, &mapping(number * stride, PAGE)).unwrap();
    }
    for number in 0..count {
        table.unmap(&guard, mapping(number * stride, PAGE).range).unwrap();
    }
}

#[test]
fn an_unmap_of_all_costs_what_it_removes_plus_a_constant() {
    for (count, stride) in [(2000, GIB), (2000, 2 << 20), (300, 512 * GIB), (1, PAGE)] {
        let (table, participant) = radix(GIB);
        let guard = participant.pin();
        for number in 0..count {
            table.map(&guard, &mapping(number * stride, PAGE)).unwrap();
        }
        let (removed, visits) = work(&table, || table.unmap(&guard, IovaRange::ALL).unwrap());
        assert_eq!(removed, Removed { mappings: count, bytes: count * PAGE });
        assert!(visits <= CONSTANT + EACH * count, "{count} mappings {stride:#x} apart: {visits}");
        let (removed, visits) = work(&table, || table.unmap(&guard, IovaRange::ALL).unwrap());
        assert_eq!(removed, Removed::default());
        assert!(visits <= CONSTANT, "nothing mapped, {stride:#x} apart: {visits}");
    }
}

#[test]
fn empty_tables_are_paid_for_once() {
    for stride in [GIB, 2 << 20, 3 * GIB + (2 << 20)] {
        let (table, participant) = radix(GIB);
        leave_empty_tables(&table, &participant, 500, stride);
        let guard = participant.pin();
        let (_, first) = work(&table, || table.unmap(&guard, IovaRange::ALL).unwrap());
        let (_, second) = work(&table, || table.unmap(&guard, IovaRange::ALL).unwrap());
        assert!(second <= CONSTANT, "{stride:#x}: first {first}, then {second}");
        assert!(table.table_bytes() <= 4 * NODE_BYTES, "{stride:#x}: {}", table.table_bytes());
    }
}

#[test]
fn a_mapping_over_empty_tables_takes_few_slots() {
    for (start, len) in [(0, 1 << 47), (PAGE, (1 << 47) - 2 * PAGE), (0, 512 * GIB), (GIB - PAGE, 400 * GIB)]
    {
        let (table, participant) = radix(GIB);
        leave_empty_tables(&table, &participant, 400, GIB);
        let guard = participant.pin();
        table.map(&guard, &mapping(start, len)).unwrap();
        let (removed, visits) = work(&table, || table.unmap(&guard, mapping(start, len).range).unwrap());
        assert_eq!(removed, Removed { mappings: 1, bytes: len });
        assert!(visits <= CONSTANT, "{start:#x} +{len:#x}: {visits} slots to unmap");
    }
}

#[test]
fn a_mapping_that_fails_looks_no_further_than_the_obstacle() {
    for obstacle in [3, 250, 399] {
        let (table, participant) = radix(GIB);
        let guard = participant.pin();
        for number in obstacle..600 {
            table.map(&guard, &mapping(number * GIB, PAGE)).unwrap();
        }
        let huge = mapping(PAGE, (1 << 47) - PAGE);
        for attempt in 0..3 {
            let (result, visits) = work(&table, || table.map(&guard, &huge));
            assert_eq!(result, Err(MapError::Overlap { range: huge.range }));
            assert!(visits <= CONSTANT, "obstacle {obstacle}, attempt {attempt}: {visits}");
        }
        assert_eq!(table.translate(&guard, Iova(PAGE)), None);
        let removed = table.unmap(&guard, IovaRange::ALL).unwrap();
        assert_eq!(removed.mappings, 600 - obstacle);
    }
}

#[test]
fn failed_maps_leave_no_tables() {
    // Root and a path of three: a second path does not fit beside the first.
    for len in [PAGE, 2 * PAGE, 16 * PAGE, 3 << 20, (2 << 20) + PAGE] {
        let (table, participant) = radix(5 * NODE_BYTES);
        let guard = participant.pin();
        table.map(&guard, &mapping(0, PAGE)).unwrap();
        let before = table.table_bytes();
        for number in 1..200 {
            let start = number * 512 * GIB - PAGE;
            assert_eq!(table.map(&guard, &mapping(start, len)), Err(MapError::OutOfMemory), "{len:#x}");
        }
        assert_eq!(table.table_bytes(), before, "{len:#x}");
        table.unmap(&guard, mapping(0, PAGE).range).unwrap();
        table.map(&guard, &mapping(7 * 512 * GIB, PAGE)).unwrap();
    }
}

#[test]
fn memory_is_not_short_while_tables_are_empty() {
    // However the tables were left: by single pages, by ranges, by mappings of several slots, on either side of one half.
    for (len, each) in [(PAGE, true), (PAGE, false), (3 * PAGE, true), (3 * PAGE, false), (5 << 20, true)] {
        for rounds in [2, 5, 9] {
            let (table, participant) = radix(16 * NODE_BYTES);
            let guard = participant.pin();
            for round in 0..rounds {
                let base = round * 17 * GIB;
                let fits =
                    (0..20).take_while(|n| table.map(&guard, &mapping(base + n * GIB + PAGE, len)).is_ok());
                let fits = fits.count() as u64;
                assert!(fits >= 3, "{len:#x}, round {round}: {fits}");
                if each {
                    for number in 0..fits {
                        table.unmap(&guard, mapping(base + number * GIB + PAGE, len).range).unwrap();
                    }
                } else {
                    assert_eq!(table.unmap(&guard, IovaRange::ALL).unwrap().mappings, fits);
                }
            }
        }
    }
}

#[test]
fn an_operation_ends_early_when_a_reset_waits_and_another_finishes_it() {
    let halt = Halt::default();
    let epoch = Epoch::new(Fences::Symmetric);
    let participant = epoch.register().unwrap();
    let table = RadixTable::new(&epoch, 12, 48, &Budget::with_halt(GIB, halt.clone())).unwrap();
    let guard = participant.pin();
    for number in 0..1000 {
        table.map(&guard, &mapping(number * GIB, PAGE)).unwrap();
    }
    halt.stop();
    let (removed, visits) = work(&table, || table.unmap(&guard, IovaRange::ALL).unwrap());
    assert_eq!(removed, Removed::default());
    assert!(visits <= CONSTANT, "{visits}");
    halt.go();
    assert_eq!(table.unmap(&guard, IovaRange::ALL).unwrap().mappings, 1000);
}
