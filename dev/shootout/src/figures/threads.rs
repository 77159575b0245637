//! Do threads that map and unmap in one domain slow each other down? Thread-nanoseconds of a pair: the time both threads
//! were at it, waiting for locks included, by the pairs both have done.

use virtio_iommu::table::{LockedTable, RadixTable};

use super::MeasureError;
use crate::{
    clock::contend,
    report::{Bound, Figure},
    rounds::{Effort, Pairs},
    tables::Shape,
    workload::{CHUNK, Subject, Window, pairs},
};

pub(super) fn measure(effort: &Effort) -> Result<Vec<Figure>, MeasureError> {
    let figure = |name, pairs: Pairs, bound| -> Result<Figure, MeasureError> {
        Ok(Figure::new(name, "ratio", pairs.ratio()?, bound))
    };
    let apart = [Window::new(effort, 0), Window::new(effort, 1)];
    let close = same_leaf(effort);
    let ours = table::<RadixTable>(&apart)?;
    let locked = table::<LockedTable>(&apart)?;
    let shared = table::<RadixTable>(&close)?;
    let alone = |effort: &Effort| pair_thread_ns(&ours, &apart, 1, effort.batch);
    let vs_locked = effort.abba(|is_ours| {
        if is_ours {
            pair_thread_ns(&ours, &apart, 2, effort.batch)
        } else {
            // About as long as ours, so that it is as likely to be disturbed.
            pair_thread_ns(&locked, &apart, 2, effort.batch / 16)
        }
    });
    let vs_alone =
        effort.abba(|two| if two { pair_thread_ns(&ours, &apart, 2, effort.batch) } else { alone(effort) });
    let same_leaf = effort.abba(|two| {
        let threads = if two { 2 } else { 1 };
        pair_thread_ns(&shared, &close, threads, effort.batch)
    });
    Ok(vec![
        figure("map_unmap_2t_vs_rwlock_btree", vs_locked, Bound::AtMost(0.2))?,
        figure("map_unmap_2t_vs_1t", vs_alone, Bound::AtMost(1.3))?,
        figure("map_unmap_2t_same_leaf_vs_1t", same_leaf, Bound::None)?,
    ])
}

/// Two threads' pages in one leaf table, alternating, so that they share cache lines: the worst case.
fn same_leaf(effort: &Effort) -> [Window; 2] {
    let Window { mut live, mut free } = Window::new(effort, 0);
    let leaf = live.first().map_or(0, |page| page >> 9);
    live.retain(|page| page >> 9 == leaf);
    free.retain(|page| page >> 9 == leaf);
    let half = |odd: bool| free.iter().copied().filter(|page| (page & 2 != 0) == odd).collect();
    [Window { live, free: half(false) }, Window { live: Vec::new(), free: half(true) }]
}

fn table<T: Shape>(windows: &[Window]) -> Result<Subject<T>, MeasureError> {
    Ok(Subject::with_pages(windows.iter().flat_map(|window| window.live.iter().copied()))?)
}

/// Thread-nanoseconds of a pair with `threads` threads, each in its window.
pub fn pair_thread_ns<T: Shape>(subject: &Subject<T>, windows: &[Window], threads: usize, count: u64) -> f64 {
    let (table, epoch) = (&subject.table, &subject.epoch);
    contend(threads, count, |number| {
        let mut chunks = windows[number].free.chunks(CHUNK.min(windows[number].free.len())).cycle();
        // Two threads and the table's owner; an epoch has room for hundreds.
        let participant = epoch.register().ok();
        move || match (&participant, chunks.next()) {
            (Some(participant), Some(pages)) => {
                pairs(table, participant, pages);
                pages.len() as u64
            }
            _ => u64::MAX / 4,
        }
    })
}
