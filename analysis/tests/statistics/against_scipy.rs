//! Ranks, false discoveries, distances and paired ratios against what scipy says of the same samples.

use crate::fixtures::scipy;
use iommu_analysis::discovery::{adjusted, believed};
use iommu_analysis::distance::between;
use iommu_analysis::paired::{self, Block, PairedError};
use iommu_analysis::rank::{RankError, mann_whitney, signed_rank};
use iommu_results::Histogram;
use proptest::prelude::*;
use serde::Deserialize;

fn near(found: f64, expected: f64, tolerance: f64, what: &str) {
    assert!(
        (found - expected).abs() <= tolerance * expected.abs().max(1e-12),
        "{what}: {found}, not {expected}"
    );
}

#[derive(Deserialize)]
struct SignedRankCase {
    values: Vec<f64>,
    level: f64,
    p_value: f64,
    centre: f64,
    interval: [f64; 2],
}

#[test]
fn signed_rank_is_wilcoxons() {
    for case in scipy::<Vec<SignedRankCase>>("signed_rank") {
        let found = signed_rank(&case.values, case.level).unwrap();
        let what = format!("{} values", case.values.len());
        near(found.p_value, case.p_value, 1e-9, &what);
        near(found.centre, case.centre, 1e-9, &what);
        near(found.lo, case.interval[0], 1e-9, &what);
        near(found.hi, case.interval[1], 1e-9, &what);
    }
}

#[test]
fn too_few_differences_reach_no_level() {
    // Seven of one sign have p = 2 / 2^7 = 0.0156, eight 0.0078.
    let seven = signed_rank(&[1.0; 7], 0.99).unwrap();
    assert_eq!((seven.lo, seven.hi, seven.p_value), (f64::NEG_INFINITY, f64::INFINITY, 2.0 / 128.0));
    let eight = signed_rank(&[1.0; 8], 0.99).unwrap();
    assert_eq!((eight.lo, eight.hi, eight.p_value), (1.0, 1.0, 2.0 / 256.0));
    assert_eq!(signed_rank(&[0.0; 20], 0.99).unwrap().p_value, 1.0, "no difference is no evidence");
}

#[derive(Deserialize)]
struct MannWhitneyCase {
    base: Vec<f64>,
    head: Vec<f64>,
    u: f64,
    p_value: f64,
}

#[test]
fn mann_whitney_is_scipys_ties_included() {
    for case in scipy::<Vec<MannWhitneyCase>>("mann_whitney") {
        let found = mann_whitney(&case.base, &case.head).unwrap();
        near(found.u, case.u, 1e-12, "u");
        near(found.p_value, case.p_value, 1e-9, "p");
        let swapped = mann_whitney(&case.head, &case.base).unwrap();
        near(swapped.larger, 1.0 - found.larger, 1e-12, "swapped");
    }
    assert_eq!(mann_whitney(&[1.0; 9], &[1.0; 9]).unwrap().p_value, 1.0);
}

#[derive(Deserialize)]
struct DiscoveryCase {
    p_values: Vec<f64>,
    adjusted: Vec<f64>,
}

#[test]
fn adjusted_p_values_are_scipys() {
    for case in scipy::<Vec<DiscoveryCase>>("discovery") {
        for (found, expected) in adjusted(&case.p_values).into_iter().zip(case.adjusted) {
            near(found, expected, 1e-12, "adjusted p-value");
        }
    }
}

/// "the first four hypotheses are rejected" at 5 % (Benjamini and Hochberg, 1995, section 3.2).
#[test]
fn the_published_example_believes_four_of_fifteen() {
    let published = &scipy::<Vec<DiscoveryCase>>("discovery")[0].p_values;
    let found = believed(published, 0.05);
    assert_eq!(found.iter().position(|believed| !believed), Some(4));
    assert_eq!(found.iter().filter(|believed| **believed).count(), 4);
    assert_eq!(believed(&[f64::NAN, 0.001], 0.05), [false, true]);
    assert!(believed(&[], 0.05).is_empty());
}

#[derive(Deserialize)]
struct DistanceCase {
    base: Vec<(u64, u64)>,
    head: Vec<(u64, u64)>,
    wasserstein: f64,
    kolmogorov_smirnov: f64,
}

fn histogram(counts: &[(u64, u64)]) -> Histogram {
    let mut histogram = Histogram::new();
    counts.iter().for_each(|(value, count)| histogram.record_n(*value, *count));
    histogram
}

#[test]
fn distances_of_histograms_are_scipys() {
    for case in scipy::<Vec<DistanceCase>>("distances") {
        let found = between(&histogram(&case.base), &histogram(&case.head)).unwrap();
        near(found.wasserstein_ns, case.wasserstein, 1e-9, "W1");
        near(found.kolmogorov_smirnov, case.kolmogorov_smirnov, 1e-9, "KS");
    }
    assert_eq!(between(&Histogram::new(), &histogram(&[(1, 1)])), None);
}

#[derive(Deserialize)]
struct TrimmedCase {
    values: Vec<f64>,
    mean: f64,
    percentiles_95: [f64; 2],
}

/// One block whose log-ratio is `effect`.
fn block(effect: f64) -> Block {
    Block { base: [100.0, 100.0], head: [100.0 * effect.exp(), 100.0 * effect.exp()] }
}

/// scipy's plain percentiles are a little narrower than ours, which know how few the values are, and the exact interval may
/// lie outside both.
#[test]
fn the_ratio_is_the_trimmed_mean_and_its_interval_holds_scipys() {
    for case in scipy::<Vec<TrimmedCase>>("trimmed") {
        let blocks: Vec<Block> = case.values.iter().copied().map(block).collect();
        let found = paired::ratio(&blocks, 0.95, 1).unwrap();
        near(found.ratio.ln(), case.mean, 1e-9, "trimmed mean");
        let width = case.percentiles_95[1] - case.percentiles_95[0];
        let ours = [found.lo.ln(), found.hi.ln()];
        assert!(ours[0] <= case.percentiles_95[0] + 0.02 * width, "{ours:?} and {:?}", case.percentiles_95);
        assert!(ours[1] >= case.percentiles_95[1] - 0.02 * width, "{ours:?} and {:?}", case.percentiles_95);
        assert!(ours[1] - ours[0] <= 1.8 * width, "{ours:?} and {:?}", case.percentiles_95);
    }
}

#[test]
fn what_has_no_ratio_says_why() {
    let mut blocks = vec![block(0.0); 10];
    blocks[3].head[1] = 0.0;
    assert_eq!(paired::ratio(&blocks, 0.99, 1), Err(PairedError::NotPositive { index: 3, value: 0.0 }));
    blocks[3].head[1] = f64::NAN;
    assert!(matches!(paired::ratio(&blocks, 0.99, 1), Err(PairedError::NotPositive { index: 3, .. })));
    assert_eq!(paired::ratio(&[], 0.99, 1), Err(PairedError::Rank(RankError::Size { n: 0 })));
    assert_eq!(paired::ratio(&[block(0.0)], 0.0, 1), Err(PairedError::Rank(RankError::Level { level: 0.0 })));
}

#[test]
fn a_block_that_was_trampled_on_does_not_decide() {
    // With half as many, a resample may hold the outlier more often than is cut off, and the interval reaches far down.
    let mut blocks: Vec<Block> = (0..40).map(|i| block(0.03 + 0.001 * f64::from(i % 5))).collect();
    let clean = paired::ratio(&blocks, 0.99, 1).unwrap();
    blocks[7].base = [9000.0, 7000.0];
    let trampled = paired::ratio(&blocks, 0.99, 1).unwrap();
    assert!(clean.lo > 1.02 && trampled.lo > 1.02, "{clean:?} {trampled:?}");
    assert!((trampled.ratio / clean.ratio - 1.0).abs() < 0.002);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn swapping_the_builds_inverts_the_ratio(
        effects in prop::collection::vec((0.5_f64..2.0, 0.5_f64..2.0, 0.5_f64..2.0, 0.5_f64..2.0), 1..40), seed: u64,
    ) {
        let blocks: Vec<Block> =
            effects.into_iter().map(|(a, b, c, d)| Block { base: [a, b], head: [c, d] }).collect();
        let swapped: Vec<Block> =
            blocks.iter().map(|block| Block { base: block.head, head: block.base }).collect();
        let (one, other) = (paired::ratio(&blocks, 0.9, seed).unwrap(), paired::ratio(&swapped, 0.9, seed).unwrap());
        prop_assert!((one.ratio * other.ratio - 1.0).abs() < 1e-9);
        prop_assert!((one.p_value - other.p_value).abs() < 1e-12);
        prop_assert!(one.lo <= one.ratio && one.ratio <= one.hi && one.noise_floor >= 0.0);
        // The test and its interval say the same: the interval can only be wider.
        prop_assert!(one.p_value <= 0.1 || (one.lo <= 1.0 && 1.0 <= one.hi));
        prop_assert_eq!(one, paired::ratio(&blocks, 0.9, seed).unwrap());
        // Making head dearer moves everything along.
        let dearer: Vec<Block> =
            blocks.iter().map(|block| Block { head: block.head.map(|value| value * 1.03), ..*block }).collect();
        let (moved, again) =
            (paired::scaled(&one, &blocks, 1.03).unwrap(), paired::ratio(&dearer, 0.9, seed).unwrap());
        for (found, expected) in [
            (moved.ratio, again.ratio), (moved.lo, again.lo), (moved.hi, again.hi),
            (moved.noise_floor, again.noise_floor), (moved.p_value, again.p_value), (moved.larger, again.larger),
            (moved.head, again.head), (moved.base, again.base),
        ] {
            prop_assert!(found == expected || (found / expected - 1.0).abs() < 1e-9, "{:?} {:?}", moved, again);
        }
    }

    #[test]
    fn believing_more_needs_smaller_p_values(p in prop::collection::vec(0.0_f64..1.0, 1..30)) {
        let all = adjusted(&p);
        for (one, a) in p.iter().zip(&all) {
            prop_assert!(*a >= one * (1.0 - 1e-12) && *a <= 1.0);
            for (other, b) in p.iter().zip(&all) {
                prop_assert!(one > other || a <= b);
            }
        }
    }
}
