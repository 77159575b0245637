//! Request rings in guest memory: one driver's side, served by this project's device or by a null device.
//!
//! The driver's side is the same code for both and is never timed; [`Served::serve`] is the device's side.

mod device;
mod driver;
mod null;

use thiserror::Error;
use virtio_iommu::{device::DeviceError, endpoint::PortError, memory::TooManyRegions, spec::Status};
use virtio_transport::ActivateError;
use vm_memory::GuestMemoryError;

pub use device::{BUFFERS, Ours};
pub use driver::{BATCH, Driver, RAM_BYTES, attach_request, map_request, unmap_request};
pub use null::Null;

/// A ring that could not be set up, or that came back wrong.
#[derive(Debug, Error)]
pub enum RigError {
    /// Guest memory could not be allocated.
    #[error("guest memory: {0}")]
    Memory(String),
    /// An access to guest memory failed.
    #[error(transparent)]
    Access(#[from] GuestMemoryError),
    /// Guest memory does not fit a view.
    #[error(transparent)]
    Regions(#[from] TooManyRegions),
    /// No device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The device did not take the endpoint.
    #[error("the device refused the endpoint: {0}")]
    Endpoint(#[from] virtio_iommu::OptionsError),
    /// The device did not start.
    #[error(transparent)]
    Activate(#[from] ActivateError),
    /// No way to memory for the endpoint.
    #[error(transparent)]
    Port(#[from] PortError),
    /// An endpoint's access was refused.
    #[error(transparent)]
    Dma(#[from] virtio_iommu::dma::DmaError),
    /// The library's queue refused the layout or an element.
    #[error(transparent)]
    Queue(#[from] virtio_queue::Error),
    /// Not all requests came back.
    #[error("{returned} of {sent} requests came back")]
    Lost {
        /// How many were made available.
        sent: usize,
        /// How many were returned.
        returned: usize,
    },
    /// A request was refused.
    #[error("request {index} was answered {status:?} with a used length of {len}")]
    Refused {
        /// Number of the request in its batch.
        index: usize,
        /// Its status.
        status: Option<Status>,
        /// Its used length in bytes.
        len: u32,
    },
}

/// A device's side of the ring.
pub trait Served {
    /// The driver's side.
    fn driver(&mut self) -> &mut Driver;

    /// Serves what is available: what a kick leads to.
    ///
    /// # Errors
    /// When the ring is broken.
    fn serve(&mut self) -> Result<(), RigError>;

    /// Fills the ring with `requests`, at most [`BATCH`], and returns the nanoseconds it took to serve them.
    ///
    /// # Errors
    /// When a request is not answered OK.
    fn batch<'r>(&mut self, requests: impl Iterator<Item = &'r [u8]>) -> Result<f64, RigError>
    where
        Self: Sized,
    {
        let sent = self.driver().fill(requests)?;
        let mut served = Ok(());
        let ns = crate::clock::time_ns(|| served = self.serve());
        served?;
        self.driver().check(sent)?;
        Ok(ns)
    }
}
