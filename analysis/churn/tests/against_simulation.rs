//! The one-pass curve and the distances against brute force: an LRU cache of each capacity, simulated.

use std::collections::HashSet;

use iommu_churn::{Event, MissRatioCurve, Rate, Reuse, ReuseDistances, Shards, WorkingSet};
use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

/// Misses by accesses of a fully associative LRU cache of `capacity` entries.
fn simulate(events: &[Event], capacity: usize) -> f64 {
    // Most recently used last.
    let mut cache: Vec<u64> = Vec::new();
    let (mut accesses, mut misses) = (0u64, 0u64);
    for event in events {
        match *event {
            Event::Access(page) => {
                accesses += 1;
                match cache.iter().rposition(|cached| *cached == page) {
                    Some(at) => _ = cache.remove(at),
                    None => {
                        misses += 1;
                        if cache.len() == capacity && capacity != 0 {
                            cache.remove(0);
                        }
                    }
                }
                if capacity != 0 {
                    cache.push(page);
                }
            }
            Event::Invalidate(page) => cache.retain(|cached| *cached != page),
            Event::Flush => cache.clear(),
        }
    }
    misses as f64 / accesses.max(1) as f64
}

fn exact(events: &[Event]) -> MissRatioCurve {
    let mut distances = ReuseDistances::new();
    for event in events {
        distances.event(*event);
    }
    MissRatioCurve::exact(distances.histogram())
}

fn shards(events: &[Event], rate: Rate, seed: u64) -> MissRatioCurve {
    let mut shards = Shards::new(rate, seed).unwrap();
    events.iter().for_each(|event| shards.event(*event));
    shards.curve()
}

const ACCESSES: usize = 40_000;
const PAGES: u64 = 1_000;

/// Pages by rank, the first the most popular: P(rank) ~ 1 / rank^skew.
fn zipf(random: &mut Pcg64Mcg, pages: u64, skew: f64, count: usize) -> Vec<u64> {
    let mut sums = Vec::new();
    let mut sum = 0.0;
    for rank in 1..=pages {
        sum += (rank as f64).powf(-skew);
        sums.push(sum);
    }
    (0..count)
        .map(|_| {
            let at = random.random::<f64>() * sum;
            sums.partition_point(|below| *below < at) as u64
        })
        .collect()
}

fn accesses(pages: impl IntoIterator<Item = u64>) -> Vec<Event> {
    pages.into_iter().map(Event::Access).collect()
}

/// A receive ring: buffers in turn, each used a few times, unmapped and mapped again at a new address now and then.
fn ring(random: &mut Pcg64Mcg) -> Vec<Event> {
    let mut slots: Vec<u64> = (0..600).collect();
    let mut next = 600;
    let mut events = Vec::new();
    for turn in 0..ACCESSES / 3 {
        let at = turn % slots.len();
        events.extend([Event::Access(slots[at]); 3]);
        if random.random_range(0..4) == 0 {
            events.push(Event::Invalidate(slots[at]));
            slots[at] = next;
            next += 1;
        } else if random.random_range(0..3) == 0 {
            // Strict: the same address again.
            events.push(Event::Invalidate(slots[at]));
        }
    }
    events
}

/// Everything at once, invalidations of pages that are not there and flushes included.
fn mixed(random: &mut Pcg64Mcg) -> Vec<Event> {
    let popular = zipf(random, PAGES, 0.8, ACCESSES);
    let mut events = Vec::new();
    for (i, page) in popular.into_iter().enumerate() {
        events.push(match random.random_range(0..20) {
            0..=2 => Event::Invalidate(random.random_range(0..PAGES)),
            3..=8 => Event::Access(i as u64 % 700),
            _ => Event::Access(page),
        });
        if random.random_range(0..8_000) == 0 {
            events.push(Event::Flush);
        }
    }
    events
}

fn streams(seed: u64) -> Vec<(&'static str, Vec<Event>)> {
    let mut random = Pcg64Mcg::seed_from_u64(seed);
    let random = &mut random;
    vec![
        ("zipf 0.6", accesses(zipf(random, PAGES, 0.6, ACCESSES))),
        ("zipf 1.1", accesses(zipf(random, PAGES, 1.1, ACCESSES))),
        ("sequential", accesses((0..ACCESSES as u64).map(|i| i % PAGES))),
        ("uniform", accesses((0..ACCESSES).map(|_| random.random_range(0..PAGES)))),
        ("ring", ring(random)),
        ("mixed", mixed(random)),
    ]
}

/// Ten capacities, from one entry to more than there are pages.
const CAPACITIES: [usize; 10] = [1, 4, 16, 64, 128, 256, 512, 700, 999, 1_500];

#[test]
fn one_pass_gives_what_simulation_gives_at_ten_capacities() {
    let mut worst: f64 = 0.0;
    for seed in [1, 2] {
        for (name, events) in streams(seed) {
            let curve = exact(&events);
            for capacity in CAPACITIES {
                let (found, expected) = (curve.at(capacity as u64).modelled(), simulate(&events, capacity));
                worst = worst.max((found - expected).abs());
                assert!((found - expected).abs() < 1e-9, "{name} at {capacity}: {found} {expected}");
            }
        }
    }
    println!("largest difference {worst:e}");
}

#[test]
fn a_sequence_misses_always_or_only_at_first() {
    let curve = exact(&accesses((0..10_000).map(|i| i % 500)));
    assert_eq!(curve.at(499).modelled(), 1.0);
    assert_eq!(curve.at(500).modelled(), 0.05);
    assert_eq!(curve.saturates_at(), 500);
}

#[test]
fn strict_use_once_misses_at_every_capacity() {
    let events: Vec<Event> =
        (0..5_000u64).flat_map(|i| [Event::Access(i % 64), Event::Invalidate(i % 64)]).collect();
    let curve = exact(&events);
    assert!(CAPACITIES.iter().all(|capacity| curve.at(*capacity as u64).modelled() == 1.0));
}

/// Mean and largest difference of the sampled curve from the exact one at the ten capacities, scaled to the stream.
fn differences(events: &[Event], rate: Rate, seed: u64, pages: u64) -> (f64, f64) {
    let (sampled, exact) = (shards(events, rate, seed), exact(events));
    let all: Vec<f64> = (1..=10)
        .map(|i| {
            let capacity = pages * i / 10;
            (sampled.at(capacity).modelled() - exact.at(capacity).modelled()).abs()
        })
        .collect();
    (all.iter().sum::<f64>() / all.len() as f64, all.iter().copied().fold(0.0, f64::max))
}

#[test]
fn a_sample_keeps_its_error_bound() {
    const MANY: u64 = 40_000;
    let mut random = Pcg64Mcg::seed_from_u64(5);
    let zipf = zipf(&mut random, MANY, 0.8, 400_000);
    let plain = accesses(zipf.iter().copied());
    let churned: Vec<Event> = zipf
        .iter()
        .flat_map(|page| {
            let gone = (random.random_range(0..5) == 0).then_some(Event::Invalidate(*page));
            [Some(Event::Access(*page)), gone]
        })
        .flatten()
        .collect();
    for (name, events) in [("plain", &plain), ("with invalidations", &churned)] {
        for rate in [Rate::Fixed(0.1), Rate::Pages(4_000)] {
            let found: Vec<_> = (1..=8).map(|seed| differences(events, rate, seed, MANY)).collect();
            println!("{name} {rate:?}: {found:.4?}");
            let mean = found.iter().map(|(mean, _)| mean).sum::<f64>() / found.len() as f64;
            let largest = found.iter().map(|(_, largest)| *largest).fold(0.0, f64::max);
            assert!(mean < 0.02 && largest < 0.08, "{name} {rate:?}: mean {mean}, largest {largest}");
        }
    }
}

/// The place of a page by going back through the stream: only without invalidations.
fn distance_by_hand(pages: &[u64], at: usize) -> Reuse {
    match pages[..at].iter().rposition(|page| *page == pages[at]) {
        None => Reuse::First,
        Some(then) => Reuse::Distance(pages[then + 1..at].iter().collect::<HashSet<_>>().len() as u64),
    }
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        12 => (0..24u64).prop_map(Event::Access),
        5 => (0..24u64).prop_map(Event::Invalidate),
        1 => Just(Event::Flush),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn distances_are_those_counted_by_hand(pages in proptest::collection::vec(0..40u64, 0..300)) {
        let mut distances = ReuseDistances::new();
        for at in 0..pages.len() {
            prop_assert_eq!(distances.access(pages[at]), distance_by_hand(&pages, at), "access {}", at);
        }
    }

    #[test]
    fn every_capacity_is_as_simulated(events in proptest::collection::vec(event(), 1..300)) {
        let curve = exact(&events);
        for capacity in 0..26 {
            let found = curve.at(capacity).modelled();
            let expected = simulate(&events, capacity as usize);
            prop_assert!((found - expected).abs() < 1e-9, "{} entries: {} {}", capacity, found, expected);
        }
    }

    #[test]
    fn working_sets_are_those_counted_by_hand(
        pages in proptest::collection::vec(0..40u64, 0..200),
        size in 1..30usize,
    ) {
        let mut set = WorkingSet::new(size as u64);
        let found: Vec<u64> = pages
            .iter()
            .filter_map(|page| set.event(Event::Access(*page)))
            .map(|window| window.unique_pages)
            .collect();
        let expected: Vec<u64> = pages
            .chunks_exact(size)
            .map(|window| window.iter().collect::<HashSet<_>>().len() as u64)
            .collect();
        prop_assert_eq!(found, expected);
    }
}
