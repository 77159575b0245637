//! Times the IOMMU's service of requests.

use std::sync::Arc;

use virtio_iommu::ServiceObserver;

use crate::{
    clock::WallClock,
    measure::{Latencies, SAMPLE_EVERY},
};

/// Times one batch in [`SAMPLE_EVERY`]: its share per request without the grace period, and the grace period.
pub(crate) struct BatchTimer {
    clock: WallClock,
    latencies: Arc<Latencies>,
    batches: u32,
    began_ns: u64,
    grace_began_ns: u64,
    grace_ns: Option<u64>,
}

impl BatchTimer {
    /// Records into `latencies`.
    pub(crate) fn new(clock: WallClock, latencies: Arc<Latencies>) -> Self {
        Self { clock, latencies, batches: 0, began_ns: 0, grace_began_ns: 0, grace_ns: None }
    }

    fn sampled(&self) -> bool {
        self.batches.is_multiple_of(SAMPLE_EVERY)
    }
}

impl ServiceObserver for BatchTimer {
    fn batch_begin(&mut self) {
        self.batches = self.batches.wrapping_add(1);
        if self.sampled() {
            self.grace_ns = None;
            self.began_ns = self.clock.now_ns();
        }
    }

    fn grace_begin(&mut self) {
        if self.sampled() {
            self.grace_began_ns = self.clock.now_ns();
        }
    }

    fn grace_end(&mut self) {
        if self.sampled() {
            let waited = self.clock.now_ns().saturating_sub(self.grace_began_ns);
            self.grace_ns = Some(self.grace_ns.unwrap_or(0) + waited);
        }
    }

    fn batch_end(&mut self, requests: u32) {
        if !self.sampled() {
            return;
        }
        let total = self.clock.now_ns().saturating_sub(self.began_ns);
        if let Some(waited) = self.grace_ns {
            self.latencies.grace_wait(waited);
        }
        if requests > 0 {
            let own = total.saturating_sub(self.grace_ns.unwrap_or(0));
            self.latencies.request_service(own, u64::from(requests));
        }
    }
}
