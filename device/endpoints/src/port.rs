//! How an endpoint reaches memory: a view for each burst.

use virtio_iommu::{
    EndpointDma, EndpointPort,
    dma::{Access, DmaError, DmaMemory},
    memory::GuestRam,
};
use vm_memory::VolatileSlice;

/// Where an endpoint's DMA goes.
///
/// A view is taken for each burst and dropped before the driver is interrupted. Behind the IOMMU it is the guard that
/// keeps translations valid, and UNMAPs wait for it: bursts are short.
pub trait DmaPort: Send {
    /// The view.
    type Memory<'a>: DmaMemory
    where
        Self: 'a;

    /// Takes a view.
    fn pin(&self) -> Self::Memory<'_>;
}

/// Behind the virtio-iommu: addresses are I/O virtual.
impl DmaPort for EndpointPort {
    type Memory<'a> = EndpointDma<'a>;

    #[inline]
    fn pin(&self) -> EndpointDma<'_> {
        EndpointPort::pin(self)
    }
}

/// No IOMMU in between: addresses are guest-physical.
#[derive(Clone)]
pub struct DirectPort(GuestRam);

impl DirectPort {
    /// All of guest memory.
    pub fn new(ram: GuestRam) -> Self {
        Self(ram)
    }
}

impl DmaPort for DirectPort {
    type Memory<'a> = DirectView<'a>;

    #[inline]
    fn pin(&self) -> DirectView<'_> {
        DirectView(&self.0)
    }
}

/// The view of a [`DirectPort`].
#[derive(Clone, Copy)]
pub struct DirectView<'a>(&'a GuestRam);

impl DmaMemory for DirectView<'_> {
    #[inline]
    fn slice(&self, addr: u64, len: u64, access: Access) -> Result<VolatileSlice<'_>, DmaError> {
        self.0.slice(addr, len, access)
    }
}
