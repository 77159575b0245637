//! Counters of the request queues.

use serde::Serialize;
use virtio_iommu_spec::Status;

use crate::{
    fault::FaultCounts,
    iotlb::IotlbCounters,
    request::{ChainErrorKind, Request},
    sync::{AtomicU64, Ordering},
};

/// Kinds of well-formed request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum RequestKind {
    /// ATTACH.
    Attach,
    /// DETACH.
    Detach,
    /// MAP.
    Map,
    /// UNMAP.
    Unmap,
    /// PROBE.
    Probe,
}

impl From<&Request> for RequestKind {
    fn from(request: &Request) -> Self {
        match request {
            Request::Attach(_) => Self::Attach,
            Request::Detach(_) => Self::Detach,
            Request::Map(_) => Self::Map,
            Request::Unmap(_) => Self::Unmap,
            Request::Probe(_) => Self::Probe,
        }
    }
}

/// Counters at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Requests by [`RequestKind`]: ATTACH, DETACH, MAP, UNMAP, PROBE.
    pub requests: [u64; 5],
    /// Answers by status, in wire order.
    pub statuses: [u64; 9],
    /// Garbled requests by [`ChainErrorKind`]; those with a short readable part are answered and counted in
    /// `statuses` too.
    pub garbled: [u64; 6],
    /// Kicks of the request queues.
    pub kicks: u64,
    /// Batches served, each published once.
    pub batches: u64,
    /// Requests whose answer had to wait for a grace period: UNMAPs that removed something, DETACHes, implicit
    /// detaches.
    pub invalidations: u64,
    /// Grace periods waited for, at most one a batch.
    pub grace_periods: u64,
    /// Grace periods given up.
    pub grace_stuck: u64,
    /// Mappings created by MAP.
    pub mapped: u64,
    /// Mappings removed by UNMAP.
    pub unmapped: u64,
    /// Mappings now, plus credits workers hold unused.
    pub mappings_reserved: u64,
    /// Faults of endpoints.
    pub faults: FaultCounts,
    /// IOTLBs of all endpoint ports; all 0 without any.
    pub iotlb: IotlbCounters,
}

impl Counters {
    /// Adds what another request queue counted. Only what a queue counts is added; the rest is the device's.
    pub(crate) fn add_queue(&mut self, queue: &Self) {
        fn each<const N: usize>(to: &mut [u64; N], from: &[u64; N]) {
            to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
        }
        each(&mut self.requests, &queue.requests);
        each(&mut self.statuses, &queue.statuses);
        each(&mut self.garbled, &queue.garbled);
        self.kicks += queue.kicks;
        self.batches += queue.batches;
        self.invalidations += queue.invalidations;
        self.grace_periods += queue.grace_periods;
        self.grace_stuck += queue.grace_stuck;
        self.mapped += queue.mapped;
        self.unmapped += queue.unmapped;
    }

    /// Requests of one kind.
    pub fn requests_of(&self, kind: RequestKind) -> u64 {
        self.requests[kind as usize]
    }

    /// Answers with one status.
    pub fn status(&self, status: Status) -> u64 {
        self.statuses[status as usize]
    }

    /// Garbled requests of one kind.
    pub fn garbled_of(&self, kind: ChainErrorKind) -> u64 {
        self.garbled[kind as usize]
    }
}

/// The live counters of one request queue. Each is written by the one thread that serves the queue at a time (`stuck`
/// apart), so an increment is a load and a store.
#[derive(Debug, Default)]
pub(crate) struct LiveCounters {
    requests: [AtomicU64; 5],
    statuses: [AtomicU64; 9],
    garbled: [AtomicU64; 6],
    batches: AtomicU64,
    invalidations: AtomicU64,
    grace_periods: AtomicU64,
    grace_stuck: AtomicU64,
    mapped: AtomicU64,
    unmapped: AtomicU64,
}

#[inline]
fn bump(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Ordering::Relaxed) + n, Ordering::Relaxed);
}

impl LiveCounters {
    #[inline]
    pub(super) fn request(&self, kind: RequestKind) {
        bump(&self.requests[kind as usize], 1);
    }

    #[inline]
    pub(super) fn status(&self, status: Status) {
        bump(&self.statuses[status as usize], 1);
    }

    /// Returns how many of the kind there have been.
    pub(super) fn garbled(&self, kind: ChainErrorKind) -> u64 {
        let counter = &self.garbled[kind as usize];
        bump(counter, 1);
        counter.load(Ordering::Relaxed)
    }

    #[inline]
    pub(super) fn mapped(&self) {
        bump(&self.mapped, 1);
    }

    #[inline]
    pub(super) fn unmapped(&self, mappings: u64) {
        bump(&self.unmapped, mappings);
    }

    pub(super) fn batch(&self) {
        bump(&self.batches, 1);
    }

    pub(super) fn grace(&self, invalidations: u64) {
        bump(&self.grace_periods, 1);
        bump(&self.invalidations, invalidations);
    }

    /// An answer was changed before it was published.
    pub(super) fn restate(&self, from: Status, to: Status) {
        let counter = &self.statuses[from as usize];
        counter.store(counter.load(Ordering::Relaxed).saturating_sub(1), Ordering::Relaxed);
        bump(&self.statuses[to as usize], 1);
    }

    pub(crate) fn stuck(&self) {
        self.grace_stuck.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn snapshot(&self) -> Counters {
        fn all<const N: usize>(counters: &[AtomicU64; N]) -> [u64; N] {
            std::array::from_fn(|i| counters[i].load(Ordering::Relaxed))
        }
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counters {
            requests: all(&self.requests),
            statuses: all(&self.statuses),
            garbled: all(&self.garbled),
            batches: get(&self.batches),
            invalidations: get(&self.invalidations),
            grace_periods: get(&self.grace_periods),
            grace_stuck: get(&self.grace_stuck),
            mapped: get(&self.mapped),
            unmapped: get(&self.unmapped),
            ..Counters::default()
        }
    }
}
