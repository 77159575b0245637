//! The IOTLB alone, against a plain list of what it may hold.

use proptest::prelude::*;

use super::*;

const PAGE: u64 = 4096;
const MEG: u64 = 1 << 20;

fn iotlb(entries: usize, ways: usize) -> Iotlb {
    Iotlb::new(&IotlbOptions { entries, ways, page_sizes: PageSizes::ALL }).unwrap()
}

fn mapping(start: u64, len: u64, gpa: u64) -> Mapping {
    Mapping { range: IovaRange::with_len(start, len).unwrap(), gpa: Gpa(gpa), perms: Perms::RW }
}

#[test]
fn a_hit_gives_address_run_and_permissions() {
    let iotlb = iotlb(16, 4);
    let perms = Perms { read: true, write: false, mmio: true };
    let found = Mapping { perms, ..mapping(5 * PAGE, 3 * PAGE, 0x1_2345_6000) };
    iotlb.fill(5 * PAGE + 8, &found);
    let hit = iotlb.find(5 * PAGE + 0x123).unwrap();
    assert_eq!(hit, found.translation(5 * PAGE + 0x123));
    assert_eq!((hit.run_end, hit.perms), (8 * PAGE - 1, perms));
    assert_eq!(iotlb.find(6 * PAGE), None, "an entry is one page, however long the mapping");
    iotlb.fill(7 * PAGE, &found);
    assert_eq!(iotlb.find(8 * PAGE - 1), Some(found.translation(8 * PAGE - 1)));
}

#[test]
fn an_entry_has_the_largest_page_that_the_mapping_covers() {
    let iotlb = iotlb(16, 4);
    // From 1 MiB to 6 MiB: the pages of 2 MiB at 2 and 4 MiB lie within, those at 0 and 6 MiB do not.
    let found = mapping(MEG, 5 * MEG, 7 * PAGE);
    for at in [3 * MEG, MEG + PAGE] {
        iotlb.fill(at, &found);
    }
    assert_eq!(iotlb.find(2 * MEG), Some(found.translation(2 * MEG)));
    assert_eq!(iotlb.find(4 * MEG - 1), Some(found.translation(4 * MEG - 1)));
    assert_eq!(iotlb.find(MEG), None);
    // Whole 2 MiB pages that follow are known, the last MiB of a mapping that ends inside one is not.
    assert_eq!(iotlb.find(2 * MEG).unwrap().run_end, 6 * MEG - 1);
    let giant = mapping(1 << 30, 2 << 30, 1 << 40);
    iotlb.fill((1 << 30) + 5 * MEG, &giant);
    assert_eq!(iotlb.find((2 << 30) - 1), Some(giant.translation((2 << 30) - 1)));
    assert_eq!(iotlb.len(), 3);
}

#[test]
fn long_runs_are_cut_and_small_mappings_are_not_cached() {
    let iotlb = iotlb(16, 4);
    let long = mapping(PAGE, 1_000 * PAGE, 0);
    iotlb.fill(PAGE, &long);
    assert_eq!(iotlb.find(PAGE).unwrap().run_end, (2 + MAX_MORE) * PAGE - 1);
    iotlb.fill(1 << 30, &mapping(1 << 30, 100, 0));
    iotlb.fill(2 << 30, &mapping(2 << 30, PAGE, 1));
    assert_eq!((iotlb.len(), iotlb.counters().misses), (1, 3));
    let top = mapping(u64::MAX - (PAGE - 1), PAGE, 0);
    iotlb.fill(u64::MAX, &top);
    assert_eq!(iotlb.find(u64::MAX), Some(top.translation(u64::MAX)));
    assert_eq!(iotlb.counters().fills, 2);
}

#[test]
fn the_least_recently_used_entry_of_the_set_goes() {
    let iotlb = iotlb(4, 4);
    for page in 0..4 {
        iotlb.fill(page * PAGE, &mapping(page * PAGE, PAGE, 0));
    }
    assert!(iotlb.find(0).is_some());
    iotlb.fill(9 * PAGE, &mapping(9 * PAGE, PAGE, 0));
    let held: Vec<u64> = (0..10).filter(|page| iotlb.find(page * PAGE).is_some()).collect();
    assert_eq!(held, [0, 2, 3, 9]);
    let counters = iotlb.counters();
    assert_eq!((counters.fills, counters.evictions, counters.hits), (5, 1, 1 + 4));
    assert_eq!(counters.lookups, counters.hits + counters.misses);
}

#[test]
fn pages_a_power_of_two_apart_use_every_set() {
    for (entries, ways) in [(64, 1), (64, 4), (256, 1), (1024, 4), (4096, 2), (4096, 16)] {
        for shift in 0..22 {
            let iotlb = iotlb(entries, ways);
            for i in 0..entries as u64 {
                let at = (1 << 47) + (i << shift) * PAGE;
                iotlb.fill(at, &mapping(at, PAGE, 0));
            }
            let counters = iotlb.counters();
            assert_eq!(counters.evictions, 0, "{entries} entries, {ways} ways, 2^{shift} pages apart");
        }
    }
}

#[test]
fn a_port_follows_its_log_and_falls_behind_at_most_a_lap() {
    let (iotlb, log) = (iotlb(1024, 4), InvalidationLog::new());
    let fill = |pages: std::ops::Range<u64>| {
        pages.for_each(|page| iotlb.fill(page * PAGE, &mapping(page * PAGE, PAGE, 0)))
    };
    iotlb.enter(Some(&log));
    fill(0..300);
    for page in 0..LOG_RECORDS {
        log.append(mapping(page * PAGE, PAGE, 0).range);
    }
    iotlb.enter(Some(&log));
    assert_eq!((iotlb.len() as u64, iotlb.counters().invalidations), (300 - LOG_RECORDS, LOG_RECORDS));
    assert_eq!(iotlb.counters().flushes, 0);
    for _ in 0..=LOG_RECORDS {
        log.append(mapping(0, PAGE, 0).range);
    }
    iotlb.enter(Some(&log));
    assert_eq!((iotlb.len(), iotlb.counters().flushes), (0, 1));
    // A new lap is read like the first.
    fill(0..2);
    log.append(mapping(PAGE, PAGE, 0).range);
    iotlb.enter(Some(&log));
    assert_eq!((iotlb.find(0).is_some(), iotlb.find(PAGE)), (true, None));
    // Another domain, then none.
    iotlb.enter(Some(&InvalidationLog::new()));
    assert_eq!((iotlb.len(), iotlb.counters().flushes), (0, 2));
    fill(0..1);
    iotlb.enter(None);
    assert_eq!((iotlb.len(), iotlb.counters().flushes), (0, 3));
}

/// The step between the removal of a mapping and its record in the log, during which another queue's MAP is answered.
#[test]
fn a_map_that_overtakes_a_removal_drops_all_entries_of_what_it_replaces() {
    let old = mapping(16 * PAGE, 16 * PAGE, 0);
    for (cached, taken) in [(16, 16), (20, 20), (16, 31), (31, 16), (17, 30)] {
        let (iotlb, log, queue) = (iotlb(64, 4), InvalidationLog::new(), Unfinished::default());
        let other = mapping(64 * PAGE, PAGE, 0);
        iotlb.enter(Some(&log));
        iotlb.fill(cached * PAGE, &old);
        iotlb.fill(64 * PAGE, &other);
        // The page that is taken may be reached by an entry for another one, whose run goes on into it.
        let hit = iotlb.find(cached * PAGE).unwrap();
        assert_eq!(hit.run_end, old.range.end());
        queue.announce(&log, old.range);
        // The mapping is gone from the table now.
        assert!(overtakes(&log, mapping(taken * PAGE, PAGE, 0).range, [&queue].into_iter()));
        iotlb.enter(Some(&log));
        assert_eq!(iotlb.find(cached * PAGE), None, "page {cached}, while page {taken} is mapped anew");
        assert!(iotlb.find(64 * PAGE).is_some(), "an entry of another mapping stays");
    }
}

#[test]
fn a_map_overtakes_only_unfinished_removals_in_its_range_and_domain() {
    let (log, other_log) = (InvalidationLog::new(), InvalidationLog::new());
    let (idle, queue) = (Unfinished::default(), Unfinished::default());
    let map = |log: &InvalidationLog, first: u64, pages: u64| {
        overtakes(log, mapping(first * PAGE, pages * PAGE, 0).range, [&idle, &queue].into_iter())
    };
    let range = |first: u64, pages: u64| mapping(first * PAGE, pages * PAGE, 0).range;
    assert!(!map(&log, 0, 1 << 20));
    queue.announce(&log, range(10, 2));
    assert_eq!(
        [(9, 1), (9, 2), (10, 1), (11, 1), (12, 1), (0, 64)].map(|(first, n)| map(&log, first, n)),
        [false, true, true, true, false, true]
    );
    assert!(!map(&other_log, 10, 2));
    // The next request of the same batch, and one in another domain.
    queue.announce(&log, range(20, 1));
    queue.announce(&log, range(5, 1));
    assert_eq!([4, 5, 10, 20, 21].map(|page| map(&log, page, 1)), [false, true, true, true, false]);
    assert!(!map(&other_log, 5, 1));
    queue.announce(&other_log, range(40, 1));
    assert_eq!([&log, &other_log].map(|log| map(log, 40, 1)), [true, true]);
    queue.clear();
    assert_eq!([&log, &other_log].map(|log| map(log, 0, 64)), [false, false]);
    queue.announce(&other_log, range(u64::MAX >> 12, 1));
    assert_eq!([&log, &other_log].map(|log| map(log, u64::MAX >> 12, 1)), [false, true]);
}

#[test]
fn shapes_that_make_no_sense_are_refused() {
    let shape = |entries, ways| IotlbOptions { entries, ways, ..IotlbOptions::default() }.check();
    assert_eq!(shape(64, 3), Err(IotlbError::Ways { ways: 3 }));
    assert_eq!(shape(2, 4), Err(IotlbError::Entries { entries: 2, ways: 4 }));
    assert_eq!(shape(96, 4), Err(IotlbError::Entries { entries: 96, ways: 4 }));
    assert_eq!(shape(1 << 25, 4), Err(IotlbError::Entries { entries: 1 << 25, ways: 4 }));
    let none = IotlbOptions { page_sizes: PageSizes::of(&[]), ..IotlbOptions::default() };
    assert_eq!(none.check(), Err(IotlbError::NoPageSize));
    assert_eq!(shape(16, 16), Ok(()));
}

#[derive(Clone, Debug)]
enum Op {
    Look(u64),
    Unmap(u64, u64),
}

proptest! {
    /// Mappings of 1 to 600 pages at multiples of 600 pages; each look-up that misses is filled as a port would. Whatever
    /// hits must be what the mapping says, and nothing may hit that has been unmapped.
    #[test]
    fn a_hit_is_what_the_table_would_say(
        ops in proptest::collection::vec(
            prop_oneof![
                6 => (0..8 * 600u64).prop_map(Op::Look),
                1 => (0..8u64, 1..=8u64).prop_map(|(first, count)| Op::Unmap(first, count)),
            ],
            1..400,
        ),
        lens in proptest::array::uniform8(1..=600u64),
        shape in prop_oneof![Just((1, 1)), Just((4, 2)), Just((64, 4)), Just((64, 16))],
    ) {
        let (iotlb, log) = (iotlb(shape.0, shape.1), InvalidationLog::new());
        let mut table: Vec<Option<Mapping>> = (0..8)
            .map(|i| Some(mapping(i * 600 * PAGE, lens[i as usize] * PAGE, (i * 1_000 + 77) * PAGE)))
            .collect();
        for op in ops {
            match op {
                Op::Look(page) => {
                    let iova = page * PAGE + page % PAGE;
                    let live = table[page as usize / 600].filter(|live| live.range.contains(iova));
                    iotlb.enter(Some(&log));
                    match (iotlb.find(iova), live) {
                        (Some(hit), Some(live)) => {
                            let expected = live.translation(iova);
                            prop_assert_eq!((hit.gpa, hit.perms), (expected.gpa, expected.perms));
                            prop_assert!(iova <= hit.run_end && hit.run_end <= expected.run_end);
                        }
                        (Some(hit), None) => prop_assert!(false, "{:#x} is gone, yet {:?}", iova, hit),
                        (None, Some(live)) => iotlb.fill(iova, &live),
                        (None, None) => iotlb.missed(),
                    }
                }
                Op::Unmap(first, count) => {
                    let last = (first + count).min(8);
                    (first..last).for_each(|i| table[i as usize] = None);
                    log.append(mapping(first * 600 * PAGE, (last - first) * 600 * PAGE, 0).range);
                }
            }
            prop_assert!(iotlb.len() <= shape.0);
        }
        let counters = iotlb.counters();
        prop_assert!(counters.fills >= iotlb.len() as u64 + counters.evictions);
    }
}
