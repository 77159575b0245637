//! Two builds measured in turn: the ratio of one metric with its interval, and what the metric does when nothing changed.
//!
//! The unit is a [`Block`]: four processes, two of each build, as base-head-head-base or head-base-base-head, which of
//! both a coin decides. A drift over the block cancels, and because of the coin the logarithms of the blocks' ratios are
//! symmetric around the true one, whatever the machine does. Everything here builds on that symmetry:
//!
//! - the **estimate** is the trimmed mean of the log-ratios, a fifth cut off at each end, so that a block which a
//!   neighbour trampled on does not decide;
//! - each end of the **interval** is the outer one of two: Wilcoxon's exact interval ([`crate::rank`]), which holds the
//!   truth as often as it says for every symmetric noise, and the expanded percentile interval of the trimmed mean under
//!   resampled blocks;
//! - the **noise floor** is what comparisons of equal builds of this length show: the log-ratios of each build's own two
//!   processes of a block, put into the same estimator with random signs. One in a hundred of them lies beyond it.

use rand::{Rng, RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use statrs::distribution::{ContinuousCDF, Normal};

use crate::rank::{self, RankError};
use crate::stats::student_quantile;
use iommu_results::metric::Direction;

/// Share cut off at each end of the log-ratios.
pub const TRIM: f64 = 0.2;

/// Resamples of the blocks.
const RESAMPLES: usize = 2_000;
/// Share of comparisons of equal builds that lies beyond the noise floor.
const BEYOND_FLOOR: f64 = 0.01;

/// What one metric was in one block: two processes of each build, in the order in which they ran.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Block {
    /// Of the build that is compared with.
    pub base: [f64; 2],
    /// Of the build in question.
    pub head: [f64; 2],
}

impl Block {
    /// `ln(head / base)`, the mean of both pairs.
    fn effect(&self) -> f64 {
        f64::midpoint(self.head[0].ln(), self.head[1].ln())
            - f64::midpoint(self.base[0].ln(), self.base[1].ln())
    }

    /// What the same difference of means would be between equal builds, judged by either build's own two processes: one
    /// value has twice the variance of a mean of two, hence the root.
    fn noise(&self) -> [f64; 2] {
        [self.base, self.head]
            .map(|[first, second]| (first.ln() - second.ln()) * std::f64::consts::FRAC_1_SQRT_2)
    }
}

/// How head compares with base in one metric.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratio {
    /// Typical value of base: the median of its processes.
    pub base: f64,
    /// Typical value of head.
    pub head: f64,
    /// head / base.
    pub ratio: f64,
    /// Lower end of the ratio's interval; 0 where so few blocks reach no such level.
    pub lo: f64,
    /// Upper end; infinite where so few blocks reach no such level.
    pub hi: f64,
    /// Blocks.
    pub n: usize,
    /// Exact two-sided p-value of a ratio of 1.
    pub p_value: f64,
    /// A comparison of equal builds of this length stays within `1 + noise_floor` and its inverse, 99 times in 100.
    pub noise_floor: f64,
    /// Second opinion: Mann and Whitney's share of pairs, not blocks, in which head is the larger one.
    pub larger: f64,
}

/// Why there is no ratio.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PairedError {
    /// No logarithm.
    #[error("block {index} has {value}; a ratio needs finite values above zero")]
    NotPositive {
        /// Index of the block.
        index: usize,
        /// The value.
        value: f64,
    },
    /// No ranks.
    #[error(transparent)]
    Rank(#[from] RankError),
}

/// Compares head with base; the interval is at `level`.
///
/// # Errors
/// [`PairedError`] when there is no block, a value is not finite and above zero, or there is no such level.
pub fn ratio(blocks: &[Block], level: f64, seed: u64) -> Result<Ratio, PairedError> {
    for (index, block) in blocks.iter().enumerate() {
        let mut values = block.base.iter().chain(&block.head).copied();
        if let Some(value) = values.find(|value| !(value.is_finite() && *value > 0.0)) {
            return Err(PairedError::NotPositive { index, value });
        }
    }
    let effects: Vec<f64> = blocks.iter().map(Block::effect).collect();
    let exact = rank::signed_rank(&effects, level)?;
    let mut random = Pcg64Mcg::seed_from_u64(seed);
    let estimate = trimmed_mean(&mut effects.clone());
    let resampled = resampled_interval(&effects, level, &mut random);
    let (base, head) = processes(blocks);
    let second = rank::mann_whitney(&base, &head)?;
    let noise: Vec<f64> = blocks.iter().flat_map(Block::noise).collect();
    Ok(Ratio {
        base: median(base),
        head: median(head),
        ratio: estimate.exp(),
        lo: exact.lo.min(resampled.0).min(estimate).exp(),
        hi: exact.hi.max(resampled.1).max(estimate).exp(),
        n: blocks.len(),
        p_value: exact.p_value,
        noise_floor: noise_floor(&noise, blocks.len(), &mut random).exp_m1(),
        larger: second.larger,
    })
}

/// What [`ratio`] says of the same blocks when everything of head is `factor` times as much. Estimate, interval and noise
/// floor only move along, so just the tests are made again.
///
/// # Errors
/// As [`ratio`].
pub fn scaled(known: &Ratio, blocks: &[Block], factor: f64) -> Result<Ratio, PairedError> {
    let effects: Vec<f64> = blocks.iter().map(|block| block.effect() + factor.ln()).collect();
    let (base, head) = processes(blocks);
    let head: Vec<f64> = head.iter().map(|value| value * factor).collect();
    Ok(Ratio {
        head: known.head * factor,
        ratio: known.ratio * factor,
        lo: known.lo * factor,
        hi: known.hi * factor,
        p_value: rank::signed_rank_p_value(&effects)?,
        larger: rank::mann_whitney(&base, &head)?.larger,
        ..*known
    })
}

/// Every process of base and of head.
fn processes(blocks: &[Block]) -> (Vec<f64>, Vec<f64>) {
    blocks.iter().flat_map(|block| block.base.into_iter().zip(block.head)).unzip()
}

/// How many values are cut off at each end of `n`.
fn cut(n: usize) -> usize {
    (n as f64 * TRIM) as usize
}

/// The mean of what is left of at least one value when a fifth is cut off at each end.
pub fn trimmed(values: &[f64]) -> f64 {
    trimmed_mean(&mut values.to_vec())
}

/// As [`trimmed`]; sorts the values.
fn trimmed_mean(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let kept = &values[cut(values.len())..values.len() - cut(values.len())];
    kept.iter().sum::<f64>() / kept.len() as f64
}

/// The expanded percentile interval (see [`crate::stats`]) of the trimmed mean.
fn resampled_interval(effects: &[f64], level: f64, random: &mut Pcg64Mcg) -> (f64, f64) {
    let n = effects.len();
    if n < 2 {
        return (f64::NEG_INFINITY, f64::INFINITY);
    }
    let mut sorted = effects.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let mut means: Vec<f64> = (0..RESAMPLES).map(|_| resampled_mean(&sorted, random)).collect();
    means.sort_unstable_by(f64::total_cmp);
    let widened = (n as f64 / (n as f64 - 1.0)).sqrt() * student_quantile(level, n);
    let tail = Normal::standard().cdf(-widened);
    let skip = ((tail * RESAMPLES as f64) as usize).min((RESAMPLES - 1) / 2);
    (means[skip], means[RESAMPLES - 1 - skip])
}

/// The trimmed mean of as many draws as there are values. Counting how often each sorted value was drawn saves sorting the
/// draws.
fn resampled_mean(sorted: &[f64], random: &mut Pcg64Mcg) -> f64 {
    let n = sorted.len();
    let mut drawn = vec![0_u16; n];
    for _ in 0..n {
        drawn[random.random_range(0..n)] += 1;
    }
    let (first, end) = (cut(n), n - cut(n));
    let (mut sum, mut at) = (0.0, 0);
    for (value, count) in sorted.iter().zip(drawn) {
        let next = at + usize::from(count);
        let kept = next.min(end).saturating_sub(at.max(first));
        sum += value * kept as f64;
        at = next;
    }
    sum / (end - first) as f64
}

/// The 99th percentile of the estimate's size when `n` blocks of noise get random signs.
fn noise_floor(noise: &[f64], n: usize, random: &mut Pcg64Mcg) -> f64 {
    const DRAWS: usize = 500;
    let mut sizes: Vec<f64> = (0..DRAWS)
        .map(|_| {
            let mut drawn: Vec<f64> = (0..n)
                .map(|_| {
                    let value = noise[random.random_range(0..noise.len())];
                    if random.next_u32() & 1 == 0 { value } else { -value }
                })
                .collect();
            trimmed_mean(&mut drawn).abs()
        })
        .collect();
    sizes.sort_unstable_by(f64::total_cmp);
    sizes[DRAWS - 1 - (BEYOND_FLOOR * DRAWS as f64) as usize]
}

/// What stands for a process: the mean of the better half of its slices. Neighbours only ever make a slice slower, so
/// the better half is what the build does when it is let; on a busy machine it varies a third less than the median.
///
/// `None` without slices.
pub fn typical(direction: Direction, slices: &[f64]) -> Option<f64> {
    let mut sorted = slices.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let half = sorted.len().div_ceil(2);
    let kept = match direction {
        Direction::Lower => &sorted[..half],
        Direction::Higher => &sorted[sorted.len() - half..],
        Direction::Neither => &sorted[..],
    };
    (!kept.is_empty()).then(|| kept.iter().sum::<f64>() / kept.len() as f64)
}

/// The median of at least one value.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) }
}
