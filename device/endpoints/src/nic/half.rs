//! One queue of a card at work: its own way to memory, its own service.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use virtio_bindings::virtio_ring::VIRTIO_RING_F_INDIRECT_DESC;
use virtio_iommu::{
    dma::DmaMemory,
    queue::{Queue, QueueError},
};
use virtio_transport::{
    ActivateError, Activation, Interrupt, NoInterrupt, Progress, QueueWorker, Service, ServiceError,
    ServiceMode,
};

use super::{NAME, NicCounters};
use crate::DmaPort;

const INDIRECT: u64 = 1 << VIRTIO_RING_F_INDIRECT_DESC;

/// What came of a burst.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Outcome {
    /// Something was done.
    pub(super) worked: bool,
    /// The driver wants to hear of it.
    pub(super) interrupt: bool,
    /// The other end of the cable should look.
    pub(super) wake: bool,
}

/// Transmission or reception.
pub(super) trait Work: Send + 'static {
    /// Index of its queue.
    const QUEUE: u16;

    /// The queue as the driver set it up, if it did.
    fn open<M: DmaMemory>(&mut self, mem: &M, queue: Option<Queue>, features: u64) -> Result<(), QueueError>;
    /// Lets go of the queue.
    fn close(&mut self);
    /// Serves for a while.
    fn burst<M: DmaMemory>(&mut self, mem: &M, counters: &mut NicCounters) -> Result<Outcome, QueueError>;
    /// Asks the driver not to kick, or to kick again.
    fn suppress_kicks<M: DmaMemory>(&mut self, mem: &M, on: bool) -> Result<(), QueueError>;
    /// Tells the other end of the cable.
    fn wake(&self);
}

#[derive(Default)]
struct Status {
    counters: Mutex<NicCounters>,
    broken: AtomicBool,
}

/// Survives resets.
struct Half<P, W> {
    port: P,
    work: W,
    counters: NicCounters,
    interrupt: Arc<dyn Interrupt>,
    status: Arc<Status>,
}

impl<P: DmaPort, W: Work> Half<P, W> {
    fn prepare(&mut self, activation: &Activation, interrupt: Arc<dyn Interrupt>) -> Result<(), QueueError> {
        let mem = self.port.pin();
        let layout = activation.queues.iter().find(|layout| layout.index == W::QUEUE);
        let queue = layout.map(|layout| -> Result<Queue, QueueError> {
            let mut queue = Queue::new(layout, false)?;
            if activation.features & INDIRECT != 0 {
                queue.allow_indirect();
            }
            queue.check(&mem)?;
            Ok(queue)
        });
        self.work.open(&mem, queue.transpose()?, activation.features)?;
        self.interrupt = interrupt;
        Ok(())
    }

    fn run(&mut self) -> Progress {
        if self.status.broken.load(Ordering::Relaxed) {
            return Progress::Idle;
        }
        let before = self.counters;
        let burst = {
            let mem = self.port.pin();
            self.work.burst(&mem, &mut self.counters)
        };
        if self.counters != before {
            *lock(&self.status.counters) = self.counters;
        }
        // The view is gone: neither an interrupt handler nor the other card waits for it.
        match burst {
            Ok(outcome) => {
                if outcome.interrupt {
                    self.interrupt.queue(W::QUEUE);
                }
                if outcome.wake {
                    self.work.wake();
                }
                if outcome.worked { Progress::Worked } else { Progress::Idle }
            }
            Err(error) => {
                self.fail(&error);
                Progress::Idle
            }
        }
    }

    /// A ring is broken; only a reset mends that (virtio 2.1.2).
    #[cold]
    fn fail(&mut self, error: &QueueError) {
        virtio_transport::complain!(warn, %error, queue = W::QUEUE, "network card stops: broken ring");
        self.counters.ring_failures += 1;
        *lock(&self.status.counters) = self.counters;
        self.status.broken.store(true, Ordering::Release);
        self.interrupt.config();
    }
}

/// Here between reset and activation; with the worker while it serves.
type Home<P, W> = Arc<Mutex<Option<Half<P, W>>>>;

struct Worker<P: DmaPort, W: Work> {
    half: Option<Half<P, W>>,
    home: Home<P, W>,
}

impl<P: DmaPort, W: Work> QueueWorker for Worker<P, W> {
    fn run(&mut self) -> Progress {
        self.half.as_mut().map_or(Progress::Idle, Half::run)
    }

    fn suppress_kicks(&mut self, on: bool) {
        let Some(half) = &mut self.half else { return };
        if half.status.broken.load(Ordering::Relaxed) {
            return;
        }
        let asked = half.work.suppress_kicks(&half.port.pin(), on);
        if let Err(error) = asked {
            half.fail(&error);
        }
    }
}

impl<P: DmaPort, W: Work> Drop for Worker<P, W> {
    fn drop(&mut self) {
        if let Some(mut half) = self.half.take() {
            half.work.close();
            half.interrupt = Arc::new(NoInterrupt);
            *lock(&self.home) = Some(half);
        }
    }
}

/// What the card holds of a half.
pub(super) struct Slot<P, W> {
    service: Arc<Service>,
    home: Home<P, W>,
    status: Arc<Status>,
}

impl<P: DmaPort + 'static, W: Work> Slot<P, W> {
    pub(super) fn new(mode: ServiceMode, port: P, work: W) -> Result<Self, ServiceError> {
        let status = Arc::new(Status::default());
        let counters = NicCounters::default();
        let half = Half { port, work, counters, interrupt: Arc::new(NoInterrupt), status: status.clone() };
        let service = Arc::new(Service::new(NAME, mode)?);
        Ok(Self { service, home: Arc::new(Mutex::new(Some(half))), status })
    }

    pub(super) fn service(&self) -> &Arc<Service> {
        &self.service
    }

    pub(super) fn counters(&self) -> NicCounters {
        NicCounters { kicks: self.service.kicks(), ..*lock(&self.status.counters) }
    }

    pub(super) fn needs_reset(&self) -> bool {
        self.status.broken.load(Ordering::Acquire) || self.service.failed().is_some()
    }

    pub(super) fn start(
        &self,
        activation: &Activation,
        interrupt: &Arc<dyn Interrupt>,
    ) -> Result<(), ActivateError> {
        let refuse = |reason: String| ActivateError { device: NAME, reason };
        let mut half = lock(&self.home).take().ok_or_else(|| refuse("it is active already".to_owned()))?;
        self.status.broken.store(false, Ordering::Release);
        let prepared = half.prepare(activation, Arc::clone(interrupt));
        // From here on the half finds its way home when the worker goes.
        let worker = Worker { half: Some(half), home: Arc::clone(&self.home) };
        prepared.map_err(|error| refuse(error.to_string()))?;
        let started = self.service.start(Box::new(worker), Arc::clone(interrupt));
        started.map_err(|error| refuse(error.to_string()))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Values are replaced whole, so a panic elsewhere leaves nothing half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
