//! What probes saw, at a terminal: what they cost, and the breakdown of a request's time.

use anstyle::Style;
use iommu_results::{Breakdown, Overhead, Run};

use super::Page;
use crate::{format, vfio};

impl Page {
    pub(super) fn probes(&mut self, run: &Run) {
        let probes = &run.probes;
        if probes.attached.is_empty() && probes.sites().is_none() {
            return;
        }
        self.heading("Probes");
        if !probes.attached.is_empty() {
            let cost = probes.overhead.as_ref().map_or_else(
                || "cost not measured: too few rounds".to_owned(),
                |overhead| format!("in time {}", cost(overhead)),
            );
            let (attached, skipped) = (probes.attached.len(), probes.skipped.len());
            let lost: u64 = probes.lost.values().sum();
            self.wrapped(
                &format!("{attached} attached, {skipped} left out, {lost} events lost; {cost}"),
                Style::new(),
            );
            for probe in probes.data().iter().filter(|probe| probe.count > 0) {
                self.wrapped(
                    &format!("{}: {} events ({})", probe.name, probe.count, probe.kind),
                    Style::new(),
                );
            }
        }
        for one in vfio::divided(&probes.data()) {
            let parts: Vec<_> =
                one.parts.iter().map(|(name, share)| format!("{name} {:.1} %", share * 100.0)).collect();
            let (mean, parts) = (format::duration_ns(one.mean_ns), parts.join(", "));
            let line = format!("VFIO {}: {} of {mean} each: {parts}", one.operation, one.count);
            self.wrapped(&line, Style::new());
        }
        if let Some(overhead) = probes.sites().and_then(|pass| pass.overhead) {
            let line =
                format!("Breakdown, in a pass of its own; its probes cost, in time, {}:", cost(&overhead));
            self.wrapped(&line, Style::new());
        }
        for one in probes.breakdown() {
            self.breakdown(&one);
        }
    }

    fn breakdown(&mut self, one: &Breakdown) {
        self.wrapped(&format!("{} · {} requests: {}", one.case, one.request, one.requests), Style::new());
        let line = |name: &str, share: String, mean_ns: f64, p50: u64, p99: u64| {
            let time = |ns: u64| format::duration_ns(ns as f64);
            vec![format!("  {name}"), share, format::duration_ns(mean_ns), time(p50), time(p99)]
        };
        let mut rows: Vec<_> = one
            .parts
            .iter()
            .map(|part| {
                let share = if part.name == "noticed" {
                    "after".to_owned()
                } else {
                    format!("{:.1} %", part.share * 100.0)
                };
                line(&part.name, share, part.mean_ns, part.histogram.p50, part.histogram.p99)
            })
            .collect();
        rows.push(line("whole", "100 %".to_owned(), one.whole.mean, one.whole.p50, one.whole.p99));
        self.rows(&["  part", "share", "mean", "median", "99 %"], &[1, 2, 3, 4], rows);
    }
}

fn cost(overhead: &Overhead) -> String {
    let [low, high] = overhead.ci;
    format!(
        "{} ({} to {})",
        format::ratio(overhead.ratio),
        format::significant(low),
        format::significant(high)
    )
}
