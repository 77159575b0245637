//! One queue at work: bursts of chains.

use std::sync::Arc;

use iommu_sites::{self as sites, RingKey};
use virtio_bindings::virtio_ring::VIRTIO_RING_F_INDIRECT_DESC;
use virtio_iommu::{
    dma::DmaMemory,
    queue::{Chain, Queue, QueueError},
};
use virtio_transport::{Activation, Interrupt, NoInterrupt, Progress};

use super::Handler;
use crate::{
    BURST_CHAINS, DmaObserver, DmaPort,
    crew::{Lane, Status},
};

/// Bytes in chains after which a burst ends. The IOMMU's UNMAPs wait for a burst, so that it must be short; but a transfer of
/// 64 KiB pushes the rings and all else out of the first cache, and two at a time halve what that costs.
const QUEUE_BURST_BYTES: u64 = 128 << 10;
/// Chains taken off the ring before the first of them is served, while the ring is in the cache.
const AHEAD: usize = 4;
const INDIRECT: u64 = 1 << VIRTIO_RING_F_INDIRECT_DESC;

pub(super) struct QueueLane<P, O, H: Handler> {
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
    chains: [Chain; AHEAD],
    counters: H::Counters,
    broken: bool,
    status: Arc<Status<H::Counters>>,
}

impl<P: DmaPort, O: DmaObserver, H: Handler> QueueLane<P, O, H> {
    pub(super) fn new(
        index: u16,
        port: P,
        observer: O,
        handler: H,
        status: Arc<Status<H::Counters>>,
    ) -> Self {
        let (queue, counters) = (None, H::Counters::default());
        let chains = std::array::from_fn(|_| Chain::new());
        let work = Work { index, observer, handler, queue, chains, counters, broken: false, status };
        Self { port, work, interrupt: Arc::new(NoInterrupt) }
    }

    /// A ring is broken; only a reset mends that (virtio 2.1.2).
    #[cold]
    fn fail(&mut self, error: &QueueError) {
        let work = &mut self.work;
        virtio_transport::complain!(warn, %error, queue = work.index, "queue stops: broken ring");
        work.broken = true;
        H::ring_failed(&mut work.counters);
        work.status.fail(work.counters);
        self.interrupt.config();
    }
}

impl<P: DmaPort + 'static, O: DmaObserver, H: Handler> Lane for QueueLane<P, O, H> {
    type Counters = H::Counters;

    fn prepare(&mut self, activation: &Activation, interrupt: Arc<dyn Interrupt>) -> Result<(), QueueError> {
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

    fn disconnect(&mut self) {
        self.work.queue = None;
        self.interrupt = Arc::new(NoInterrupt);
    }

    #[inline]
    fn run(&mut self) -> Progress {
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

    fn suppress_kicks(&mut self, on: bool) {
        if self.work.broken {
            return;
        }
        let Some(queue) = &mut self.work.queue else { return };
        let asked = queue.set_kicks(&self.port.pin(), !on);
        if let Err(error) = asked {
            self.fail(&error);
        }
    }
}

impl<O: DmaObserver, H: Handler> Work<O, H> {
    /// Serves chains until there are none or the burst has moved enough; `None` when there were none, else whether
    /// the driver wants an interrupt.
    #[inline]
    fn burst<M: DmaMemory>(&mut self, mem: &M) -> Result<Option<bool>, QueueError> {
        let Self { observer, handler, queue: Some(queue), chains, counters, status, .. } = self else {
            return Ok(None);
        };
        let ring = RingKey::new(queue.layout().desc);
        let (mut served, mut bytes) = (0, 0_u64);
        loop {
            // What the available index was before the first of them.
            let first = queue.indices().0;
            let mut taken = 0;
            while taken < AHEAD
                && served + taken < BURST_CHAINS as usize
                && bytes < QUEUE_BURST_BYTES
                && queue.pop(mem, &mut chains[taken])?
            {
                let chain = &chains[taken];
                bytes = bytes.saturating_add(chain.readable_len()).saturating_add(chain.writable_len());
                taken += 1;
            }
            for (number, chain) in (0..).zip(&chains[..taken]) {
                let served = handler.serve(mem, observer, chain, counters);
                let key = ring.request(first.wrapping_add(number));
                sites::backend_done(key, served.payload_bytes, served.written);
                queue.push_used(mem, chain.head(), served.written)?;
            }
            served += taken;
            if taken < AHEAD {
                break;
            }
        }
        if served == 0 {
            return Ok(None);
        }
        // Counted before the driver can see it.
        status.count(*counters);
        Ok(Some(queue.publish(mem)?))
    }
}
