//! Device-side virtio transports: one layer under every virtio device of this project.
//!
//! A device implements [`VirtioDevice`]; a transport ([`MmioTransport`] or [`PciTransport`]) owns the
//! registers, negotiates features, collects the queue addresses and calls the device. A kick reaches the device as
//! [`VirtioDevice::notify`], on whatever thread wrote the notify register; [`service`] decides where the work runs.

mod complaints;
mod device;
mod front;
pub mod mmio;
pub mod pci;
#[cfg(test)]
mod recorder;
mod registers;
pub mod service;

pub use complaints::Complaints;
pub use device::{ActivateError, Activation, Interrupt, NoInterrupt, QueueLayout, VirtioDevice};
pub use mmio::MmioTransport;
pub use pci::PciTransport;
pub use service::{Progress, QueueWorker, Service, ServiceError, ServiceMode};
