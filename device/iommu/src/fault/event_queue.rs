//! The event queue: a bounded backlog that any thread fills, and one server at a time that empties it.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError},
};

use iommu_sites::{self as sites, EndpointKey};
use virtio_iommu_spec::{
    EVENT_QUEUE, EndpointId,
    fault::{FAULT_BYTES, Fault},
};
use virtio_transport::Interrupt;

use super::{FaultCause, FaultCounts, FaultListener, counts::Counters, record};
use crate::{
    dma::Access,
    memory::GuestRam,
    queue::{Chain, Queue, QueueError},
    sync::{AtomicBool, AtomicU64, Ordering, fence},
};

/// The event queue while the driver has it enabled.
struct Active {
    queue: Queue,
    chain: Chain,
    interrupt: Arc<dyn Interrupt>,
}

/// Faults that a thread delivers before it asks to be relieved: it may be an endpoint's, with a guard that a grace period
/// waits for, while others go on faulting.
const TURN: u64 = 64;

/// Nobody asks for relief.
const NO_RELIEF: u64 = 0;
/// The thread that delivers has done its turn; the next one that finds it at work takes over.
const WANTED: u64 = 1;
/// Somebody waits for the lock to take over.
const COMING: u64 = 2;

/// Where faults go.
pub(crate) struct FaultSink {
    backlog: Mutex<VecDeque<Fault>>,
    capacity: usize,
    /// Length of the backlog, so that whoever has served looks once more without a lock.
    waiting: AtomicU64,
    active: Mutex<Option<Active>>,
    /// [`NO_RELIEF`], [`WANTED`] or [`COMING`].
    relief: AtomicU64,
    /// The event queue broke since the last reset.
    broken: AtomicBool,
    counters: Counters,
    listener: OnceLock<Box<dyn FaultListener>>,
    ram: GuestRam,
}

impl FaultSink {
    pub(crate) fn new(capacity: usize, ram: GuestRam) -> Self {
        Self {
            backlog: Mutex::new(VecDeque::with_capacity(capacity.min(1024))),
            capacity,
            waiting: AtomicU64::new(0),
            active: Mutex::new(None),
            relief: AtomicU64::new(NO_RELIEF),
            broken: AtomicBool::new(false),
            counters: Counters::default(),
            listener: OnceLock::new(),
            ram,
        }
    }

    /// Returns `false` when there is a listener already.
    pub(crate) fn listen(&self, listener: Box<dyn FaultListener>) -> bool {
        self.listener.set(listener).is_ok()
    }

    /// The driver enabled the event queue.
    pub(crate) fn activate(&self, queue: Queue, interrupt: Arc<dyn Interrupt>) {
        *lock(&self.active) = Some(Active { queue, chain: Chain::new(), interrupt });
    }

    /// Reset: the queue is not touched any more, what waits is dropped.
    pub(crate) fn deactivate(&self) {
        let mut active = lock(&self.active);
        *active = None;
        // Under the lock, so that a delivery that is failing now cannot set it again afterwards.
        self.broken.store(false, Ordering::Release);
        drop(active);
        let mut backlog = lock(&self.backlog);
        add(&self.counters.dropped_no_queue, backlog.len() as u64);
        backlog.clear();
        self.waiting.store(0, Ordering::Release);
    }

    /// Whether the event queue broke: "The device SHOULD set DEVICE_NEEDS_RESET when it enters an error state that a
    /// reset is needed" (virtio 2.1.2).
    pub(crate) fn is_broken(&self) -> bool {
        // Acquire pairs with the Release in `fail`: the queue is out of use by then.
        self.broken.load(Ordering::Acquire)
    }

    /// Indices of the queue, to be saved.
    pub(crate) fn indices(&self) -> Option<(u16, u16)> {
        lock(&self.active).as_ref().map(|active| active.queue.indices())
    }

    /// Takes up saved indices.
    pub(crate) fn set_indices(&self, (avail, used): (u16, u16)) {
        if let Some(active) = lock(&self.active).as_mut() {
            active.queue.set_indices(avail, used);
        }
    }

    pub(crate) fn counts(&self) -> FaultCounts {
        self.counters.snapshot(self.waiting.load(Ordering::Acquire))
    }

    /// Counts, logs and reports a refused access. Never waits for the driver; the lock is held for a push.
    #[cold]
    pub(crate) fn report(&self, cause: FaultCause, endpoint: EndpointId, address: u64, access: Access) {
        sites::fault(EndpointKey(endpoint.0), address, cause as u8);
        let count = self.counters.fault(cause);
        // Rate limit without a clock: the first, second, fourth, eighth, …
        if count.is_power_of_two() {
            tracing::warn!(?cause, %endpoint, address = format_args!("{address:#x}"), ?access, count, "IOMMU fault");
        }
        if let Some(listener) = self.listener.get() {
            listener.fault(cause, endpoint, address, access);
        }
        {
            let mut backlog = lock(&self.backlog);
            if backlog.len() >= self.capacity {
                add(&self.counters.dropped_backlog, 1);
            } else {
                backlog.push_back(record(cause, endpoint, address, access));
                self.waiting.store(backlog.len() as u64, Ordering::Release);
            }
        }
        self.serve();
    }

    /// Puts what waits on the event queue, unless another thread is doing so: it looks again before it leaves. After a
    /// turn another thread that faults takes over; if none comes, the backlog does not grow. So no thread delivers more
    /// than a turn, a full backlog, and one fault for each thread that is about to come.
    pub(crate) fn serve(&self) {
        let mut done = 0;
        loop {
            // Between filling the backlog and trying the lock, and between releasing the lock and looking at the
            // backlog: of two threads that do so at once, one sees the other, so no fault is left behind.
            fence(Ordering::SeqCst);
            if self.waiting.load(Ordering::Acquire) == 0 {
                return;
            }
            let mut active = match self.active.try_lock() {
                Ok(active) => active,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) if self.advance(WANTED, COMING) => {
                    // No longer than one delivery and one publication.
                    let active = lock(&self.active);
                    self.advance(COMING, NO_RELIEF);
                    active
                }
                Err(TryLockError::WouldBlock) => return,
            };
            if !self.deliver_all(&mut active, &mut done) {
                return;
            }
        }
    }

    /// Turns `relief` from one value into another; `false` when it has a third. Relaxed: whose turn it is; the lock and
    /// the fence in `serve` order what is delivered.
    fn advance(&self, from: u64, to: u64) -> bool {
        self.relief.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Whether this thread, which has delivered `done` faults, leaves the rest to another one that waits for the lock.
    fn is_relieved(&self, done: u64) -> bool {
        done >= TURN && !self.advance(NO_RELIEF, WANTED) && self.relief.load(Ordering::Relaxed) == COMING
    }

    /// Delivers until nothing waits, or another thread takes over: `false`. `done` counts this thread's deliveries.
    fn deliver_all(&self, slot: &mut Option<Active>, done: &mut u64) -> bool {
        let mut delivered = 0;
        let mut relieved = self.is_relieved(*done);
        while !relieved && let Some(fault) = self.next() {
            *done += 1;
            match slot.as_mut().map(|active| self.deliver(active, &fault)) {
                None => add(&self.counters.dropped_no_queue, 1),
                Some(Ok(true)) => delivered += 1,
                Some(Ok(false)) => {}
                Some(Err(error)) => {
                    add(&self.counters.dropped_no_queue, 1);
                    self.fail(slot, &error);
                }
            }
            relieved = self.is_relieved(*done);
        }
        if let Some(active) = slot {
            match active.queue.publish(&self.ram) {
                Ok(true) => active.interrupt.queue(EVENT_QUEUE),
                Ok(false) => {}
                Err(error) => self.fail(slot, &error),
            }
        }
        add(&self.counters.delivered, delivered);
        // Under the lock. Whoever has come meanwhile goes on; nobody else is asked to.
        self.advance(WANTED, NO_RELIEF);
        !relieved
    }

    /// Takes a broken queue out of use until the reset that the driver is told to make; so it is logged once a reset.
    #[cold]
    fn fail(&self, slot: &mut Option<Active>, error: &QueueError) {
        virtio_transport::complain!(error, %error, "event queue broken; the device needs a reset");
        // Release pairs with the Acquire in `is_broken`.
        self.broken.store(true, Ordering::Release);
        if let Some(active) = slot.take() {
            active.interrupt.config();
        }
    }

    fn next(&self) -> Option<Fault> {
        let mut backlog = lock(&self.backlog);
        let fault = backlog.pop_front();
        self.waiting.store(backlog.len() as u64, Ordering::Release);
        fault
    }

    /// Writes one fault into the next buffer; `false` when it was dropped.
    fn deliver(&self, active: &mut Active, fault: &Fault) -> Result<bool, QueueError> {
        let Active { queue, chain, .. } = active;
        if !queue.pop(&self.ram, chain)? {
            add(&self.counters.dropped_no_buffer, 1);
            return Ok(false);
        }
        // "If a buffer is too small to contain the fault report, the device SHOULD NOT use multiple buffers to
        // describe it": it is returned unused and the report is dropped.
        let usable = chain.fault().is_none() && chain.writable_len() >= FAULT_BYTES as u64;
        let written = usable && matches!(chain.write_at(&self.ram, 0, &fault.encode()), Ok(FAULT_BYTES));
        queue.push_used(&self.ram, chain.head(), if written { FAULT_BYTES as u32 } else { 0 })?;
        if !written {
            add(&self.counters.dropped_bad_buffer, 1);
        }
        Ok(written)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use vm_memory::{GuestAddress, GuestMemoryMmap};

    use super::*;

    fn sink(capacity: usize) -> FaultSink {
        let ram = Arc::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 4096)]).unwrap());
        FaultSink::new(capacity, GuestRam::new(ram).unwrap())
    }

    fn fault(sink: &FaultSink) {
        sink.report(FaultCause::NotMapped, EndpointId(8), 0x1000, Access::Read);
    }

    /// Nobody asks for relief, and nothing waits or is lost.
    fn is_at_rest(sink: &FaultSink) -> bool {
        let counts = sink.counts();
        sink.relief.load(Ordering::Relaxed) == NO_RELIEF
            && (counts.waiting, counts.dropped()) == (0, counts.faults())
    }

    #[test]
    fn a_turn_ends_when_another_thread_faults() {
        let sink = sink(1024);
        let mut active = lock(&sink.active);
        // Found at work, so these wait.
        (0..3 * TURN).for_each(|_| fault(&sink));
        let mut done = 0;
        sink.relief.store(COMING, Ordering::Relaxed);
        assert!(!sink.deliver_all(&mut active, &mut done), "relieved");
        assert_eq!((done, sink.counts().waiting), (TURN, 2 * TURN));
        // The one that was coming, and nobody after it.
        sink.relief.store(NO_RELIEF, Ordering::Relaxed);
        drop(active);
        sink.serve();
        assert!(is_at_rest(&sink), "{:?}", sink.counts());
    }

    #[test]
    fn who_finds_relief_wanted_takes_over() {
        let sink = sink(1024);
        let active = lock(&sink.active);
        fault(&sink);
        sink.relief.store(WANTED, Ordering::Relaxed);
        std::thread::scope(|scope| {
            let next = scope.spawn(|| fault(&sink));
            while sink.relief.load(Ordering::Relaxed) != COMING {
                std::thread::yield_now();
            }
            fault(&sink);
            assert!(!next.is_finished());
            drop(active);
        });
        assert!(is_at_rest(&sink), "{:?}", sink.counts());
    }

    #[test]
    fn nothing_is_left_behind_by_many_turns() {
        let sink = sink(100);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..20_000).for_each(|_| fault(&sink)));
            }
        });
        assert_eq!(sink.counts().faults(), 80_000);
        assert!(is_at_rest(&sink), "{:?}", sink.counts());
    }
}
