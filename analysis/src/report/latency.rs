//! Latency by percentile.

use iommu_results::names;
use iommu_results::store::Histograms;

use super::page::{Cell, Page};
use super::parts::each_group;
use crate::format;
use crate::plot::{self, Curve};
use crate::view::{self, Group};

/// Histograms in the order in which they are shown.
const LATENCIES: [&str; 5] =
    [names::MAP_LATENCY, names::UNMAP_LATENCY, names::DMA_LATENCY, names::REQUEST_SERVICE, names::GRACE_WAIT];

pub(super) fn latency(page: &mut Page, groups: &[Group<'_>], histograms: &Histograms) {
    page.section("latency", "Latency");
    page.paragraph(
        "Time by percentile: read upwards from 99 to see what the slowest of a hundred operations takes. Modes that \
         send no requests have no curve for mapping and unmapping.",
    );
    each_group(page, groups, |page, group| {
        let mut shown = false;
        for name in LATENCIES {
            shown |= latency_of(page, group, histograms, name, view::heading(name));
        }
        if !shown {
            page.note("n/a: no latency was recorded for these cases.");
        }
    });
}

/// Curves and table of one histogram; false where no case has it.
fn latency_of(
    page: &mut Page,
    group: &Group<'_>,
    histograms: &Histograms,
    name: &str,
    meaning: &str,
) -> bool {
    let with: Vec<_> =
        group.cases.iter().filter_map(|case| Some((*case, case.histograms.get(name)?))).collect();
    if with.is_empty() {
        return false;
    }
    page.sub(meaning);
    let curves: Vec<Curve<'_>> = with
        .iter()
        .filter_map(|(case, _)| {
            let histogram = histograms.get(&(case.id.clone(), name.to_owned()))?;
            Some(Curve { mode: case.mode, label: case.mode.as_str(), histogram })
        })
        .collect();
    if curves.is_empty() {
        page.note("No curve: the full-resolution histograms are not beside the run.");
    } else {
        page.plot(plot::latency(&format!("{meaning}: latency by percentile, {}", group.title), &curves));
    }
    let rows = with
        .iter()
        .map(|(case, s)| {
            let mut row = vec![Cell::Mode(case.mode)];
            let figures = [s.p50, s.p90, s.p99, s.p999, s.p9999, s.max];
            row.extend(figures.iter().map(|value| Cell::Figure(format::duration_ns(*value as f64))));
            row.push(Cell::Figure(s.count.to_string()));
            row
        })
        .collect();
    page.table(&["mode", "p50", "p90", "p99", "p99.9", "p99.99", "max", "operations"], rows);
    true
}
