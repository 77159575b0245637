//! One self-contained page about a run: no script, nothing fetched, light and dark, readable on paper.

mod breakdown;
mod churn;
mod circumstances;
mod comparison;
mod flame;
mod head;
mod latency;
mod meaning;
mod packet;
mod page;
mod parts;
mod probed;
mod probes;
mod ratios;
mod style;
mod sweep;
mod throughput;
mod time;

use iommu_results::Run;
use iommu_results::artefacts::Artefacts;
use iommu_results::store::Histograms;

use crate::view;
use page::Page;

pub use comparison::comparison;

/// The page of a run beside which nothing lies but histograms; see [`html_with`].
pub fn html(run: &Run, histograms: &Histograms) -> String {
    html_with(run, histograms, &Artefacts::default())
}

/// The whole page. `histograms` are the full-resolution ones; without them the curves are left out and said to be; what
/// `artefacts` lack is left out.
pub fn html_with(run: &Run, histograms: &Histograms, artefacts: &Artefacts) -> String {
    let groups = view::groups(run);
    let mut page = Page::new(&format!("{} on {}", run.scenario, run.machine));
    head::head(&mut page, run);
    ratios::ratios(&mut page, run);
    packet::per_packet(&mut page, &groups);
    throughput::throughput(&mut page, &groups);
    sweep::curves(&mut page, run, artefacts.sweep.as_ref());
    latency::latency(&mut page, &groups, histograms);
    churn::churn(&mut page, &groups, artefacts.churn.as_ref());
    time::over_time(&mut page, &groups, artefacts);
    breakdown::breakdown(&mut page, run);
    flame::flame(&mut page, artefacts.profile.as_ref());
    meaning::scale(&mut page, &groups);
    circumstances::warnings(&mut page, run);
    meaning::limits(&mut page, run);
    circumstances::environment(&mut page, run);
    probes::probes(&mut page, run);
    page.finish(run)
}
