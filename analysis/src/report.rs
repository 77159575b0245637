//! One self-contained page about a run: no script, nothing fetched, light and dark, readable on paper.

mod circumstances;
mod comparison;
mod head;
mod latency;
mod meaning;
mod packet;
mod page;
mod parts;
mod probes;
mod ratios;
mod style;
mod throughput;

use iommu_results::Run;
use iommu_results::store::Histograms;

use crate::view;
use page::Page;

pub use comparison::comparison;

/// The whole page. `histograms` are the full-resolution ones; without them the curves are left out and said to be.
pub fn html(run: &Run, histograms: &Histograms) -> String {
    let groups = view::groups(run);
    let mut page = Page::new(&format!("{} on {}", run.scenario, run.machine));
    head::head(&mut page, run);
    ratios::ratios(&mut page, run);
    packet::per_packet(&mut page, &groups);
    throughput::throughput(&mut page, &groups);
    latency::latency(&mut page, &groups, histograms);
    meaning::scale(&mut page, &groups);
    circumstances::warnings(&mut page, run);
    meaning::limits(&mut page, run);
    circumstances::environment(&mut page, run);
    probes::probes(&mut page, run);
    page.finish(run)
}
