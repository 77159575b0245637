//! What is printed: a table, or a line of JSON.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use iommu_results::{HistogramSummary, Timestamp};
use serde::Serialize;

/// The schema of `trace --json`.
const SCHEMA: &str = "iommu-bench/trace/1";
/// Keys shown of each probe; the JSON has all of them.
const MOST_KEYS: usize = 8;
/// Columns of the name.
const NAME: usize = 34;

/// What one probe saw.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Reading {
    pub(super) name: String,
    pub(super) kind: String,
    pub(super) target: String,
    pub(super) count: u64,
    pub(super) lost: u64,
    pub(super) unmatched: u64,
    pub(super) histograms: BTreeMap<String, HistogramSummary>,
    pub(super) counts: BTreeMap<String, u64>,
}

#[derive(Serialize)]
struct Line<'a> {
    schema: &'static str,
    at: Timestamp,
    r#final: bool,
    probes: &'a [Reading],
}

/// One line of JSON, with its end.
///
/// # Errors
/// When a figure cannot be written.
pub(super) fn json(readings: &[Reading], last: bool) -> Result<String, serde_json::Error> {
    let line = Line { schema: SCHEMA, at: Timestamp::now(), r#final: last, probes: readings };
    serde_json::to_string(&line).map(|line| line + "\n")
}

/// A table of what happened within `over`, 80 columns wide.
pub(super) fn table(readings: &[Reading], over: Duration, title: &str) -> String {
    let mut text = String::new();
    let head = ["count", "per s", "p50", "p99", "max"];
    // Writing to a string cannot fail, here and below.
    let _ = write!(text, "{:<NAME$}", fitted(title));
    head.iter().for_each(|head| {
        let _ = write!(text, " {head:>8}");
    });
    text.push('\n');
    let (busy, quiet): (Vec<_>, Vec<_>) = readings.iter().partition(|reading| reading.count > 0);
    for reading in busy {
        probe(&mut text, reading, over);
    }
    if !quiet.is_empty() {
        let names = quiet.iter().map(|reading| reading.name.as_str()).collect::<Vec<_>>().join(", ");
        for line in crate::out::wrapped(&format!("nothing seen by: {names}"), crate::out::WIDTH) {
            let _ = writeln!(text, "{line}");
        }
    }
    text
}

fn probe(text: &mut String, reading: &Reading, over: Duration) {
    let only = match reading.histograms.len() {
        1 => reading.histograms.values().next(),
        _ => None,
    };
    row(text, &reading.name, reading.count, over, only);
    let mut keys: Vec<(&String, u64, Option<&HistogramSummary>)> = if only.is_some() {
        Vec::new()
    } else if reading.histograms.is_empty() {
        reading.counts.iter().map(|(key, count)| (key, *count, None)).collect()
    } else {
        reading.histograms.iter().map(|(key, one)| (key, one.count, Some(one))).collect()
    };
    keys.retain(|(key, count, _)| *count > 0 && *key != "all");
    keys.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(b.0)));
    for (key, count, histogram) in keys.iter().take(MOST_KEYS) {
        row(text, &format!("  {key}"), *count, over, *histogram);
    }
    if keys.len() > MOST_KEYS {
        let _ = writeln!(text, "  and {} more", keys.len() - MOST_KEYS);
    }
    if reading.lost > 0 || reading.unmatched > 0 {
        let _ = writeln!(text, "  lost {}, unmatched {}", reading.lost, reading.unmatched);
    }
}

fn row(text: &mut String, name: &str, count: u64, over: Duration, histogram: Option<&HistogramSummary>) {
    let rate = count as f64 / over.as_secs_f64().max(f64::MIN_POSITIVE);
    let _ = write!(text, "{:<NAME$} {:>8} {:>8}", fitted(name), short(count as f64), short(rate));
    if let Some(histogram) = histogram {
        for value in [histogram.p50, histogram.p99, histogram.max] {
            let _ = write!(text, " {:>8}", valued(value, &histogram.unit));
        }
    }
    text.push('\n');
}

/// The name, cut to its columns.
fn fitted(name: &str) -> String {
    if name.chars().count() <= NAME {
        return name.to_owned();
    }
    name.chars().take(NAME - 1).chain(['…']).collect()
}

/// A count in at most seven characters.
fn short(value: f64) -> String {
    match value {
        value if value < 1e6 => format!("{value:.0}"),
        value if value < 1e9 => format!("{:.2}M", value / 1e6),
        value => format!("{:.2}G", value / 1e9),
    }
}

/// A value with its unit.
fn valued(value: u64, unit: &str) -> String {
    let scaled = value as f64;
    match (unit, value) {
        ("ns", 0..1_000) => format!("{value}ns"),
        ("ns", 1_000..1_000_000) => format!("{:.1}µs", scaled / 1e3),
        ("ns", 1_000_000..1_000_000_000) => format!("{:.1}ms", scaled / 1e6),
        ("ns", _) => format!("{:.1}s", scaled / 1e9),
        ("bytes", 0..1024) => format!("{value}B"),
        ("bytes", 1024..0x10_0000) => format!("{:.1}KiB", scaled / 1024.0),
        ("bytes", _) => format!("{:.1}MiB", scaled / 1_048_576.0),
        _ => short(scaled),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(count: u64) -> HistogramSummary {
        let (unit, mean) = ("ns".to_owned(), 1.0);
        HistogramSummary {
            unit,
            count,
            min: 1,
            mean,
            p50: 900,
            p90: 1,
            p99: 12_345,
            p999: 1,
            p9999: 1,
            max: 7_000_000,
        }
    }

    fn reading(name: &str, keys: u64) -> Reading {
        Reading {
            name: name.to_owned(),
            kind: "tp_btf".to_owned(),
            target: "kvm:kvm_exit".to_owned(),
            count: keys * 100,
            lost: 1,
            unmatched: 2,
            histograms: (0..keys)
                .map(|key| (format!("KEY {key} {}", "x".repeat(40)), histogram(key + 1)))
                .collect(),
            counts: BTreeMap::from([("a".to_owned(), 3)]),
        }
    }

    #[test]
    fn the_table_fits_and_tells_rates_percentiles_and_losses() {
        let text = table(&[reading("kvm_exit", 12), reading("quiet", 0)], Duration::from_secs(2), "12:00:00");
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        for part in [
            "1200",
            "600",
            "900ns",
            "12.3µs",
            "7.0ms",
            "and 4 more",
            "lost 1, unmatched 2",
            "nothing seen by: quiet",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }

    #[test]
    fn a_line_of_json_follows_the_contract() {
        let line = json(&[reading("kvm_exit", 1)], true).unwrap();
        assert_eq!(line.matches('\n').count(), 1);
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["schema"], SCHEMA);
        assert_eq!(value["final"], true);
        assert_eq!(value["probes"][0]["counts"]["a"], 3);
        let histograms = value["probes"][0]["histograms"].as_object().unwrap();
        assert_eq!(histograms.values().next().unwrap()["p99"], 12_345);
    }
}
