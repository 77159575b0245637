//! The page of a comparison of two sides.

use iommu_results::{Mode, Relative};

use super::page::{Cell, Page, escape};
use crate::compare::{Comparison, Flame};
use crate::format;
use crate::plot::{self, Curve};
use crate::verdict::{MetricVerdict, Verdict};
use crate::view;

const HEADS: [&str; 8] = ["verdict", "of what", "base", "head", "ratio", "interval", "noise floor", "n"];
/// Latencies shown openly; the rest is folded.
const OPEN: usize = 4;

/// The whole page.
pub fn comparison(comparison: &Comparison) -> String {
    let mut page = Page::new(&comparison.title);
    let report = &comparison.report;
    page.raw(&format!("<h1>{}: {}</h1>", escape(&comparison.title), report.verdict));
    page.raw(&format!(
        "<p class=\"meta\">base <code>{}</code> · head <code>{}</code></p>",
        escape(&comparison.base),
        escape(&comparison.head)
    ));
    verdicts(&mut page, comparison);
    per_packet(&mut page, comparison);
    latencies(&mut page, comparison);
    flame(&mut page, &comparison.flame);
    missing(&mut page, comparison);
    page.finish_as(iommu_results::revision(), &report.schema)
}

fn verdicts(page: &mut Page, comparison: &Comparison) {
    page.section("verdicts", "Verdicts");
    let measured: Vec<&MetricVerdict> =
        comparison.report.metrics.iter().filter(|metric| metric.n > 1).collect();
    let relatives: Vec<(&MetricVerdict, Relative)> = measured
        .iter()
        .filter_map(|metric| {
            let (ratio, ci) = (metric.ratio?, metric.ci?);
            let (case, baseline) = (metric.case.clone(), metric.case.clone());
            let relative = Relative {
                metric: metric.metric.clone(),
                case,
                baseline,
                baseline_metric: None,
                ratio,
                ci,
                level: metric.level,
            };
            Some((*metric, relative))
        })
        .collect();
    let rows: Vec<view::Comparison<'_>> = relatives
        .iter()
        .map(|(metric, relative)| view::Comparison {
            group: metric.case.clone(),
            pair: String::new(),
            metric: shown_name(metric),
            mode: ink(metric.verdict),
            relative,
        })
        .collect();
    if rows.is_empty() {
        page.note("n/a: no metric was timed on both sides.");
    } else {
        page.plot(plot::ratios("Ratios of head to base with their intervals", &rows));
    }
    for group in comparison.report.metrics.chunk_by(|a, b| a.case == b.case) {
        page.sub(if group[0].case == "*" { "all cases" } else { &group[0].case });
        let (same, shown): (Vec<_>, Vec<_>) =
            group.iter().partition(|metric| metric.n == 1 && metric.verdict == Verdict::Same);
        if !shown.is_empty() {
            page.table(&HEADS, shown.into_iter().map(row).collect());
        }
        if !same.is_empty() {
            page.raw(&format!("<details><summary>{} exact counts are the same</summary>", same.len()));
            page.table(&HEADS, same.into_iter().map(row).collect());
            page.raw("</details>");
        }
    }
    page.note(
        "A ratio is head over base. Worse and better need the interval beyond 1, the ratio beyond the smallest change \
         of interest and the noise floor, and belief among all metrics; same excludes a change of the margin; the rest \
         is inconclusive. The noise floor is what equal builds show.",
    );
}

/// The plot's inks are those of modes.
fn ink(verdict: Verdict) -> Mode {
    match verdict {
        Verdict::Worse => Mode::Lazy,
        Verdict::Better => Mode::Identity,
        Verdict::Same => Mode::Strict,
        Verdict::Inconclusive => Mode::Off,
    }
}

fn shown_name(metric: &MetricVerdict) -> String {
    let label = if crate::compare::is_count(metric) { view::count_label } else { view::metric_label };
    label(&metric.metric).to_owned()
}

fn row(metric: &MetricVerdict) -> Vec<Cell> {
    let show = |value: f64| crate::compare::shown(metric, value);
    let none = || match metric.n {
        1 => Cell::Figure("–".to_owned()),
        _ => Cell::Missing("too few blocks".to_owned()),
    };
    vec![
        Cell::Text(metric.verdict.to_string()),
        Cell::Text(shown_name(metric)),
        Cell::Figure(show(metric.base)),
        Cell::Figure(show(metric.head)),
        metric.ratio.map_or_else(none, |ratio| Cell::Figure(format!("×{ratio:.4}"))),
        metric.ci.map_or_else(none, |[lo, hi]| Cell::Figure(format!("{lo:.4} to {hi:.4}"))),
        Cell::Figure(format!("{:.2} %", metric.noise_floor * 100.0)),
        Cell::Figure(metric.n.to_string()),
    ]
}

fn per_packet(page: &mut Page, comparison: &Comparison) {
    page.section("packet", "Per packet");
    if comparison.per_packet.is_empty() {
        page.note("n/a: no packet was counted on both sides.");
        return;
    }
    page.paragraph("What one packet takes on either side, and the difference. Counts, not times.");
    for group in comparison.per_packet.chunk_by(|a, b| a.case == b.case) {
        page.sub(&group[0].case);
        let rows = group.iter().map(|one| {
            vec![
                Cell::Text(view::count_label(&one.count).to_owned()),
                Cell::Figure(format::significant(one.base)),
                Cell::Figure(format::significant(one.head)),
                Cell::Figure(match one.head - one.base {
                    0.0 => "–".to_owned(),
                    difference if difference > 0.0 => format!("+{}", format::significant(difference)),
                    difference => format::significant(difference),
                }),
            ]
        });
        page.table(&["count", "base", "head", "difference"], rows.collect());
    }
}

fn latencies(page: &mut Page, comparison: &Comparison) {
    page.section("latency", "Latency");
    if comparison.latencies.is_empty() {
        page.note("n/a: no latency has full-resolution histograms on both sides.");
        return;
    }
    page.paragraph("Both sides' latencies by percentile: base dotted, head solid.");
    for (index, latency) in comparison.latencies.iter().enumerate() {
        if index == OPEN {
            page.raw("<details><summary>The other latencies</summary>");
        }
        let title = format!("{}: {}", latency.case, view::metric_label(&latency.name));
        page.sub(&title);
        let curves = [
            Curve { mode: Mode::Off, label: "base", histogram: &latency.base },
            Curve { mode: Mode::Strict, label: "head", histogram: &latency.head },
        ];
        page.plot(plot::latency(&format!("Latency by percentile, {title}"), &curves));
        page.note(&format!(
            "Moved by {} on average (Wasserstein); cumulative shares differ by at most {:.1} %, at {} (Kolmogorov and \
             Smirnov).",
            format::duration_ns(latency.distance.wasserstein_ns),
            latency.distance.kolmogorov_smirnov * 100.0,
            format::duration_ns(latency.distance.at_ns as f64),
        ));
    }
    if comparison.latencies.len() > OPEN {
        page.raw("</details>");
    }
}

fn flame(page: &mut Page, flame: &Result<Flame, String>) {
    page.section("flame", "Where it changed");
    let flame = match flame {
        Ok(flame) => flame,
        Err(reason) => return page.note(&format!("Differential flame graph: n/a: {reason}.")),
    };
    page.paragraph(&format!(
        "Differential flame graph, {}: widths are head's, red frames grew, blue ones shrank.",
        flame.weights
    ));
    page.raw(&format!("<figure><div class=\"scroll flame\">{}</div></figure>", inline(&flame.svg)));
    let rows = flame.grown.iter().take(12).map(|grown| {
        vec![
            Cell::Text(grown.label()),
            Cell::Figure(grown.base.to_string()),
            Cell::Figure(grown.head.to_string()),
            Cell::Figure(format!("{:+.2} %", grown.share * 100.0)),
        ]
    });
    page.table(&["function", "own, base", "own, head", "share of all"], rows.collect());
}

/// The graph as part of a page: without the XML prologue, and without its style sheet, whose rules would reach the
/// whole page.
fn inline(svg: &str) -> String {
    let from = svg.find("<svg").unwrap_or(0);
    let body = &svg[from..];
    match (body.find("<style"), body.find("</style>")) {
        (Some(start), Some(end)) if start < end => {
            format!("{}{}", &body[..start], &body[end + "</style>".len()..])
        }
        _ => body.to_owned(),
    }
}

fn missing(page: &mut Page, comparison: &Comparison) {
    page.section("missing", "Not compared, and warnings");
    let missing = &comparison.report.missing;
    if missing.is_empty() {
        page.paragraph("Every metric and count of either side was compared.");
    }
    let grouped = crate::compare::grouped(missing).into_iter();
    page.list(grouped.map(|(what, reason)| format!("{what}: {reason}")));
    page.list(comparison.notes.iter().cloned());
}
