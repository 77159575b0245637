//! Register access to one virtio-mmio device: the only way besides memory in which guest and device meet.

/// The registers of one virtio-mmio device (version 2), as a guest CPU reaches them.
///
/// Offsets are those of "MMIO Device Register Layout". A kick is a write of a queue index to `QueueNotify`; a device
/// that works inline serves the queue before [`write32`](Self::write32) returns, as a VM exit would.
pub trait Bus: Send + Sync {
    /// Reads the register at `offset` (bytes).
    fn read32(&self, offset: u32) -> u32;
    /// Writes the register at `offset` (bytes).
    fn write32(&self, offset: u32, value: u32);
    /// Reads device configuration at `offset` (bytes) within the configuration space.
    fn read_config(&self, offset: u32, data: &mut [u8]);
    /// Writes device configuration at `offset` (bytes) within the configuration space.
    fn write_config(&self, offset: u32, data: &[u8]);
}
