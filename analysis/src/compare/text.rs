//! A comparison for a terminal.

use anstyle::{AnsiColor, Style};

use super::Comparison;
use super::markdown::value;
use crate::terminal::{Options, Page};
use crate::verdict::{MetricVerdict, Verdict};

const HEADS: [&str; 6] = ["", "base", "ratio", "interval", "floor", "verdict"];
const RIGHT: [usize; 3] = [1, 2, 4];

/// The whole comparison as text, ending with a newline.
pub fn text(comparison: &Comparison, options: Options) -> String {
    let mut page = Page::new(options);
    let report = &comparison.report;
    page.line(&comparison.title, Style::new().bold());
    page.wrapped(&format!("base {}, head {}", comparison.base, comparison.head), Style::new().dimmed());
    for group in report.metrics.chunk_by(|a, b| a.case == b.case) {
        // Counts that are the same would bury the rest.
        let (counts, shown): (Vec<_>, Vec<_>) = group
            .iter()
            .partition(|metric| super::markdown::is_count(metric) && metric.verdict == Verdict::Same);
        page.heading(&group[0].case);
        if !shown.is_empty() {
            let rows = shown.iter().map(|metric| cells(metric)).collect();
            page.rows(&HEADS, &RIGHT, rows);
        }
        if !counts.is_empty() {
            page.wrapped(&format!("  {} exact counts are the same", counts.len()), Style::new().dimmed());
        }
    }
    if !report.missing.is_empty() {
        page.heading("Not compared");
        for (what, reason) in super::grouped(&report.missing) {
            page.wrapped(&format!("{what}: {reason}"), Style::new());
        }
    }
    changed(&mut page, comparison);
    if !comparison.notes.is_empty() {
        page.heading("Before you believe it");
        for note in &comparison.notes {
            page.wrapped(&format!("! {note}"), AnsiColor::Yellow.on_default());
        }
    }
    page.blank();
    page.line(&format!("verdict: {}", report.verdict), style(report.verdict).bold());
    page.finish()
}

fn cells(metric: &MetricVerdict) -> Vec<String> {
    let none = || "n/a".to_owned();
    let count = super::markdown::is_count(metric);
    // A time's other side follows from the ratio; a count's is what matters.
    let base = match count {
        true => format!("{} → {}", value(metric, metric.base), value(metric, metric.head)),
        false => value(metric, metric.base),
    };
    let interval = |[lo, hi]: [f64; 2]| match hi - lo < 0.2 {
        true => format!("{lo:.3} to {hi:.3}"),
        false => format!("{lo:.2} to {hi:.2}"),
    };
    let floor = metric.noise_floor * 100.0;
    vec![
        metric.metric.clone(),
        base,
        metric.ratio.map_or_else(none, |ratio| format!("×{ratio:.3}")),
        match metric.ci {
            _ if count => "exact".to_owned(),
            Some(ci) => interval(ci),
            None => none(),
        },
        if floor < 10.0 { format!("{floor:.1} %") } else { format!("{floor:.0} %") },
        metric.verdict.to_string(),
    ]
}

/// What the profiles say.
fn changed(page: &mut Page, comparison: &Comparison) {
    match &comparison.flame {
        Ok(flame) => {
            page.heading(&format!("Where it changed: {}", flame.weights));
            if flame.grown.is_empty() {
                page.line("  nowhere", Style::new());
            }
            for grown in flame.grown.iter().take(5) {
                page.wrapped(&format!("{:+6.2} %  {}", grown.share * 100.0, grown.label()), Style::new());
            }
        }
        Err(reason) => {
            page.blank();
            page.wrapped(&format!("differential flame graph: n/a: {reason}"), Style::new().dimmed());
        }
    }
}

fn style(verdict: Verdict) -> Style {
    match verdict {
        Verdict::Worse => AnsiColor::Red.on_default(),
        Verdict::Better | Verdict::Same => AnsiColor::Green.on_default(),
        Verdict::Inconclusive => AnsiColor::Yellow.on_default(),
    }
}
