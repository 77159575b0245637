//! Timings of two runs that were measured one after the other.
//!
//! Nothing pairs their slices, and whatever changed on the machine between the runs looks like a change of the code. So
//! the bar is higher than for builds measured in turn: nothing below [`SMALLEST_APART`] is called a change, the noise
//! floor is what each run's own halves differ by, and a run that began on a busy machine decides nothing.

use iommu_results::metric::{self, Direction};
use iommu_results::{Case, Metric, Run, Series};

use super::Sides;
use crate::paired::{Ratio, median, trimmed};
use crate::rank;
use crate::stats::{LEVEL, mean_from};
use crate::verdict::{self, MetricVerdict, Missing, Thresholds, Verdict};

/// Smallest change between runs measured apart that is called better or worse.
pub const SMALLEST_APART: f64 = 0.05;

/// A matrix has hundreds of metrics, and nobody waits for a comparison.
const RESAMPLES: usize = 2_000;

/// Verdicts about every metric, and about the mean of every histogram where the slices were kept.
pub fn timings(
    (base, base_series): (&Run, Option<&Series>),
    (head, head_series): (&Run, Option<&Series>),
    sides: &Sides<'_>,
    thresholds: Thresholds,
    seed: u64,
) -> (Vec<MetricVerdict>, Vec<Missing>) {
    let (mut verdicts, mut missing) = (Vec::new(), Vec::new());
    let thresholds = Thresholds { smallest: thresholds.smallest.max(SMALLEST_APART), ..thresholds };
    let quiet = [base, head].into_iter().all(began_quiet);
    for (in_base, in_head) in &sides.cases {
        for name in names(in_base, in_head) {
            let Ok(row) = metric::series(name) else {
                missing.push(Missing::unknown(name, &in_base.id));
                continue;
            };
            let of = |case: &Case, series: Option<&Series>| {
                values(series, &case.id, name).map_or_else(|| summary(case, name), Ok)
            };
            let judged = match (of(in_base, base_series), of(in_head, head_series)) {
                (Ok(base), Ok(head)) => judge((name, row.direction), &base, &head, thresholds, quiet, seed),
                (Err(base), Err(head)) if base == head => Err((base, false)),
                (Err(base), Err(head)) => Err((format!("base: {base}; head: {head}"), false)),
                (Err(base), _) => Err((format!("base: {base}"), true)),
                (_, Err(head)) => Err((format!("head: {head}"), true)),
            };
            match judged {
                Ok(judged) => verdicts.push(MetricVerdict { case: in_base.id.clone(), ..judged }),
                Err((reason, one_sided)) => {
                    let (metric, case) = (name.to_owned(), in_base.id.clone());
                    missing.push(Missing { metric, case, reason, one_sided });
                }
            }
        }
    }
    (verdicts, missing)
}

/// Whether nothing else competed for the processors when the run began, as far as is known.
fn began_quiet(run: &Run) -> bool {
    match (run.environment.load_average.value, run.environment.cpus_usable.value) {
        (Some(load), Some(cpus)) => load <= cpus as f64 * 0.5,
        _ => true,
    }
}

fn names<'r>(base: &'r Case, head: &'r Case) -> Vec<&'r str> {
    // A name without a row is kept, to be listed with the reason why it has no verdict.
    let measured = |name: &&String| metric::series(name).map_or(true, metric::Row::is_timing);
    let of = |case: &'r Case| case.metrics.keys().filter(measured).chain(case.histograms.keys());
    let mut names: Vec<&str> = of(base).chain(of(head)).map(String::as_str).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// What is known of one metric of one run.
enum Known {
    /// Every slice.
    Slices(Vec<f64>),
    /// Only the estimate and its interval, as in runs without `series.json`.
    Interval { value: f64, ci: [f64; 2], n: u64 },
}

fn values(series: Option<&Series>, case: &str, name: &str) -> Option<Known> {
    let values = series?.of(case, name)?.values();
    (!values.is_empty()).then_some(Known::Slices(values))
}

fn summary(case: &Case, name: &str) -> Result<Known, String> {
    match case.metrics.get(name) {
        Some(Metric::Measured { value, ci, n, .. }) => Ok(Known::Interval { value: *value, ci: *ci, n: *n }),
        Some(Metric::Missing { reason }) => Err(reason.clone()),
        None if case.histograms.contains_key(name) => {
            Err("its slices were not kept (no series.json)".to_owned())
        }
        None => Err("not measured".to_owned()),
    }
}

fn judge(
    (name, direction): (&str, Direction),
    base: &Known,
    head: &Known,
    thresholds: Thresholds,
    quiet: bool,
    seed: u64,
) -> Result<MetricVerdict, (String, bool)> {
    let (ratio, resolved) = match (base, head) {
        (Known::Slices(base), Known::Slices(head)) => {
            (apart(base, head, seed).map_err(|reason| (reason, true))?, true)
        }
        _ => (coarse(base, head).map_err(|reason| (reason, true))?, false),
    };
    let decided = verdict::decide(direction, &ratio, resolved, thresholds);
    let verdict = if quiet { decided } else { Verdict::Inconclusive };
    Ok(MetricVerdict {
        metric: name.to_owned(),
        case: String::new(),
        base: ratio.base,
        head: ratio.head,
        ratio: Some(ratio.ratio),
        ci: Some([ratio.lo, ratio.hi]),
        level: LEVEL,
        noise_floor: ratio.noise_floor,
        verdict,
        n: ratio.n as u64,
    })
}

/// The ratio of two unpaired samples: both logarithmic means with their intervals, the variances added (Welch), and the
/// larger of the differences between each run's own halves as the noise floor.
fn apart(base: &[f64], head: &[f64], seed: u64) -> Result<Ratio, String> {
    let logs = |values: &[f64], side: &str| -> Result<Vec<f64>, String> {
        match values.iter().find(|value| !(value.is_finite() && **value > 0.0)) {
            Some(value) => Err(format!("{side}: a slice is {value}; a ratio needs values above zero")),
            None => Ok(values.iter().map(|value| value.ln()).collect()),
        }
    };
    let (in_base, in_head) = (logs(base, "base")?, logs(head, "head")?);
    let of = |values: &[f64], side: &str| {
        mean_from(values, LEVEL, seed, RESAMPLES).map_err(|error| format!("{side}: {error}"))
    };
    let (of_base, of_head) = (of(&in_base, "base")?, of(&in_head, "head")?);
    let estimate = trimmed(&in_head) - trimmed(&in_base);
    let centre = of_head.value - of_base.value;
    let below = (of_head.value - of_head.lo).hypot(of_base.hi - of_base.value);
    let above = (of_head.hi - of_head.value).hypot(of_base.value - of_base.lo);
    let halves = |values: &[f64]| {
        let (first, second) = values.split_at(values.len() / 2);
        (trimmed(first) - trimmed(second)).abs()
    };
    let ranks = rank::mann_whitney(base, head).map_err(|error| error.to_string())?;
    Ok(Ratio {
        base: median(base.to_vec()),
        head: median(head.to_vec()),
        ratio: estimate.exp(),
        lo: (centre - below).min(estimate).exp(),
        hi: (centre + above).max(estimate).exp(),
        n: base.len().min(head.len()),
        p_value: ranks.p_value,
        noise_floor: halves(&in_base).max(halves(&in_head)).exp_m1(),
        larger: ranks.larger,
    })
}

/// From two intervals alone: the outermost ratios. It excludes changes, but shows none.
fn coarse(base: &Known, head: &Known) -> Result<Ratio, String> {
    let interval = |known: &Known| match known {
        Known::Interval { value, ci, n } => (*value, *ci, *n as usize),
        Known::Slices(values) => {
            let ends = values.iter().fold([f64::INFINITY, 0.0], |[lo, hi], v| [v.min(lo), v.max(hi)]);
            (median(values.clone()), ends, values.len())
        }
    };
    let ((base, base_ci, m), (head, head_ci, n)) = (interval(base), interval(head));
    if !(base_ci[0] > 0.0 && head_ci[0] > 0.0) {
        return Err("an interval reaches to zero, so there is no ratio".to_owned());
    }
    let (lo, hi) = (head_ci[0] / base_ci[1], head_ci[1] / base_ci[0]);
    let ratio = head / base;
    let n = m.min(n);
    Ok(Ratio { base, head, ratio, lo, hi, n, p_value: 1.0, noise_floor: 0.0, larger: 0.5 })
}
