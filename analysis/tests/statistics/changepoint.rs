//! Change points against scipy's distances, against exact least-squares segmentation, and against histories whose
//! changes are known because they were put there.

use crate::fixtures::scipy;
use iommu_analysis::changepoint::{ChangePointError, Options, change_points};
use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use serde::Deserialize;

#[derive(Deserialize)]
struct History {
    name: String,
    values: Vec<f64>,
    first_split: usize,
    energy: f64,
    least_squares: Vec<usize>,
    /// Of the parts that `least_squares` makes.
    medians: Vec<f64>,
}

fn histories() -> Vec<History> {
    scipy("change_points")
}

#[test]
fn the_first_split_and_its_energy_are_those_of_scipys_distances() {
    for history in histories() {
        let options = Options { min_segment: 2, ..Options::default() };
        let found = change_points(&history.values, &options, 1).unwrap();
        let first = found.iter().find(|point| point.index == history.first_split);
        let first = first.unwrap_or_else(|| panic!("{}: no split at {}", history.name, history.first_split));
        assert!((first.energy / history.energy - 1.0).abs() < 1e-9, "{}: {}", history.name, first.energy);
    }
}

/// Another method with another idea of a change, told how many there are, puts them at the same places, or nearly so
/// where the noise hides the place.
#[test]
fn least_squares_segmentation_agrees() {
    for history in histories() {
        let found = change_points(&history.values, &Options::default(), 1).unwrap();
        assert_eq!(found.len(), history.least_squares.len(), "{}: {found:?}", history.name);
        let allowed = if history.name == "skewed" { 4 } else { 0 };
        for (point, place) in found.iter().zip(&history.least_squares) {
            assert!(point.index.abs_diff(*place) <= allowed, "{}: {} and {place}", history.name, point.index);
        }
    }
}

#[test]
fn the_nile_changed_between_1898_and_1899() {
    let nile = histories().remove(0);
    let found = change_points(&nile.values, &Options::default(), 7).unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].index, found[0].p_value), (28, 0.001), "1871 + 28 = 1899");
    assert_eq!([found[0].before, found[0].after], nile.medians[..]);
}

fn noise(random: &mut Pcg64Mcg, n: usize) -> Vec<f64> {
    (0..n).map(|_| 100.0 * (1.0 + (0..4).map(|_| random.random_range(-0.01..0.01)).sum::<f64>())).collect()
}

/// Two per cent of false alarms would be twice the significance asked for.
#[test]
fn noise_alone_changes_as_rarely_as_asked_for() {
    let mut random = Pcg64Mcg::seed_from_u64(3);
    let options = Options { permutations: 199, ..Options::default() };
    let alarms = (0..600)
        .filter(|seed| !change_points(&noise(&mut random, 30), &options, *seed).unwrap().is_empty())
        .count();
    assert!(alarms <= 13, "{alarms} of 600 histories without a change have one");
}

#[test]
fn a_step_of_three_per_cent_is_found_where_it_is_and_an_outlier_is_not() {
    let mut random = Pcg64Mcg::seed_from_u64(4);
    let mut history = noise(&mut random, 40);
    history[10] = 300.0;
    assert_eq!(change_points(&history, &Options::default(), 1).unwrap(), []);
    history[25..].iter_mut().for_each(|value| *value *= 1.03);
    let found = change_points(&history, &Options::default(), 1).unwrap();
    assert_eq!(found.iter().map(|point| point.index).collect::<Vec<_>>(), [25]);
    let ratio = found[0].ratio().unwrap();
    assert!((1.02..1.04).contains(&ratio), "{ratio}");
}

#[test]
fn what_cannot_be_searched_says_why() {
    let options = Options::default();
    assert!(matches!(
        change_points(&[1.0, f64::NAN], &options, 0),
        Err(ChangePointError::NotFinite { index: 1, .. })
    ));
    assert_eq!(
        change_points(&[], &Options { min_segment: 1, ..options }, 0),
        Err(ChangePointError::Segment { found: 1 })
    );
    for significance in [0.0, 1.0, f64::NAN, 1e-4] {
        let refused = change_points(&[], &Options { significance, ..options }, 0);
        assert!(matches!(refused, Err(ChangePointError::Significance { .. })), "{significance}");
    }
    assert_eq!(change_points(&[], &options, 0), Ok(vec![]));
    assert_eq!(change_points(&[7.0; 50], &options, 0), Ok(vec![]), "equal values never change");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn segments_keep_their_least_length_and_the_seed_decides(
        values in prop::collection::vec(prop_oneof![Just(1.0_f64), Just(2.0), -5.0..5.0], 0..60), seed: u64,
    ) {
        let options = Options { permutations: 99, significance: 0.05, ..Options::default() };
        let found = change_points(&values, &options, seed).unwrap();
        let mut ends: Vec<usize> = found.iter().map(|point| point.index).collect();
        ends.push(values.len());
        let mut start = 0;
        for end in ends {
            prop_assert!(found.is_empty() || end - start >= options.min_segment);
            start = end;
        }
        prop_assert_eq!(found, change_points(&values, &options, seed).unwrap());
    }
}
