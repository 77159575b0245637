//! The device: requests in, endpoints' views of memory out.
//!
//! Each request queue has a worker of its own, with its own counters, cache of domains and part in grace periods.
//!
//! Locks: ATTACH, DETACH, reset, hot-add and restore take one lock. MAP and UNMAP do not: a worker finds the
//! domain in its own cache, which a generation counter keeps true. Endpoints take no lock unless they fault.

mod config;
mod control;
mod core;
mod counters;
mod lane;
mod observer;
mod options;
#[cfg(feature = "planted-regression")]
mod planted;
mod pool;
mod probe;
mod remains;
mod transport;
mod worker;

pub(crate) use self::core::{Control, Core, DomainSlot};
pub use counters::{Counters, RequestKind};
pub(crate) use lane::Lane;
pub use observer::ServiceObserver;
pub use options::{DeviceOptions, F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1, OptionsError};
pub use transport::{Device, DeviceError};
