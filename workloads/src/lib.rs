//! The guest side: scenarios, and the drivers that a Linux guest would run.
//!
//! The device side is reached in two ways only: bytes in guest memory, and register accesses through [`Bus`].
//!
//! # Plugging it together
//!
//! ```text
//! let mut scenario = Scenario::find("netperf-strict")?;      // a name, or the path of a file
//! scenario.set("message_bytes=64K")?;                        // --set KEY=VALUE
//! for case in scenario.expand()? {                           // Vec<CaseSpec { id, endpoint, mode, test, params }>
//!     let p: &Params = &case.params;                         // typed; `case.values` by name, for a result
//!     let memory: Arc<GuestMemoryMmap> = /* p.guest_memory_mib */;
//!     let guest = Guest { memory, net_bus, iommu_bus: Option<Arc<dyn Bus>>, endpoint: EndpointId(..),
//!                         clock: Arc<dyn Clock>, recorder: Arc<dyn Recorder>, seed, watchdog };
//!     let mut run = Netperf::new(guest, &case)?;             // drivers probed, rings posted, domain attached
//!     let stats = run.run_slice(Stop::Deadline { at_ns }, &cancel)?;   // as often as wanted
//!     let counts: Counts = run.counts();                     // cumulative since set-up; stats.counts is the slice's
//!     let total: Counts = run.shutdown()?;                   // unmaps everything, detaches; set-up included
//! }
//! ```
//!
//! [`workload::start`] does the same for any test: what devices it needs is [`Test::device`], and a [`Platform`] holds them.
//!
//! The modes are those of [`dma::Mode`]: `off` needs no IOMMU bus; the other three do.
//! With `Stop::Packets` and a [`VirtualClock`] and a device that works inline, counts depend on the seed and the
//! parameters alone.

pub mod accounting;
pub mod bus;
pub mod clock;
pub mod dma;
mod endpoint_queue;
pub mod engine;
pub mod fio;
pub mod frame;
pub mod iommu;
pub mod iova;
pub mod memory;
pub mod mmio;
pub mod net;
pub mod netperf;
pub mod nvme;
pub mod pages;
pub mod pattern;
pub mod pci;
pub mod ring;
pub mod scenario;
#[cfg(test)]
mod scripted;
pub mod storm;
mod wait;
pub mod workload;

pub use bus::Bus;
pub use clock::{Clock, MonotonicClock, NullRecorder, Recorder, VirtualClock};
pub use dma::Mode;
pub use netperf::{Guest, Netperf, SliceStats, Stop};
pub use scenario::{CaseSpec, Params, Scenario, Test};
pub use workload::{Attached, Platform, Workload, WorkloadError};
