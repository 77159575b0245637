//! What does the device take to serve MAP and UNMAP from the ring, 64 to a kick, against a null device that copies and
//! completes the same requests? Only the device's side is timed; an UNMAP's share of the grace period is part of it.

use rand::RngExt;

use super::MeasureError;
use crate::{
    clock::pin_to_cpu,
    report::{Bound, Figure},
    ring::{BATCH, Null, Ours, RigError, Served, map_request, unmap_request},
    rounds::{Effort, Pairs, median},
    workload::{PAGE, sequential_pages},
};

const MILLION: u64 = 1 << 20;

pub(super) fn measure(effort: &Effort) -> Result<Vec<Figure>, MeasureError> {
    pin_to_cpu(0);
    let bound = Bound::AtMost(0.5);
    let [map, unmap] = compare(effort, 0)?;
    let [_, unmap_1m] = compare(effort, MILLION)?;
    let figure = |name, pairs: Pairs| -> Result<Figure, MeasureError> {
        Ok(Figure::new(name, "ratio", pairs.ratio()?, bound))
    };
    Ok(vec![
        figure("ring_map_vs_queue_null", map)?,
        figure("ring_unmap_vs_queue_null", unmap)?,
        figure("ring_unmap_1m_vs_queue_null", unmap_1m)?,
    ])
}

/// A batch of MAPs and the UNMAPs of the same pages.
pub struct Requests {
    maps: Vec<Vec<u8>>,
    unmaps: Vec<Vec<u8>>,
}

impl Requests {
    /// Of these pages, at most a batch.
    pub fn of_pages(pages: impl IntoIterator<Item = u64>) -> Self {
        let (maps, unmaps) = pages
            .into_iter()
            .map(|page| {
                let map = map_request(Ours::DOMAIN, page * PAGE, PAGE, page * PAGE);
                (map, unmap_request(Ours::DOMAIN, page * PAGE, PAGE))
            })
            .unzip();
        Self { maps, unmaps }
    }

    /// Serves the MAPs; nanoseconds of the device's side.
    ///
    /// # Errors
    /// When one is not answered OK.
    pub fn map(&self, device: &mut impl Served) -> Result<f64, RigError> {
        device.batch(self.maps.iter().map(Vec::as_slice))
    }

    /// Serves the UNMAPs; nanoseconds of the device's side.
    ///
    /// # Errors
    /// When one is not answered OK.
    pub fn unmap(&self, device: &mut impl Served) -> Result<f64, RigError> {
        device.batch(self.unmaps.iter().map(Vec::as_slice))
    }
}

/// Nanoseconds of a MAP and of an UNMAP, ours and the null device's, with `live` other mappings.
fn compare(effort: &Effort, live: u64) -> Result<[Pairs; 2], MeasureError> {
    let (mut ours, mut null) = (Ours::new()?, Null::new()?);
    let pages: Vec<u64> = sequential_pages(live).collect();
    for batch in pages.chunks(BATCH) {
        Requests::of_pages(batch.iter().copied()).map(&mut ours)?;
    }
    let batches = batches(effort, live);
    let cycles = (effort.batch as usize / BATCH / 4).max(50);
    let mut failed = None;
    let pairs = effort.abba_of(|is_ours| {
        let full = live != 0;
        let ns = if is_ours {
            cycle(&mut ours, &batches, cycles, full)
        } else {
            cycle(&mut null, &batches, cycles, full)
        };
        ns.unwrap_or_else(|error| {
            failed = Some(error);
            [f64::NAN; 2]
        })
    });
    match failed {
        Some(error) => Err(error.into()),
        None => Ok(pairs),
    }
}

/// Batches of random pages: of the live ones, where there are any.
fn batches(effort: &Effort, live: u64) -> Vec<Requests> {
    let mut random = effort.random(live + 3);
    let range = sequential_pages(if live == 0 { 1 << 12 } else { live });
    let mut batch = || {
        let mut pages: Vec<u64> = Vec::with_capacity(BATCH);
        while pages.len() < BATCH {
            let page = random.random_range(range.clone());
            if !pages.contains(&page) {
                pages.push(page);
            }
        }
        Requests::of_pages(pages)
    };
    (0..256).map(|_| batch()).collect()
}

/// `[map, unmap]` in nanoseconds a request, medians over the batches: a batch takes microseconds, so most are undisturbed.
/// Where the pages are live (`full`), they are unmapped first.
fn cycle(
    device: &mut impl Served,
    batches: &[Requests],
    cycles: usize,
    full: bool,
) -> Result<[f64; 2], RigError> {
    let (mut map_ns, mut unmap_ns) = (Vec::with_capacity(cycles), Vec::with_capacity(cycles));
    for requests in batches.iter().cycle().take(cycles) {
        if full {
            unmap_ns.push(requests.unmap(device)?);
        }
        map_ns.push(requests.map(device)?);
        if !full {
            unmap_ns.push(requests.unmap(device)?);
        }
    }
    Ok([map_ns, unmap_ns].map(|ns| median(ns) / BATCH as f64))
}
