//! The event queue: buffers for fault records.

use virtio_iommu_spec::{
    EVENT_QUEUE,
    fault::{FAULT_BYTES, Fault},
};

use super::IommuError;
use crate::{
    memory::Span,
    mmio::MmioDevice,
    pages::PageAllocator,
    ring::{Segment, SplitRing},
};

#[derive(Debug)]
pub(super) struct EventQueue {
    ring: SplitRing,
    buffers: Span,
}

impl EventQueue {
    pub(super) fn new(pages: &PageAllocator, ring: SplitRing) -> Result<Self, IommuError> {
        let buffers = pages.alloc(u64::from(ring.layout().size) * FAULT_BYTES as u64)?;
        Ok(Self { ring, buffers })
    }

    /// Fills the queue, once.
    pub(super) fn post_all(&mut self, device: &MmioDevice) -> Result<(), IommuError> {
        for buffer in 0..u32::from(self.ring.layout().size) {
            self.post(buffer)?;
        }
        self.kick(device);
        Ok(())
    }

    fn post(&mut self, buffer: u32) -> Result<(), IommuError> {
        let addr = self.buffers.gpa().0 + u64::from(buffer) * FAULT_BYTES as u64;
        Ok(self.ring.add(&[], &[Segment { addr, len: FAULT_BYTES as u32 }], buffer)?)
    }

    fn kick(&mut self, device: &MmioDevice) {
        if self.ring.publish() {
            device.kick(EVENT_QUEUE);
        }
    }

    pub(super) fn take(&mut self, device: &MmioDevice, mut f: impl FnMut(Fault)) -> Result<u64, IommuError> {
        let mut taken = 0;
        while let Some(used) = self.ring.pop()? {
            // A record of another length is no record; its buffer is posted again all the same.
            if used.written as usize == FAULT_BYTES {
                f(Fault::decode(&self.buffers.read_array(used.token as usize * FAULT_BYTES)));
                taken += 1;
            }
            self.post(used.token)?;
        }
        if taken > 0 {
            self.kick(device);
        }
        Ok(taken)
    }
}
