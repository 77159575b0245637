//! What kernel probes counted and timed: exits by reason, doorbells by address, mappings by size.

use iommu_results::{HistogramSummary, ProbeData, Run};

use super::page::{Cell, Page};
use crate::{format, vfio};

/// Rows of a table; further keys are summed up in the last one.
const MOST_KEYS: usize = 12;

/// A table for each probe that saw something, and the names of those that saw nothing.
pub(super) fn tables(page: &mut Page, run: &Run) {
    let data = run.probes.data();
    divided(page, &data);
    let (busy, silent): (Vec<&ProbeData>, Vec<&ProbeData>) = data.iter().partition(|probe| probe.count > 0);
    for probe in busy {
        page.sub(&format!("{} ({}, {})", probe.name, probe.target, probe.kind));
        if let Some(note) = &probe.note {
            page.note(note);
        }
        if !probe.counts.is_empty() {
            counts(page, probe);
        }
        if !probe.histograms.is_empty() {
            histograms(page, probe);
        }
        page.note(&accounting(probe));
    }
    if !silent.is_empty() {
        let names: Vec<_> = silent.iter().map(|probe| probe.name.as_str()).collect();
        page.note(&format!("Attached, and nothing happened there: {}.", names.join(", ")));
    }
}

/// Where VFIO's time went, as far as probes saw all of its parts.
fn divided(page: &mut Page, data: &[ProbeData]) {
    for one in vfio::divided(data) {
        page.sub(&format!("VFIO's {}, divided", one.operation));
        let row = |name: &str, share: f64| {
            let mean = format::duration_ns(one.mean_ns * share);
            vec![
                Cell::Text(name.to_owned()),
                Cell::Figure(format!("{:.1} %", share * 100.0)),
                Cell::Figure(mean),
            ]
        };
        let mut rows: Vec<_> = one.parts.iter().map(|(name, share)| row(name, *share)).collect();
        rows.push(row(&format!("whole, of {} ioctls", one.count), 1.0));
        page.table(&["part", "share", "mean"], rows);
    }
}

fn accounting(probe: &ProbeData) -> String {
    let ProbeData { count, seen, unmatched, lost, missed, .. } = probe;
    let missed = if *missed > 0 { format!("; {missed} more were missed") } else { String::new() };
    format!("{count} in all: {seen} seen, {unmatched} without an end, {lost} lost{missed}.")
}

fn counts(page: &mut Page, probe: &ProbeData) {
    let mut keys: Vec<_> = probe.counts.iter().collect();
    keys.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let rest: u64 = keys.iter().skip(MOST_KEYS).map(|(_, count)| **count).sum();
    let share =
        |count: u64| Cell::Figure(format!("{:.1} %", count as f64 * 100.0 / probe.seen.max(1) as f64));
    let mut rows: Vec<_> = keys
        .iter()
        .take(MOST_KEYS)
        .map(|(key, count)| vec![Cell::Text((*key).clone()), Cell::Figure(count.to_string()), share(**count)])
        .collect();
    if rest > 0 {
        let others = format!("{} others", keys.len() - MOST_KEYS);
        rows.push(vec![Cell::Text(others), Cell::Figure(rest.to_string()), share(rest)]);
    }
    page.table(&["by", "events", "share"], rows);
}

fn histograms(page: &mut Page, probe: &ProbeData) {
    let mut keys: Vec<_> = probe.histograms.iter().collect();
    keys.sort_by_key(|(_, histogram)| std::cmp::Reverse(histogram.count));
    let show = |histogram: &HistogramSummary, value: f64| match histogram.unit.as_str() {
        "ns" => format::duration_ns(value),
        "bytes" => format::bytes(value as u64),
        _ => format::significant_or_whole(value),
    };
    let rows = keys
        .into_iter()
        .take(MOST_KEYS)
        .map(|(key, one)| {
            let figure = |value: u64| Cell::Figure(show(one, value as f64));
            vec![
                Cell::Text(key.clone()),
                Cell::Figure(one.count.to_string()),
                Cell::Figure(show(one, one.mean)),
                figure(one.p50),
                figure(one.p99),
                figure(one.p999),
                figure(one.max),
            ]
        })
        .collect();
    page.table(&["by", "number", "mean", "median", "99 %", "99.9 %", "most"], rows);
}
