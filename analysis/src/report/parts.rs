//! What several sections are made of.

use super::page::{Cell, Page, escape};
use crate::format;
use crate::plot::{self, Bar, Section};
use crate::view::{self, Group};

/// Groups shown openly; the rest is folded, so that a matrix stays a page.
const OPEN_GROUPS: usize = 3;

/// The first groups, folded from the fourth on.
pub(super) fn first_groups(
    page: &mut Page,
    groups: &[Group<'_>],
    most: usize,
    show: impl FnMut(&mut Page, &Group<'_>),
) {
    each_group(page, &groups[..most.min(groups.len())], show);
}

/// The groups one below the other, folded from the fourth on.
pub(super) fn each_group(page: &mut Page, groups: &[Group<'_>], mut show: impl FnMut(&mut Page, &Group<'_>)) {
    for (index, group) in groups.iter().enumerate() {
        let open = if index < OPEN_GROUPS { " open" } else { "" };
        page.raw(&format!("<details{open}><summary>{}</summary>", escape(&group.title)));
        show(page, group);
        page.raw("</details>");
    }
}

pub(super) fn metric_cell(case: &iommu_results::Case, name: &str) -> Cell {
    match view::measured(case, name) {
        Ok((value, ci, unit)) => {
            Cell::Figure(format!("{} {}", format::quantity(value, unit), format::plus_minus(value, ci)))
        }
        Err(reason) => Cell::Missing(reason),
    }
}

pub(super) fn interval(ci: [f64; 2], show: impl Fn(f64) -> String) -> String {
    format!("{} to {}", show(ci[0]), show(ci[1]))
}

pub(super) fn percent(level: f64) -> String {
    format!("{} %", (level * 1000.0).round() / 10.0)
}

/// Bars of one metric over all groups that have it.
pub(super) fn metric_plot(page: &mut Page, groups: &[Group<'_>], name: &str, heading: &str) {
    let sections: Vec<Section> = groups
        .iter()
        .filter(|group| group.cases.iter().any(|case| view::measured(case, name).is_ok()))
        .map(|group| metric_section(group, name))
        .collect();
    page.sub(heading);
    if sections.is_empty() {
        let why =
            groups.iter().flat_map(|group| &group.cases).find_map(|case| view::measured(case, name).err());
        page.note(&format!("n/a: {}", why.unwrap_or_else(|| "there is no case".to_owned())));
        return;
    }
    page.plot(plot::bars(&format!("{heading}, with intervals"), &sections, false));
}

fn metric_section(group: &Group<'_>, name: &str) -> Section {
    let bars = group
        .cases
        .iter()
        .map(|case| match view::measured(case, name) {
            Ok((value, ci, unit)) => Bar {
                mode: case.mode,
                value: Ok((value, Some(ci))),
                text: format!("{}  {}", format::quantity(value, unit), format::plus_minus(value, ci)),
            },
            Err(reason) => Bar { mode: case.mode, text: format!("n/a: {reason}"), value: Err(reason) },
        })
        .collect();
    Section { title: group.title.clone(), bars }
}
