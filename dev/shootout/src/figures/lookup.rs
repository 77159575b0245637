//! How long is the walk? Translations of random live pages, 64 to a guard, against the bare radix walk.

use virtio_iommu::table::RadixTable;

use super::MeasureError;
use crate::{
    clock::{cpu_time_ns, pin_to_cpu, undisturbed},
    report::{Bound, Figure},
    rounds::{Effort, Pairs},
    tables::BareRadix,
    workload::{Subject, random_pages, sequential_pages},
};

pub(super) fn measure(effort: &Effort) -> Result<Vec<Figure>, MeasureError> {
    let figure = |name, pairs: Pairs| -> Result<Figure, MeasureError> {
        Ok(Figure::new(name, "ratio", pairs.ratio()?, Bound::AtMost(1.5)))
    };
    Ok(vec![
        figure("translate_miss_vs_radix_4k", lookups(effort, 1 << 12)?)?,
        figure("translate_miss_vs_radix_1m", lookups(effort, 1 << 20)?)?,
    ])
}

fn lookups(effort: &Effort, live: u64) -> Result<Pairs, MeasureError> {
    pin_to_cpu(0);
    let ours = Subject::<RadixTable>::with_pages(sequential_pages(live))?;
    let bare = Subject::<BareRadix>::with_pages(sequential_pages(live))?;
    let pages = random_pages(effort, live);
    // Batches walk through the whole permutation before they start over.
    let batch = (effort.batch as usize).min(pages.len());
    let mut batches = pages.chunks(batch).cycle();
    Ok(effort.abba(|is_ours| {
        let pages = batches.next().unwrap_or(&pages);
        let repeat = (effort.batch as usize).div_ceil(pages.len());
        undisturbed(|| {
            let ns = cpu_time_ns(|| {
                for _ in 0..repeat {
                    if is_ours {
                        ours.translate(&ours.participant, pages);
                    } else {
                        bare.translate(&bare.participant, pages);
                    }
                }
            });
            ns / (repeat * pages.len()) as f64
        })
    }))
}
