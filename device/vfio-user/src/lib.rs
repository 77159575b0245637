//! Serves virtio devices over vfio-user: QEMU (10.1 and later: `-device vfio-user-pci`) or another virtual machine
//! monitor connects to a UNIX socket and has the device on its PCI bus, while the device lives in this process.
//!
//! The client is not trusted. Messages are bounded in size and complete within a deadline ([`frame`]), their contents are
//! checked before anything is done ([`request`]), descriptors must be what they are said to be
//! ([`RamFile`](virtio_iommu::memory::RamFile), [`irqs`]) and cannot block the server ([`Lent`]), and whatever it does,
//! the server answers or hangs up and waits for the next client ([`Server`]).
//!
//! - [`frame`]: bytes and descriptors into messages;
//! - [`request`]: messages into requests, pure;
//! - [`Session`]: what one connection has negotiated, requests into replies;
//! - [`PciDevice`]: the function, its interrupts and the memory its client has shared;
//! - [`Server`]: the socket and its thread.

mod aside;
mod device;
pub mod frame;
pub mod irqs;
mod notify;
mod reply;
pub mod request;
mod server;
mod session;

pub use aside::Lent;
pub use device::PciDevice;
pub use irqs::Irqs;
pub use request::Refusal;
pub use server::{Server, ServerCounters, ServerError, ServerOptions};
pub use session::Session;
