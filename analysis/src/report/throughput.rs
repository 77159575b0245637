//! Payload and round trips.

use iommu_results::names;

use super::page::Page;
use super::parts::metric_plot;
use crate::view::Group;

pub(super) fn throughput(page: &mut Page, groups: &[Group<'_>]) {
    page.section("throughput", "Throughput");
    for (name, heading) in [(names::THROUGHPUT, "Payload moved"), (names::TRANSACTIONS, "Round trips")] {
        metric_plot(page, groups, name, heading);
    }
    page.note(
        "Bars start at zero; every heading has its own scale. The marks are the interval of the mean over the slices, \
         at the level that run.json states (99 % unless asked otherwise).",
    );
}
