//! Changes are found where they are, and hardly ever where there is none.

use crate::common::noise;
use iommu_dashboard::history::Point;
use iommu_dashboard::trend::{self, FINE, RECENT, SIGNIFICANCE, Verdict, changes, verdict};
use iommu_results::metric::Direction;
use rand::SeedableRng as _;
use rand_pcg::Pcg64Mcg;

/// Values about `level(index)` with a standard deviation of 1 %.
fn history(seed: u64, length: usize, level: impl Fn(usize) -> f64) -> Vec<Point> {
    let mut random = Pcg64Mcg::seed_from_u64(seed);
    let value = |run: usize, random: &mut Pcg64Mcg| level(run) * noise(random);
    (0..length).map(|run| Point { run: run as u32, value: value(run, &mut random), ci: None }).collect()
}

/// The most histories out of `n` that may show a change if the stated rate holds: exceeded once in 10,000 times.
fn most(n: u32) -> usize {
    let (mut at_most, mut probability, mut k) = (0.0, (1.0 - SIGNIFICANCE).powi(n as i32), 0_u32);
    loop {
        at_most += probability;
        if 1.0 - at_most < 1e-4 {
            return k as usize;
        }
        probability *= f64::from(n - k) / f64::from(k + 1) * SIGNIFICANCE / (1.0 - SIGNIFICANCE);
        k += 1;
    }
}

#[test]
fn a_hundred_histories_without_a_change_show_none_beyond_the_stated_rate() {
    let alarmed =
        (0..100).filter(|seed| !changes(&history(*seed, 60, |_| 100.0)).unwrap().is_empty()).count();
    println!("{alarmed} of 100 histories of 60 values show a change, at most {} may", most(100));
    assert!(alarmed <= most(100), "{alarmed}");
    let alarmed =
        (0..100).filter(|seed| !changes(&history(*seed, 700, |_| 100.0)).unwrap().is_empty()).count();
    println!("{alarmed} of 100 histories of 700 values show a change");
    assert!(alarmed <= most(100), "{alarmed}");
}

#[test]
fn changes_are_found_at_their_place() {
    let mut chance = 0;
    for seed in 0..20 {
        let points = history(seed, 60, |run| {
            if run < 20 {
                100.0
            } else if run < 45 {
                110.0
            } else {
                104.0
            }
        });
        let mut found: Vec<_> = changes(&points).unwrap().iter().map(|change| change.index).collect();
        found.retain(|index| {
            let there = [20, 45].contains(index);
            chance += usize::from(!there);
            there
        });
        assert_eq!(found, [20, 45], "seed {seed}");
    }
    // Each of the three parts is a history in which nothing changed.
    assert!(chance <= most(60), "{chance} changes where there are none");
}

#[test]
fn a_change_of_three_percent_is_found_within_a_value() {
    let near = (0..40)
        .filter(|seed| {
            let points = history(*seed, 80, |run| if run < 50 { 100.0 } else { 103.0 });
            let found = changes(&points).unwrap();
            found.iter().any(|change| change.index.abs_diff(50) <= 1)
        })
        .count();
    assert!(near >= 36, "{near} of 40");
}

#[test]
fn long_histories_show_old_and_new_changes_at_their_place() {
    let length = 5 * FINE;
    let (old, new) = (length / 3, length - 40);
    for seed in 0..5 {
        let points = history(seed, length, |run| {
            if run < old {
                100.0
            } else if run < new {
                108.0
            } else {
                100.0
            }
        });
        let found: Vec<_> = changes(&points).unwrap().iter().map(|change| change.index).collect();
        assert_eq!(found, [old, new], "seed {seed}");
    }
}

#[test]
fn a_lone_outlier_is_no_change() {
    let points = history(3, 60, |run| if run == 30 { 300.0 } else { 100.0 });
    assert!(changes(&points).unwrap().is_empty());
}

#[test]
fn the_verdict_follows_the_direction_and_forgets_what_is_long_ago() {
    let step = |at: usize| changes(&history(1, 60, |run| if run < at { 100.0 } else { 120.0 })).unwrap();
    let recent = step(60 - RECENT + 2);
    assert_eq!(verdict(&recent, 60, Some(Direction::Lower)), Verdict::Worse);
    assert_eq!(verdict(&recent, 60, Some(Direction::Higher)), Verdict::Better);
    assert_eq!(verdict(&recent, 60, Some(Direction::Neither)), Verdict::Inconclusive);
    assert_eq!(verdict(&step(20), 60, Some(Direction::Lower)), Verdict::Same);
    assert_eq!(verdict(&[], 2 * trend::MIN_SEGMENT - 1, Some(Direction::Lower)), Verdict::Inconclusive);
    assert_eq!(verdict(&[], 2 * trend::MIN_SEGMENT, Some(Direction::Lower)), Verdict::Same);
}
