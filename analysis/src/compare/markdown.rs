//! A comparison as Markdown: for a pull request or a job's summary.

use std::fmt::Write as _;

use super::Comparison;
use crate::format;
use crate::verdict::{MetricVerdict, Verdict};

/// The whole comparison.
pub fn markdown(comparison: &Comparison) -> String {
    let mut text = String::new();
    let report = &comparison.report;
    // Writing to a String cannot fail.
    let _ = writeln!(text, "## {}: **{}**\n", escape(&comparison.title), report.verdict);
    let _ = writeln!(text, "base `{}`, head `{}`\n", code(&comparison.base), code(&comparison.head));
    let (shown, same): (Vec<_>, Vec<_>) =
        report.metrics.iter().partition(|metric| metric.verdict != Verdict::Same || metric.n > 1);
    if !shown.is_empty() {
        text.push_str("| verdict | case | metric | base | head | ratio | interval | noise floor | n |\n");
        text.push_str("|---|---|---|--:|--:|--:|---|--:|--:|\n");
        shown.iter().for_each(|metric| text.push_str(&row(metric)));
        text.push('\n');
    }
    if !same.is_empty() {
        let _ = writeln!(text, "{} exact counts are the same.\n", same.len());
    }
    if !report.missing.is_empty() {
        text.push_str("Not compared:\n\n");
        for (what, reason) in super::grouped(&report.missing) {
            let _ = writeln!(text, "- {}: {}", escape(&what), escape(reason));
        }
        text.push('\n');
    }
    match &comparison.flame {
        Ok(flame) if !flame.grown.is_empty() => {
            let _ =
                writeln!(text, "Where it changed ({}, own share of all of base):\n", escape(&flame.weights));
            for grown in flame.grown.iter().take(5) {
                let _ = writeln!(text, "- {:+.2} % `{}`", grown.share * 100.0, code(&grown.label()));
            }
            text.push('\n');
        }
        Ok(flame) => {
            let _ = writeln!(text, "The profiles ({}) are equal.\n", escape(&flame.weights));
        }
        Err(reason) => {
            let _ = writeln!(text, "Differential flame graph: n/a: {}\n", escape(reason));
        }
    }
    for note in &comparison.notes {
        let _ = writeln!(text, "> {}\n", escape(note));
    }
    text
}

fn row(metric: &MetricVerdict) -> String {
    let interval = metric.ci.map_or_else(
        || "n/a".to_owned(),
        |[lo, hi]| format!("{lo:.4} to {hi:.4} ({:.0} %)", metric.level * 100.0),
    );
    let mark = match metric.verdict {
        Verdict::Worse => "❌ worse",
        Verdict::Better => "✅ better",
        Verdict::Same => "same",
        Verdict::Inconclusive => "inconclusive",
    };
    format!(
        "| {mark} | `{}` | {} | {} | {} | {} | {interval} | {:.2} % | {} |\n",
        code(&metric.case),
        escape(&metric.metric),
        value(metric, metric.base),
        value(metric, metric.head),
        metric.ratio.map_or_else(|| "n/a".to_owned(), |ratio| format!("{ratio:.4}")),
        metric.noise_floor * 100.0,
        metric.n,
    )
}

/// A value with its unit; counts have none.
pub(super) fn value(metric: &MetricVerdict, value: f64) -> String {
    match iommu_results::metric::series(&metric.metric) {
        Ok(row) if !is_count(metric) => format::quantity(value, row.unit),
        _ => format::significant_or_whole(value),
    }
}

/// A count, not a time or a rate: counted once, without noise.
pub(crate) fn is_count(metric: &MetricVerdict) -> bool {
    metric.n == 1 && metric.noise_floor == 0.0
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '|' | '<' | '>' | '*' | '_' | '`' | '[' | ']' | '\\' => escaped.extend(['\\', c]),
            c if c.is_control() => escaped.push(' '),
            c => escaped.push(c),
        }
    }
    escaped
}

/// Within backquotes nothing is special but a backquote and a table's bar.
fn code(text: &str) -> String {
    text.replace(|c: char| c == '`' || c.is_control(), " ").replace('|', "\\|")
}
