//! InterruptStatus and InterruptACK (virtio 4.2.2): the transport's side of a device's [`Interrupt`].

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use virtio_bindings::virtio_mmio::{VIRTIO_MMIO_INT_CONFIG, VIRTIO_MMIO_INT_VRING};

use crate::{Interrupt, front::Resettable};

/// Sets the status bit, then raises the line behind it.
pub(super) struct Interrupts {
    status: AtomicU32,
    line: Arc<dyn Interrupt>,
}

impl Interrupts {
    pub(super) fn new(line: Arc<dyn Interrupt>) -> Self {
        Self { status: AtomicU32::new(0), line }
    }

    pub(super) fn status(&self) -> u32 {
        // Acquire pairs with the Release in `raise`: a driver that polls the register sees the used ring.
        self.status.load(Ordering::Acquire)
    }

    pub(super) fn acknowledge(&self, bits: u32) {
        self.status.fetch_and(!bits, Ordering::AcqRel);
    }

    fn raise(&self, bit: u32) {
        // Free when the bit is already up, as it is for a driver that polls and never acknowledges. SeqCst on both: a
        // bit seen up is one that an acknowledging driver has yet to clear, after which it looks at its rings.
        if self.status.load(Ordering::SeqCst) & bit == 0 {
            self.status.fetch_or(bit, Ordering::SeqCst);
        }
    }
}

impl Interrupt for Interrupts {
    fn queue(&self, index: u16) {
        self.raise(VIRTIO_MMIO_INT_VRING);
        self.line.queue(index);
    }

    fn config(&self) {
        self.raise(VIRTIO_MMIO_INT_CONFIG);
        self.line.config();
    }
}

impl Resettable for Interrupts {
    fn clear(&self) {
        self.status.store(0, Ordering::Release);
    }
}
