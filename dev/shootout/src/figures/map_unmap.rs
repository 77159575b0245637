//! What does a map and unmap of 4 KiB cost one thread? The grace period is not part of it; the guards are.

use virtio_iommu::table::{LockedTable, RadixTable};

use super::MeasureError;
use crate::{
    clock::{cpu_time_ns, pin_to_cpu, undisturbed},
    report::{Bound, Figure},
    rounds::{Effort, Pairs},
    tables::{BareRadix, MutexTable, Shape},
    workload::{CHUNK, Subject, Window},
};

pub(super) fn measure(effort: &Effort) -> Result<Vec<Figure>, MeasureError> {
    let figure = |name, pairs: Pairs, bound| -> Result<Figure, MeasureError> {
        Ok(Figure::new(name, "ratio", pairs.ratio()?, Bound::AtMost(bound)))
    };
    Ok(vec![
        figure("map_unmap_1t_vs_radix", against::<BareRadix>(effort)?, 2.5)?,
        figure("map_unmap_1t_vs_rwlock_btree", against::<LockedTable>(effort)?, 1.0)?,
        figure("map_unmap_1t_vs_mutex_btree", against::<MutexTable>(effort)?, 1.0)?,
    ])
}

fn against<T: Shape>(effort: &Effort) -> Result<Pairs, MeasureError> {
    pin_to_cpu(0);
    let window = Window::new(effort, 0);
    let ours = Subject::<RadixTable>::with_pages(window.live.iter().copied())?;
    let theirs = Subject::<T>::with_pages(window.live.iter().copied())?;
    Ok(effort.abba(|is_ours| {
        if is_ours { pair_ns(&ours, &window, effort.batch) } else { pair_ns(&theirs, &window, effort.batch) }
    }))
}

/// Nanoseconds of one pair.
pub fn pair_ns<T: Shape>(subject: &Subject<T>, window: &Window, pairs: u64) -> f64 {
    let chunks = (pairs as usize).div_ceil(CHUNK);
    undisturbed(|| {
        let ns = cpu_time_ns(|| {
            for pages in window.chunks().take(chunks) {
                subject.pairs(&subject.participant, pages);
            }
        });
        ns / (chunks * CHUNK) as f64
    })
}
