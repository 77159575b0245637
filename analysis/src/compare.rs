//! Two sides compared: what may be compared at all, exact counts, timings of runs measured apart, and all of it for
//! readers.

mod counts;
mod flame;
mod markdown;
mod runs;
mod sides;
mod text;

use std::collections::BTreeMap;

use iommu_results::Histogram;

use crate::distance::Distance;
use crate::verdict::{Missing, Report};

pub use counts::counts;
pub use flame::{Flame, FlameError, Grown, Stacks, differential, folded, parse as parse_folded};
pub(crate) use markdown::is_count;
pub use markdown::markdown;
pub use runs::{SMALLEST_APART, timings};
pub use sides::{Incomparable, Need, Sides, sides};
pub use text::text;

/// A comparison for readers; [`crate::report::comparison`] makes a page of it.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// What was compared, such as the scenario and how.
    pub title: String,
    /// Name of base: a revision, a file or a run.
    pub base: String,
    /// Name of head.
    pub head: String,
    /// The verdicts.
    pub report: Report,
    /// What to know before believing them.
    pub notes: Vec<String>,
    /// Counts per packet that both sides have.
    pub per_packet: Vec<PerPacket>,
    /// Latency distributions that both sides have.
    pub latencies: Vec<Latency>,
    /// Where instructions or samples went, or why that is unknown.
    pub flame: Result<Flame, String>,
}

/// One count of one case, per packet.
#[derive(Clone, Debug, PartialEq)]
pub struct PerPacket {
    /// Id of the case.
    pub case: String,
    /// Name of the count.
    pub count: String,
    /// Per packet of base.
    pub base: f64,
    /// Per packet of head.
    pub head: f64,
}

/// One latency distribution of both sides.
#[derive(Clone, Debug)]
pub struct Latency {
    /// Id of the case.
    pub case: String,
    /// Name of the histogram.
    pub name: String,
    /// Of base.
    pub base: Histogram,
    /// Of head.
    pub head: Histogram,
    /// How far they lie apart.
    pub distance: Distance,
}

/// What could not be compared, for readers: what has the same reason stands together, in the order of its first one.
pub(crate) fn grouped(missing: &[Missing]) -> Vec<(String, &str)> {
    let mut reasons: Vec<(&str, Vec<&Missing>)> = Vec::new();
    for one in missing {
        match reasons.iter_mut().find(|(reason, _)| *reason == one.reason) {
            Some((_, all)) => all.push(one),
            None => reasons.push((&one.reason, vec![one])),
        }
    }
    let distinct = |names: Vec<&str>| -> Vec<String> {
        let mut names: Vec<String> = names.into_iter().map(str::to_owned).collect();
        names.sort_unstable();
        names.dedup();
        names
    };
    let what = |all: &[&Missing]| {
        let metrics = distinct(all.iter().map(|one| one.metric.as_str()).collect()).join(", ");
        let cases = distinct(all.iter().map(|one| one.case.as_str()).collect());
        let metrics = if metrics == "*" { "everything".to_owned() } else { metrics };
        match cases.as_slice() {
            [case] if case == "*" => metrics,
            [case] => format!("{metrics} of {case}"),
            cases => format!("{metrics} of {} cases", cases.len()),
        }
    };
    reasons.iter().map(|(reason, all)| (what(all), *reason)).collect()
}

/// A metric's value with its unit, a count's without.
pub(crate) fn shown(metric: &crate::verdict::MetricVerdict, value: f64) -> String {
    markdown::value(metric, value)
}

/// Every latency that both sides have values of, in the order of their keys: case and name.
pub fn latencies(
    base: &BTreeMap<(String, String), Histogram>,
    head: &BTreeMap<(String, String), Histogram>,
) -> Vec<Latency> {
    let both = base.iter().filter_map(|(key, base)| Some((key, base, head.get(key)?)));
    both.filter_map(|((case, name), base, head)| {
        let distance = crate::distance::between(base, head)?;
        Some(Latency {
            case: case.clone(),
            name: name.clone(),
            base: base.clone(),
            head: head.clone(),
            distance,
        })
    })
    .collect()
}
