//! Statistics of ranks, which no outlier and no shape of the noise can mislead.
//!
//! - [`signed_rank`]: Wilcoxon's signed-rank test and its interval for the centre of paired differences. Both are exact
//!   for every symmetric distribution, and differences between two sides whose order was drawn at random are symmetric
//!   when the sides do not differ, whatever the noise looks like.
//! - [`mann_whitney`]: whether one of two unpaired samples tends to be larger.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use statrs::distribution::{ContinuousCDF, Normal};

/// Most differences [`signed_rank`] takes: its exact distribution has n(n+1)/2 + 1 values.
pub const MAX_DIFFERENCES: usize = 1024;

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum RankError {
    /// NaN or infinite.
    #[error("value {index} is {value}, not a finite number")]
    NotFinite {
        /// Index of the value.
        index: usize,
        /// The value.
        value: f64,
    },
    /// Nothing to rank, or more than the exact distribution is computed for.
    #[error("{n} values: 1 to {MAX_DIFFERENCES} can be ranked")]
    Size {
        /// How many there are.
        n: usize,
    },
    /// No such level.
    #[error("the level of an interval is between 0 and 1, not {level}")]
    Level {
        /// The level asked for.
        level: f64,
    },
}

/// What [`signed_rank`] says of differences.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SignedRank {
    /// Hodges and Lehmann's estimate of the centre: the median of the means of all pairs.
    pub centre: f64,
    /// Lower end of the interval; minus infinity where so few differences reach no such level.
    pub lo: f64,
    /// Upper end of the interval.
    pub hi: f64,
    /// Two-sided p-value of a centre of zero; the interval holds zero exactly if this is above `1 − level`.
    pub p_value: f64,
}

/// Wilcoxon's signed-rank test of `differences` against zero, and the interval of their centre at `level`.
///
/// Differences of zero count for both sides, which can only widen the interval.
///
/// # Errors
/// [`RankError`] when there is nothing or too much to rank, a value is not finite, or there is no such level.
pub fn signed_rank(differences: &[f64], level: f64) -> Result<SignedRank, RankError> {
    if !(level > 0.0 && level < 1.0) {
        return Err(RankError::Level { level });
    }
    check(differences)?;
    let n = differences.len();
    if n > MAX_DIFFERENCES {
        return Err(RankError::Size { n });
    }
    // The statistic counts the pairs, each with itself included, whose mean is above zero (Tukey).
    let mut means = Vec::with_capacity(n * (n + 1) / 2);
    for (i, one) in differences.iter().enumerate() {
        means.extend(differences[i..].iter().map(|other| f64::midpoint(*one, *other)));
    }
    means.sort_unstable_by(f64::total_cmp);
    let at_most = distribution(n);
    let skipped = at_most.iter().take_while(|p| 2.0 * **p <= 1.0 - level).count();
    let ends = match skipped {
        0 => (f64::NEG_INFINITY, f64::INFINITY),
        k => (means[k - 1], means[means.len() - k]),
    };
    let p_value = p_value(&means, &at_most);
    Ok(SignedRank { centre: middle(&means), lo: ends.0, hi: ends.1, p_value })
}

/// The p-value of [`signed_rank`] alone.
///
/// # Errors
/// As [`signed_rank`].
pub fn signed_rank_p_value(differences: &[f64]) -> Result<f64, RankError> {
    check(differences)?;
    if differences.len() > MAX_DIFFERENCES {
        return Err(RankError::Size { n: differences.len() });
    }
    let means = differences
        .iter()
        .enumerate()
        .flat_map(|(i, one)| differences[i..].iter().map(|other| f64::midpoint(*one, *other)));
    Ok(p_value(&means.collect::<Vec<_>>(), &distribution(differences.len())))
}

fn p_value(means: &[f64], at_most: &[f64]) -> f64 {
    let below = means.iter().filter(|mean| **mean <= 0.0).count();
    let above = means.iter().filter(|mean| **mean >= 0.0).count();
    (2.0 * at_most[below.min(above)]).min(1.0)
}

thread_local! {
    /// Distributions by n: a comparison asks for the same few again and again.
    static DISTRIBUTIONS: RefCell<BTreeMap<usize, Rc<[f64]>>> = const { RefCell::new(BTreeMap::new()) };
}

fn distribution(n: usize) -> Rc<[f64]> {
    DISTRIBUTIONS.with_borrow_mut(|known| Rc::clone(known.entry(n).or_insert_with(|| cumulative(n).into())))
}

/// `P(W ≤ w)` for w from 0, where W is a sum of the ranks 1 to n, each taken with probability a half.
fn cumulative(n: usize) -> Vec<f64> {
    let largest = n * (n + 1) / 2;
    let mut probability = vec![0.0; largest + 1];
    probability[0] = 1.0;
    let mut reached = 0;
    for rank in 1..=n {
        reached += rank;
        for w in (0..=reached).rev() {
            let taken = if w >= rank { probability[w - rank] } else { 0.0 };
            probability[w] = f64::midpoint(probability[w], taken);
        }
    }
    let mut sum = 0.0;
    probability.iter_mut().for_each(|p| {
        sum += *p;
        *p = sum;
    });
    probability
}

/// What [`mann_whitney`] says of two samples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MannWhitney {
    /// U of the second sample: in how many pairs its value is the larger one, ties counted half.
    pub u: f64,
    /// `u` as a share of all pairs: a half where neither tends to be larger.
    pub larger: f64,
    /// Two-sided p-value, from the normal approximation with corrections for ties and continuity.
    pub p_value: f64,
}

/// Whether values of `head` tend to be larger or smaller than those of `base`.
///
/// # Errors
/// [`RankError`] when a sample is empty or a value is not finite.
pub fn mann_whitney(base: &[f64], head: &[f64]) -> Result<MannWhitney, RankError> {
    check(base)?;
    check(head)?;
    let mut all: Vec<(f64, bool)> = base.iter().map(|value| (*value, false)).collect();
    all.extend(head.iter().map(|value| (*value, true)));
    all.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
    let (mut rank_sum, mut ties, mut before) = (0.0, 0.0, 0.0);
    for tied in all.chunk_by(|a, b| a.0 == b.0) {
        let count = tied.len() as f64;
        let of_head = tied.iter().filter(|(_, head)| *head).count() as f64;
        rank_sum += of_head * (before + (count + 1.0) / 2.0);
        ties += count.powi(3) - count;
        before += count;
    }
    let (m, n) = (base.len() as f64, head.len() as f64);
    let u = rank_sum - n * (n + 1.0) / 2.0;
    let total = m + n;
    let variance = m * n / 12.0 * (total + 1.0 - ties / (total * (total - 1.0)));
    let distance = ((u - m * n / 2.0).abs() - 0.5).max(0.0);
    // All values equal: nothing tends to be larger.
    let p_value = if variance > 0.0 { 2.0 * Normal::standard().sf(distance / variance.sqrt()) } else { 1.0 };
    Ok(MannWhitney { u, larger: u / (m * n), p_value: p_value.min(1.0) })
}

fn check(values: &[f64]) -> Result<(), RankError> {
    if let Some((index, value)) = values.iter().copied().enumerate().find(|(_, value)| !value.is_finite()) {
        return Err(RankError::NotFinite { index, value });
    }
    if values.is_empty() {
        return Err(RankError::Size { n: values.len() });
    }
    Ok(())
}

/// The median of sorted values, of which there is at least one.
fn middle(sorted: &[f64]) -> f64 {
    let at = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[at] } else { f64::midpoint(sorted[at - 1], sorted[at]) }
}
