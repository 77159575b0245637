//! Machines: where the cases of a scenario run.

use std::{collections::BTreeMap, time::Duration};

use iommu_results::{Histogram, Param};
use iommu_workloads::{CaseSpec, workload::Memcpy};
use thiserror::Error;

mod build;
mod bus;
mod card;
mod disk;
mod hardware;
mod inject;
mod local;
mod observer;
mod real;
mod record;
mod stack;
mod vfio_map;

pub(crate) use build::chain;
pub(crate) use hardware::HardwareError;
pub(crate) use inject::EndpointFault;
pub(crate) use local::{LocalMachine, LocalOptions, Time};
pub(crate) use real::{Allowed, Real};
pub(crate) use record::{RecordLimits, RecordedSlice, Recording};

/// How much a slice does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Amount {
    /// As much as fits into this time.
    For(Duration),
    /// Exactly so many packets, or round trips.
    Packets(u64),
}

/// What one slice of a case did.
#[derive(Clone, Debug, Default)]
pub(crate) struct Slice {
    /// Wall time in nanoseconds; nothing in virtual time.
    pub(crate) elapsed_ns: Option<u64>,
    /// CPU time of all threads that took part, in nanoseconds; nothing in virtual time.
    pub(crate) cpu_ns: Option<u64>,
    /// Packets in both directions.
    pub(crate) packets: u64,
    /// Payload bytes in both directions.
    pub(crate) payload_bytes: u64,
    /// Completed round trips.
    pub(crate) transactions: u64,
    /// What plain `memcpy` by the guest's CPUs reached beside the load, where the load has such a thing.
    pub(crate) memcpy: Option<Memcpy>,
    /// CPU time that took, in nanoseconds.
    pub(crate) memcpy_cpu_ns: u64,
    /// Exact counts by their name in `run.json`.
    pub(crate) counts: BTreeMap<String, u64>,
    /// MAP and UNMAP requests that the device served, those of set-up, warm-up and tear-down included; nothing where the
    /// slice has none of these, and `counts` says it all.
    pub(crate) served: Option<[u64; 2]>,
    /// Latencies in nanoseconds by their name in `run.json`.
    pub(crate) histograms: BTreeMap<String, Histogram>,
    /// Exact means of the same latencies, in nanoseconds.
    pub(crate) means_ns: BTreeMap<String, f64>,
    /// Other figures that the machine took, by the metric's name, or why it did not.
    pub(crate) further: BTreeMap<&'static str, Result<f64, String>>,
    /// Why the case cannot run here, where it cannot; nothing else is in the slice then.
    pub(crate) missing: Option<String>,
    /// What the processor counted, by the counter's name, or why it did not.
    pub(crate) counted: crate::probes::Counted,
}

/// A case cannot be set up, or broke while it ran.
#[derive(Debug, Error)]
#[error("{case}: {cause}")]
pub(crate) struct CaseError {
    /// Id of the case.
    pub(crate) case: String,
    /// What happened.
    pub(crate) cause: String,
}

/// A case that is set up: memory, devices, driver.
pub(crate) trait PreparedCase {
    /// Parameters that only the machine knows: the service mode in use, clocks.
    fn params(&self) -> BTreeMap<String, Param>;

    /// Runs one slice.
    ///
    /// # Errors
    /// When payload was corrupted, a fault occurred, a worker panicked or the driver gave up.
    fn run_slice(&mut self, amount: Amount) -> Result<Slice, CaseError>;

    /// Unmaps everything, resets the devices.
    ///
    /// # Errors
    /// When a device does not do what is asked.
    fn finish(self: Box<Self>) -> Result<(), CaseError>;
}

/// Something that can set up cases.
pub(crate) trait Machine: Send {
    /// Sets one case up. Called on the thread that will run it.
    ///
    /// # Errors
    /// When memory, a device or the driver cannot be had.
    fn prepare(&self, case: &CaseSpec) -> Result<Box<dyn PreparedCase>, CaseError>;

    /// Records the stream of a case's page accesses, in a pass of its own that is not timed; or says why there is none.
    ///
    /// # Errors
    /// When the case cannot be set up, or breaks.
    fn record(&self, case: &CaseSpec, limits: RecordLimits) -> Result<Result<Recording, String>, CaseError>;
}
