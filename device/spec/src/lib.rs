//! Wire types of the virtio-iommu device (virtio device ID 23), as the virtio specification defines them.
//!
//! Types only: no algorithms, no allocation, no `unsafe`. Both sides of the ring share this crate, the device
//! (`virtio-iommu`) and the guest-driver side (`workloads`), so golden byte vectors pin what both send.
//! All integers are little endian on the wire. Address ranges are inclusive at both ends.
#![no_std]
#![forbid(unsafe_code)]

pub mod config;
pub mod fault;
pub mod feature;
mod ids;
pub mod private;
pub mod probe;
pub mod request;
mod status;
mod wire;

pub use ids::{DomainId, EndpointId, Gpa, Iova, IovaRange};
pub use status::Status;

/// Virtio device ID of an IOMMU ("Device ID").
pub const DEVICE_ID: u32 = 23;
/// Index of the request queue ("Virtqueues").
pub const REQUEST_QUEUE: u16 = 0;
/// Index of the event queue ("Virtqueues").
pub const EVENT_QUEUE: u16 = 1;
