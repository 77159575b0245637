//! Where a history changed, and what the newest change means.
//!
//! Change points come from [`iommu_analysis::changepoint`]. Its work grows with the square of the history, so a long one
//! is searched twice: the newest [`FINE`] values as they are, and all values in [`BINS`] groups, whose medians say that
//! something changed and between which groups; then only the values around that place are looked at one by one. A change
//! that came and went within one group of the old part is therefore not seen.
//!
//! A history without a change shows one with a probability of at most [`SIGNIFICANCE`]; both searches together spend it.

use iommu_analysis::changepoint::{self, ChangePointError};

use iommu_results::metric::Direction;

use crate::history::Point;

/// Probability that a history in which nothing changed shows a change.
pub const SIGNIFICANCE: f64 = 0.01;
/// Values searched one by one.
pub const FINE: usize = 256;
/// Groups of a longer history.
pub const BINS: usize = 128;
/// A change this many values back, or fewer, decides the verdict.
pub const RECENT: usize = 20;
/// Fewest values on either side of a change.
pub const MIN_SEGMENT: usize = 3;

/// A change in a history.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Change {
    /// Index of the first value after it.
    pub index: usize,
    /// Median of the values between the change before this one and this one.
    pub before: f64,
    /// Median of the values from this one to the next.
    pub after: f64,
    /// Share of random orders that split as well.
    pub p_value: f64,
}

/// What the newest part of a history says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The last change is recent and for the better.
    Better,
    /// The last change is recent and for the worse.
    Worse,
    /// No recent change.
    Same,
    /// Too few values, or a figure of which neither more nor less is better.
    Inconclusive,
}

impl Verdict {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Better => "better",
            Self::Worse => "worse",
            Self::Same => "same",
            Self::Inconclusive => "inconclusive",
        }
    }
}

/// The changes of a history, oldest first. The same history gives the same changes.
///
/// # Errors
/// [`ChangePointError::NotFinite`], which no value of a valid run is.
pub fn changes(points: &[Point]) -> Result<Vec<Change>, ChangePointError> {
    let values: Vec<f64> = points.iter().map(|point| point.value).collect();
    if values.len() <= FINE {
        let found = search(&values, SIGNIFICANCE)?;
        return Ok(with_medians(&values, found.iter().map(|point| (point.index, point.p_value)).collect()));
    }
    let newest = values.len() - FINE;
    let mut found = coarse(&values, SIGNIFICANCE / 2.0)?;
    found.retain(|(index, _)| *index < newest);
    let fine = search(&values[newest..], SIGNIFICANCE / 2.0)?;
    found.extend(fine.iter().map(|point| (newest + point.index, point.p_value)));
    Ok(with_medians(&values, found))
}

/// Verdict on the newest part of a history of `length` values; inconclusive without a known direction.
pub fn verdict(changes: &[Change], length: usize, direction: Option<Direction>) -> Verdict {
    let Some(direction) = direction.filter(|_| length >= 2 * MIN_SEGMENT) else {
        return Verdict::Inconclusive;
    };
    let recent = changes.last().filter(|change| length - change.index <= RECENT);
    let Some(change) = recent else { return Verdict::Same };
    match (direction, change.after > change.before) {
        (Direction::Higher, true) | (Direction::Lower, false) => Verdict::Better,
        (Direction::Higher, false) | (Direction::Lower, true) => Verdict::Worse,
        (Direction::Neither, _) => Verdict::Inconclusive,
    }
}

fn search(values: &[f64], significance: f64) -> Result<Vec<changepoint::ChangePoint>, ChangePointError> {
    let options = changepoint::Options { min_segment: MIN_SEGMENT, significance, permutations: 999 };
    changepoint::change_points(values, &options, 1)
}

/// Index and p-value of the changes between groups, placed to the value.
fn coarse(values: &[f64], significance: f64) -> Result<Vec<(usize, f64)>, ChangePointError> {
    let size = values.len().div_ceil(BINS);
    let groups: Vec<f64> = values.chunks(size).map(median).collect();
    let found = search(&groups, significance)?;
    // The change is at the start of the group, in the group before it, or in this one: a group that is split has a
    // median of either side.
    let place = |point: &changepoint::ChangePoint| {
        let middle = point.index * size;
        let (start, end) = (middle.saturating_sub(size), (middle + size).min(values.len()));
        (start + best_split(&values[start..end], point.before, point.after), point.p_value)
    };
    Ok(found.iter().map(place).collect())
}

/// Where a window that begins at the level `before` and ends at `after` is split with the least distance from both.
fn best_split(window: &[f64], before: f64, after: f64) -> usize {
    let total: f64 = window.iter().map(|value| (value - after).abs()).sum();
    let (mut best, mut least, mut cost) = (0, total, total);
    for (at, value) in window.iter().enumerate() {
        cost += (value - before).abs() - (value - after).abs();
        if cost < least {
            (best, least) = (at + 1, cost);
        }
    }
    best
}

fn with_medians(values: &[f64], mut found: Vec<(usize, f64)>) -> Vec<Change> {
    found.sort_by_key(|(index, _)| *index);
    found.dedup_by_key(|(index, _)| *index);
    let change = |(at, &(index, p_value)): (usize, &(usize, f64))| {
        let start = if at == 0 { 0 } else { found[at - 1].0 };
        let end = found.get(at + 1).map_or(values.len(), |next| next.0);
        Change { index, before: median(&values[start..index]), after: median(&values[index..end]), p_value }
    };
    found.iter().enumerate().filter(|(_, (index, _))| (1..values.len()).contains(index)).map(change).collect()
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { f64::midpoint(sorted[middle - 1], sorted[middle]) }
}
