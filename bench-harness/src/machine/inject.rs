//! Endpoint failures that tests provoke through the environment (see [`crate::inject`]).

use std::sync::atomic::{AtomicU64, Ordering};

use iommu_endpoints::DmaPort;
use virtio_iommu::dma::{Access, DmaError, DmaMemory};
use vm_memory::{Bytes, VolatileSlice};

/// Bursts that pass before anything goes wrong.
const BURSTS_BEFORE: u64 = 400;
/// Accesses shorter than this are rings and headers; they stay as they are.
const PAYLOAD_BYTES: usize = 1000;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EndpointFault {
    /// The service panics.
    Panic,
    /// A byte of payload changes while the device reads it.
    Corrupt,
}

/// A port that works, until it does not.
pub(crate) struct FaultyPort<P> {
    port: P,
    fault: EndpointFault,
    bursts: AtomicU64,
}

impl<P> FaultyPort<P> {
    /// Spoils `port`.
    pub(crate) fn new(port: P, fault: EndpointFault) -> Self {
        Self { port, fault, bursts: AtomicU64::new(0) }
    }
}

impl<P: DmaPort> DmaPort for FaultyPort<P> {
    type Memory<'a>
        = FaultyView<P::Memory<'a>>
    where
        Self: 'a;

    fn pin(&self) -> Self::Memory<'_> {
        let due = self.bursts.fetch_add(1, Ordering::Relaxed) >= BURSTS_BEFORE;
        assert!(!due || self.fault != EndpointFault::Panic, "injected panic in the endpoint's service");
        FaultyView { view: self.port.pin(), corrupt: due && self.fault == EndpointFault::Corrupt }
    }
}

/// The view of a [`FaultyPort`].
pub(crate) struct FaultyView<V> {
    view: V,
    corrupt: bool,
}

impl<V: DmaMemory> DmaMemory for FaultyView<V> {
    fn slice(&self, addr: u64, len: u64, access: Access) -> Result<VolatileSlice<'_>, DmaError> {
        let slice = self.view.slice(addr, len, access)?;
        if self.corrupt && access == Access::Read && slice.len() >= PAYLOAD_BYTES {
            let last = slice.len() - 1;
            let byte: u8 = slice.read_obj(last).unwrap_or(0);
            // In bounds; were it not, nothing would be corrupted and the test would say so.
            let _ = slice.write_obj(byte ^ 1, last);
        }
        Ok(slice)
    }
}
