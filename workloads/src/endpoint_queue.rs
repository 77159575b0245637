//! A device with one queue: probed, its ring mapped, and waited for.

use std::time::Duration;

use virtio_bindings::virtio_config::VIRTIO_F_ACCESS_PLATFORM;

use crate::{
    dma::{Direction, Dma, Mapping},
    mmio::{MmioDevice, QueueAddresses},
    pages::PageAllocator,
    ring::SplitRing,
    wait::{Pause, Wait},
    workload::{Attached, WorkloadError},
};

const ACCESS_PLATFORM: u64 = 1 << VIRTIO_F_ACCESS_PLATFORM;

/// One device, on one CPU of the guest.
pub(crate) struct EndpointQueue {
    pub(crate) device: MmioDevice,
    pub(crate) dma: Dma,
    pub(crate) ring: SplitRing,
    mapping: Mapping,
    pub(crate) kicks: u64,
    watchdog: Duration,
}

impl EndpointQueue {
    /// Finds the device, negotiates `optional` features besides what the mode demands, maps the ring and goes live.
    pub(crate) fn probe(
        attached: &Attached,
        id: u32,
        optional: u64,
        size: u16,
        pages: &PageAllocator,
        mut dma: Dma,
        watchdog: Duration,
    ) -> Result<Self, WorkloadError> {
        let device = MmioDevice::probe(attached.bus.clone(), id)?;
        let required = if dma.mode().has_iommu() { ACCESS_PLATFORM } else { 0 };
        device.negotiate(required, optional | ACCESS_PLATFORM)?;
        let ring = SplitRing::new(pages, size)?;
        let layout = ring.layout();
        // The largest ring takes less than 1 MiB.
        let mapping = dma.map(ring.gpa(), layout.bytes as u32, Direction::Both)?;
        let base = mapping.device_address();
        let (desc, avail, used) = (base + layout.desc, base + layout.avail, base + layout.used);
        device.enable_queue(0, QueueAddresses { size, desc, avail, used })?;
        device.driver_ok()?;
        Ok(Self { device, dma, ring, mapping, kicks: 0, watchdog })
    }

    /// Publishes what was added, and kicks unless the device does not want it.
    #[inline]
    pub(crate) fn kick(&mut self) {
        if self.ring.publish() {
            self.kicks += 1;
            self.device.kick(0);
        }
    }

    pub(crate) fn wait(&self) -> Wait {
        Wait::new(self.watchdog)
    }

    /// Nothing came back: wait a moment, and give up some time.
    pub(crate) fn pause(&self, wait: &mut Wait) -> Result<(), WorkloadError> {
        match wait.pause() {
            Pause::Again => Ok(()),
            Pause::CheckDevice => Ok(self.device.check()?),
            Pause::Expired => {
                Err(WorkloadError::Stalled { waited: self.watchdog, outstanding: self.ring.outstanding() })
            }
        }
    }

    /// Resets the device and unmaps the ring; whoever has mapped buffers unmaps them between the two.
    pub(crate) fn close(
        &mut self,
        unmap: impl FnOnce(&mut Dma) -> Result<(), WorkloadError>,
    ) -> Result<(), WorkloadError> {
        self.device.reset()?;
        unmap(&mut self.dma)?;
        self.dma.unmap(self.mapping)?;
        self.dma.shutdown()?;
        Ok(())
    }
}
