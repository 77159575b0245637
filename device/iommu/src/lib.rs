//! Reference virtio-iommu device with a lock-free mapping table.
//!
//! [`Device`] is the device: a [`VirtioDevice`](virtio_transport::VirtioDevice) whose request queue creates domains and
//! mappings, and whose [`EndpointPort`]s give endpoints their translated view of guest memory. It knows no clock, no
//! files and no command line.
//!
//! - [`request`] turns bytes into requests, and errors into statuses;
//! - [`properties`] is what endpoints are like, [`fault`] what happens when they go astray;
//! - [`table`] holds mappings, [`epoch`] keeps them valid while they are used, [`iotlb`] remembers what was looked up;
//! - [`queue`], [`memory`] and [`dma`] reach guest memory;
//! - [`state`] saves and restores it all.

mod copy;
pub mod device;
pub mod dma;
mod domain;
pub mod endpoint;
pub mod epoch;
mod epoch_cell;
pub mod fault;
mod halt;
pub mod iotlb;
#[cfg(all(test, loom))]
mod loom_model;
pub mod memory;
pub mod passthrough;
pub mod properties;
pub mod queue;
pub mod request;
pub mod state;
mod sync;
pub mod table;

pub use device::{Counters, Device, DeviceOptions, OptionsError, ServiceObserver};
pub use domain::{DomainLimits, GPA_BITS};
pub use endpoint::{EndpointDma, EndpointPort};
pub use virtio_iommu_spec as spec;
