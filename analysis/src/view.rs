//! What tables and reports show of a run: cases in groups that differ only in the mode, and named comparisons.

use std::collections::BTreeMap;

use iommu_results::metric::{self, Of};
use iommu_results::{Case, Metric, Mode, Param, Relative, Run, names};

/// Cases that differ only in the mode, so that they may be compared.
#[derive(Clone, Debug)]
pub struct Group<'r> {
    /// Test, endpoint and the axes in which the run's groups differ.
    pub title: String,
    /// Name of the test.
    pub test: &'r str,
    /// Ordered by mode.
    pub cases: Vec<&'r Case>,
}

/// The groups of a run, in the order in which their first case appears.
pub fn groups(run: &Run) -> Vec<Group<'_>> {
    let common = common_params(run);
    let mut groups: Vec<Group<'_>> = Vec::new();
    for case in &run.cases {
        match groups.iter_mut().find(|group| same_but_mode(group.cases[0], case)) {
            Some(group) => group.cases.push(case),
            None => groups.push(Group { title: title(case, &common), test: &case.test, cases: vec![case] }),
        }
    }
    for group in &mut groups {
        group.cases.sort_by_key(|case| case.mode);
    }
    groups
}

/// The axes that have the same value in every case, apart from the message size, which always belongs to a title.
pub fn common_params(run: &Run) -> BTreeMap<&str, &Param> {
    let Some(first) = run.cases.first() else { return BTreeMap::new() };
    let shared = |key: &str, value: &Param| run.cases.iter().all(|case| case.params.get(key) == Some(value));
    first
        .params
        .iter()
        .filter(|(key, value)| key.as_str() != MESSAGE && shared(key, value))
        .map(|(key, value)| (key.as_str(), value))
        .collect()
}

/// The name of an axis for a reader, with its unit where it is not a number of things.
pub fn param_name(key: &str) -> String {
    match key.strip_suffix("_bytes") {
        Some(name) => format!("{}, bytes", name.replace('_', " ")),
        None => key.replace('_', " "),
    }
}

/// An axis for a reader: sizes with their unit, the rest as `name value`.
pub fn param(key: &str, value: &Param) -> String {
    let name = key.strip_suffix("_bytes").unwrap_or(key).replace('_', " ");
    match value {
        Param::Int(size) if key.ends_with("_bytes") => format!("{name} {}", crate::format::bytes(*size)),
        value => format!("{name} {value}"),
    }
}

/// The axis that belongs to every title of a test that has messages.
pub(crate) const MESSAGE: &str = "message_bytes";

/// Axes that describe a mode rather than the load; cases of one group may differ in them.
const MODE_PARAMS: [&str; 1] = ["viommu"];

fn same_but_mode(one: &Case, other: &Case) -> bool {
    let load = |case: &'_ Case| -> Vec<(String, Param)> {
        let of_load = case.params.iter().filter(|(key, _)| !MODE_PARAMS.contains(&key.as_str()));
        of_load.map(|(key, value)| (key.clone(), value.clone())).collect()
    };
    one.test == other.test && one.endpoint == other.endpoint && load(one) == load(other)
}

/// Whether a test sends messages, so that their size matters.
pub(crate) fn has_messages(case: &Case) -> bool {
    case.test.starts_with("TCP_") || case.test.starts_with("UDP_")
}

fn title(case: &Case, common: &BTreeMap<&str, &Param>) -> String {
    let mut parts = vec![case.test.clone()];
    if let Some(Param::Int(size)) = case.params.get(MESSAGE)
        && has_messages(case)
    {
        parts.push(format!("{} messages", crate::format::bytes(*size)));
    }
    parts.push(case.endpoint.to_string());
    let varying = case.params.iter().filter(|(key, _)| {
        key.as_str() != MESSAGE && !common.contains_key(key.as_str()) && !MODE_PARAMS.contains(&key.as_str())
    });
    parts.extend(varying.map(|(key, value)| param(key, value)));
    parts.join(" · ")
}

/// A comparison with the words around it.
#[derive(Clone, Debug)]
pub struct Comparison<'r> {
    /// Title of the group that the case belongs to.
    pub group: String,
    /// `strict / off`, or the cases' ids where more than the mode differs.
    pub pair: String,
    /// What is compared, for a reader.
    pub metric: String,
    /// Mode of the case, for its colour.
    pub mode: Mode,
    /// The figures.
    pub relative: &'r Relative,
}

/// Every comparison of the run, group by group.
pub fn comparisons(run: &Run) -> Vec<Comparison<'_>> {
    let mut found = Vec::new();
    for group in groups(run) {
        let of_group = |relative: &&Relative| group.cases.iter().any(|case| case.id == relative.case);
        for relative in run.relative.iter().filter(of_group) {
            let Some(case) = run.case(&relative.case) else { continue };
            let pair = match group.cases.iter().find(|other| other.id == relative.baseline) {
                Some(_) if relative.baseline_metric.is_some() => case.mode.to_string(),
                Some(baseline) => format!("{} / {}", case.mode, baseline.mode),
                None => pair_of(case, run.case(&relative.baseline), relative),
            };
            found.push(Comparison {
                group: group.title.clone(),
                pair,
                metric: compared(relative),
                mode: case.mode,
                relative,
            });
        }
    }
    found
}

/// The endpoints or the one parameter in which two cases of the same mode differ, or their ids.
fn pair_of(case: &Case, baseline: Option<&Case>, relative: &Relative) -> String {
    let differ = |other: &&Case| {
        let mut keys = case.params.iter().filter(|(key, value)| other.params.get(*key) != Some(value));
        match (keys.next(), keys.next()) {
            (Some((key, value)), None) if case.mode == other.mode => {
                Some(format!("{}: {} / {}", case.mode, param(key, value), other.params.get(key)?))
            }
            _ => None,
        }
    };
    let ids = || format!("{} / {}", relative.case, relative.baseline);
    if let Some(other) = baseline.filter(|other| other.endpoint != case.endpoint && other.mode == case.mode) {
        return format!("{}: {} / {}", case.mode, case.endpoint, other.endpoint);
    }
    baseline.as_ref().and_then(differ).unwrap_or_else(ids)
}

/// What is compared, for a reader.
fn compared(relative: &Relative) -> String {
    let metric = metric_label(&relative.metric);
    match &relative.baseline_metric {
        Some(baseline) => format!("{metric} / {}", metric_label(baseline)),
        None => metric.to_owned(),
    }
}

/// A metric's or histogram's name for a reader; of one that the metric table lacks, the name itself.
pub fn metric_label(name: &str) -> &str {
    metric::series(name).map_or(name, |row| row.label)
}

/// Meaning of a metric or histogram, as a heading; of one that the metric table lacks, the name itself.
pub fn heading(name: &str) -> &str {
    metric::series(name).map_or(name, |row| row.description.trim_end_matches('.'))
}

/// Name of a metric or histogram, as the start of a line; of one that the metric table lacks, the name itself.
pub fn caption(name: &str) -> String {
    let mut label = metric::series(name).map_or(name, |row| row.label).to_owned();
    if let Some(first) = label.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    label
}

/// A count's name for a reader; of one that the metric table lacks, the name itself.
pub fn count_label(name: &str) -> &str {
    metric::find(name, Of::Count).map_or(name, |row| row.label)
}

/// What is counted per packet.
pub const PER_PACKET: [&str; 5] = [
    names::REQUESTS_MAP,
    names::REQUESTS_UNMAP,
    names::KICKS_IOMMU,
    names::INVALIDATIONS,
    names::KICKS_ENDPOINT,
];

/// The estimate and interval of a case's metric, or why there is none.
pub fn measured<'r>(case: &'r Case, name: &str) -> Result<(f64, [f64; 2], &'r str), String> {
    match case.metrics.get(name) {
        Some(Metric::Measured { value, ci, unit, .. }) => Ok((*value, *ci, unit)),
        Some(Metric::Missing { reason }) => Err(reason.clone()),
        None => Err("not measured by this test".to_owned()),
    }
}

/// Why a per-packet figure is absent.
pub fn why_not_counted(case: &Case, name: &str) -> String {
    if !case.counts.contains_key(name) {
        return format!("{} are not counted here", count_label(name));
    }
    "no packet was counted".to_owned()
}

/// Modes in which the driver sends no requests, so that there is no latency to measure.
pub fn sends_no_requests(mode: Mode) -> bool {
    matches!(mode, Mode::Off | Mode::Identity)
}
