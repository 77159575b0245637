//! Where a request's time went, by the sites of device and driver.

use std::fmt::Write as _;

use iommu_results::{Breakdown, Run, SitesPass};

use super::page::{Cell, Page, escape};
use super::parts::interval;
use crate::format;

/// Colours of the parts, which the style sheet defines; a part after the last shares it.
const INKS: usize = 6;
const WIDTH: f64 = 720.0;
const BAR: f64 = 26.0;

/// Only where the pass with the sites was asked for.
pub(super) fn breakdown(page: &mut Page, run: &Run) {
    let Some(pass) = run.probes.sites() else { return };
    page.section("breakdown", "Where a request’s time goes");
    if let Some(reason) = &pass.skipped {
        page.note(&format!("n/a: {reason}"));
        return;
    }
    let breakdown = run.probes.breakdown();
    page.paragraph(
        "From the driver’s submission of a request to the IOMMU until its answer is in the used ring, cut at the trace \
         points in driver and device. The parts of each request add up to its whole, to the nanosecond.",
    );
    cost(page, &pass);
    for one in &breakdown {
        page.sub(&format!("{} · {} requests", one.case, one.request));
        page.raw(&bar(one));
        table(page, one);
        agreement(page, one);
    }
    if breakdown.is_empty() {
        page.note("n/a: no request was followed from submission to completion.");
    }
}

fn cost(page: &mut Page, pass: &SitesPass) {
    let places: u64 = pass.places.values().sum();
    let cost = match &pass.overhead {
        Some(overhead) => {
            let (ratio, ci) = (format::ratio(overhead.ratio), interval(overhead.ci, format::significant));
            format!("the run took {ratio} ({ci}) of its time meanwhile")
        }
        None => "what that cost was not measured".to_owned(),
    };
    page.note(&format!(
        "Measured in a pass of its own with probes at {places} instructions: {cost}. So read the shares, not the \
         nanoseconds: each probe passed adds to the part that it ends."
    ));
    if pass.unmatched + pass.lost > 0 {
        page.note(&format!("{} requests were not followed, {} were lost.", pass.unmatched, pass.lost));
    }
}

/// One bar, its parts as wide as their share.
fn bar(one: &Breakdown) -> String {
    let mut svg = format!(
        "<figure><div class=\"scroll\"><svg class=\"plot\" viewBox=\"0 0 {WIDTH} {BAR}\" role=\"img\" aria-label=\"{}\">",
        escape(&format!("parts of {} requests", one.request))
    );
    let mut at = 0.0;
    for (index, part) in inside(one).enumerate() {
        let width = part.share.clamp(0.0, 1.0) * WIDTH;
        let ink = index.min(INKS - 1);
        // Writing to a String cannot fail.
        let _ = write!(
            svg,
            "<rect class=\"part{ink}\" x=\"{at:.1}\" y=\"0\" width=\"{width:.1}\" height=\"{BAR}\"><title>{}</title></rect>",
            escape(&format!("{}: {:.1} %", part.name, part.share * 100.0))
        );
        at += width;
    }
    svg.push_str("</svg></div></figure>");
    svg
}

/// The parts that the whole is made of; what comes after it is in the table only.
fn inside(one: &Breakdown) -> impl Iterator<Item = &iommu_results::BreakdownPart> {
    one.parts.iter().filter(|part| part.name != "noticed")
}

fn table(page: &mut Page, one: &Breakdown) {
    let mut rows: Vec<Vec<Cell>> = one
        .parts
        .iter()
        .enumerate()
        .map(|(index, part)| {
            let after = part.name == "noticed";
            let share = if after { "after it".to_owned() } else { format!("{:.1} %", part.share * 100.0) };
            vec![
                Cell::Part(if after { INKS } else { index.min(INKS - 1) }, part_name(&part.name).to_owned()),
                Cell::Figure(share),
                Cell::Figure(format::duration_ns(part.mean_ns)),
                Cell::Figure(part.histogram.count.to_string()),
                Cell::Figure(format::duration_ns(part.histogram.p50 as f64)),
                Cell::Figure(format::duration_ns(part.histogram.p99 as f64)),
            ]
        })
        .collect();
    rows.push(vec![
        Cell::Text("whole".to_owned()),
        Cell::Figure("100 %".to_owned()),
        Cell::Figure(format::duration_ns(one.whole.mean)),
        Cell::Figure(one.whole.count.to_string()),
        Cell::Figure(format::duration_ns(one.whole.p50 as f64)),
        Cell::Figure(format::duration_ns(one.whole.p99 as f64)),
    ]);
    page.table(&["part", "share", "mean", "requests", "median", "99 %"], rows);
}

fn agreement(page: &mut Page, one: &Breakdown) {
    let error = format!("Sum of the parts against the whole: off by {:.4} %.", one.error * 100.0);
    let counted = match one.counted {
        Some(counted) if counted == one.requests => {
            format!(" {counted} requests here, {counted} counted by driver and device.")
        }
        Some(counted) => {
            format!(" {} requests here, but {counted} counted by driver and device.", one.requests)
        }
        None => String::new(),
    };
    page.note(&format!("{error}{counted}"));
}

/// What a part is, in words.
fn part_name(name: &str) -> &str {
    match name {
        "queued" => "queued: until the doorbell that announces it",
        "doorbell" => "doorbell, ring, requests before it",
        "table" => "table: until domains and mappings are changed",
        "batch" => "rest of its batch",
        "grace" => "grace period: until no access uses the old mapping",
        "publication" => "publication in the used ring",
        "noticed" => "until the driver has taken the answer",
        other => other,
    }
}
