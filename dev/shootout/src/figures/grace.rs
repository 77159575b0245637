//! What does the grace period add to a map and unmap, when it is waited for after every UNMAP? (The device waits once a
//! batch.) With one endpoint registered: idle, or copying 1448 bytes at a time behind a guard.

use std::hint::black_box;

use virtio_iommu::{
    epoch::Patience,
    spec::Iova,
    table::{MappingTable, RadixTable},
};

use super::{MeasureError, map_unmap::pair_ns};
use crate::{
    clock::{pin_to_cpu, time_ns, undisturbed, with_background},
    report::{Bound, Figure},
    rounds::{Effort, Pairs},
    tables::BareRadix,
    workload::{PAGE, Subject, Window, pairs},
};

/// Bytes of one access of the busy endpoint.
const ACCESS_BYTES: usize = 1448;

pub(super) fn measure(effort: &Effort) -> Result<Vec<Figure>, MeasureError> {
    pin_to_cpu(0);
    let window = Window::new(effort, 0);
    let ours = Subject::<RadixTable>::with_pages(window.live.iter().copied())?;
    let bare = Subject::<BareRadix>::with_pages(window.live.iter().copied())?;
    let endpoint = ours.epoch.register()?;
    let compare = || {
        // A grace period costs as much as a hundred pairs without.
        let few = Effort { batch: effort.batch / 20, ..*effort };
        few.abba(|is_ours| {
            if is_ours { graced_ns(&ours, &window, few.batch) } else { pair_ns(&bare, &window, few.batch) }
        })
    };
    let idle = compare();
    let (table, pages) = (&ours.table, &window.live);
    let busy = with_background(
        move || {
            let (from, mut to) = ([0x5a_u8; ACCESS_BYTES], [0u8; ACCESS_BYTES]);
            let mut pages = pages.iter().cycle();
            move || {
                let guard = endpoint.pin();
                let page = pages.next().copied().unwrap_or(0);
                black_box(table.translate(&guard, Iova(page * PAGE)));
                to.copy_from_slice(black_box(&from));
                black_box(&mut to);
            }
        },
        |endpoint| {
            endpoint.work(true);
            compare()
        },
    );
    let figure = |name, pairs: Pairs| -> Result<Figure, MeasureError> {
        Ok(Figure::new(name, "ratio", pairs.ratio()?, Bound::None))
    };
    Ok(vec![
        figure("map_unmap_1t_with_grace_idle_vs_radix", idle)?,
        figure("map_unmap_1t_with_grace_busy_vs_radix", busy)?,
    ])
}

fn graced_ns(ours: &Subject<RadixTable>, window: &Window, count: u64) -> f64 {
    let pages = || window.free.iter().cycle().take(count as usize);
    undisturbed(|| {
        let ns = time_ns(|| {
            for page in pages() {
                pairs(&ours.table, &ours.participant, std::slice::from_ref(page));
                let waited = ours.participant.synchronize(Patience::default());
                assert!(waited.is_ok(), "the endpoint leaves its guard in time: {waited:?}");
            }
        });
        ns / count as f64
    })
}
