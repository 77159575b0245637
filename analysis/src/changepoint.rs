//! Change points of a history: where a figure that was measured again and again moved for good.
//!
//! E-divisive (Matteson and James, "A Nonparametric Approach for Multiple Change Point Analysis of Multivariate Data",
//! JASA 109, 2014): a history is split where the energy distance between the values before and after is largest, the
//! split is kept if a permutation test says that an arbitrary order of the same values hardly ever splits that well, and
//! both halves are looked at in turn. It assumes nothing about the noise but that it has a mean, so a lone outlier is no
//! change.
//!
//! The energy statistic of m values `x` before and n values `y` after is, with exponent 1,
//!
//! `Q = mn/(m+n) · (2·mean|xᵢ − yⱼ| − mean|xᵢ − xₖ| − mean|yⱼ − yₖ|)`, means over distinct pairs.
//!
//! A change point is a hint where to look, never a verdict: it says when, not why. Verdicts come from paired
//! measurements.

use rand::{SeedableRng, seq::SliceRandom};
use rand_pcg::Pcg64Mcg;

/// How [`change_points`] searches.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// Fewest values on either side of a change; at least 2.
    pub min_segment: usize,
    /// A split is kept when fewer than this share of random orders split as well; between 0 and 1.
    pub significance: f64,
    /// Random orders tried for each split; the smallest reachable p-value is 1 / (permutations + 1).
    pub permutations: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self { min_segment: 3, significance: 0.01, permutations: 999 }
    }
}

/// A place where the history moved.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ChangePoint {
    /// Index of the first value after the change.
    pub index: usize,
    /// Median of the values since the change point before it, or since the beginning.
    pub before: f64,
    /// Median of the values up to the next change point, or to the end.
    pub after: f64,
    /// Share of random orders that split as well.
    pub p_value: f64,
    /// The energy statistic Q of the split when it was found.
    pub energy: f64,
}

impl ChangePoint {
    /// `after / before`, or `None` where either is not above zero.
    pub fn ratio(&self) -> Option<f64> {
        (self.before > 0.0 && self.after > 0.0).then(|| self.after / self.before)
    }
}

/// Why a history cannot be searched.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ChangePointError {
    /// NaN or infinite.
    #[error("value {index} of the history is {value}, not a finite number: leave it out and say so")]
    NotFinite {
        /// Index of the value.
        index: usize,
        /// The value.
        value: f64,
    },
    /// A side of a change needs two values to have a spread.
    #[error("a segment of {found} values has no spread: min_segment is at least 2")]
    Segment {
        /// What was asked for.
        found: usize,
    },
    /// No such share, or one that so few permutations cannot reach.
    #[error(
        "a significance of {significance} cannot be reached with {permutations} permutations: \
         give one between 1 / (permutations + 1) and 1"
    )]
    Significance {
        /// What was asked for.
        significance: f64,
        /// Random orders a split.
        permutations: u32,
    },
}

/// The change points of a history in time order. Fewer than `2 * min_segment` values have none.
///
/// The same history, options and seed give the same answer.
///
/// ```
/// use iommu_analysis::changepoint::{Options, change_points};
/// let history = [10.1, 9.9, 10.0, 10.2, 9.8, 10.0, 12.1, 11.9, 12.0, 12.2, 11.8, 12.0];
/// let found = change_points(&history, &Options::default(), 1)?;
/// assert_eq!(found[0].index, 6);
/// assert_eq!((found[0].before, found[0].after), (10.0, 12.0));
/// # Ok::<(), iommu_analysis::changepoint::ChangePointError>(())
/// ```
///
/// # Errors
/// [`ChangePointError`] when a value is not finite or an option has no meaning.
pub fn change_points(
    values: &[f64],
    options: &Options,
    seed: u64,
) -> Result<Vec<ChangePoint>, ChangePointError> {
    check(values, options)?;
    let mut random = Pcg64Mcg::seed_from_u64(seed);
    let mut found: Vec<(usize, f64, f64)> = Vec::new();
    // Depth first, left before right: the order of the draws is part of what the seed decides.
    let mut segments = vec![(0, values.len())];
    while let Some((start, end)) = segments.pop() {
        let segment = &values[start..end];
        let Some(split) = best_split(segment, options.min_segment) else { continue };
        let p_value = p_value(segment, split.energy, options, &mut random);
        if p_value > options.significance {
            continue;
        }
        let index = start + split.at;
        found.push((index, p_value, split.energy));
        segments.push((index, end));
        segments.push((start, index));
    }
    found.sort_by_key(|(index, ..)| *index);
    Ok(with_medians(values, &found))
}

fn check(values: &[f64], options: &Options) -> Result<(), ChangePointError> {
    let &Options { min_segment, significance, permutations } = options;
    if let Some((index, value)) = values.iter().copied().enumerate().find(|(_, value)| !value.is_finite()) {
        return Err(ChangePointError::NotFinite { index, value });
    }
    if min_segment < 2 {
        return Err(ChangePointError::Segment { found: min_segment });
    }
    let reachable = 1.0 / (f64::from(permutations) + 1.0);
    if !(significance >= reachable && significance < 1.0) {
        return Err(ChangePointError::Significance { significance, permutations });
    }
    Ok(())
}

/// Where a segment splits best.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Split {
    /// Length of the left part.
    at: usize,
    /// Its statistic Q.
    energy: f64,
}

/// The split with the largest Q, the first one among equals; `None` where there is no room for two segments or all
/// values are equal.
fn best_split(values: &[f64], min_segment: usize) -> Option<Split> {
    let n = values.len();
    if n < 2 * min_segment {
        return None;
    }
    let distances_to = |one: f64, others: &[f64]| others.iter().map(|other| (one - other).abs()).sum::<f64>();
    let mut right: f64 = (0..n).map(|i| distances_to(values[i], &values[i + 1..])).sum();
    let (mut left, mut across) = (0.0_f64, 0.0_f64);
    let mut best: Option<Split> = None;
    for at in 1..n {
        // The value at − 1 moves from the right part to the left one.
        let moved = values[at - 1];
        let (to_left, to_right) =
            (distances_to(moved, &values[..at - 1]), distances_to(moved, &values[at..]));
        left += to_left;
        right -= to_right;
        across += to_right - to_left;
        if at < min_segment || n - at < min_segment {
            continue;
        }
        let energy = energy(at, n - at, across, left, right);
        if energy > best.map_or(0.0, |split| split.energy) {
            best = Some(Split { at, energy });
        }
    }
    // Rounding leaves about this much of equal values.
    let noise = values.iter().fold(0.0_f64, |sum, value| sum + value.abs()) * f64::EPSILON * n as f64;
    best.filter(|split| split.energy > noise)
}

/// Q from the sums of distances across and within the parts.
fn energy(m: usize, n: usize, across: f64, left: f64, right: f64) -> f64 {
    let (m, n) = (m as f64, n as f64);
    let pairs = |count: f64| count * (count - 1.0) / 2.0;
    m * n / (m + n) * (2.0 * across / (m * n) - left / pairs(m) - right / pairs(n))
}

/// Share of random orders whose best split has at least this energy, the order at hand counted among them. Stops early
/// once the share cannot become significant any more.
fn p_value(values: &[f64], energy: f64, options: &Options, random: &mut Pcg64Mcg) -> f64 {
    let total = f64::from(options.permutations) + 1.0;
    let mut shuffled = values.to_vec();
    let mut as_good = 1.0_f64;
    for tried in 1..=options.permutations {
        shuffled.shuffle(random);
        let other = best_split(&shuffled, options.min_segment).map_or(0.0, |split| split.energy);
        // The same sums in another order round differently.
        if other >= energy * (1.0 - 1e-9) {
            as_good += 1.0;
            if as_good / total > options.significance {
                return as_good / (f64::from(tried) + 1.0);
            }
        }
    }
    as_good / total
}

fn with_medians(values: &[f64], found: &[(usize, f64, f64)]) -> Vec<ChangePoint> {
    let start_of = |i: usize| if i == 0 { 0 } else { found[i - 1].0 };
    let end_of = |i: usize| found.get(i + 1).map_or(values.len(), |next| next.0);
    let point = |(i, &(index, p_value, energy)): (usize, &(usize, f64, f64))| ChangePoint {
        index,
        before: median(&values[start_of(i)..index]),
        after: median(&values[index..end_of(i)]),
        p_value,
        energy,
    };
    found.iter().enumerate().map(point).collect()
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { f64::midpoint(sorted[middle - 1], sorted[middle]) }
}
