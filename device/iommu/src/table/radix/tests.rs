//! The radix table against the simple one, on one thread and on several.

use proptest::prelude::*;
use virtio_iommu_spec::{Gpa, Iova, IovaRange};

use super::*;
use crate::{
    epoch::{Fences, Participant},
    table::{LockedTable, Perms},
};

const PAGE: u64 = 4096;
const UNCAPPED: u64 = 1 << 30;

fn radix(bits: u32, max_bytes: u64) -> (RadixTable, Participant) {
    let epoch = Epoch::new(Fences::Symmetric);
    let participant = epoch.register().unwrap();
    (RadixTable::new(&epoch, 12, bits, &Budget::new(max_bytes)).unwrap(), participant)
}

fn mapping(start: u64, end: u64, gpa: u64) -> Mapping {
    Mapping { range: IovaRange::new(start, end).unwrap(), gpa: Gpa(gpa), perms: Perms::RW }
}

fn all(table: &dyn MappingTable, guard: &Guard<'_>) -> Vec<(u64, u64, u64, Perms)> {
    let mut found = Vec::new();
    table.for_each(guard, &mut |m| found.push((m.range.start(), m.range.end(), m.gpa.0, m.perms)));
    found
}

#[derive(Clone, Debug)]
enum Op {
    Map { start: u64, pages: u64, gpa: u64, perms: Perms },
    Unmap { start: u64, end: u64 },
    Translate { at: u64 },
}

/// Addresses cluster around the places where slots of each level meet.
fn page() -> impl Strategy<Value = u64> {
    let base =
        prop_oneof![Just(0u64), Just(512), Just(512 * 512), Just(512 * 512 * 512), Just((1 << 36) - 1041)];
    (base, 0u64..1040).prop_map(|(base, offset)| base + offset)
}

fn pages() -> impl Strategy<Value = u64> {
    prop_oneof![6 => Just(1u64), 4 => 2u64..20, 1 => Just(512u64), 1 => 500u64..1100, 1 => Just(512u64 * 512), 1 => 1u64 << 17..1 << 28]
}

fn op() -> impl Strategy<Value = Op> {
    let perms = (any::<bool>(), any::<bool>(), any::<bool>()).prop_map(|(read, write, mmio)| Perms {
        read,
        write,
        mmio,
    });
    prop_oneof![
        5 => (page(), pages(), 0u64..1 << 30, perms).prop_map(|(page, pages, gpa, perms)| Op::Map {
            start: page * PAGE,
            pages: pages.min((1 << 36) - page),
            gpa: gpa * PAGE,
            perms
        }),
        3 => (page(), pages()).prop_map(|(page, pages)| Op::Unmap {
            start: page * PAGE,
            end: page.saturating_add(pages) * PAGE - 1
        }),
        1 => (page(), page(), 0u64..PAGE, 0u64..PAGE).prop_map(|(a, b, x, y)| {
            let (a, b) = (a * PAGE + x, b * PAGE + y);
            Op::Unmap { start: a.min(b), end: a.max(b) }
        }),
        1 => Just(Op::Unmap { start: 0, end: u64::MAX }),
        4 => (page(), 0u64..PAGE).prop_map(|(page, offset)| Op::Translate { at: page * PAGE + offset }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn agrees_with_the_ordered_table(ops in prop::collection::vec(op(), 1..60)) {
        let (table, participant) = radix(48, UNCAPPED);
        let oracle = LockedTable::new(&Budget::new(u64::MAX));
        for op in ops {
            let guard = participant.pin();
            match op {
                Op::Map { start, pages, gpa, perms } => {
                    let range = IovaRange::with_len(start, pages * PAGE).unwrap();
                    let mapping = Mapping { range, gpa: Gpa(gpa), perms };
                    prop_assert_eq!(table.map(&guard, &mapping), oracle.map(&guard, &mapping));
                }
                Op::Unmap { start, end } => {
                    let range = IovaRange::new(start, end).unwrap();
                    prop_assert_eq!(table.unmap(&guard, range), oracle.unmap(&guard, range));
                }
                Op::Translate { at } => {
                    let (ours, theirs) = (table.translate(&guard, Iova(at)), oracle.translate(&guard, Iova(at)));
                    prop_assert_eq!(ours.map(|t| (t.gpa, t.perms)), theirs.map(|t| (t.gpa, t.perms)));
                    // A run may be cut short at a slot's end, never too long.
                    if let (Some(ours), Some(theirs)) = (ours, theirs) {
                        prop_assert!(at <= ours.run_end && ours.run_end <= theirs.run_end);
                    }
                }
            }
        }
        let guard = participant.pin();
        prop_assert_eq!(all(&table, &guard), all(&oracle, &guard));
    }
}

#[test]
fn a_huge_unaligned_mapping_takes_few_tables() {
    let (table, participant) = radix(48, UNCAPPED);
    let guard = participant.pin();
    let (start, bytes) = (3 * PAGE, 1u64 << 40);
    table.map(&guard, &mapping(start, start + bytes - 1, 0x1234_5000)).unwrap();
    assert!(table.table_bytes() <= 256 << 10, "{} bytes", table.table_bytes());
    for offset in [0, PAGE, 2 << 20, 1 << 30, 1 << 39, bytes - 1] {
        let found = table.translate(&guard, Iova(start + offset)).unwrap();
        assert_eq!((found.gpa.0, found.run_end), (0x1234_5000 + offset, start + bytes - 1));
    }
    assert_eq!(table.translate(&guard, Iova(start - 1)), None);
    assert_eq!(table.translate(&guard, Iova(start + bytes)), None);
    let half = IovaRange::new(start, start + bytes / 2).unwrap();
    assert_eq!(table.unmap(&guard, half), Err(UnmapError::Split { range: half }));
    assert_eq!(table.unmap(&guard, IovaRange::ALL), Ok(Removed { mappings: 1, bytes }));
    assert_eq!(table.translate(&guard, Iova(start)), None);
}

#[test]
fn a_mapping_can_end_at_the_last_address_of_64_bits() {
    let (table, participant) = radix(64, UNCAPPED);
    let guard = participant.pin();
    let last = mapping(u64::MAX - 3 * PAGE + 1, u64::MAX, 0x10_0000);
    table.map(&guard, &last).unwrap();
    assert_eq!(table.translate(&guard, Iova(u64::MAX)).unwrap().gpa, Gpa(0x10_0000 + 3 * PAGE - 1));
    assert_eq!(table.map(&guard, &last), Err(MapError::Overlap { range: last.range }));
    assert_eq!(table.unmap(&guard, IovaRange::ALL).unwrap().mappings, 1);
    let everything = mapping(0, u64::MAX, 0);
    table.map(&guard, &everything).unwrap();
    assert_eq!(table.unmap(&guard, IovaRange::ALL), Ok(Removed { mappings: 1, bytes: u64::MAX }));
}

#[test]
fn a_million_pages_take_less_than_sixteen_bytes_each_and_go_at_once() {
    let (table, participant) = radix(48, UNCAPPED);
    let count = 1u64 << 20;
    let guard = participant.pin();
    for page in 0..count {
        table.map(&guard, &mapping(page * PAGE, page * PAGE + PAGE - 1, page * PAGE)).unwrap();
    }
    assert!(table.table_bytes() <= 16 * count);
    let removed = table.unmap(&guard, IovaRange::ALL).unwrap();
    assert_eq!(removed, Removed { mappings: count, bytes: count * PAGE });
    drop(guard);
    assert!(table.table_bytes() < 64 << 10, "{} bytes are left", table.table_bytes());
}

#[test]
fn at_the_cap_map_fails_and_an_unmap_makes_room() {
    let (table, participant) = radix(48, 64 * node::NODE_BYTES);
    let sparse = |n: u64| mapping(n << 39, (n << 39) + PAGE - 1, 0);
    let mut count = 0;
    loop {
        let guard = participant.pin();
        match table.map(&guard, &sparse(count)) {
            Ok(()) => count += 1,
            Err(error) => break assert_eq!(error, MapError::OutOfMemory),
        }
    }
    assert!(count > 10, "{count}");
    for n in 0..count {
        let guard = participant.pin();
        assert_eq!(table.unmap(&guard, sparse(n).range).unwrap().mappings, 1);
        table.map(&guard, &sparse(count + n)).unwrap();
        assert_eq!(table.map(&guard, &sparse(500)), Err(MapError::OutOfMemory));
        assert!(table.table_bytes() <= 64 * node::NODE_BYTES);
    }
}

#[test]
fn memory_stays_bounded_over_random_cycles() {
    let cycles = std::env::var("STRESS_CYCLES").ok().and_then(|n| n.parse().ok()).unwrap_or(200_000);
    let (table, participant) = radix(48, UNCAPPED);
    let mut seed = 1u64;
    let mut live = std::collections::VecDeque::new();
    let mut most = 0;
    for _ in 0..cycles {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let pages = [1, 1, 1, 3, 16, 700][(seed >> 60) as usize % 6];
        let start = (seed >> 16) % ((1 << 36) - pages) * PAGE;
        let range = IovaRange::with_len(start, pages * PAGE).unwrap();
        let guard = participant.pin();
        if table.map(&guard, &Mapping { range, gpa: Gpa(0), perms: Perms::RW }).is_ok() {
            live.push_back(range);
        }
        if live.len() > 16 {
            assert_eq!(table.unmap(&guard, live.pop_front().unwrap()).unwrap().mappings, 1);
        }
        most = most.max(table.table_bytes());
    }
    println!("{cycles} cycles, {} live at the end, never more than {most} bytes of tables", live.len());
    assert!(most < 4 << 20, "{most} bytes for 16 live mappings");
    assert!(participant.pending() < 10_000, "{} objects wait to be freed", participant.pending());
    table.unmap(&participant.pin(), IovaRange::ALL).unwrap();
    let guard = participant.pin();
    assert_eq!(all(&table, &guard), []);
}

#[test]
#[should_panic(expected = "another device's participants")]
fn a_guard_of_another_epoch_is_refused() {
    let (table, _own) = radix(48, UNCAPPED);
    let stranger = Epoch::new(Fences::Symmetric).register().unwrap();
    table.translate(&stranger.pin(), Iova(0));
}
