//! What do extreme mappings cost: one of 1 TiB that starts and ends beside every boundary, and a million of 4 KiB?

use virtio_iommu::{
    epoch::Patience,
    spec::{Gpa, IovaRange},
    table::{Mapping, MappingTable, Perms, RadixTable},
};

use super::MeasureError;
use crate::{
    clock::{cpu_time_ns, pin_to_cpu, time_ns, undisturbed},
    report::{Bound, Figure},
    rounds::Effort,
    workload::{PAGE, Subject, sequential_pages},
};

const MILLION: u64 = 1 << 20;

pub(super) fn measure(effort: &Effort) -> Result<Vec<Figure>, MeasureError> {
    pin_to_cpu(0);
    let mut figures = huge(effort)?;
    figures.extend(million(effort)?);
    Ok(figures)
}

fn huge(effort: &Effort) -> Result<Vec<Figure>, MeasureError> {
    let ours = Subject::<RadixTable>::new()?;
    let start = 3 * PAGE;
    let Some(range) = IovaRange::with_len(start, 1 << 40) else { return Ok(Vec::new()) };
    let mapping = Mapping { range, gpa: Gpa(0x1234_5000), perms: Perms::RW };
    let mut bytes = 0;
    let map_us = effort.mean(|| {
        undisturbed(|| {
            let guard = ours.participant.pin();
            let ns = time_ns(|| assert_eq!(ours.table.map(&guard, &mapping), Ok(())));
            bytes = ours.table.table_bytes();
            let removed = ours.table.unmap(&guard, range);
            assert!(removed.is_ok_and(|removed| removed.mappings == 1));
            drop(guard);
            // The tables are free to be used again before the next sample.
            assert!(ours.participant.synchronize(Patience::default()).is_ok());
            ns / 1e3
        })
    })?;
    Ok(vec![
        Figure::new("map_1tib_us", "us", map_us, Bound::AtMost(20.0)),
        Figure::exact("table_bytes_1tib", "bytes", bytes as f64, Bound::AtMost(f64::from(256 << 10))),
    ])
}

fn million(effort: &Effort) -> Result<Vec<Figure>, MeasureError> {
    let mut bytes = 0;
    let unmap_ns = effort.mean(|| match Subject::<RadixTable>::with_pages(sequential_pages(MILLION)) {
        Ok(ours) => {
            bytes = ours.table.table_bytes();
            let guard = ours.participant.pin();
            let unmap = || {
                assert_eq!(ours.table.unmap(&guard, IovaRange::ALL).map(|gone| gone.mappings), Ok(MILLION))
            };
            cpu_time_ns(unmap) / MILLION as f64
        }
        Err(_) => f64::NAN,
    })?;
    let each = bytes as f64 / MILLION as f64;
    Ok(vec![
        Figure::exact("bytes_per_mapping_1m", "bytes", each, Bound::AtMost(16.0)),
        Figure::new("unmap_all_ns_each", "ns", unmap_ns, Bound::AtMost(10.0)),
    ])
}
