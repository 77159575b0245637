//! One self-contained page about a run: no script, nothing fetched, light and dark, readable on paper.

mod meaning;
mod page;
mod sections;
mod style;

use iommu_results::Run;
use iommu_results::store::Histograms;

use crate::view;
use page::Page;

/// The whole page. `histograms` are the full-resolution ones; without them the curves are left out and said to be.
pub fn html(run: &Run, histograms: &Histograms) -> String {
    let groups = view::groups(run);
    let mut page = Page::new(&format!("{} on {}", run.scenario, run.machine));
    sections::head(&mut page, run);
    sections::ratios(&mut page, run);
    sections::per_packet(&mut page, &groups);
    sections::throughput(&mut page, &groups);
    sections::latency(&mut page, &groups, histograms);
    meaning::scale(&mut page, &groups);
    sections::warnings(&mut page, run);
    meaning::limits(&mut page, run);
    sections::environment(&mut page, run);
    sections::probes(&mut page, run);
    page.finish(run)
}
