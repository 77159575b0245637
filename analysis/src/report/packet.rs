//! What one packet takes.

use iommu_results::names;

use super::page::{Cell, Page};
use super::parts::{each_group, metric_cell, metric_plot};
use crate::format;
use crate::plot::{self, Bar, Section};
use crate::view::{self, Group};

pub(super) fn per_packet(page: &mut Page, groups: &[Group<'_>]) {
    page.section("packet", "Per packet");
    page.paragraph(
        "What one packet takes: requests to the IOMMU, kicks of its doorbell, invalidations waited for, and time. The \
         counts are exact and follow from the parameters; the time is this machine's.",
    );
    metric_plot(page, groups, names::CPU_PER_PACKET, "Time per packet");
    each_group(page, groups, |page, group| {
        let heads =
            ["mode", "time", "MAP", "UNMAP", "IOMMU kicks", "invalidations waited for", "endpoint kicks"];
        let rows = group
            .cases
            .iter()
            .map(|case| {
                let mut row = vec![Cell::Mode(case.mode), metric_cell(case, names::CPU_PER_PACKET)];
                row.extend(view::PER_PACKET.iter().map(|name| match case.per_packet(name) {
                    Some(value) => Cell::Figure(format::significant(value)),
                    None => Cell::Missing(view::why_not_counted(case, name)),
                }));
                row
            })
            .collect();
        page.table(&heads, rows);
        let sections: Vec<Section> =
            view::PER_PACKET.iter().map(|name| count_section(group, view::count_label(name), name)).collect();
        page.plot(plot::bars(
            &format!("Requests, kicks and invalidations per packet, {}", group.title),
            &sections,
            true,
        ));
    });
}

fn count_section(group: &Group<'_>, title: &str, name: &str) -> Section {
    let bars = group
        .cases
        .iter()
        .map(|case| match case.per_packet(name) {
            Some(value) => {
                Bar { mode: case.mode, value: Ok((value, None)), text: format::significant(value) }
            }
            None => {
                let reason = view::why_not_counted(case, name);
                Bar { mode: case.mode, text: format!("n/a: {reason}"), value: Err(reason) }
            }
        })
        .collect();
    Section { title: format!("{title} per packet"), bars }
}
