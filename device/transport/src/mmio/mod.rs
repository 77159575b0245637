//! Device-side virtio-mmio, version 2 (virtio 4.2): the register block around a [`VirtioDevice`].
//!
//! Nothing here trusts the driver: a write that the state does not allow is ignored, counted and (rate limited)
//! logged. Two things the specification leaves open are decided here. A queue cannot be taken back after DRIVER_OK
//! (QueueReady stays 1, which is what the driver reads back); it takes a reset. After FAILED the device runs on until
//! it is reset, but DRIVER_OK is refused.

use std::sync::Arc;

use virtio_bindings::virtio_mmio as reg;

use crate::{
    Interrupt, VirtioDevice,
    front::Front,
    registers::{Area, Half, Refused},
};

mod interrupts;
#[cfg(test)]
mod tests;

use interrupts::Interrupts;

/// What MagicValue reads as: "virt".
pub const MAGIC: u32 = u32::from_le_bytes(*b"virt");
/// Version of the register layout.
pub const VERSION: u32 = 2;
/// What VendorID reads as: "IOMB".
pub const VENDOR: u32 = u32::from_le_bytes(*b"IOMB");
/// Offset of device-specific configuration space in the register block, in bytes.
pub const CONFIG_OFFSET: u64 = reg::VIRTIO_MMIO_CONFIG as u64;
/// Size of the register block, configuration space included, in bytes.
pub const BLOCK_BYTES: u64 = 0x1000;

/// The register block of one device. All methods may be called by several vCPUs at once.
pub struct MmioTransport {
    front: Front,
    interrupts: Arc<Interrupts>,
}

impl MmioTransport {
    /// Registers for `device`, in their reset state; `line` is raised after InterruptStatus was set.
    ///
    /// RING_RESET and NOTIFICATION_DATA are withdrawn from what the device offers: this transport has neither.
    pub fn new(device: Arc<dyn VirtioDevice>, line: Arc<dyn Interrupt>) -> Self {
        Self { front: Front::new(device), interrupts: Arc::new(Interrupts::new(line)) }
    }

    /// The device behind the registers.
    pub fn device(&self) -> &Arc<dyn VirtioDevice> {
        self.front.device()
    }

    /// How many register writes were ignored because the state did not allow them.
    pub fn refused_writes(&self) -> u64 {
        self.front.refused()
    }

    /// Reads the register at `offset` (bytes). Write-only, unknown and unaligned ones read as zero.
    pub fn read32(&self, offset: u32) -> u32 {
        match offset {
            reg::VIRTIO_MMIO_MAGIC_VALUE => MAGIC,
            reg::VIRTIO_MMIO_VERSION => VERSION,
            reg::VIRTIO_MMIO_DEVICE_ID => self.device().device_id(),
            reg::VIRTIO_MMIO_VENDOR_ID => VENDOR,
            reg::VIRTIO_MMIO_DEVICE_FEATURES => self.front.lock().device_features(),
            reg::VIRTIO_MMIO_QUEUE_NUM_MAX => self.front.lock().queue_max(),
            reg::VIRTIO_MMIO_QUEUE_READY => self.front.lock().queue_ready(),
            reg::VIRTIO_MMIO_INTERRUPT_STATUS => self.interrupts.status(),
            reg::VIRTIO_MMIO_STATUS => self.front.status(),
            // A shared-memory region that does not exist has length and base of all ones (4.2.2).
            reg::VIRTIO_MMIO_SHM_LEN_LOW..=reg::VIRTIO_MMIO_SHM_BASE_HIGH if offset.is_multiple_of(4) => {
                u32::MAX
            }
            reg::VIRTIO_MMIO_CONFIG_GENERATION => self.device().config_generation(),
            reg::VIRTIO_MMIO_CONFIG.. => {
                let mut word = [0; 4];
                self.device().read_config(u64::from(offset) - CONFIG_OFFSET, &mut word);
                u32::from_le_bytes(word)
            }
            _ => 0,
        }
    }

    /// Writes the register at `offset` (bytes). A write to QueueNotify takes no lock.
    pub fn write32(&self, offset: u32, value: u32) {
        if offset == reg::VIRTIO_MMIO_QUEUE_NOTIFY {
            self.front.kick(value);
        } else if offset >= reg::VIRTIO_MMIO_CONFIG {
            self.device().write_config(u64::from(offset) - CONFIG_OFFSET, &value.to_le_bytes());
        } else if let Err(refused) = self.write_register(offset, value) {
            self.front.complain(offset.into(), value.into(), refused);
        }
    }

    /// Reads configuration space at `offset` (bytes, from its start), in any width.
    pub fn read_config(&self, offset: u64, data: &mut [u8]) {
        self.device().read_config(offset, data);
    }

    /// Writes configuration space at `offset` (bytes, from its start), in any width.
    pub fn write_config(&self, offset: u64, data: &[u8]) {
        self.device().write_config(offset, data);
    }

    /// A read of any width, as a bus delivers it: 32 bits and aligned for registers (4.2.2.2), else zero.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let Some(offset) = offset.checked_sub(CONFIG_OFFSET) {
            self.device().read_config(offset, data);
        } else if let (Ok(word), Ok(offset)) = (<&mut [u8; 4]>::try_from(data), u32::try_from(offset)) {
            *word = self.read32(offset).to_le_bytes();
        }
    }

    /// A write of any width, as a bus delivers it; see [`read`](Self::read).
    pub fn write(&self, offset: u64, data: &[u8]) {
        if let Some(offset) = offset.checked_sub(CONFIG_OFFSET) {
            self.device().write_config(offset, data);
        } else if let (Ok(word), Ok(offset)) = (<[u8; 4]>::try_from(data), u32::try_from(offset)) {
            self.write32(offset, u32::from_le_bytes(word));
        }
    }

    fn write_register(&self, offset: u32, value: u32) -> Result<(), Refused> {
        if offset == reg::VIRTIO_MMIO_INTERRUPT_ACK {
            self.interrupts.acknowledge(value);
            return Ok(());
        }
        if offset == reg::VIRTIO_MMIO_STATUS {
            return self.front.set_status(value, &self.interrupts);
        }
        let mut registers = self.front.lock();
        match offset {
            reg::VIRTIO_MMIO_DEVICE_FEATURES_SEL => registers.device_features_sel = value,
            reg::VIRTIO_MMIO_DRIVER_FEATURES_SEL => registers.driver_features_sel = value,
            reg::VIRTIO_MMIO_QUEUE_SEL => registers.queue_sel = value,
            // Selects among no shared-memory regions.
            reg::VIRTIO_MMIO_SHM_SEL => (),
            reg::VIRTIO_MMIO_DRIVER_FEATURES => registers.acknowledge_features(value)?,
            reg::VIRTIO_MMIO_QUEUE_NUM => registers.set_queue_size(value)?,
            reg::VIRTIO_MMIO_QUEUE_READY => registers.set_queue_ready(value)?,
            reg::VIRTIO_MMIO_QUEUE_DESC_LOW => registers.set_address(Area::Desc, Half::Low, value)?,
            reg::VIRTIO_MMIO_QUEUE_DESC_HIGH => registers.set_address(Area::Desc, Half::High, value)?,
            reg::VIRTIO_MMIO_QUEUE_AVAIL_LOW => registers.set_address(Area::Driver, Half::Low, value)?,
            reg::VIRTIO_MMIO_QUEUE_AVAIL_HIGH => registers.set_address(Area::Driver, Half::High, value)?,
            reg::VIRTIO_MMIO_QUEUE_USED_LOW => registers.set_address(Area::Device, Half::Low, value)?,
            reg::VIRTIO_MMIO_QUEUE_USED_HIGH => registers.set_address(Area::Device, Half::High, value)?,
            _ => return Err(Refused::NoRegister),
        }
        Ok(())
    }
}
