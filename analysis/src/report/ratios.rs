//! What it costs: ratios with intervals.

use iommu_results::Run;

use super::page::{Cell, Page, escape};
use super::parts::{interval, percent};
use crate::format;
use crate::plot;
use crate::view::{self, Comparison};

pub(super) fn ratios(page: &mut Page, run: &Run) {
    page.section("ratios", "What it costs");
    let comparisons = view::comparisons(run);
    if comparisons.is_empty() {
        page.paragraph("n/a: the run has no pair of cases to compare, or none with enough complete slices.");
        return;
    }
    headlines(page, &comparisons);
    page.plot(plot::ratios("Ratios of every compared pair of cases with their intervals", &comparisons));
    let rows = comparisons
        .iter()
        .map(|comparison| {
            let relative = comparison.relative;
            vec![
                Cell::Text(comparison.group.clone()),
                Cell::Text(comparison.pair.clone()),
                Cell::Text(comparison.metric.clone()),
                Cell::Figure(format::ratio(relative.ratio)),
                Cell::Figure(interval(relative.ci, format::significant)),
                Cell::Figure(percent(relative.level)),
                Cell::Text(format::effect(relative.ratio, relative.ci)),
            ]
        })
        .collect();
    page.raw("<details><summary>As a table</summary>");
    page.table(&["load", "case / baseline", "of what", "ratio", "interval", "level", "effect"], rows);
    page.raw("</details>");
    page.note(
        "Each ratio is the geometric mean over slices measured in turn, pair by pair; its interval comes from \
         resampling the pairs. An interval that holds 1 shows no effect, in either direction.",
    );
}

/// One card for the dearest mode of each of the first groups: it comes last in its group and is what most readers came
/// for.
fn headlines(page: &mut Page, comparisons: &[Comparison<'_>]) {
    const CARDS: usize = 4;
    let pairs: Vec<&[Comparison<'_>]> =
        comparisons.chunk_by(|a, b| a.group == b.group && a.pair == b.pair).collect();
    let dearest = pairs.chunk_by(|a, b| a[0].group == b[0].group).filter_map(|group| group.last());
    page.raw("<div class=\"cards\">");
    for pair in dearest.take(CARDS) {
        page.raw(&format!(
            "<div class=\"card\"><p class=\"what\">{}</p><p class=\"pair\">{}, {} intervals</p><dl>",
            escape(&pair[0].group),
            escape(&pair[0].pair),
            percent(pair[0].relative.level)
        ));
        for comparison in *pair {
            let relative = comparison.relative;
            page.raw(&format!(
                "<div><dt>{}</dt><dd>{}<small>{}</small></dd></div>",
                escape(&comparison.metric),
                format::ratio(relative.ratio),
                interval(relative.ci, format::significant)
            ));
        }
        page.raw("</dl></div>");
    }
    page.raw("</div>");
}
