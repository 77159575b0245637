//! What to know before believing the figures: warnings, and the machine.

use iommu_results::Run;

use super::page::{Cell, Page};

pub(super) fn warnings(page: &mut Page, run: &Run) {
    page.section("warnings", "Warnings");
    if run.warnings.is_empty() {
        page.paragraph("None.");
        return;
    }
    page.raw("<div class=\"alert\">");
    page.list(run.warnings.iter().cloned());
    page.raw("</div>");
}

pub(super) fn environment(page: &mut Page, run: &Run) {
    page.section("environment", "Environment");
    let mut rows: Vec<Vec<Cell>> = run
        .environment
        .rows()
        .into_iter()
        .map(|(name, value)| {
            let value = value.unwrap_or_else(|why| format!("n/a: {why}"));
            vec![Cell::Text(name.to_owned()), Cell::Text(value)]
        })
        .collect();
    rows.push(vec![Cell::Text("revision of iommu-bench".to_owned()), Cell::Text(run.revision.clone())]);
    page.table(&["", ""], rows);
}
