//! Intervals against worked examples.
//!
//! The expected ends come from a separate program that does not resample: it enumerates every multiset of n draws with
//! its multinomial weight, which gives the bootstrap distribution exactly, takes Student's quantile from numerical
//! integration of its density (1.94318 for 6 degrees at 95 %, 3.49948 for 7 at 99.5 %, as in printed tables) and reads
//! the bootstrap's ends off at Φ(−√(n/(n−1))·t). Beside each value stands which parent the outer end comes from.

use iommu_analysis::{StatsError, mean, paired_ratio};
use proptest::prelude::*;

/// Survival in days of the seven treated mice in Efron and Tibshirani, "An Introduction to the Bootstrap", table 2.1.
const MICE: [f64; 7] = [94.0, 197.0, 16.0, 38.0, 99.0, 141.0, 23.0];

/// Eight invented slices of a case that is about half its baseline.
const CASE: [f64; 8] = [10.0, 12.0, 9.0, 11.0, 10.5, 9.5, 13.0, 10.0];
const BASELINE: [f64; 8] = [20.0, 25.0, 17.0, 23.0, 20.0, 20.0, 25.0, 21.0];

fn near(found: f64, expected: f64, tolerance: f64) {
    assert!((found / expected - 1.0).abs() <= tolerance, "{found} is not within {tolerance} of {expected}");
}

#[test]
fn mean_of_the_mice() {
    let estimate = mean(&MICE, 0.90, 1).unwrap();
    near(estimate.value, 86.857_142_857, 1e-9);
    near(estimate.lo, 37.820_037_227, 1e-9); // Student; the bootstrap says 41.
    near(estimate.hi, 137.571_428_571, 0.015); // Bootstrap; Student says 135.894.
    assert_eq!((estimate.level, estimate.n), (0.90, 7));
    // At 99 % the ends lie 3·10⁻⁵ into the tails, where the distribution is sparse.
    let estimate = mean(&MICE, 0.99, 1).unwrap();
    near(estimate.lo, -6.701_618_169, 1e-9); // Student; the bootstrap says 18.
    near(estimate.hi, 181.0, 0.02); // Bootstrap; Student says 180.416.
}

#[test]
fn paired_ratio_of_about_a_half() {
    let estimate = paired_ratio(&CASE, &BASELINE, 0.90, 2).unwrap();
    near(estimate.value, 0.497_494_553, 1e-9);
    near(estimate.lo, 0.481_990_745, 1e-8); // Student; the bootstrap says 0.482653.
    near(estimate.hi, 0.513_635_262, 1e-3); // Bootstrap; Student says 0.513497.
    let estimate = paired_ratio(&CASE, &BASELINE, 0.99, 2).unwrap();
    near(estimate.lo, 0.469_236_011, 1e-8); // Student; the bootstrap says 0.476069.
    near(estimate.hi, 0.527_454_894, 1e-8); // Student; the bootstrap says 0.525942.
    assert_eq!((estimate.level, estimate.n), (0.99, 8));
}

#[test]
fn pairing_removes_what_both_cases_suffer() {
    // The machine slows down tenfold half-way; each pair still says two thirds.
    let baseline = [900.0, 909.0, 891.0, 900.0, 90.0, 90.9, 89.1, 90.0];
    let case: Vec<f64> = baseline.iter().map(|value| value * 2.0 / 3.0).collect();
    let ratio = paired_ratio(&case, &baseline, 0.99, 3).unwrap();
    near(ratio.lo, 2.0 / 3.0, 1e-9);
    near(ratio.hi, 2.0 / 3.0, 1e-9);
    let alone = mean(&case, 0.99, 3).unwrap();
    assert!(alone.hi - alone.lo > alone.value);
}

#[test]
fn the_seed_alone_decides() {
    assert_eq!(mean(&MICE, 0.99, 5), mean(&MICE, 0.99, 5));
    let (one, other) = (mean(&MICE, 0.9, 5).unwrap(), mean(&MICE, 0.9, 6).unwrap());
    near(one.hi, other.hi, 0.03);
}

#[test]
fn what_has_no_estimate_says_why() {
    assert_eq!(mean(&[1.0; 3], 0.99, 0), Err(StatsError::TooFewSamples { n: 3 }));
    assert!(matches!(mean(&[1.0, f64::NAN, 1.0, 1.0], 0.99, 0), Err(StatsError::NotFinite { index: 1, .. })));
    assert_eq!(mean(&MICE, 1.0, 0), Err(StatsError::Level { level: 1.0 }));
    assert_eq!(paired_ratio(&CASE, &MICE, 0.99, 0), Err(StatsError::Unpaired { case: 8, baseline: 7 }));
    let zero = [1.0, 0.0, 1.0, 1.0];
    assert_eq!(
        paired_ratio(&zero, &[1.0; 4], 0.99, 0),
        Err(StatsError::NotPositive { index: 1, value: 0.0 })
    );
    assert!(matches!(
        paired_ratio(&[f64::INFINITY, 1.0, 1.0, 1.0], &[1.0; 4], 0.99, 0),
        Err(StatsError::NotFinite { index: 0, .. })
    ));
}

/// Of 400 experiments with eight slices each, drawn from a skewed distribution with a known mean, four should miss it;
/// ten would be far out even for an honest 99 %.
#[test]
fn a_99_percent_interval_holds_the_truth_that_often() {
    use rand::{RngExt, SeedableRng};
    let mut random = rand_pcg::Pcg64Mcg::seed_from_u64(11);
    let missed = (0..400)
        .filter(|seed| {
            // A sum of three uniform draws to the power 1.5: a little skewed, as slices are. Mean 3 / 2.5.
            let mut slice = || (0..3).map(|_| random.random_range(0.0_f64..1.0).powf(1.5)).sum::<f64>();
            let slices: Vec<f64> = (0..8).map(|_| slice()).collect();
            let estimate = mean(&slices, 0.99, *seed).unwrap();
            !(estimate.lo..=estimate.hi).contains(&1.2)
        })
        .count();
    assert!(missed <= 10, "{missed} of 400 intervals miss the mean");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn the_interval_holds_the_estimate_and_is_finite(
        samples in prop::collection::vec(1e-3_f64..1e12, 4..40), seed: u64,
    ) {
        let estimate = mean(&samples, 0.99, seed).unwrap();
        prop_assert!(estimate.lo <= estimate.value && estimate.value <= estimate.hi);
        prop_assert!(estimate.lo.is_finite() && estimate.hi.is_finite());
    }

    #[test]
    fn swapping_case_and_baseline_inverts_the_ratio(
        pairs in prop::collection::vec((1.0_f64..1e9, 1.0_f64..1e9), 4..20), seed: u64,
    ) {
        let (case, baseline): (Vec<f64>, Vec<f64>) = pairs.into_iter().unzip();
        let ratio = paired_ratio(&case, &baseline, 0.99, seed).unwrap();
        let inverse = paired_ratio(&baseline, &case, 0.99, seed).unwrap();
        prop_assert!((ratio.value * inverse.value - 1.0).abs() < 1e-9);
    }
}
