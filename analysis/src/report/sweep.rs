//! Curves: a metric against a swept parameter, a line a mode and endpoint.

use std::collections::BTreeMap;

use iommu_results::artefacts::Sweep;
use iommu_results::{Case, EndpointKind, Metric, Param, Run, names};

use super::page::{Page, escape};
use crate::plot::{self, Axis, Join, Line, Lines, Point, Scale, Unit};
use crate::view;

/// Fewest values of a number that nobody asked to sweep, so that a curve says more than a pair.
const FEWEST_VALUES: usize = 3;
/// Plots shown openly.
const OPEN_PLOTS: usize = 4;
/// Most plots, so that a matrix stays a page.
const MOST_PLOTS: usize = 40;
/// Metrics that are drawn.
const METRICS: [&str; 6] = [
    names::THROUGHPUT,
    names::TRANSACTIONS,
    names::CPU_PER_PACKET,
    names::MODELLED_MISS_RATIO,
    names::MODELLED_IOTLB_MISSES_PER_PACKET,
    names::MODELLED_THROUGHPUT,
];

/// Parameters that make a curve.
fn axes(run: &Run, sweep: Option<&Sweep>) -> Vec<String> {
    if let Some(sweep) = sweep {
        return sweep.axes.iter().map(|axis| axis.key.clone()).collect();
    }
    let mut values: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for (key, value) in run.cases.iter().flat_map(|case| &case.params) {
        if let Some(value) = number(value) {
            let seen = values.entry(key).or_default();
            if !seen.contains(&value) {
                seen.push(value);
            }
        }
    }
    let many = values.into_iter().filter(|(_, seen)| seen.len() >= FEWEST_VALUES);
    many.map(|(key, _)| key.to_owned()).collect()
}

fn number(value: &Param) -> Option<f64> {
    match value {
        Param::Int(n) => Some(*n as f64),
        Param::Float(x) => Some(*x),
        Param::Bool(_) | Param::Text(_) => None,
    }
}

/// The section; left out where nothing was swept.
pub(super) fn curves(page: &mut Page, run: &Run, sweep: Option<&Sweep>) {
    let axes = axes(run, sweep);
    let plots: Vec<Plot<'_>> = axes.iter().flat_map(|key| plots(run, key)).collect();
    if plots.is_empty() {
        return;
    }
    page.section("curves", "Curves");
    page.paragraph(
        "One plot for each load and metric, one line for each mode and endpoint. The marks are the intervals of the means; \
         what is modelled says so.",
    );
    for (index, plot) in plots.iter().take(MOST_PLOTS).enumerate() {
        let open = if index < OPEN_PLOTS { " open" } else { "" };
        page.raw(&format!("<details{open}><summary>{}</summary>", escape(&plot.title)));
        page.plot(plot.draw());
        page.raw("</details>");
    }
    if plots.len() > MOST_PLOTS {
        page.note(&format!(
            "{MOST_PLOTS} of {} curves are drawn; run.json has the figures of all.",
            plots.len()
        ));
    }
}

/// One plot: cases that differ in the swept key, the mode and the endpoint only.
struct Plot<'r> {
    title: String,
    key: &'r str,
    metric: &'static str,
    heading: &'static str,
    cases: Vec<&'r Case>,
}

fn plots<'r>(run: &'r Run, key: &'r str) -> Vec<Plot<'r>> {
    let common = view::common_params(run);
    let mut facets: Vec<(String, Vec<&Case>)> = Vec::new();
    for case in run.cases.iter().filter(|case| case.params.contains_key(key)) {
        let others = case.params.iter().filter(|(name, _)| {
            !["viommu", key].contains(&name.as_str())
                && !common.contains_key(name.as_str())
                && (name.as_str() != view::MESSAGE || view::has_messages(case))
        });
        let others: Vec<String> = others.map(|(name, value)| view::param(name, value)).collect();
        let title = [vec![case.test.clone()], others].concat().join(" · ");
        match facets.iter_mut().find(|(known, _)| *known == title) {
            Some((_, cases)) => cases.push(case),
            None => facets.push((title, vec![case])),
        }
    }
    let name = view::param_name(key);
    let mut plots = Vec::new();
    for (facet, cases) in facets {
        for metric in METRICS {
            let heading = view::metric_label(metric);
            let measured = cases.iter().filter(|case| view::measured(case, metric).is_ok()).count();
            if measured >= 2 {
                let title = format!("{heading} against {name} · {facet}");
                plots.push(Plot { title, key, metric, heading, cases: cases.clone() });
            }
        }
    }
    plots
}

impl Plot<'_> {
    fn draw(&self) -> Result<String, plot::PlotError> {
        let values: Vec<&Param> = self.cases.iter().filter_map(|case| case.params.get(self.key)).collect();
        let (x, place) = self.across(&values);
        let mut lines: Vec<Line> = Vec::new();
        let mut unit = Unit::Number;
        for case in &self.cases {
            let Some(Metric::Measured { value, ci, unit: named, .. }) = case.metrics.get(self.metric) else {
                continue;
            };
            let Some(at) = case.params.get(self.key).and_then(&place) else { continue };
            unit = if self.metric == "modelled_miss_ratio" { Unit::Fraction } else { Unit::of(named) };
            let name = match case.endpoint {
                EndpointKind::Emulated => case.mode.to_string(),
                EndpointKind::Passthrough => format!("{} passthrough", case.mode),
            };
            let point = Point { x: at, y: *value, ci: Some(*ci) };
            match lines.iter_mut().find(|line| line.name == name) {
                Some(line) => line.points.push(point),
                None => lines.push(Line { mode: case.mode, name, points: vec![point], join: Join::Dots }),
            }
        }
        for line in &mut lines {
            line.points.sort_by(|a, b| a.x.total_cmp(&b.x));
        }
        lines.sort_by_key(|line| line.mode);
        let reach = lines.iter().flat_map(|line| &line.points);
        let reach = reach.flat_map(|point| [point.y, point.ci.map_or(point.y, |ci| ci[1])]);
        let y = Axis::around(self.heading, Scale::Linear, unit, reach.collect::<Vec<_>>(), true);
        plot::lines(&self.title, &Lines { x, y, lines, mark: None })
    }

    /// The horizontal axis, and where a value lies on it: numbers far apart by octaves, words in the order of the run.
    fn across(&self, values: &[&Param]) -> (Axis, impl Fn(&Param) -> Option<f64>) {
        let numbers: Vec<f64> = values.iter().filter_map(|value| number(value)).collect();
        let numeric = numbers.len() == values.len();
        let mut words: Vec<String> = Vec::new();
        for value in values.iter().map(|value| value.to_string()) {
            if !words.contains(&value) {
                words.push(value);
            }
        }
        let low = numbers.iter().copied().fold(f64::INFINITY, f64::min);
        let high = numbers.iter().copied().fold(0.0, f64::max);
        let scale = match numeric {
            false => Scale::Words(words.clone()),
            true if low > 0.0 && high / low >= 8.0 => Scale::Octaves,
            true => Scale::Linear,
        };
        let unit =
            if self.key.ends_with("_bytes") && scale == Scale::Octaves { Unit::Bytes } else { Unit::Number };
        let axis = Axis::around(view::param_name(self.key), scale, unit, numbers, false);
        let place = move |value: &Param| {
            if numeric {
                number(value)
            } else {
                words.iter().position(|word| *word == value.to_string()).map(|at| at as f64)
            }
        };
        (axis, place)
    }
}
