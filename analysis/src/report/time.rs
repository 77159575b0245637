//! What changed while the run went on: rates and latencies, slice by slice.

use iommu_results::artefacts::{Artefacts, Heat, SliceHeat};
use iommu_results::{Series, names};

use super::page::{Page, escape};
use super::parts::first_groups;
use crate::plot::{self, Axis, Column, HeatMap, Join, Line, Lines, Point, Scale, Unit};
use crate::view::{self, Group};

/// Rates that are shown over time.
const RATES: [&str; 2] = [names::THROUGHPUT, names::TRANSACTIONS];
/// Latencies that are shown over time.
const LATENCIES: [&str; 3] = [names::MAP_LATENCY, names::UNMAP_LATENCY, names::DMA_LATENCY];
/// Groups shown: each has a plot of all of its slices.
const MOST_GROUPS: usize = 3;
/// Columns of a heat map: more slices share them.
const MOST_COLUMNS: usize = 48;

/// Rates and latencies over time; left out where neither is there.
pub(super) fn over_time(page: &mut Page, groups: &[Group<'_>], artefacts: &Artefacts) {
    if artefacts.series.is_none() && artefacts.heat.is_none() {
        return;
    }
    page.section("time", "Over time");
    let timed = |series: &Series| series.cases.iter().any(|case| !case.metrics.is_empty());
    if !artefacts.series.as_ref().is_none_or(timed) {
        page.note("n/a: nothing was timed in this run (virtual clock).");
        return;
    }
    page.paragraph(
        "Each case ran in slices, in turn with the others. A drift or a disturbance of the machine shows here; a mode's \
         own cost shows in the ratios above, which compare slices that ran next to each other.",
    );
    first_groups(page, groups, MOST_GROUPS, |page, group| {
        for name in RATES {
            rates(page, group, artefacts.series.as_ref(), name, &view::caption(name));
        }
        for name in LATENCIES {
            latency(page, group, artefacts.heat.as_ref(), name, &view::caption(name));
        }
    });
    if groups.len() > MOST_GROUPS {
        page.note(&format!(
            "The first {MOST_GROUPS} of {} loads are drawn; series.json and heat.json in the run's folder have every \
             slice of all.",
            groups.len()
        ));
    }
}

fn rates(page: &mut Page, group: &Group<'_>, series: Option<&Series>, name: &str, heading: &str) {
    let mut unit = Unit::Number;
    let mut lines = Vec::new();
    for case in &group.cases {
        let Some(metric) = series.and_then(|series| series.of(&case.id, name)) else { continue };
        unit = Unit::of(&metric.unit);
        let points = metric.slices.iter();
        let points = points.map(|slice| Point { x: slice.at_ns as f64 / 1e9, y: slice.value, ci: None });
        let (mode, name) = (case.mode, case.mode.to_string());
        lines.push(Line { mode, name, points: points.collect(), join: Join::Dots });
    }
    if lines.is_empty() {
        return;
    }
    let points = || lines.iter().flat_map(|line: &Line| &line.points);
    let title = "time from the start of measuring, s";
    let x = Axis::around(title, Scale::Linear, Unit::Seconds, points().map(|point| point.x), false);
    let y = Axis::around(heading.to_lowercase(), Scale::Linear, unit, points().map(|point| point.y), true);
    page.sub(&format!("{heading} over time"));
    let label = format!("{heading} of each slice over time, {}", group.title);
    page.plot(plot::lines(&label, &Lines { x, y, lines, mark: None }));
}

fn latency(page: &mut Page, group: &Group<'_>, heat: Option<&Heat>, name: &str, meaning: &str) {
    let slices = |id: &str| -> &[SliceHeat] {
        let case = heat.and_then(|heat| heat.cases.iter().find(|case| case.case == id));
        case.map_or(&[], |case| &case.slices)
    };
    let maps: Vec<HeatMap> = group
        .cases
        .iter()
        .map(|case| HeatMap { mode: case.mode, columns: columns(slices(&case.id), name) })
        .filter(|map| !map.columns.is_empty())
        .collect();
    if maps.is_empty() {
        return;
    }
    page.raw(&format!("<details><summary>{} over time</summary>", escape(meaning)));
    page.plot(plot::heat(&format!("{meaning} over time, {}", group.title), &maps));
    page.raw("</details>");
}

/// A column a slice; where there are many, several share one.
fn columns(slices: &[SliceHeat], name: &str) -> Vec<Column> {
    let column = |slice: &SliceHeat| {
        Some(Column { from_s: slice.at_ns as f64 / 1e9, buckets: slice.latency.get(name)?.clone() })
    };
    let found: Vec<Column> = slices.iter().filter_map(column).collect();
    let shared = found.len().div_ceil(MOST_COLUMNS).max(1);
    found.chunks(shared).map(merged).collect()
}

fn merged(columns: &[Column]) -> Column {
    let mut buckets = std::collections::BTreeMap::new();
    for &(from, count) in columns.iter().flat_map(|column| &column.buckets) {
        *buckets.entry(from).or_insert(0) += count;
    }
    Column {
        from_s: columns.iter().map(|column| column.from_s).fold(f64::INFINITY, f64::min),
        buckets: buckets.into_iter().collect(),
    }
}
