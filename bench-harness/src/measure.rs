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

/// The histograms of one case, in nanoseconds. Each has its own lock: driver and service threads record at once.
#[derive(Debug, Default)]
pub(crate) struct Latencies {
    map: Mutex<Histogram>,
    unmap: Mutex<Histogram>,
    dma: Mutex<Histogram>,
    service: Mutex<Histogram>,
    grace: Mutex<Histogram>,
}

impl Latencies {
    fn named(&self) -> [(&'static str, &Mutex<Histogram>); 5] {
        [
            (names::MAP_LATENCY, &self.map),
            (names::UNMAP_LATENCY, &self.unmap),
            (names::DMA_LATENCY, &self.dma),
            (names::REQUEST_SERVICE, &self.service),
            (names::GRACE_WAIT, &self.grace),
        ]
    }

    /// Takes out the histograms that hold anything, by name; empty ones stay behind.
    pub(crate) fn take(&self) -> BTreeMap<String, Histogram> {
        let mut taken = BTreeMap::new();
        for (name, histogram) in self.named() {
            let mut histogram = lock(histogram);
            if !histogram.is_empty() {
                taken.insert(name.to_owned(), histogram.clone());
                histogram.clear();
            }
        }
        taken
    }

    /// `requests` served by the device in one batch, `ns` each.
    pub(crate) fn request_service(&self, ns: u64, requests: u64) {
        lock(&self.service).record_n(ns, requests);
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
        let names: Vec<_> = latencies.take().into_keys().collect();
        assert_eq!(names, [names::GRACE_WAIT, names::MAP_LATENCY]);
        assert!(latencies.take().is_empty());
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
        assert_eq!(latencies.take()[names::DMA_LATENCY].count(), 4);
    }
}
