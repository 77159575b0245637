//! What went wrong, and what became of the report.

use serde::Serialize;
use virtio_iommu_spec::fault::Reason;

use crate::sync::{AtomicU64, Ordering};

/// Why an access was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FaultCause {
    /// The endpoint is not attached to a domain and not in bypass mode.
    Unattached,
    /// Nothing is mapped at the address.
    NotMapped,
    /// A mapping is there but does not allow the access.
    Permission,
}

impl FaultCause {
    /// The reason on the wire.
    pub const fn reason(self) -> Reason {
        match self {
            Self::Unattached => Reason::Domain,
            Self::NotMapped | Self::Permission => Reason::Mapping,
        }
    }
}

/// Fault counters at one moment. `not_mapped + permission + unattached == delivered + dropped + waiting`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FaultCounts {
    /// Accesses to addresses without a mapping.
    pub not_mapped: u64,
    /// Accesses that the mapping does not allow.
    pub permission: u64,
    /// Accesses of endpoints without a domain.
    pub unattached: u64,
    /// Reports the driver received.
    pub delivered: u64,
    /// Reports dropped because the backlog was full.
    pub dropped_backlog: u64,
    /// Reports dropped because the driver had no buffer on the event queue.
    pub dropped_no_buffer: u64,
    /// Reports dropped because the driver's buffer was too small or unusable.
    pub dropped_bad_buffer: u64,
    /// Reports dropped because the event queue was not there (before DRIVER_OK, after a reset, or broken).
    pub dropped_no_queue: u64,
    /// Reports in the backlog.
    pub waiting: u64,
}

impl FaultCounts {
    /// Faults of any cause.
    pub fn faults(&self) -> u64 {
        self.not_mapped + self.permission + self.unattached
    }

    /// Reports that never reached the driver.
    pub fn dropped(&self) -> u64 {
        self.dropped_backlog + self.dropped_no_buffer + self.dropped_bad_buffer + self.dropped_no_queue
    }
}

/// The live counters.
#[derive(Debug, Default)]
pub(super) struct Counters {
    causes: [AtomicU64; 3],
    pub(super) delivered: AtomicU64,
    pub(super) dropped_backlog: AtomicU64,
    pub(super) dropped_no_buffer: AtomicU64,
    pub(super) dropped_bad_buffer: AtomicU64,
    pub(super) dropped_no_queue: AtomicU64,
}

impl Counters {
    /// Counts a fault and returns how many of its cause there have been.
    pub(super) fn fault(&self, cause: FaultCause) -> u64 {
        self.causes[cause as usize].fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(super) fn snapshot(&self, waiting: u64) -> FaultCounts {
        // Relaxed: statistics; each is right, their sum is exact once nobody faults.
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        FaultCounts {
            unattached: get(&self.causes[FaultCause::Unattached as usize]),
            not_mapped: get(&self.causes[FaultCause::NotMapped as usize]),
            permission: get(&self.causes[FaultCause::Permission as usize]),
            delivered: get(&self.delivered),
            dropped_backlog: get(&self.dropped_backlog),
            dropped_no_buffer: get(&self.dropped_no_buffer),
            dropped_bad_buffer: get(&self.dropped_bad_buffer),
            dropped_no_queue: get(&self.dropped_no_queue),
            waiting,
        }
    }
}
