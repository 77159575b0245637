//! ISR status, the vectors that queues and configuration changes have, and INTx.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU16, Ordering},
};

use super::{Signals, msix::Msix};
use crate::{Interrupt, front::Resettable};

/// Value of a vector field: no interrupt (virtio 4.1.5.1.2).
pub(super) const NO_VECTOR: u16 = 0xffff;
const ISR_QUEUE: u8 = 1;
const ISR_CONFIG: u8 = 2;

/// ISR status and what hangs on it.
struct Line {
    isr: u8,
    /// The driver has switched INTx off in the command register.
    disabled: bool,
    asserted: bool,
}

/// Where a device's interrupts go.
pub(super) struct Interrupts {
    pub(super) msix: Msix,
    pub(super) signals: Arc<dyn Signals>,
    vectors: u16,
    config_vector: AtomicU16,
    queue_vectors: Box<[AtomicU16]>,
    line: Mutex<Line>,
}

impl Interrupts {
    pub(super) fn new(queues: usize, vectors: u16, msix: Msix, signals: Arc<dyn Signals>) -> Self {
        Self {
            msix,
            signals,
            vectors,
            config_vector: AtomicU16::new(NO_VECTOR),
            queue_vectors: (0..queues).map(|_| AtomicU16::new(NO_VECTOR)).collect(),
            line: Mutex::new(Line { isr: 0, disabled: false, asserted: false }),
        }
    }

    /// What a vector field becomes when `vector` is written: "If a mapping fails, the device MUST return NO_VECTOR".
    fn valid(&self, vector: u16) -> u16 {
        if vector < self.vectors { vector } else { NO_VECTOR }
    }

    pub(super) fn set_config_vector(&self, vector: u16) {
        self.config_vector.store(self.valid(vector), Ordering::Release);
    }

    pub(super) fn config_vector(&self) -> u16 {
        self.config_vector.load(Ordering::Acquire)
    }

    /// Returns `false` when there is no such queue.
    pub(super) fn set_queue_vector(&self, queue: u32, vector: u16) -> bool {
        let slot = usize::try_from(queue).ok().and_then(|queue| self.queue_vectors.get(queue));
        slot.map(|slot| slot.store(self.valid(vector), Ordering::Release)).is_some()
    }

    pub(super) fn queue_vector(&self, queue: u32) -> u16 {
        let slot = usize::try_from(queue).ok().and_then(|queue| self.queue_vectors.get(queue));
        slot.map_or(NO_VECTOR, |slot| slot.load(Ordering::Acquire))
    }

    fn with_line<T>(&self, change: impl FnOnce(&mut Line) -> T) -> T {
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        let result = change(&mut line);
        let wanted = line.isr != 0 && !line.disabled;
        if wanted != line.asserted {
            line.asserted = wanted;
            // Under the lock, so that edges arrive in order.
            self.signals.line(wanted);
        }
        result
    }

    /// "The device MUST reset ISR status to 0 on driver read" (4.1.4.5.1), which takes the interrupt back.
    pub(super) fn take_isr(&self) -> u8 {
        self.with_line(|line| std::mem::take(&mut line.isr))
    }

    /// The command register was written.
    pub(super) fn disable_line(&self, disabled: bool) {
        self.with_line(|line| line.disabled = disabled);
    }

    /// Whether something waits to be acknowledged, whether or not INTx is disabled.
    pub(super) fn isr_pending(&self) -> bool {
        self.line.lock().unwrap_or_else(PoisonError::into_inner).isr != 0
    }

    /// Whether INTx is asserted.
    pub(super) fn line_asserted(&self) -> bool {
        self.line.lock().unwrap_or_else(PoisonError::into_inner).asserted
    }

    fn raise(&self, vector: u16, isr: u8) {
        if !self.msix.fire(vector, &*self.signals) {
            self.with_line(|line| line.isr |= isr);
        }
    }
}

impl Interrupt for Interrupts {
    fn queue(&self, index: u16) {
        self.raise(self.queue_vector(index.into()), ISR_QUEUE);
    }

    fn config(&self) {
        self.raise(self.config_vector(), ISR_CONFIG);
    }
}

impl Resettable for Interrupts {
    /// A virtio reset: vectors are unmapped (4.1.5.1.2), nothing is pending.
    fn clear(&self) {
        self.config_vector.store(NO_VECTOR, Ordering::Release);
        for vector in &self.queue_vectors {
            vector.store(NO_VECTOR, Ordering::Release);
        }
        self.msix.forget();
        self.with_line(|line| line.isr = 0);
    }
}
