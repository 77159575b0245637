//! Means and paired ratios with bootstrap intervals.
//!
//! A case is measured in slices that are interleaved over the cases of a run, so slice `i` of one case and slice `i` of
//! another saw the same machine. Ratios are taken pair by pair and averaged as logarithms.
//!
//! An interval has two parents, and each of its ends is the outer one of theirs:
//! - the bootstrap percentile interval, which follows the samples' skew, with its percentiles taken where Student's t with
//!   n − 1 degrees would put them, at Φ(−√(n/(n−1)) · t) (Hesterberg, "What Teachers Should Know About the Bootstrap",
//!   2015: the expanded percentile interval), since plain percentiles know nothing of how uncertain the spread of few
//!   samples is;
//! - Student's interval, since resampled means never leave the range of the samples: at 99 % and 8 slices the first
//!   alone misses the truth three times in a hundred.

use iommu_results::{Metric, Relative};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use statrs::distribution::{ContinuousCDF, Normal, StudentsT};

/// The level of every interval unless the caller says otherwise.
pub const LEVEL: f64 = 0.99;

/// Fewer slices than this give no interval, and therefore no estimate.
pub const MIN_SAMPLES: usize = 4;

/// Why there is no estimate; its text is fit for a metric's `reason`.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum StatsError {
    /// An interval needs more slices.
    #[error("{n} complete slices, an interval needs {MIN_SAMPLES}")]
    TooFewSamples {
        /// How many there are.
        n: usize,
    },
    /// Slices that cannot be paired.
    #[error("{case} slices of the case, but {baseline} of the baseline")]
    Unpaired {
        /// Slices of the case.
        case: usize,
        /// Slices of the baseline.
        baseline: usize,
    },
    /// NaN or infinite.
    #[error("slice {index} is {value}, not a finite number")]
    NotFinite {
        /// Index of the slice.
        index: usize,
        /// Its value.
        value: f64,
    },
    /// A ratio of nothing.
    #[error("slice {index} is {value}; a ratio needs values above zero")]
    NotPositive {
        /// Index of the slice.
        index: usize,
        /// Its value.
        value: f64,
    },
    /// No such level.
    #[error("the level of an interval is between 0 and 1, not {level}")]
    Level {
        /// The level asked for.
        level: f64,
    },
}

/// An estimate with its interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// The estimate.
    pub value: f64,
    /// Lower end of the interval.
    pub lo: f64,
    /// Upper end of the interval.
    pub hi: f64,
    /// Confidence level of the interval.
    pub level: f64,
    /// How many samples, or pairs, it stands on.
    pub n: usize,
}

impl Estimate {
    /// As a metric of a case.
    pub fn to_metric(self, unit: &str) -> Metric {
        Metric::Measured {
            value: self.value,
            unit: unit.to_owned(),
            ci: [self.lo, self.hi],
            level: self.level,
            n: self.n as u64,
        }
    }

    /// As a comparison between two cases.
    pub fn to_relative(self, metric: &str, case: &str, baseline: &str) -> Relative {
        Relative {
            metric: metric.to_owned(),
            case: case.to_owned(),
            baseline: baseline.to_owned(),
            baseline_metric: None,
            ratio: self.value,
            ci: [self.lo, self.hi],
            level: self.level,
        }
    }
}

/// The metric for one case's slices: the mean with its interval, or the reason why there is none.
pub fn metric(samples: &[f64], unit: &str, level: f64, seed: u64) -> Metric {
    match mean(samples, level, seed) {
        Ok(estimate) => estimate.to_metric(unit),
        Err(error) => Metric::missing(error.to_string()),
    }
}

/// The arithmetic mean with a bootstrap interval.
///
/// # Errors
/// [`StatsError`] when there are too few samples or one is not finite.
pub fn mean(samples: &[f64], level: f64, seed: u64) -> Result<Estimate, StatsError> {
    // Small samples reach far into the tails and need many resamples; large ones need few and cost more each.
    const DRAWS: usize = 1_600_000;
    mean_from(samples, level, seed, (DRAWS / samples.len().max(1)).clamp(20_000, 200_000))
}

/// As [`mean`], from so many resamples: where many means are compared at once, a few hundred show the samples' skew, and
/// the far tails are left to Student's interval.
pub(crate) fn mean_from(
    samples: &[f64],
    level: f64,
    seed: u64,
    resamples: usize,
) -> Result<Estimate, StatsError> {
    if !(level > 0.0 && level < 1.0) {
        return Err(StatsError::Level { level });
    }
    if let Some((index, value)) = samples.iter().copied().enumerate().find(|(_, value)| !value.is_finite()) {
        return Err(StatsError::NotFinite { index, value });
    }
    if samples.len() < MIN_SAMPLES {
        return Err(StatsError::TooFewSamples { n: samples.len() });
    }
    let quantile = student_quantile(level, samples.len());
    let bootstrap = bootstrap_interval(samples, quantile, seed, resamples);
    let student = student_interval(samples, quantile);
    let (lo, hi) = (bootstrap.0.min(student.0), bootstrap.1.max(student.1));
    Ok(Estimate { value: average(samples), lo, hi, level, n: samples.len() })
}

/// The geometric mean of `case[i] / baseline[i]` over interleaved slices, with a bootstrap interval over the pairs.
///
/// # Errors
/// [`StatsError`] when the slices cannot be paired, are too few, or one is not a positive finite number.
pub fn paired_ratio(case: &[f64], baseline: &[f64], level: f64, seed: u64) -> Result<Estimate, StatsError> {
    if case.len() != baseline.len() {
        return Err(StatsError::Unpaired { case: case.len(), baseline: baseline.len() });
    }
    for samples in [case, baseline] {
        if let Some((index, value)) = samples.iter().copied().enumerate().find(|(_, value)| *value <= 0.0) {
            return Err(StatsError::NotPositive { index, value });
        }
    }
    let logs: Vec<f64> =
        case.iter().zip(baseline).map(|(case, baseline)| case.ln() - baseline.ln()).collect();
    let log = mean(&logs, level, seed)?;
    Ok(Estimate { value: log.value.exp(), lo: log.lo.exp(), hi: log.hi.exp(), ..log })
}

fn average(samples: &[f64]) -> f64 {
    samples.iter().sum::<f64>() / samples.len() as f64
}

/// Student's two-sided quantile with n − 1 degrees of freedom.
pub(crate) fn student_quantile(level: f64, n: usize) -> f64 {
    let degrees = n as f64 - 1.0;
    // Location 0, scale 1 and at least MIN_SAMPLES − 1 degrees are parameters of a distribution; no interval at all is
    // what its absence would have to mean.
    StudentsT::new(0.0, 1.0, degrees).map_or(f64::INFINITY, |t| t.inverse_cdf(0.5 + level / 2.0))
}

fn student_interval(samples: &[f64], quantile: f64) -> (f64, f64) {
    let (n, mean) = (samples.len() as f64, average(samples));
    let variance = samples.iter().map(|sample| (sample - mean).powi(2)).sum::<f64>() / (n - 1.0);
    let half = quantile * (variance / n).sqrt();
    (mean - half, mean + half)
}

/// The expanded percentile interval; see the module's documentation.
fn bootstrap_interval(samples: &[f64], quantile: f64, seed: u64, resamples: usize) -> (f64, f64) {
    let n = samples.len();
    let mut random = Pcg64Mcg::seed_from_u64(seed);
    let mut means: Vec<f64> = (0..resamples)
        .map(|_| (0..n).map(|_| samples[random.random_range(0..n)]).sum::<f64>() / n as f64)
        .collect();
    means.sort_unstable_by(f64::total_cmp);
    let tail = Normal::standard().cdf(-(n as f64 / (n as f64 - 1.0)).sqrt() * quantile);
    let skip = ((tail * resamples as f64) as usize).min((resamples - 1) / 2);
    // Summing in another order rounds differently: with equal samples the ends would lie beside the mean.
    let value = average(samples);
    (means[skip].min(value), means[resamples - 1 - skip].max(value))
}
