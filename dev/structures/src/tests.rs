//! Every structure against an oracle that is as simple as can be.

use std::{collections::BTreeMap, sync::Arc, thread};

use proptest::prelude::*;
use virtio_iommu::{
    epoch::{Epoch, Fences},
    spec::{Gpa, Iova, IovaRange},
    table::{LockedTable, MapError, Mapping, MappingTable, Perms, RadixTable, Removed, UnmapError},
};

use iommu_shootout::tables::{BareRadix, MutexTable, Scope, Shape};

use super::*;

const PAGE: u64 = 4096;

/// Mappings by first address; every question is answered by looking at all of them.
#[derive(Default)]
struct Oracle(BTreeMap<u64, Mapping>);

impl Oracle {
    fn map(&mut self, mapping: &Mapping) -> Result<(), MapError> {
        let range = mapping.range;
        if self.0.values().any(|other| other.range.overlaps(&range)) {
            return Err(MapError::Overlap { range });
        }
        self.0.insert(range.start(), *mapping);
        Ok(())
    }

    fn unmap(&mut self, range: IovaRange) -> Result<Removed, UnmapError> {
        if self.0.values().any(|other| other.range.overlaps(&range) && !range.covers(&other.range)) {
            return Err(UnmapError::Split { range });
        }
        let mut removed = Removed::default();
        self.0.retain(|_, other| {
            let goes = range.covers(&other.range);
            removed.mappings += u64::from(goes);
            removed.bytes += if goes { other.range.len().unwrap() } else { 0 };
            !goes
        });
        Ok(removed)
    }

    fn translate(&self, iova: u64) -> Option<(u64, Perms)> {
        let mapping = self.0.values().find(|mapping| mapping.range.contains(iova))?;
        Some((mapping.gpa.0 + (iova - mapping.range.start()), mapping.perms))
    }
}

#[derive(Clone, Debug)]
enum Op {
    Map(u64, u64, u64, u32),
    Unmap(u64, u64),
    Translate(u64),
}

/// Pages cluster at both sides of the places where tables of each level meet.
fn page() -> impl Strategy<Value = u64> {
    (prop_oneof![Just(0u64), Just(512), Just(512 * 512), Just(1 << 27)], 0u64..24)
        .prop_map(|(base, offset)| (base + offset).saturating_sub(12))
}

fn address() -> impl Strategy<Value = u64> {
    (page(), prop_oneof![3 => Just(0), 1 => 0u64..PAGE]).prop_map(|(page, at)| page * PAGE + at)
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (page(), 1u64..9, 0u64..1 << 30, 0u32..8).prop_map(|(page, pages, gpa, flags)| Op::Map(page, pages, gpa, flags)),
        3 => (page(), 1u64..9).prop_map(|(page, pages)| Op::Unmap(page * PAGE, (page + pages) * PAGE - 1)),
        1 => (address(), address()).prop_map(|(a, b)| Op::Unmap(a.min(b), a.max(b))),
        1 => Just(Op::Unmap(0, u64::MAX)),
        4 => address().prop_map(Op::Translate),
    ]
}

fn agrees<T: Shape>(ops: &[Op]) -> Result<(), TestCaseError> {
    let epoch = Epoch::new(Fences::Symmetric);
    let participant = epoch.register().unwrap();
    let (table, mut oracle) = (T::make(&epoch), Oracle::default());
    for op in ops {
        let guard = participant.pin();
        match *op {
            Op::Map(page, pages, gpa, flags) => {
                let pages = if T::SCOPE == Scope::Granules { 1 } else { pages };
                let range = IovaRange::with_len(page * PAGE, pages * PAGE).unwrap();
                let mapping = Mapping { range, gpa: Gpa(gpa * PAGE), perms: Perms::from_flags(flags) };
                prop_assert_eq!(table.map(&guard, &mapping), oracle.map(&mapping));
            }
            Op::Unmap(start, end) => {
                let range = IovaRange::new(start, end).unwrap();
                prop_assert_eq!(table.unmap(&guard, range), oracle.unmap(range));
            }
            Op::Translate(at) => {
                let found = table.translate(&guard, Iova(at)).map(|found| (found.gpa.0, found.perms));
                prop_assert_eq!(found, oracle.translate(at));
            }
        }
    }
    let mut left = Vec::new();
    table.for_each(&participant.pin(), &mut |mapping| left.push(mapping));
    prop_assert_eq!(left, oracle.0.into_values().collect::<Vec<_>>());
    Ok(())
}

/// Many threads want the same pages: each page goes to exactly one, and each is removed by exactly one.
fn races<T: Shape + 'static>() {
    let epoch = Epoch::new(Fences::Symmetric);
    let table = Arc::new(T::make(&epoch));
    let all = |f: fn(&T, &virtio_iommu::epoch::Guard<'_>, u64) -> bool| {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let (table, participant) = (table.clone(), epoch.register().unwrap());
                thread::spawn(move || (0..600).filter(|&page| f(&table, &participant.pin(), page)).count())
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>()
    };
    for _ in 0..3 {
        assert_eq!(all(|table, guard, page| table.map(guard, &granule(page)).is_ok()), 600);
        assert_eq!(
            all(|table, guard, page| table.unmap(guard, granule(page).range).unwrap().mappings == 1),
            600
        );
    }
}

fn granule(page: u64) -> Mapping {
    Mapping {
        range: IovaRange::with_len(page * PAGE, PAGE).unwrap(),
        gpa: Gpa(page * PAGE),
        perms: Perms::RW,
    }
}

macro_rules! shapes {
    ($($name:ident: $shape:ty;)*) => {$(
        mod $name {
            use super::*;

            proptest! {
                #![proptest_config(ProptestConfig::with_cases(100))]
                #[test]
                fn agrees_with_the_oracle(ops in prop::collection::vec(op(), 1..80)) {
                    agrees::<$shape>(&ops)?;
                }
            }

            #[test]
            fn gives_each_page_to_one_thread() {
                races::<$shape>();
            }
        }
    )*};
}

shapes! {
    radix: RadixTable;
    rwlock_btree: LockedTable;
    mutex_btree: MutexTable;
    bare_radix: BareRadix;
    dash: DashTable;
    skip: SkipTable;
    tree_index: TreeIndexTable;
    congee: CongeeTable;
}

#[test]
#[should_panic(expected = "is not one granule")]
fn a_map_of_pages_refuses_ranges() {
    let epoch = Epoch::new(Fences::Symmetric);
    let participant = epoch.register().unwrap();
    let range = IovaRange::with_len(0, 2 * PAGE).unwrap();
    let _ =
        BareRadix::make(&epoch).map(&participant.pin(), &Mapping { range, gpa: Gpa(0), perms: Perms::RW });
}
