//! One queue at work: bursts of chains.

use std::sync::{Arc, atomic::Ordering};

use iommu_sites::{self as sites, RingKey};
use virtio_bindings::virtio_ring::VIRTIO_RING_F_INDIRECT_DESC;
use virtio_iommu::{
    dma::DmaMemory,
    queue::{Chain, Queue, QueueError},
};
use virtio_transport::{Activation, Interrupt, NoInterrupt, Progress};

use super::{Handler, Status, lock};
use crate::{BURST_BYTES, BURST_CHAINS, DmaObserver, DmaPort};

const INDIRECT: u64 = 1 << VIRTIO_RING_F_INDIRECT_DESC;

/// Survives resets: nothing is allocated per chain, and little per activation.
pub(super) struct Lane<P, O, H: Handler> {
    port: P,
    work: Work<O, H>,
    interrupt: Arc<dyn Interrupt>,
}

/// All but the way to memory.
struct Work<O, H: Handler> {
    index: u16,
    observer: O,
    handler: H,
    queue: Option<Queue>,
    chain: Chain,
    counters: H::Counters,
    broken: bool,
    status: Arc<Status<H::Counters>>,
}

impl<P: DmaPort, O: DmaObserver, H: Handler> Lane<P, O, H> {
    pub(super) fn new(
        index: u16,
        port: P,
        observer: O,
        handler: H,
        status: Arc<Status<H::Counters>>,
    ) -> Self {
        let (queue, chain, counters) = (None, Chain::new(), H::Counters::default());
        let work = Work { index, observer, handler, queue, chain, counters, broken: false, status };
        Self { port, work, interrupt: Arc::new(NoInterrupt) }
    }

    pub(super) fn prepare(
        &mut self,
        activation: &Activation,
        interrupt: Arc<dyn Interrupt>,
    ) -> Result<(), QueueError> {
        self.work.queue = None;
        self.work.broken = false;
        if let Some(layout) = activation.queues.iter().find(|layout| layout.index == self.work.index) {
            let mut queue = Queue::new(layout, false)?;
            if activation.features & INDIRECT != 0 {
                queue.allow_indirect();
            }
            queue.check(&self.port.pin())?;
            self.work.queue = Some(queue);
        }
        self.interrupt = interrupt;
        Ok(())
    }

    /// Lets go of queue and interrupt.
    pub(super) fn disconnect(&mut self) {
        self.work.queue = None;
        self.interrupt = Arc::new(NoInterrupt);
    }

    #[inline]
    pub(super) fn run(&mut self) -> Progress {
        if self.work.broken {
            return Progress::Idle;
        }
        let burst = {
            let mem = self.port.pin();
            self.work.burst(&mem)
        };
        // The view is gone: an interrupt handler may well unmap what it pinned.
        match burst {
            Ok(None) => Progress::Idle,
            Ok(Some(wanted)) => {
                if wanted {
                    self.interrupt.queue(self.work.index);
                }
                Progress::Worked
            }
            Err(error) => {
                self.fail(&error);
                Progress::Idle
            }
        }
    }

    pub(super) fn suppress_kicks(&mut self, on: bool) {
        if self.work.broken {
            return;
        }
        let Some(queue) = &mut self.work.queue else { return };
        let asked = queue.set_kicks(&self.port.pin(), !on);
        if let Err(error) = asked {
            self.fail(&error);
        }
    }

    /// A ring is broken; only a reset mends that (virtio 2.1.2).
    #[cold]
    fn fail(&mut self, error: &QueueError) {
        let work = &mut self.work;
        tracing::warn!(%error, queue = work.index, "queue stops: broken ring");
        work.broken = true;
        H::ring_failed(&mut work.counters);
        *lock(&work.status.counters) = work.counters;
        work.status.broken.store(true, Ordering::Release);
        self.interrupt.config();
    }
}

impl<O: DmaObserver, H: Handler> Work<O, H> {
    /// Serves chains until there are none or the burst has moved enough; `None` when there were none, else whether
    /// the driver wants an interrupt.
    #[inline]
    fn burst<M: DmaMemory>(&mut self, mem: &M) -> Result<Option<bool>, QueueError> {
        let Self { observer, handler, queue: Some(queue), chain, counters, status, .. } = self else {
            return Ok(None);
        };
        let ring = RingKey::new(queue.layout().desc);
        let (mut chains, mut bytes) = (0, 0_u64);
        while chains < BURST_CHAINS && bytes < BURST_BYTES && queue.pop(mem, chain)? {
            chains += 1;
            let served = handler.serve(mem, observer, chain, counters);
            let key = ring.request(queue.indices().0.wrapping_sub(1));
            sites::backend_done(key, served.payload_bytes, served.written);
            bytes = bytes.saturating_add(served.payload_bytes);
            queue.push_used(mem, chain.head(), served.written)?;
        }
        if chains == 0 {
            return Ok(None);
        }
        // Counted before the driver can see it.
        *lock(&status.counters) = *counters;
        Ok(Some(queue.publish(mem)?))
    }
}
