//! What observed the run from outside.

use iommu_results::Run;

use super::page::{Cell, Page};
use super::parts::interval;
use crate::format;

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
    super::probed::tables(page, run);
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
