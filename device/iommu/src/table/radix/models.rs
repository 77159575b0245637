//! Models of every race, on the shipped code with a fan-out of two. `cargo xtask loom` runs them and
//! says how many executions each explored.

use std::sync::Arc;

use ::loom::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
};
use virtio_iommu_spec::{Gpa, Iova, IovaRange};

use super::*;
use crate::{
    epoch::{Fences, Participant, Patience},
    loom_model::{Tracked, bounded, model},
    table::Perms,
};

const PAGE: u64 = 4096;
const PATIENCE: Patience = Patience { spins: 0, yields: 1_000, naps: 0 };

fn pages(first: u64, count: u64) -> IovaRange {
    IovaRange::with_len(first * PAGE, count * PAGE).unwrap()
}

fn mapping(first: u64, count: u64, gpa_page: u64) -> Mapping {
    Mapping { range: pages(first, count), gpa: Gpa(gpa_page * PAGE), perms: Perms::RW }
}

/// A table of two levels of two entries: four pages.
fn world() -> (Epoch, Arc<RadixTable>) {
    let epoch = Epoch::new(Fences::Symmetric);
    let table = Arc::new(RadixTable::new(&epoch, 12, 14, &Budget::new(1 << 20)).unwrap());
    (epoch, table)
}

fn gpa(table: &RadixTable, me: &Participant, page: u64) -> Option<u64> {
    table.translate(&me.pin(), Iova(page * PAGE)).map(|found| found.gpa.0 / PAGE)
}

#[test]
fn of_two_maps_of_one_page_exactly_one_wins() {
    model(|| {
        let (epoch, table) = world();
        let (me, other) = (epoch.register().unwrap(), epoch.register().unwrap());
        let theirs = {
            let table = table.clone();
            thread::spawn(move || table.map(&other.pin(), &mapping(1, 1, 20)).is_ok())
        };
        let ours = table.map(&me.pin(), &mapping(1, 1, 10)).is_ok();
        let theirs = theirs.join().unwrap();
        assert!(ours ^ theirs, "ours {ours}, theirs {theirs}");
        assert_eq!(gpa(&table, &me, 1), Some(if ours { 10 } else { 20 }));
    });
}

#[test]
fn of_two_overlapping_maps_of_several_pages_exactly_one_wins_whole() {
    model(|| {
        let (epoch, table) = world();
        let (me, other) = (epoch.register().unwrap(), epoch.register().unwrap());
        let theirs = {
            let table = table.clone();
            thread::spawn(move || table.map(&other.pin(), &mapping(1, 3, 21)).is_ok())
        };
        let ours = table.map(&me.pin(), &mapping(0, 3, 10)).is_ok();
        let theirs = theirs.join().unwrap();
        assert!(ours ^ theirs, "ours {ours}, theirs {theirs}");
        let found: Vec<_> = (0..4).map(|page| gpa(&table, &me, page)).collect();
        let expected =
            if ours { [Some(10), Some(11), Some(12), None] } else { [None, Some(21), Some(22), Some(23)] };
        assert_eq!(found, expected);
    });
}

#[test]
fn a_failed_map_is_never_seen() {
    model(|| {
        let (epoch, table) = world();
        let (me, other) = (epoch.register().unwrap(), epoch.register().unwrap());
        table.map(&me.pin(), &mapping(2, 1, 30)).unwrap();
        let reader = {
            let table = table.clone();
            thread::spawn(move || {
                assert_eq!(gpa(&table, &other, 0), None);
                assert_eq!(gpa(&table, &other, 1), None);
            })
        };
        assert!(table.map(&me.pin(), &mapping(0, 3, 10)).is_err());
        reader.join().unwrap();
    });
}

#[test]
fn a_map_and_an_unmap_take_effect_in_one_order() {
    model(|| {
        let (epoch, table) = world();
        let (me, other) = (epoch.register().unwrap(), epoch.register().unwrap());
        let unmapped = {
            let table = table.clone();
            thread::spawn(move || table.unmap(&other.pin(), pages(0, 3)))
        };
        table.map(&me.pin(), &mapping(0, 3, 10)).unwrap();
        let removed = unmapped.join().unwrap().unwrap().mappings;
        let found: Vec<_> = (0..3).map(|page| gpa(&table, &me, page)).collect();
        let expected = if removed == 1 { [None; 3] } else { [Some(10), Some(11), Some(12)] };
        assert_eq!(found, expected);
    });
}

#[test]
fn a_mapping_of_several_pages_goes_at_once() {
    model(|| {
        let (epoch, table) = world();
        let (me, other) = (epoch.register().unwrap(), epoch.register().unwrap());
        table.map(&me.pin(), &mapping(0, 3, 10)).unwrap();
        let reader = {
            let table = table.clone();
            thread::spawn(move || {
                let first = gpa(&table, &other, 0);
                let last = gpa(&table, &other, 2);
                assert!(first.is_some() || last.is_none(), "page 0 was gone before page 2");
            })
        };
        assert_eq!(table.unmap(&me.pin(), pages(0, 3)).unwrap().mappings, 1);
        reader.join().unwrap();
    });
}

#[test]
fn of_two_unmaps_of_one_mapping_exactly_one_removes_it() {
    model(|| {
        let (epoch, table) = world();
        let (me, other) = (epoch.register().unwrap(), epoch.register().unwrap());
        table.map(&me.pin(), &mapping(1, 2, 10)).unwrap();
        let theirs = {
            let table = table.clone();
            thread::spawn(move || table.unmap(&other.pin(), pages(0, 4)).unwrap().mappings)
        };
        let ours = table.unmap(&me.pin(), pages(1, 2)).unwrap().mappings;
        assert_eq!(ours + theirs.join().unwrap(), 1);
    });
}

#[test]
fn two_overlapping_maps_and_an_unmap_have_an_order() {
    bounded(2, || {
        let (epoch, table) = world();
        let (me, second, third) =
            (epoch.register().unwrap(), epoch.register().unwrap(), epoch.register().unwrap());
        let mapped = {
            let table = table.clone();
            thread::spawn(move || table.map(&second.pin(), &mapping(1, 2, 20)).is_ok())
        };
        let removed = {
            let table = table.clone();
            thread::spawn(move || table.unmap(&third.pin(), pages(0, 4)).unwrap().mappings)
        };
        let ours = table.map(&me.pin(), &mapping(0, 2, 10)).is_ok();
        let theirs = mapped.join().unwrap();
        let removed = removed.join().unwrap();
        let left: Vec<_> = (0..4).map(|page| gpa(&table, &me, page)).collect();
        let live = match left[..] {
            [None, None, None, None] => 0,
            [Some(10), Some(11), None, None] if ours => 1,
            [None, Some(20), Some(21), None] if theirs => 1,
            _ => panic!("half a mapping: {left:?}"),
        };
        assert_eq!(u64::from(ours) + u64::from(theirs), removed + live);
        assert!(ours || theirs, "both failed");
    });
}

#[test]
fn a_live_mapping_is_found_while_its_table_is_replaced() {
    model(|| {
        let (epoch, table) = world();
        let (me, other) = (epoch.register().unwrap(), epoch.register().unwrap());
        table.map(&me.pin(), &mapping(0, 1, 10)).unwrap();
        let reader = {
            let table = table.clone();
            thread::spawn(move || assert_eq!(gpa(&table, &other, 0), Some(10)))
        };
        {
            let guard = me.pin();
            let slot = table.root.slot(0);
            let word = slot.load();
            let Entry::Table(node) = word.entry(&guard) else { unreachable!("page 0 has a table") };
            table.replace_node(&guard, slot, word, node);
        }
        reader.join().unwrap();
        assert_eq!(gpa(&table, &me, 0), Some(10));
    });
}

#[test]
fn a_map_survives_the_replacement_of_its_table() {
    model(|| {
        let (epoch, table) = world();
        let (me, other) = (epoch.register().unwrap(), epoch.register().unwrap());
        table.map(&me.pin(), &mapping(0, 1, 10)).unwrap();
        table.unmap(&me.pin(), pages(0, 1)).unwrap();
        let mapper = {
            let table = table.clone();
            thread::spawn(move || table.map(&other.pin(), &mapping(1, 1, 11)).unwrap())
        };
        table.prune_for_model(&me.pin());
        mapper.join().unwrap();
        assert_eq!((gpa(&table, &me, 0), gpa(&table, &me, 1)), (None, Some(11)));
    });
}

/// An endpoint translates and accesses a page that its owner unmaps and reuses; counts accesses that came too late.
fn accesses_after_unmap(wait: bool) -> u64 {
    let late = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let count = late.clone();
    model(move || {
        let (epoch, table) = world();
        let (me, other) = (epoch.register().unwrap(), epoch.register().unwrap());
        let reused = Arc::new(AtomicBool::new(false));
        table.map(&me.pin(), &mapping(1, 1, 10)).unwrap();
        let endpoint = {
            let (table, reused, late) = (table.clone(), reused.clone(), late.clone());
            thread::spawn(move || {
                let guard = other.pin();
                if table.translate(&guard, Iova(PAGE)).is_some() && reused.load(Ordering::Relaxed) {
                    late.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                }
            })
        };
        table.unmap(&me.pin(), pages(1, 1)).unwrap();
        if wait {
            me.synchronize(PATIENCE).unwrap();
        }
        reused.store(true, Ordering::Relaxed);
        endpoint.join().unwrap();
    });
    count.load(std::sync::atomic::Ordering::Relaxed)
}

#[test]
fn after_the_grace_period_nobody_uses_the_old_mapping() {
    assert_eq!(accesses_after_unmap(true), 0);
}

#[test]
fn without_the_grace_period_the_model_above_finds_late_accesses() {
    assert_ne!(accesses_after_unmap(false), 0);
}

/// The same with a page that loom tracks: what the endpoint does to it happens before its owner reuses it.
fn page_is_reused(live: Mapping) {
    model(move || {
        let (epoch, table) = world();
        let (me, other) = (epoch.register().unwrap(), epoch.register().unwrap());
        let page = Arc::new(Tracked::new(0));
        table.map(&me.pin(), &live).unwrap();
        let endpoint = {
            let (table, page) = (table.clone(), page.clone());
            thread::spawn(move || {
                for _ in 0..2 {
                    let guard = other.pin();
                    if table.translate(&guard, Iova(PAGE)).is_some() {
                        assert_eq!(page.read(), 0, "another owner's page");
                    }
                }
            })
        };
        table.unmap(&me.pin(), live.range).unwrap();
        me.synchronize(PATIENCE).unwrap();
        page.write(1);
        endpoint.join().unwrap();
    });
}

#[test]
fn accesses_to_a_page_happen_before_its_reuse() {
    page_is_reused(mapping(1, 1, 10));
}

#[test]
fn accesses_to_a_page_of_a_larger_mapping_happen_before_its_reuse() {
    page_is_reused(mapping(0, 3, 10));
}

#[test]
fn what_was_retired_outlives_every_guard_that_can_reach_it() {
    model(|| {
        let (epoch, table) = world();
        let (me, other) = (epoch.register().unwrap(), epoch.register().unwrap());
        let canary = Arc::new(Tracked::new(0));
        struct Canary(Arc<Tracked>);
        impl crate::epoch::Retire for Canary {
            fn reclaim(self: Box<Self>) {
                self.0.write(1);
            }
        }
        table.map(&me.pin(), &mapping(1, 1, 10)).unwrap();
        let endpoint = {
            let (table, canary) = (table.clone(), canary.clone());
            thread::spawn(move || {
                let guard = other.pin();
                if table.translate(&guard, Iova(PAGE)).is_some() {
                    assert_eq!(canary.read(), 0, "freed while it could be reached");
                }
            })
        };
        let guard = me.pin();
        table.unmap(&guard, pages(1, 1)).unwrap();
        guard.retire(Box::new(Canary(canary)));
        drop(guard);
        me.collect_for_model();
        endpoint.join().unwrap();
    });
}

/// A holder puts the object into a slot, takes it out and leaves; the other one leaves last and retires it. A reader
/// that comes after the scan must find the slot as the first one has left it.
#[test]
fn an_object_is_retired_after_all_that_its_holders_did_to_slots() {
    bounded(3, || {
        let (epoch, table) = world();
        let (me, helper, reader) =
            (epoch.register().unwrap(), epoch.register().unwrap(), epoch.register().unwrap());
        table.objects.fetch_add(1, Ordering::Relaxed);
        let object: &'static Shared = Box::leak(Shared::new(pages(0, 2), Gpa(10 * PAGE), Perms::RW));
        let helping = {
            let table = table.clone();
            thread::spawn(move || {
                let guard = helper.pin();
                let (slot, word) = (table.root.slot(0), Word::shared(object));
                assert!(slot.replace(Word::EMPTY, word) && slot.replace(word, Word::EMPTY));
                table.leave(&guard, object);
            })
        };
        let reading = {
            let table = table.clone();
            thread::spawn(move || {
                let guard = reader.pin();
                if let Entry::Shared(found) = table.root.slot(0).load().entry(&guard) {
                    assert_eq!(found.range(), pages(0, 2));
                }
            })
        };
        let guard = me.pin();
        table.leave(&guard, object);
        drop(guard);
        me.collect_for_model();
        helping.join().unwrap();
        reading.join().unwrap();
        assert_eq!(table.objects.load(Ordering::Relaxed), 0);
    });
}

/// Slots that hold an object, in a table of two levels.
fn slots_taken(table: &RadixTable, me: &Participant) -> usize {
    let guard = me.pin();
    let taken = |slot: &node::Slot| match slot.load().entry(&guard) {
        Entry::Table(child) => child.slots().iter().filter(|slot| slot.load().is_shared()).count(),
        Entry::Shared(_) => 1,
        Entry::Leaf { .. } | Entry::Empty => 0,
    };
    table.root.slots().iter().map(taken).sum()
}

/// A MAP that fails at its last page, while a thread that met it helps: the helper may take a slot after the owner has
/// cleared them all.
#[test]
fn of_a_failed_map_nothing_is_left_whoever_took_its_slots() {
    bounded(3, || {
        let (epoch, table) = world();
        let (me, other) = (epoch.register().unwrap(), epoch.register().unwrap());
        table.map(&me.pin(), &mapping(3, 1, 30)).unwrap();
        let owner = {
            let table = table.clone();
            thread::spawn(move || assert!(table.map(&other.pin(), &mapping(1, 3, 10)).is_err()))
        };
        // At its first slot, so that the two meet; the second one is what the helper may take too late.
        table.map(&me.pin(), &mapping(1, 1, 20)).unwrap();
        owner.join().unwrap();
        assert_eq!(slots_taken(&table, &me), 0, "a slot holds a mapping that never was");
        assert_eq!(table.objects.load(Ordering::Relaxed), 0, "an object was not retired");
        let found: Vec<_> = (0..4).map(|page| gpa(&table, &me, page)).collect();
        assert_eq!(found, [None, Some(20), None, Some(30)]);
    });
}
