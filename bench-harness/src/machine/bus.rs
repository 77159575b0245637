//! The wires between a guest's driver and a device's registers.

use iommu_workloads::Bus;
use virtio_transport::MmioTransport;

/// The guest's bus accesses, delivered to one virtio-mmio register block.
pub(crate) struct MmioBus(pub(crate) MmioTransport);

impl Bus for MmioBus {
    fn read32(&self, offset: u32) -> u32 {
        self.0.read32(offset)
    }

    fn write32(&self, offset: u32, value: u32) {
        self.0.write32(offset, value);
    }

    fn read_config(&self, offset: u32, data: &mut [u8]) {
        self.0.read_config(u64::from(offset), data);
    }

    fn write_config(&self, offset: u32, data: &[u8]) {
        self.0.write_config(u64::from(offset), data);
    }
}
