//! A device's workers: each serves some of its queues, with a way to memory, a service and counters of its own.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use virtio_bindings::virtio_config::{VIRTIO_F_ACCESS_PLATFORM, VIRTIO_F_VERSION_1};
use virtio_iommu::queue::{MAX_QUEUE_SIZE, QueueError};
use virtio_transport::{
    ActivateError, Activation, Interrupt, Progress, QueueWorker, Service, ServiceError, ServiceMode,
};

pub(crate) const VERSION_1: u64 = 1 << VIRTIO_F_VERSION_1;
pub(crate) const ACCESS_PLATFORM: u64 = 1 << VIRTIO_F_ACCESS_PLATFORM;

/// What one worker does. It survives resets: nothing is allocated per chain, and little per activation.
pub(crate) trait Lane: Send + 'static {
    /// What it counts.
    type Counters: Copy + Default + Send + 'static;

    /// Takes the queues that are its own and that the driver set up; those it left out are not served.
    ///
    /// # Errors
    /// When a ring cannot be served.
    fn prepare(&mut self, activation: &Activation, interrupt: Arc<dyn Interrupt>) -> Result<(), QueueError>;

    /// Lets go of queues and interrupt.
    fn disconnect(&mut self);

    /// As [`QueueWorker::run`].
    fn run(&mut self) -> Progress;

    /// As [`QueueWorker::suppress_kicks`].
    fn suppress_kicks(&mut self, on: bool);
}

/// What a device and one of its lanes share.
pub(crate) struct Status<C> {
    counters: Mutex<C>,
    broken: AtomicBool,
}

impl<C> Status<C> {
    /// Shows what was counted so far; to be called before the driver can see what it stands for.
    #[inline]
    pub(crate) fn count(&self, counters: C) {
        *lock(&self.counters) = counters;
    }

    /// A ring is broken; only a reset mends that (virtio 2.1.2).
    pub(crate) fn fail(&self, counters: C) {
        self.count(counters);
        // Release pairs with the Acquire in `needs_reset`.
        self.broken.store(true, Ordering::Release);
    }
}

/// Here between reset and activation; with the worker while it serves.
type Home<L> = Arc<Mutex<Option<L>>>;

struct Slot<L: Lane> {
    service: Service,
    home: Home<L>,
    status: Arc<Status<L::Counters>>,
}

/// The lanes of a device.
pub(crate) struct Crew<L: Lane> {
    name: &'static str,
    slots: Vec<Slot<L>>,
}

/// Whether a queue can have that many descriptors (virtio 2.7).
pub(crate) fn is_queue_size(size: u16) -> bool {
    size.is_power_of_two() && size <= MAX_QUEUE_SIZE
}

impl<L: Lane> Crew<L> {
    /// A lane for each of `parts`, made of it, its number and what it shares.
    ///
    /// # Errors
    /// When a service cannot be set up.
    pub(crate) fn new<T>(
        name: &'static str,
        mode: ServiceMode,
        parts: impl IntoIterator<Item = T>,
        mut lane: impl FnMut(T, u16, Arc<Status<L::Counters>>) -> L,
    ) -> Result<Self, ServiceError> {
        let mut slots = Vec::new();
        for (number, part) in (0..).zip(parts) {
            let status = Status { counters: Mutex::default(), broken: AtomicBool::new(false) };
            let status = Arc::new(status);
            let lane = lane(part, number, Arc::clone(&status));
            let service = Service::new(name, mode)?;
            slots.push(Slot { service, home: Arc::new(Mutex::new(Some(lane))), status });
        }
        Ok(Self { name, slots })
    }

    /// How many lanes there are.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Each lane's counters and kicks.
    pub(crate) fn counters(&self) -> impl Iterator<Item = (L::Counters, u64)> {
        self.slots.iter().map(|slot| (*lock(&slot.status.counters), slot.service.kicks()))
    }

    /// What a worker panicked with, if one did since the last activation.
    pub(crate) fn failed(&self) -> Option<String> {
        self.slots.iter().find_map(|slot| slot.service.failed())
    }

    pub(crate) fn needs_reset(&self) -> bool {
        let broken = |slot: &Slot<L>| slot.status.broken.load(Ordering::Acquire);
        self.slots.iter().any(broken) || self.failed().is_some()
    }

    /// The driver kicked a queue of this lane.
    #[inline]
    pub(crate) fn notify(&self, lane: u16) {
        if let Some(slot) = self.slots.get(usize::from(lane)) {
            slot.service.notify();
        }
    }

    /// Calls `f` with a lane; `None` while it serves.
    pub(crate) fn at_home<R>(&self, lane: u16, f: impl FnOnce(&mut L) -> R) -> Option<R> {
        lock(&self.slots.get(usize::from(lane))?.home).as_mut().map(f)
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
        slot: &Slot<L>,
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

struct Worker<L: Lane> {
    lane: Option<L>,
    home: Home<L>,
}

impl<L: Lane> QueueWorker for Worker<L> {
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

impl<L: Lane> Drop for Worker<L> {
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
