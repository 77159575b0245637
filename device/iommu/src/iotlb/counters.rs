//! Counters: written by the port's thread, read by anybody.

use std::sync::{
    Arc,
    Mutex,
    PoisonError,
    // Not the models' atomics: numbers that guard nothing need not be explored.
    atomic::{AtomicU64, Ordering},
};

use serde::Serialize;

/// Counters of an IOTLB, or of all of a device's, at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct IotlbCounters {
    /// Look-ups of addresses while attached to a domain with mappings: hits and misses.
    pub lookups: u64,
    /// Look-ups that an entry answered.
    pub hits: u64,
    /// Look-ups that walked the mapping table, whether or not it knew the address.
    pub misses: u64,
    /// Entries made.
    pub fills: u64,
    /// Entries that made room for others.
    pub evictions: u64,
    /// Entries dropped because an UNMAP covered them.
    pub invalidations: u64,
    /// Times the whole cache was dropped: the endpoint changed its domain, or the port had fallen behind its domain's
    /// log.
    pub flushes: u64,
}

impl std::ops::AddAssign for IotlbCounters {
    fn add_assign(&mut self, other: Self) {
        self.lookups += other.lookups;
        self.hits += other.hits;
        self.misses += other.misses;
        self.fills += other.fills;
        self.evictions += other.evictions;
        self.invalidations += other.invalidations;
        self.flushes += other.flushes;
    }
}

/// The live counters. One thread writes at a time, so an increment is a load and a store.
#[derive(Debug, Default)]
pub(crate) struct LiveIotlb {
    /// Hits and fills: the clock of the order of use.
    ticks: AtomicU64,
    misses: AtomicU64,
    fills: AtomicU64,
    evictions: AtomicU64,
    invalidations: AtomicU64,
    flushes: AtomicU64,
}

#[inline(always)]
fn bump(counter: &AtomicU64, n: u64) -> u64 {
    let value = counter.load(Ordering::Relaxed) + n;
    counter.store(value, Ordering::Relaxed);
    value
}

impl LiveIotlb {
    /// Counts a hit; returns its time.
    #[inline(always)]
    pub(super) fn hit(&self) -> u32 {
        bump(&self.ticks, 1) as u32
    }

    /// Counts a fill; returns its time.
    pub(super) fn fill(&self) -> u32 {
        bump(&self.fills, 1);
        bump(&self.ticks, 1) as u32
    }

    pub(super) fn miss(&self) {
        bump(&self.misses, 1);
    }

    pub(super) fn evicted(&self) {
        bump(&self.evictions, 1);
    }

    pub(super) fn invalidated(&self, entries: u64) {
        bump(&self.invalidations, entries);
    }

    pub(super) fn flushed(&self) {
        bump(&self.flushes, 1);
    }

    /// Exact once the port is idle.
    pub(super) fn snapshot(&self) -> IotlbCounters {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (misses, fills) = (get(&self.misses), get(&self.fills));
        let hits = get(&self.ticks).saturating_sub(fills);
        IotlbCounters {
            lookups: hits + misses,
            hits,
            misses,
            fills,
            evictions: get(&self.evictions),
            invalidations: get(&self.invalidations),
            flushes: get(&self.flushes),
        }
    }
}

/// The counters of all ports of a device, those that went away included.
#[derive(Debug, Default)]
pub(crate) struct Ledger(Mutex<(Vec<Arc<LiveIotlb>>, IotlbCounters)>);

impl Ledger {
    /// A port begins.
    pub(crate) fn enrol(&self, port: &Arc<LiveIotlb>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0.push(port.clone());
    }

    /// A port ends; what it counted stays.
    pub(crate) fn retire(&self, port: &Arc<LiveIotlb>) {
        let mut ledger = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ledger.0.retain(|other| !Arc::ptr_eq(other, port));
        ledger.1 += port.snapshot();
    }

    /// The sum.
    pub(crate) fn total(&self) -> IotlbCounters {
        let ledger = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut total = ledger.1;
        ledger.0.iter().for_each(|port| total += port.snapshot());
        total
    }
}
