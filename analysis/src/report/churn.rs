//! IOTLB churn: the recorded streams, and what models make of them.

use iommu_results::artefacts::{Churn, Recording};
use iommu_results::{Case, names};

use super::page::{Cell, Page};
use super::parts::each_group;
use crate::format;
use crate::plot::{self, Axis, Join, Line, Lines, Point, Scale, Unit};
use crate::view::{self, Group};

/// Counts of the modelled IOTLB in the order of the table.
const COUNTS: [(&str, &str); 7] = [
    ("look-ups", names::IOTLB_LOOKUPS),
    ("hits", names::IOTLB_HITS),
    ("misses", names::IOTLB_MISSES),
    ("fills", names::IOTLB_FILLS),
    ("evictions", names::IOTLB_EVICTIONS),
    ("invalidations", names::IOTLB_INVALIDATIONS),
    ("flushes", names::IOTLB_FLUSHES),
];

/// The section; left out where no stream was recorded and no IOTLB was modelled.
pub(super) fn churn(page: &mut Page, groups: &[Group<'_>], churn: Option<&Churn>) {
    let counted = |case: &&Case| case.counts.contains_key(names::IOTLB_LOOKUPS);
    let recorded = |case: &&Case| churn.is_some_and(|churn| churn.of(&case.id).is_ok());
    let shown: Vec<Group<'_>> = groups
        .iter()
        .filter(|group| group.cases.iter().any(|case| counted(case) || recorded(case)))
        .cloned()
        .collect();
    if shown.is_empty() {
        return;
    }
    page.section("churn", "IOTLB churn");
    page.paragraph(
        "The accesses of each case's endpoints, page by page, and the invalidations among them, were recorded in a pass of \
         its own after the timed slices (inline service, virtual clock), so that recording slowed nothing that is timed. \
         Modelled: every miss, every memory read and every throughput of this section. No hardware IOTLB took part.",
    );
    each_group(page, &shown, |page, group| {
        if let Some(churn) = churn {
            curves(page, group, churn);
            facts(page, group, churn);
            throughput(page, group, churn);
            distances(page, group, churn);
        }
        iotlb(page, group);
    });
    page.note(
        "The curve is that of a fully associative LRU IOTLB for each DMA engine; an invalidated page misses at every \
         capacity, and so does the first use of a page. Reads are those of the walks behind the misses, one each (only the \
         leaf is not cached) or four (nothing is). Throughput is T = p / (l0 + M · lm) of Fast & Safe IO Memory Protection \
         (SOSP 2024) with that paper's constants, which are those of its server: 4 KiB, 65 ns, 197 ns.",
    );
}

fn recordings<'r>(group: &Group<'r>, churn: &'r Churn) -> Vec<(&'r Case, &'r Recording)> {
    group.cases.iter().filter_map(|case| Some((*case, churn.of(&case.id).ok()?))).collect()
}

fn curves(page: &mut Page, group: &Group<'_>, churn: &Churn) {
    let recordings = recordings(group, churn);
    let Some((_, first)) = recordings.first() else { return };
    let lines: Vec<Line> = recordings
        .iter()
        .map(|(case, recording)| {
            let points = recording.modelled.miss_ratio_curve.points.iter();
            // A cache without entries has no place on an axis of factors.
            let points = points.map(|&(at, y)| Point { x: at.max(1) as f64, y, ci: None });
            let (mode, name) = (case.mode, case.mode.to_string());
            Line { mode, name, points: points.collect(), join: Join::Steps }
        })
        .collect();
    let entries = first.modelled.capacity_entries;
    let reach = lines.iter().flat_map(|line| &line.points).map(|point| point.x);
    let reach = reach.chain([1.0, 2.0 * entries as f64]).collect::<Vec<_>>();
    let x =
        Axis::around("capacity of the IOTLB, entries of 4 KiB", Scale::Octaves, Unit::Number, reach, false);
    let y = Axis::around("misses by access (modelled)", Scale::Linear, Unit::Fraction, [0.0, 1.0], true);
    let assumed = if first.modelled.capacity_assumed { "assumed below" } else { "of this case" };
    let mark = Some((entries as f64, format!("{entries} entries, {assumed}")));
    page.sub("Miss ratio against capacity (modelled)");
    let label = format!("Modelled miss ratio against the capacity of the IOTLB, {}", group.title);
    page.plot(plot::lines(&label, &Lines { x, y, lines, mark }));
    let sampled: Vec<String> = recordings
        .iter()
        .filter(|(_, recording)| recording.modelled.miss_ratio_curve.by == "lru_shards")
        .map(|(case, _)| case.mode.to_string())
        .collect();
    if !sampled.is_empty() {
        page.note(&format!(
            "From a sample of the pages (SHARDS), since there are so many: {}.",
            sampled.join(", ")
        ));
    }
}

fn metric(case: &Case, name: &str) -> Cell {
    match view::measured(case, name) {
        Ok((value, ci, _)) => {
            Cell::Figure(format!("{} {}", format::significant(value), format::plus_minus(value, ci)))
        }
        Err(reason) => Cell::Missing(reason),
    }
}

fn facts(page: &mut Page, group: &Group<'_>, churn: &Churn) {
    let heads = [
        "mode",
        "page accesses",
        "per packet",
        "invalidated",
        "working set",
        "miss ratio (modelled)",
        "reads per 4 KiB (modelled)",
    ];
    let row = |case: &&Case| {
        let mut row = vec![Cell::Mode(case.mode)];
        match churn.of(&case.id) {
            Ok(recording) => row.push(Cell::Figure(recording.counted.accesses.to_string())),
            Err(reason) => row.push(Cell::Missing(reason.to_owned())),
        }
        let names = [
            names::RECORDED_ACCESSES,
            names::RECORDED_INVALIDATIONS,
            names::RECORDED_WORKING_SET,
            names::MODELLED_MISS_RATIO,
            names::MODELLED_READS_PER_PAGE,
        ];
        if churn.of(&case.id).is_ok() {
            row.extend(names.map(|name| metric(case, name)));
        } else {
            row.extend(names.map(|_| Cell::Text(String::new())));
        }
        row
    };
    page.table(&heads, group.cases.iter().map(row).collect());
    if let Some((_, recording)) = recordings(group, churn).first() {
        let window = recording.counted.window_accesses;
        page.note(&format!(
            "Accesses and invalidated pages per packet; the working set is the number of unique pages of a window of \
             {window} accesses. Intervals are over the slices of the recorded pass."
        ));
    }
}

/// Predicted beside observed, where the test is measured by throughput.
fn throughput(page: &mut Page, group: &Group<'_>, churn: &Churn) {
    let rows: Vec<Vec<Cell>> = recordings(group, churn)
        .into_iter()
        .filter_map(|(case, recording)| {
            let (observed, ci, unit) = view::measured(case, names::THROUGHPUT).ok()?;
            let modelled = &recording.modelled;
            let predicted = |value: f64| Cell::Figure(format::quantity(value, names::BYTES_PER_SECOND));
            Some(vec![
                Cell::Mode(case.mode),
                Cell::Figure(format!(
                    "{} {}",
                    format::quantity(observed, unit),
                    format::plus_minus(observed, ci)
                )),
                predicted(modelled.throughput),
                predicted(modelled.throughput_uncached),
                Cell::Figure(format::ratio(modelled.throughput / observed)),
            ])
        })
        .collect();
    if rows.is_empty() {
        return;
    }
    page.sub("Throughput: observed here, and predicted by Fast & Safe (modelled)");
    page.table(
        &["mode", "observed", "predicted, leaf read", "predicted, four reads", "predicted / observed"],
        rows,
    );
}

fn distances(page: &mut Page, group: &Group<'_>, churn: &Churn) {
    let recordings = recordings(group, churn);
    let all: Vec<_> = recordings
        .iter()
        .filter_map(|(case, recording)| Some((*case, recording.counted.reuse.as_ref()?)))
        .collect();
    if all.is_empty() {
        return;
    }
    let most = all.iter().map(|(_, reuse)| reuse.buckets.len()).max().unwrap_or(0);
    let mut heads = vec!["reuse distance".to_owned()];
    heads.extend(all.iter().map(|(case, _)| case.mode.to_string()));
    let heads: Vec<&str> = heads.iter().map(String::as_str).collect();
    let row = |name: String, count: &dyn Fn(usize) -> u64| {
        let mut row = vec![Cell::Text(name)];
        row.extend((0..all.len()).map(|at| Cell::Figure(count(at).to_string())));
        row
    };
    let mut rows = vec![
        row("first use".to_owned(), &|at| all[at].1.first),
        row("first use since it was invalidated".to_owned(), &|at| all[at].1.invalidated + all[at].1.flushed),
    ];
    for bucket in 0..most {
        let (from, to) = if bucket == 0 { (0, 0) } else { (1 << (bucket - 1), (1_u64 << bucket) - 1) };
        let name = if from == to { from.to_string() } else { format!("{from} to {to}") };
        rows.push(row(name, &|at| all[at].1.buckets.get(bucket).map_or(0, |bucket| bucket.accesses)));
    }
    page.raw("<details><summary>Reuse distances (counted)</summary>");
    page.paragraph(
        "How many other pages, and entries left free by invalidations, came between two uses of a page.",
    );
    page.table(&heads, rows);
    page.raw("</details>");
}

/// What the modelled IOTLB of the timed slices counted.
fn iotlb(page: &mut Page, group: &Group<'_>) {
    let with: Vec<&&Case> =
        group.cases.iter().filter(|case| case.counts.contains_key(names::IOTLB_LOOKUPS)).collect();
    if with.is_empty() {
        return;
    }
    page.sub("The modelled IOTLB in the timed slices, per packet");
    let mut heads = vec!["mode"];
    heads.extend(COUNTS.iter().map(|(head, _)| *head));
    heads.push("misses by look-up");
    let row = |case: &&&Case| {
        let mut row = vec![Cell::Mode(case.mode)];
        row.extend(COUNTS.iter().map(|(_, name)| match case.per_packet(name) {
            Some(value) => Cell::Figure(format::significant(value)),
            None => Cell::Missing(view::why_not_counted(case, name)),
        }));
        let lookups = case.counts.get(names::IOTLB_LOOKUPS).copied().unwrap_or(0);
        let misses = case.counts.get(names::IOTLB_MISSES).copied().unwrap_or(0);
        row.push(match lookups {
            0 => Cell::Missing("nothing was looked up".to_owned()),
            _ => Cell::Figure(format!("{} %", format::significant(misses as f64 / lookups as f64 * 100.0))),
        });
        row
    };
    page.table(&heads, with.iter().map(row).collect());
}
