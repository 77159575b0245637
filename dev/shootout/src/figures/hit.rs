//! Does the IOTLB beat the walk? As many distinct pages as the IOTLB holds, strided over a million live ones, in random
//! order, 64 to a guard: looked up in a warm IOTLB, and by the bare radix walk. Then the same through the device: a port
//! with an IOTLB against a port without.

use std::hint::black_box;

use rand::seq::SliceRandom;
use virtio_iommu::{
    EndpointPort,
    dma::Access,
    iotlb::{InvalidationLog, Iotlb, IotlbOptions},
    spec::Iova,
    table::{MappingTable, RadixTable},
};

use super::MeasureError;
use crate::{
    clock::{pin_to_cpu, time_ns, undisturbed},
    report::{Bound, Figure},
    ring::{BATCH, BUFFERS, Ours, Served, map_request},
    rounds::{Effort, Pairs},
    tables::{BareRadix, Shape as Baseline},
    workload::{PAGE, Subject, sequential_pages},
};

const MILLION: u64 = 1 << 20;

pub(super) fn measure(effort: &Effort) -> Result<Vec<Figure>, MeasureError> {
    pin_to_cpu(0);
    let options = IotlbOptions::default();
    let (hit, _) = hits::<BareRadix>(effort, &options)?;
    let (own, _) = hits::<RadixTable>(effort, &options)?;
    let port = ports(effort, &options)?;
    Ok(vec![
        Figure::new("translate_hit_vs_radix_1m", "ratio", hit.ratio()?, Bound::AtMost(1.0)),
        Figure::new("translate_hit_vs_own_walk_1m", "ratio", own.ratio()?, Bound::AtMost(1.0)),
        Figure::new("translate_port_iotlb_vs_walk_1m", "ratio", port.ratio()?, Bound::AtMost(1.0)),
    ])
}

/// As many pages as the IOTLB has entries, evenly strided over a million, in random order.
pub fn strided_pages(effort: &Effort, entries: usize) -> Vec<u64> {
    let stride = (MILLION as usize / entries).max(1);
    let mut pages: Vec<u64> = sequential_pages(MILLION).step_by(stride).collect();
    pages.shuffle(&mut effort.random(entries as u64));
    pages
}

/// A table whose look-ups go through an IOTLB.
pub struct Cached {
    subject: Subject<RadixTable>,
    iotlb: Iotlb,
    log: InvalidationLog,
}

impl Cached {
    /// A million live pages behind an IOTLB.
    ///
    /// # Errors
    /// As [`Subject::new`].
    pub fn new(options: &IotlbOptions) -> Result<Self, MeasureError> {
        let subject = Subject::with_pages(sequential_pages(MILLION))?;
        Ok(Self { subject, iotlb: Iotlb::new(options)?, log: InvalidationLog::new() })
    }

    /// Hits by look-ups so far.
    pub fn hit_ratio(&self) -> f64 {
        let counters = self.iotlb.counters();
        counters.hits as f64 / counters.lookups.max(1) as f64
    }

    /// Translates each page once, 64 to a guard, as a port does.
    #[inline]
    pub fn translate(&self, pages: &[u64]) {
        let mut sum = 0u64;
        for burst in pages.chunks(64) {
            let guard = self.subject.participant.pin();
            self.iotlb.enter(Some(&self.log));
            for page in burst {
                let iova = page * PAGE;
                let gpa = match self.iotlb.find(iova) {
                    Some(found) => found.gpa.0,
                    None => self.subject.table.run_at(&guard, Iova(iova)).map_or(0, |found| {
                        self.iotlb.fill(iova, &found);
                        found.translation(iova).gpa.0
                    }),
                };
                sum = sum.wrapping_add(gpa);
            }
        }
        black_box(sum);
    }
}

/// What one shape of IOTLB does.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Nanoseconds of a translation through the IOTLB.
    pub iotlb_ns: f64,
    /// Nanoseconds of the bare walk of the same stream.
    pub bare_ns: f64,
    /// Nanoseconds of this project's walk of the same stream.
    pub walk_ns: f64,
    /// Hits by look-ups.
    pub hit_ratio: f64,
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { iotlb_ns, bare_ns, walk_ns, hit_ratio } = self;
        let (bare, walk) = (iotlb_ns / bare_ns, iotlb_ns / walk_ns);
        write!(f, "{iotlb_ns:6.2} ns; bare walk {bare_ns:5.2} ns, ratio {bare:.2}; ")?;
        write!(f, "own walk {walk_ns:5.2} ns, ratio {walk:.2}; hits {hit_ratio:.4}")
    }
}

/// Measures one shape.
///
/// # Errors
/// When there is no such shape.
pub fn shape(effort: &Effort, entries: usize, ways: usize) -> Result<Shape, MeasureError> {
    pin_to_cpu(0);
    let options = IotlbOptions { entries, ways, ..IotlbOptions::default() };
    let (bare, hit_ratio) = hits::<BareRadix>(effort, &options)?;
    let (walk, _) = hits::<RadixTable>(effort, &options)?;
    let mean = |samples: &[f64]| samples.iter().sum::<f64>() / samples.len().max(1) as f64;
    Ok(Shape {
        iotlb_ns: mean(&bare.ours),
        bare_ns: mean(&bare.theirs),
        walk_ns: mean(&walk.theirs),
        hit_ratio,
    })
}

/// Time of a translation through a port with an IOTLB of this shape, by that of a port without.
///
/// # Errors
/// When there is no such shape.
pub fn ports_ratio(effort: &Effort, entries: usize, ways: usize) -> Result<f64, MeasureError> {
    pin_to_cpu(0);
    let options = IotlbOptions { entries, ways, ..IotlbOptions::default() };
    let pairs = ports(effort, &options)?;
    Ok(pairs.ratio()?.value)
}

fn hits<T: Baseline>(effort: &Effort, options: &IotlbOptions) -> Result<(Pairs, f64), MeasureError> {
    let ours = Cached::new(options)?;
    let walk = Subject::<T>::with_pages(sequential_pages(MILLION))?;
    let pages = strided_pages(effort, options.entries);
    let repeat = (effort.batch as usize).div_ceil(pages.len());
    let pairs = effort.abba(|is_ours| {
        undisturbed(|| {
            let ns = time_ns(|| {
                for _ in 0..repeat {
                    if is_ours {
                        ours.translate(&pages);
                    } else {
                        walk.translate(&walk.participant, &pages);
                    }
                }
            });
            ns / (repeat * pages.len()) as f64
        })
    });
    Ok((pairs, ours.hit_ratio()))
}

/// Nanoseconds of a translation through a port, with and without IOTLB; each port has a device and a million mappings of
/// its own.
fn ports(effort: &Effort, options: &IotlbOptions) -> Result<Pairs, MeasureError> {
    let port = |iotlb| -> Result<(Ours, EndpointPort), MeasureError> {
        let mut device = Ours::with_iotlb(iotlb)?;
        let maps: Vec<Vec<u8>> = sequential_pages(MILLION)
            .map(|page| map_request(Ours::DOMAIN, page * PAGE, PAGE, BUFFERS))
            .collect();
        for batch in maps.chunks(BATCH) {
            device.batch(batch.iter().map(Vec::as_slice))?;
        }
        let port = device.port()?;
        Ok((device, port))
    };
    let (cached, plain) = (port(Some(*options))?, port(None)?);
    let pages = strided_pages(effort, options.entries);
    let repeat = (effort.batch as usize).div_ceil(pages.len());
    Ok(effort.abba(|is_cached| {
        let port = if is_cached { &cached.1 } else { &plain.1 };
        undisturbed(|| {
            let ns = time_ns(|| (0..repeat).for_each(|_| translate(port, &pages)));
            ns / (repeat * pages.len()) as f64
        })
    }))
}

/// Translates each page once, 64 to a view.
fn translate(port: &EndpointPort, pages: &[u64]) {
    let mut sum = 0u64;
    for burst in pages.chunks(64) {
        let view = port.pin();
        for page in burst {
            let found = view.translate(page * PAGE, Access::Read);
            sum = sum.wrapping_add(found.map_or(0, |found| found.gpa.0));
        }
    }
    black_box(sum);
}
