//! Do writers hold up readers? The 99.9th percentile of batches of 64 translations, while another thread maps and unmaps
//! in other leaf tables as fast as it can, against the same without. Stamped with the time-stamp counter.

use virtio_iommu::table::RadixTable;

use super::MeasureError;
use crate::{
    clock::{Background, pin_to_cpu, stamp, undisturbed, with_background},
    report::{Bound, Figure},
    rounds::{Effort, Pairs},
    workload::{Subject, Window, pairs, random_pages, sequential_pages},
};

const LIVE: u64 = 1 << 12;
const BURST: usize = 64;

pub(super) fn measure(effort: &Effort) -> Result<Vec<Figure>, MeasureError> {
    pin_to_cpu(0);
    let ours = Subject::<RadixTable>::with_pages(sequential_pages(LIVE))?;
    // Beyond the pages that are translated.
    let window = Window::new(effort, 64);
    for page in &window.live {
        let mapped = virtio_iommu::table::MappingTable::map(
            &ours.table,
            &ours.participant.pin(),
            &crate::workload::page_mapping(*page),
        );
        assert_eq!(mapped, Ok(()));
    }
    let writer = ours.epoch.register()?;
    let (table, free) = (&ours.table, &window);
    let samples = with_background(
        move || {
            let mut chunks = free.chunks();
            move || pairs(table, &writer, chunks.next().unwrap_or_default())
        },
        |writer| tails(effort, &ours, writer),
    );
    let figure = "translate_p999_with_writer_vs_alone";
    Ok(vec![Figure::new(figure, "ratio", samples.ratio()?, Bound::AtMost(3.0))])
}

fn tails(effort: &Effort, ours: &Subject<RadixTable>, writer: &Background) -> Pairs {
    let pages = random_pages(effort, LIVE);
    // Each round measures either side twice.
    let batches = effort.tail_batches.div_ceil(2 * effort.rounds);
    effort.abba(|with_writer| {
        writer.work(with_writer);
        undisturbed(|| percentile_999(ours, &pages, batches))
    })
}

/// In ticks.
fn percentile_999(ours: &Subject<RadixTable>, pages: &[u64], batches: usize) -> f64 {
    let mut ticks: Vec<u64> = pages
        .chunks_exact(BURST)
        .cycle()
        .take(batches)
        .map(|burst| {
            let start = stamp();
            ours.translate(&ours.participant, burst);
            stamp() - start
        })
        .collect();
    let rank = (batches * 999 / 1000).min(batches - 1);
    *ticks.select_nth_unstable(rank).1 as f64
}
