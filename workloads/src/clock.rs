//! Time and latency samples, both supplied by the caller.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

/// A clock that never goes back.
pub trait Clock: Send + Sync {
    /// Nanoseconds since some fixed origin.
    fn now_ns(&self) -> u64;
}

/// `CLOCK_MONOTONIC`, from its creation on.
#[derive(Clone, Copy, Debug)]
pub struct MonotonicClock {
    origin: Instant,
}

impl Default for MonotonicClock {
    fn default() -> Self {
        Self { origin: Instant::now() }
    }
}

impl Clock for MonotonicClock {
    fn now_ns(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// A clock that advances by a fixed step each time it is read, so that whatever depends on time repeats exactly.
#[derive(Debug)]
pub struct VirtualClock {
    now_ns: AtomicU64,
    step_ns: u64,
}

impl VirtualClock {
    /// Starts at zero and advances by `step_ns` at each reading.
    pub const fn new(step_ns: u64) -> Self {
        Self { now_ns: AtomicU64::new(0), step_ns }
    }
}

impl Default for VirtualClock {
    fn default() -> Self {
        Self::new(100)
    }
}

impl Clock for VirtualClock {
    fn now_ns(&self) -> u64 {
        // Relaxed: the value orders nothing but itself.
        self.now_ns.fetch_add(self.step_ns, Ordering::Relaxed)
    }
}

/// Where latency samples go, in nanoseconds.
///
/// One call in [`sample_every`](Self::sample_every) is timed, because two clock readings cost as much as a cheap
/// operation. In modes without an IOMMU to talk to, mapping is no operation and nothing is recorded.
pub trait Recorder: Send + Sync {
    /// One DMA map call, from entry to the IOVA being usable.
    fn map_latency(&self, ns: u64);
    /// One DMA unmap call, from entry to return: with the wait for the invalidation in strict mode, without in lazy.
    fn unmap_latency(&self, ns: u64);
    /// One request/response transaction, from the first byte queued to the last byte verified.
    fn transaction_latency(&self, ns: u64) {
        let _ = ns;
    }
    /// Time every n-th call; zero times none. A prime, so that a repeating pattern of calls (header, payload, header,
    /// payload; every 256th a flush) is sampled in all its phases.
    fn sample_every(&self) -> u32 {
        17
    }
}

/// Records nothing, and so times nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NullRecorder;

impl Recorder for NullRecorder {
    fn map_latency(&self, _ns: u64) {}
    fn unmap_latency(&self, _ns: u64) {}
    fn sample_every(&self) -> u32 {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn virtual_time_is_a_function_of_the_number_of_readings() {
        let clock = VirtualClock::new(7);
        let seen: Vec<u64> = (0..4).map(|_| clock.now_ns()).collect();
        assert_eq!(seen, [0, 7, 14, 21]);
    }

    #[test]
    fn monotonic_time_does_not_go_back() {
        let clock = MonotonicClock::default();
        let first = clock.now_ns();
        assert!(clock.now_ns() >= first);
    }
}
