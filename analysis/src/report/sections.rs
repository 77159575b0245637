//! The measured part of the report.

use iommu_results::store::Histograms;
use iommu_results::{Run, names};

use super::page::{Cell, Page, escape};
use crate::format;
use crate::plot::{self, Bar, Curve, Section};
use crate::view::{self, Comparison, Group};

/// Groups shown openly; the rest is folded, so that a matrix stays a page.
const OPEN_GROUPS: usize = 3;

/// Histograms in the order in which they are shown, with what each means.
const LATENCIES: [(&str, &str); 5] = [
    (names::MAP_LATENCY, "Mapping a buffer: from the driver's decision until its IOVA may be used"),
    (names::UNMAP_LATENCY, "Unmapping a buffer: from the driver's decision until the call returns"),
    (names::DMA_LATENCY, "One DMA access of the endpoint, translation included"),
    (names::REQUEST_SERVICE, "The device's own work on one request"),
    (names::GRACE_WAIT, "Waiting until no endpoint uses a removed mapping"),
];

pub(super) fn head(page: &mut Page, run: &Run) {
    page.raw(&format!("<h1>{} on {}</h1>", escape(&run.scenario), run.machine));
    let started = run.started_at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string();
    page.raw(&format!(
        "<p class=\"meta\">{} · seed {} · <code>{}</code></p>",
        escape(&started),
        run.seed,
        escape(&run.run_id)
    ));
    let common: Vec<String> =
        view::common_params(run).iter().map(|(key, value)| view::param(key, value)).collect();
    if !common.is_empty() {
        page.raw(&format!("<p class=\"meta\">In every case: {}</p>", escape(&common.join(" · "))));
    }
    if run.partial {
        page.raw(
            "<p class=\"alert\"><strong>Partial run.</strong> It ended early; every figure covers only what was \
             measured until then.</p>",
        );
    }
}

pub(super) fn ratios(page: &mut Page, run: &Run) {
    page.section("ratios", "What it costs");
    let comparisons = view::comparisons(run);
    if comparisons.is_empty() {
        page.paragraph("n/a: the run has no pair of cases to compare, or none with enough complete slices.");
        return;
    }
    headlines(page, &comparisons);
    page.plot(plot::ratios("Ratios of every compared pair of cases with their intervals", &comparisons));
    let rows = comparisons
        .iter()
        .map(|comparison| {
            let relative = comparison.relative;
            vec![
                Cell::Text(comparison.group.clone()),
                Cell::Text(comparison.pair.clone()),
                Cell::Text(comparison.metric.clone()),
                Cell::Figure(format::ratio(relative.ratio)),
                Cell::Figure(interval(relative.ci, format::significant)),
                Cell::Figure(percent(relative.level)),
                Cell::Text(format::effect(relative.ratio, relative.ci)),
            ]
        })
        .collect();
    page.raw("<details><summary>As a table</summary>");
    page.table(&["load", "case / baseline", "of what", "ratio", "interval", "level", "effect"], rows);
    page.raw("</details>");
    page.note(
        "Each ratio is the geometric mean over slices measured in turn, pair by pair; its interval comes from \
         resampling the pairs. An interval that holds 1 shows no effect, in either direction.",
    );
}

/// One card for the dearest mode of each of the first groups: it comes last in its group and is what most readers came
/// for.
fn headlines(page: &mut Page, comparisons: &[Comparison<'_>]) {
    const CARDS: usize = 4;
    let pairs: Vec<&[Comparison<'_>]> =
        comparisons.chunk_by(|a, b| a.group == b.group && a.pair == b.pair).collect();
    let dearest = pairs.chunk_by(|a, b| a[0].group == b[0].group).filter_map(|group| group.last());
    page.raw("<div class=\"cards\">");
    for pair in dearest.take(CARDS) {
        page.raw(&format!(
            "<div class=\"card\"><p class=\"what\">{}</p><p class=\"pair\">{}, {} intervals</p><dl>",
            escape(&pair[0].group),
            escape(&pair[0].pair),
            percent(pair[0].relative.level)
        ));
        for comparison in *pair {
            let relative = comparison.relative;
            page.raw(&format!(
                "<div><dt>{}</dt><dd>{}<small>{}</small></dd></div>",
                escape(&comparison.metric),
                format::ratio(relative.ratio),
                interval(relative.ci, format::significant)
            ));
        }
        page.raw("</dl></div>");
    }
    page.raw("</div>");
}

pub(super) fn per_packet(page: &mut Page, groups: &[Group<'_>]) {
    page.section("packet", "Per packet");
    page.paragraph(
        "What one packet takes: requests to the IOMMU, kicks of its doorbell, invalidations waited for, and time. The \
         counts are exact and follow from the parameters; the time is this machine's.",
    );
    metric_plot(page, groups, names::CPU_PER_PACKET, "Time per packet");
    each_group(page, groups, |page, group| {
        let heads =
            ["mode", "time", "MAP", "UNMAP", "IOMMU kicks", "invalidations waited for", "endpoint kicks"];
        let rows = group
            .cases
            .iter()
            .map(|case| {
                let mut row = vec![Cell::Mode(case.mode), metric_cell(case, names::CPU_PER_PACKET)];
                row.extend(view::PER_PACKET.iter().map(|(_, name)| match case.per_packet(name) {
                    Some(value) => Cell::Figure(format::significant(value)),
                    None => Cell::Missing(view::why_not_counted(case, name)),
                }));
                row
            })
            .collect();
        page.table(&heads, rows);
        let sections: Vec<Section> =
            view::PER_PACKET.iter().map(|(title, name)| count_section(group, title, name)).collect();
        page.plot(plot::bars(
            &format!("Requests, kicks and invalidations per packet, {}", group.title),
            &sections,
            true,
        ));
    });
}

fn count_section(group: &Group<'_>, title: &str, name: &str) -> Section {
    let bars = group
        .cases
        .iter()
        .map(|case| match case.per_packet(name) {
            Some(value) => {
                Bar { mode: case.mode, value: Ok((value, None)), text: format::significant(value) }
            }
            None => {
                let reason = view::why_not_counted(case, name);
                Bar { mode: case.mode, text: format!("n/a: {reason}"), value: Err(reason) }
            }
        })
        .collect();
    Section { title: format!("{title} per packet"), bars }
}

pub(super) fn throughput(page: &mut Page, groups: &[Group<'_>]) {
    page.section("throughput", "Throughput");
    for (name, heading) in [(names::THROUGHPUT, "Payload moved"), (names::TRANSACTIONS, "Round trips")] {
        metric_plot(page, groups, name, heading);
    }
    page.note(
        "Bars start at zero; every heading has its own scale. The marks are the interval of the mean over the slices, \
         at the level that run.json states (99 % unless asked otherwise).",
    );
}

/// Bars of one metric over all groups that have it.
fn metric_plot(page: &mut Page, groups: &[Group<'_>], name: &str, heading: &str) {
    let sections: Vec<Section> = groups
        .iter()
        .filter(|group| group.cases.iter().any(|case| view::measured(case, name).is_ok()))
        .map(|group| metric_section(group, name))
        .collect();
    page.sub(heading);
    if sections.is_empty() {
        let why =
            groups.iter().flat_map(|group| &group.cases).find_map(|case| view::measured(case, name).err());
        page.note(&format!("n/a: {}", why.unwrap_or_else(|| "there is no case".to_owned())));
        return;
    }
    page.plot(plot::bars(&format!("{heading}, with intervals"), &sections, false));
}

fn metric_section(group: &Group<'_>, name: &str) -> Section {
    let bars = group
        .cases
        .iter()
        .map(|case| match view::measured(case, name) {
            Ok((value, ci, unit)) => Bar {
                mode: case.mode,
                value: Ok((value, Some(ci))),
                text: format!("{}  {}", format::quantity(value, unit), format::plus_minus(value, ci)),
            },
            Err(reason) => Bar { mode: case.mode, text: format!("n/a: {reason}"), value: Err(reason) },
        })
        .collect();
    Section { title: group.title.clone(), bars }
}

pub(super) fn latency(page: &mut Page, groups: &[Group<'_>], histograms: &Histograms) {
    page.section("latency", "Latency");
    page.paragraph(
        "Time by percentile: read upwards from 99 to see what the slowest of a hundred operations takes. Modes that \
         send no requests have no curve for mapping and unmapping.",
    );
    each_group(page, groups, |page, group| {
        let mut shown = false;
        for (name, meaning) in LATENCIES {
            shown |= latency_of(page, group, histograms, name, meaning);
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
            Some(Curve { mode: case.mode, histogram })
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

pub(super) fn warnings(page: &mut Page, run: &Run) {
    page.section("warnings", "Warnings");
    if run.warnings.is_empty() {
        page.paragraph("None.");
        return;
    }
    page.raw("<div class=\"alert\">");
    page.list(run.warnings.iter().cloned());
    page.raw("</div>");
}

pub(super) fn environment(page: &mut Page, run: &Run) {
    page.section("environment", "Environment");
    let mut rows: Vec<Vec<Cell>> = run
        .environment
        .rows()
        .into_iter()
        .map(|(name, value)| {
            let value = value.unwrap_or_else(|why| format!("n/a: {why}"));
            vec![Cell::Text(name.to_owned()), Cell::Text(value)]
        })
        .collect();
    rows.push(vec![Cell::Text("revision of iommu-bench".to_owned()), Cell::Text(run.revision.clone())]);
    page.table(&["", ""], rows);
}

pub(super) fn probes(page: &mut Page, run: &Run) {
    page.section("probes", "Probes");
    let probes = &run.probes;
    if probes.attached.is_empty() && probes.skipped.is_empty() {
        page.paragraph("None: nothing observed this run from outside, and nothing slowed it down for that.");
        return;
    }
    if !probes.attached.is_empty() {
        let rows = probes
            .attached
            .iter()
            .map(|probe| {
                let lost = probes
                    .lost
                    .get(&probe.name)
                    .map_or(Cell::Missing("not counted".to_owned()), |lost| Cell::Figure(lost.to_string()));
                vec![
                    Cell::Text(probe.name.clone()),
                    Cell::Text(probe.kind.clone()),
                    Cell::Text(probe.target.clone()),
                    lost,
                ]
            })
            .collect();
        page.table(&["attached", "kind", "target", "events lost"], rows);
    }
    if !probes.skipped.is_empty() {
        page.sub("Left out");
        page.list(probes.skipped.iter().map(|probe| format!("{}: {}", probe.name, probe.reason)));
    }
    match &probes.overhead {
        Some(overhead) => page.paragraph(&format!(
            "Observing costs {} ({}) in time, probes on over probes off.",
            format::ratio(overhead.ratio),
            interval(overhead.ci, format::significant)
        )),
        None => page.paragraph("What observing costs was not measured in this run."),
    }
}

/// The groups one below the other, folded from the fourth on.
fn each_group(page: &mut Page, groups: &[Group<'_>], mut show: impl FnMut(&mut Page, &Group<'_>)) {
    for (index, group) in groups.iter().enumerate() {
        let open = if index < OPEN_GROUPS { " open" } else { "" };
        page.raw(&format!("<details{open}><summary>{}</summary>", escape(&group.title)));
        show(page, group);
        page.raw("</details>");
    }
}

fn metric_cell(case: &iommu_results::Case, name: &str) -> Cell {
    match view::measured(case, name) {
        Ok((value, ci, unit)) => {
            Cell::Figure(format!("{} {}", format::quantity(value, unit), format::plus_minus(value, ci)))
        }
        Err(reason) => Cell::Missing(reason),
    }
}

fn interval(ci: [f64; 2], show: impl Fn(f64) -> String) -> String {
    format!("{} to {}", show(ci[0]), show(ci[1]))
}

fn percent(level: f64) -> String {
    format!("{} %", (level * 1000.0).round() / 10.0)
}
