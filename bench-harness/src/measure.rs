//! Latency samples of one case, from the driver's side and the endpoint's.

use std::{
    cell::Cell,
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use iommu_endpoints::{Direction, DmaObserver};
use iommu_results::{Histogram, names};
use iommu_workloads::{Clock, Recorder};

use crate::clock::WallClock;

/// One operation in so many is timed: two clock readings cost as much as a cheap operation. A prime, so that sampling
/// does not fall into step with repeating patterns of calls or with the flush of lazy mode.
pub(crate) const SAMPLE_EVERY: u32 = 17;

impl Clock for WallClock {
    #[inline]
    fn now_ns(&self) -> u64 {
        Self::now_ns(self)
    }
}

/// The latencies of one case, in nanoseconds. Each has its own lock: driver and service threads record at once.
#[derive(Debug, Default)]
pub(crate) struct Latencies {
    map: Mutex<Latency>,
    unmap: Mutex<Latency>,
    dma: Mutex<Latency>,
    service: Mutex<Latency>,
    grace: Mutex<Latency>,
    vfio_map: Mutex<Latency>,
    vfio_unmap: Mutex<Latency>,
}

/// A histogram, and the exact sum of what is in it: a histogram's step is 1 ns, which is several per cent of a short
/// operation, and a batch's share per request is rounded down before it gets there.
#[derive(Debug, Default)]
struct Latency {
    histogram: Histogram,
    sum_ns: u64,
}

impl Latency {
    fn record(&mut self, ns: u64) {
        self.histogram.record(ns);
        self.sum_ns = self.sum_ns.saturating_add(ns);
    }
}

/// What was recorded since the last time.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    /// By name, only those that hold anything.
    pub(crate) histograms: BTreeMap<String, Histogram>,
    /// Exact means of the same values, ns.
    pub(crate) means_ns: BTreeMap<String, f64>,
}

impl Latencies {
    fn named(&self) -> [(&'static str, &Mutex<Latency>); 7] {
        [
            (names::MAP_LATENCY, &self.map),
            (names::UNMAP_LATENCY, &self.unmap),
            (names::DMA_LATENCY, &self.dma),
            (names::REQUEST_SERVICE, &self.service),
            (names::GRACE_WAIT, &self.grace),
            (names::VFIO_MAP_LATENCY, &self.vfio_map),
            (names::VFIO_UNMAP_LATENCY, &self.vfio_unmap),
        ]
    }

    /// Takes out what was recorded; empty histograms stay behind.
    pub(crate) fn take(&self) -> Taken {
        let mut taken = Taken::default();
        for (name, latency) in self.named() {
            let mut latency = lock(latency);
            let count = latency.histogram.count();
            if count > 0 {
                taken.histograms.insert(name.to_owned(), latency.histogram.clone());
                taken.means_ns.insert(name.to_owned(), latency.sum_ns as f64 / count as f64);
                latency.histogram.clear();
                latency.sum_ns = 0;
            }
        }
        taken
    }

    /// A batch of `requests` that the device served in `batch_ns`; at least one.
    pub(crate) fn request_service(&self, batch_ns: u64, requests: u64) {
        let mut service = lock(&self.service);
        service.histogram.record_n(batch_ns / requests.max(1), requests);
        service.sum_ns = service.sum_ns.saturating_add(batch_ns);
    }

    /// One call that mapped through VFIO.
    pub(crate) fn vfio_map(&self, ns: u64) {
        lock(&self.vfio_map).record(ns);
    }

    /// One call that unmapped through VFIO.
    pub(crate) fn vfio_unmap(&self, ns: u64) {
        lock(&self.vfio_unmap).record(ns);
    }

    /// One wait for a grace period.
    pub(crate) fn grace_wait(&self, ns: u64) {
        lock(&self.grace).record(ns);
    }
}

impl Recorder for Latencies {
    fn map_latency(&self, ns: u64) {
        lock(&self.map).record(ns);
    }

    fn unmap_latency(&self, ns: u64) {
        lock(&self.unmap).record(ns);
    }

    fn sample_every(&self) -> u32 {
        SAMPLE_EVERY
    }
}

/// Times the endpoint's DMA, one frame in [`SAMPLE_EVERY`].
pub(crate) struct DmaSampler {
    clock: WallClock,
    latencies: Arc<Latencies>,
    frames: Cell<u32>,
}

impl DmaSampler {
    /// Records into `latencies`.
    pub(crate) fn new(clock: WallClock, latencies: Arc<Latencies>) -> Self {
        Self { clock, latencies, frames: Cell::new(0) }
    }

    fn sampled(&self) -> bool {
        self.frames.get().is_multiple_of(SAMPLE_EVERY)
    }
}

impl DmaObserver for DmaSampler {
    #[inline]
    fn now(&self) -> u64 {
        if self.sampled() { self.clock.now_ns() } else { 0 }
    }

    #[inline]
    fn frame(&mut self, _direction: Direction, _payload_bytes: u64, ticks: u64) {
        if self.sampled() {
            lock(&self.latencies.dma).record(ticks);
        }
        self.frames.set(self.frames.get().wrapping_add(1));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A histogram is whole after every call; a panic elsewhere does not spoil it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_recorded_is_taken_and_only_once() {
        let latencies = Latencies::default();
        latencies.map_latency(100);
        latencies.grace_wait(7);
        let names: Vec<_> = latencies.take().histograms.into_keys().collect();
        assert_eq!(names, [names::GRACE_WAIT, names::MAP_LATENCY]);
        assert!(latencies.take().histograms.is_empty());
    }

    #[test]
    fn means_are_exact_where_the_histogram_rounds_down() {
        let latencies = Latencies::default();
        for _ in 0..4 {
            latencies.request_service(299, 3);
        }
        let taken = latencies.take();
        assert_eq!(taken.histograms[names::REQUEST_SERVICE].quantile(0.5), Some(99));
        assert_eq!(taken.means_ns[names::REQUEST_SERVICE], 299.0 / 3.0);
        latencies.request_service(60, 1);
        assert_eq!(latencies.take().means_ns[names::REQUEST_SERVICE], 60.0);
    }

    #[test]
    fn one_frame_in_so_many_is_timed() {
        let latencies = Arc::new(Latencies::default());
        let mut sampler = DmaSampler::new(WallClock::best(), Arc::clone(&latencies));
        for _ in 0..4 * SAMPLE_EVERY {
            let start = sampler.now();
            let ticks = sampler.now() - start;
            sampler.frame(Direction::ToGuest, 1, ticks);
        }
        assert_eq!(latencies.take().histograms[names::DMA_LATENCY].count(), 4);
    }
}
