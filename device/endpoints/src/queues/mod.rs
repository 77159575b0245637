//! A virtio device whose queues all do the same: each is a lane of its own.

use std::sync::Arc;

use virtio_iommu::{dma::DmaMemory, queue::Chain};
use virtio_transport::{ActivateError, Activation, Interrupt, ServiceError, ServiceMode};

use crate::{DmaObserver, DmaPort, crew::Crew};

mod lane;
#[cfg(test)]
pub(crate) mod rig;

use lane::QueueLane;

/// What became of a chain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Served {
    /// Bytes written from the start of the chain's writable part: what the used ring says.
    pub(crate) written: u32,
    /// Payload moved, in bytes.
    pub(crate) payload_bytes: u64,
}

/// The work of one queue.
pub(crate) trait Handler: Send + 'static {
    /// What it counts.
    type Counters: Copy + Default + Send + 'static;

    /// Serves a chain, malformed ones included.
    fn serve<M: DmaMemory, O: DmaObserver>(
        &mut self,
        mem: &M,
        observer: &mut O,
        chain: &Chain,
        counters: &mut Self::Counters,
    ) -> Served;

    /// The ring broke.
    fn ring_failed(counters: &mut Self::Counters);
}

/// The queues of a device.
pub(crate) struct Queues<P: DmaPort + 'static, O: DmaObserver, H: Handler> {
    sizes: Vec<u16>,
    crew: Crew<QueueLane<P, O, H>>,
}

impl<P: DmaPort + 'static, O: DmaObserver, H: Handler> Queues<P, O, H> {
    /// One queue of `size` descriptors for each port.
    ///
    /// # Errors
    /// When a service cannot be set up.
    pub(crate) fn new(
        name: &'static str,
        size: u16,
        mode: ServiceMode,
        lanes: impl IntoIterator<Item = (P, O, H)>,
    ) -> Result<Self, ServiceError> {
        let crew = Crew::new(name, mode, lanes, |(port, observer, handler), index, status| {
            QueueLane::new(index, port, observer, handler, status)
        })?;
        Ok(Self { sizes: vec![size; crew.len()], crew })
    }

    pub(crate) fn sizes(&self) -> &[u16] {
        &self.sizes
    }

    /// Each queue's counters and kicks.
    pub(crate) fn counters(&self) -> impl Iterator<Item = (H::Counters, u64)> {
        self.crew.counters()
    }

    /// What a worker panicked with, if one did since the last activation.
    pub(crate) fn failed(&self) -> Option<String> {
        self.crew.failed()
    }

    pub(crate) fn needs_reset(&self) -> bool {
        self.crew.needs_reset()
    }

    #[inline]
    pub(crate) fn notify(&self, index: u16) {
        self.crew.notify(index);
    }

    /// When it returns, no queue is touched any more.
    pub(crate) fn reset(&self) {
        self.crew.reset();
    }

    /// Serves the queues the driver set up; those it left out are not served.
    ///
    /// # Errors
    /// When a ring cannot be served; nothing runs then.
    pub(crate) fn activate(
        &self,
        activation: &Activation,
        interrupt: &Arc<dyn Interrupt>,
    ) -> Result<(), ActivateError> {
        self.crew.activate(activation, interrupt)
    }
}
