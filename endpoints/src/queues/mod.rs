//! A virtio device whose queues all do the same: each has its own way to memory, its own service, its own counters.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use virtio_bindings::virtio_config::{VIRTIO_F_ACCESS_PLATFORM, VIRTIO_F_VERSION_1};
use virtio_iommu::{
    dma::DmaMemory,
    queue::{Chain, MAX_QUEUE_SIZE},
};
use virtio_transport::{
    ActivateError, Activation, Interrupt, Progress, QueueWorker, Service, ServiceError, ServiceMode,
};

use crate::{DmaObserver, DmaPort};

mod lane;
#[cfg(test)]
pub(crate) mod rig;

use lane::Lane;

pub(crate) const VERSION_1: u64 = 1 << VIRTIO_F_VERSION_1;
pub(crate) const ACCESS_PLATFORM: u64 = 1 << VIRTIO_F_ACCESS_PLATFORM;

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

/// What device and worker of one queue share.
struct Status<C> {
    counters: Mutex<C>,
    broken: AtomicBool,
}

/// Here between reset and activation; with the worker while it serves.
type Home<P, O, H> = Arc<Mutex<Option<Lane<P, O, H>>>>;

struct Slot<P, O, H: Handler> {
    service: Service,
    home: Home<P, O, H>,
    status: Arc<Status<H::Counters>>,
}

/// The queues of a device.
pub(crate) struct Queues<P, O, H: Handler> {
    name: &'static str,
    sizes: Vec<u16>,
    slots: Vec<Slot<P, O, H>>,
}

/// Whether a queue can have that many descriptors (virtio 2.7).
pub(crate) fn is_queue_size(size: u16) -> bool {
    size.is_power_of_two() && size <= MAX_QUEUE_SIZE
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
        let mut slots = Vec::new();
        for (index, (port, observer, handler)) in (0..).zip(lanes) {
            let status = Status { counters: Mutex::default(), broken: AtomicBool::new(false) };
            let status = Arc::new(status);
            let lane = Lane::new(index, port, observer, handler, Arc::clone(&status));
            let service = Service::new(name, mode)?;
            slots.push(Slot { service, home: Arc::new(Mutex::new(Some(lane))), status });
        }
        Ok(Self { name, sizes: vec![size; slots.len()], slots })
    }

    pub(crate) fn sizes(&self) -> &[u16] {
        &self.sizes
    }

    /// Each queue's counters and kicks.
    pub(crate) fn counters(&self) -> impl Iterator<Item = (H::Counters, u64)> {
        self.slots.iter().map(|slot| (*lock(&slot.status.counters), slot.service.kicks()))
    }

    /// What a worker panicked with, if one did since the last activation.
    pub(crate) fn failed(&self) -> Option<String> {
        self.slots.iter().find_map(|slot| slot.service.failed())
    }

    pub(crate) fn needs_reset(&self) -> bool {
        let broken = |slot: &Slot<P, O, H>| slot.status.broken.load(Ordering::Acquire);
        self.slots.iter().any(broken) || self.failed().is_some()
    }

    #[inline]
    pub(crate) fn notify(&self, index: u16) {
        if let Some(slot) = self.slots.get(usize::from(index)) {
            slot.service.notify();
        }
    }

    /// When it returns, no queue is touched any more and every lane is home.
    pub(crate) fn reset(&self) {
        for slot in &self.slots {
            slot.service.stop();
        }
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
        for slot in &self.slots {
            let started = self.start(slot, activation, interrupt);
            if started.is_err() {
                self.reset();
                return started;
            }
        }
        Ok(())
    }

    fn start(
        &self,
        slot: &Slot<P, O, H>,
        activation: &Activation,
        interrupt: &Arc<dyn Interrupt>,
    ) -> Result<(), ActivateError> {
        let refuse = |reason: String| ActivateError { device: self.name, reason };
        let mut lane = lock(&slot.home).take().ok_or_else(|| refuse("it is active already".to_owned()))?;
        slot.status.broken.store(false, Ordering::Release);
        let prepared = lane.prepare(activation, Arc::clone(interrupt));
        // From here on the lane finds its way home when the worker goes.
        let worker = Worker { lane: Some(lane), home: Arc::clone(&slot.home) };
        prepared.map_err(|error| refuse(error.to_string()))?;
        let started = slot.service.start(Box::new(worker), Arc::clone(interrupt));
        started.map_err(|error| refuse(error.to_string()))
    }
}

struct Worker<P: DmaPort, O: DmaObserver, H: Handler> {
    lane: Option<Lane<P, O, H>>,
    home: Home<P, O, H>,
}

impl<P: DmaPort, O: DmaObserver, H: Handler> QueueWorker for Worker<P, O, H> {
    #[inline]
    fn run(&mut self) -> Progress {
        self.lane.as_mut().map_or(Progress::Idle, Lane::run)
    }

    fn suppress_kicks(&mut self, on: bool) {
        if let Some(lane) = &mut self.lane {
            lane.suppress_kicks(on);
        }
    }
}

impl<P: DmaPort, O: DmaObserver, H: Handler> Drop for Worker<P, O, H> {
    fn drop(&mut self) {
        if let Some(mut lane) = self.lane.take() {
            lane.disconnect();
            *lock(&self.home) = Some(lane);
        }
    }
}

/// Copies as much of `space` as lies at `offset` into `data`; the rest reads as zero.
pub(crate) fn read_space(space: &[u8], offset: u64, data: &mut [u8]) {
    data.fill(0);
    let rest = usize::try_from(offset).ok().and_then(|offset| space.get(offset..)).unwrap_or(&[]);
    for (byte, value) in data.iter_mut().zip(rest) {
        *byte = *value;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Values are replaced whole, so a panic elsewhere leaves nothing half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
