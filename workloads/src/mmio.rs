//! Driver side of virtio over MMIO ("Virtio Over MMIO"), for any kind of device.

use std::sync::Arc;

use thiserror::Error;
use virtio_bindings::{
    virtio_config::{
        VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK,
        VIRTIO_CONFIG_S_FAILED, VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET, VIRTIO_F_VERSION_1,
    },
    virtio_mmio::{
        VIRTIO_MMIO_CONFIG_GENERATION, VIRTIO_MMIO_DEVICE_FEATURES, VIRTIO_MMIO_DEVICE_FEATURES_SEL,
        VIRTIO_MMIO_DEVICE_ID, VIRTIO_MMIO_DRIVER_FEATURES, VIRTIO_MMIO_DRIVER_FEATURES_SEL,
        VIRTIO_MMIO_MAGIC_VALUE, VIRTIO_MMIO_QUEUE_AVAIL_HIGH, VIRTIO_MMIO_QUEUE_AVAIL_LOW,
        VIRTIO_MMIO_QUEUE_DESC_HIGH, VIRTIO_MMIO_QUEUE_DESC_LOW, VIRTIO_MMIO_QUEUE_NOTIFY,
        VIRTIO_MMIO_QUEUE_NUM, VIRTIO_MMIO_QUEUE_NUM_MAX, VIRTIO_MMIO_QUEUE_READY, VIRTIO_MMIO_QUEUE_SEL,
        VIRTIO_MMIO_QUEUE_USED_HIGH, VIRTIO_MMIO_QUEUE_USED_LOW, VIRTIO_MMIO_STATUS, VIRTIO_MMIO_VERSION,
    },
};

use crate::bus::Bus;

/// "virt", the value of the first register.
const MAGIC: u32 = 0x7472_6976;
/// The modern register layout.
const MODERN: u32 = 2;
/// Readings of the configuration before a device that keeps changing it is given up.
const CONFIG_TRIES: u32 = 16;

/// A device that cannot be driven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum MmioError {
    /// The first register does not say "virt".
    #[error("no virtio-mmio device: magic value {0:#x}")]
    Magic(u32),
    /// Not the modern layout.
    #[error("virtio-mmio version {0}, only version 2 is supported")]
    Version(u32),
    /// Another kind of device.
    #[error("virtio device ID {found}, expected {expected}")]
    DeviceId {
        /// What the register says.
        found: u32,
        /// What the driver drives.
        expected: u32,
    },
    /// A feature the driver cannot do without is not offered.
    #[error("device {device} lacks required features {missing:#x} (offered {offered:#x})")]
    Features {
        /// Virtio device ID.
        device: u32,
        /// Required and not offered.
        missing: u64,
        /// All that is offered.
        offered: u64,
    },
    /// The device did not accept the subset of features.
    #[error("device {device} refused features {features:#x}")]
    FeaturesRefused {
        /// Virtio device ID.
        device: u32,
        /// What the driver asked for.
        features: u64,
    },
    /// A queue does not exist, or is smaller than asked for.
    #[error("queue {index} of device {device} has at most {max} entries, {wanted} wanted")]
    QueueSize {
        /// Virtio device ID.
        device: u32,
        /// Index of the queue.
        index: u16,
        /// What the device can do; zero when there is no such queue.
        max: u32,
        /// What the driver wants.
        wanted: u16,
    },
    /// The device asks for a reset (DEVICE_NEEDS_RESET).
    #[error("device {device} needs a reset (status {status:#x})")]
    NeedsReset {
        /// Virtio device ID.
        device: u32,
        /// The status register.
        status: u32,
    },
    /// The status register did not read zero after a reset.
    #[error("device {device} does not reset (status {status:#x})")]
    Reset {
        /// Virtio device ID.
        device: u32,
        /// The status register.
        status: u32,
    },
    /// The configuration changed at every reading.
    #[error("the configuration of device {device} does not hold still")]
    UnstableConfig {
        /// Virtio device ID.
        device: u32,
    },
}

/// Where a ring lies, as the device must address it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueAddresses {
    /// Number of descriptors.
    pub size: u16,
    /// Descriptor table.
    pub desc: u64,
    /// Available ring.
    pub avail: u64,
    /// Used ring.
    pub used: u64,
}

/// One virtio-mmio device, found and reset.
pub struct MmioDevice {
    bus: Arc<dyn Bus>,
    id: u32,
}

impl std::fmt::Debug for MmioDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MmioDevice").field("id", &self.id).finish_non_exhaustive()
    }
}

impl MmioDevice {
    /// Checks that a device of kind `id` is there, resets it and greets it ("Device Initialization" 1 to 3).
    ///
    /// # Errors
    /// When it is not there, not modern, not of that kind, or does not reset.
    pub fn probe(bus: Arc<dyn Bus>, id: u32) -> Result<Self, MmioError> {
        let magic = bus.read32(VIRTIO_MMIO_MAGIC_VALUE);
        if magic != MAGIC {
            return Err(MmioError::Magic(magic));
        }
        let version = bus.read32(VIRTIO_MMIO_VERSION);
        if version != MODERN {
            return Err(MmioError::Version(version));
        }
        let found = bus.read32(VIRTIO_MMIO_DEVICE_ID);
        if found != id {
            return Err(MmioError::DeviceId { found, expected: id });
        }
        let device = Self { bus, id };
        device.reset()?;
        device.add_status(VIRTIO_CONFIG_S_ACKNOWLEDGE);
        device.add_status(VIRTIO_CONFIG_S_DRIVER);
        Ok(device)
    }

    /// Accepts `required` and whatever is offered of `optional`; VERSION_1 is always required ("Device
    /// Initialization" 4 to 6). Returns what was settled on.
    ///
    /// # Errors
    /// When something required is not offered, or the device refuses.
    pub fn negotiate(&self, required: u64, optional: u64) -> Result<u64, MmioError> {
        let required = required | 1 << VIRTIO_F_VERSION_1;
        let offered = self.offered();
        let missing = required & !offered;
        if missing != 0 {
            self.add_status(VIRTIO_CONFIG_S_FAILED);
            return Err(MmioError::Features { device: self.id, missing, offered });
        }
        let features = required | (optional & offered);
        for half in 0..2 {
            self.bus.write32(VIRTIO_MMIO_DRIVER_FEATURES_SEL, half);
            self.bus.write32(VIRTIO_MMIO_DRIVER_FEATURES, (features >> (32 * half)) as u32);
        }
        self.add_status(VIRTIO_CONFIG_S_FEATURES_OK);
        if self.status() & VIRTIO_CONFIG_S_FEATURES_OK == 0 {
            self.add_status(VIRTIO_CONFIG_S_FAILED);
            return Err(MmioError::FeaturesRefused { device: self.id, features });
        }
        Ok(features)
    }

    /// Features the device offers.
    pub fn offered(&self) -> u64 {
        (0..2).fold(0, |features, half| {
            self.bus.write32(VIRTIO_MMIO_DEVICE_FEATURES_SEL, half);
            features | u64::from(self.bus.read32(VIRTIO_MMIO_DEVICE_FEATURES)) << (32 * half)
        })
    }

    /// Reads `N` bytes of configuration, consistently even when the device changes it meanwhile.
    ///
    /// # Errors
    /// When it changes at every try.
    pub fn config<const N: usize>(&self) -> Result<[u8; N], MmioError> {
        for _ in 0..CONFIG_TRIES {
            let before = self.bus.read32(VIRTIO_MMIO_CONFIG_GENERATION);
            let mut data = [0; N];
            self.bus.read_config(0, &mut data);
            if self.bus.read32(VIRTIO_MMIO_CONFIG_GENERATION) == before {
                return Ok(data);
            }
        }
        Err(MmioError::UnstableConfig { device: self.id })
    }

    /// Most entries queue `index` can have; zero when there is no such queue.
    pub fn queue_max(&self, index: u16) -> u32 {
        self.bus.write32(VIRTIO_MMIO_QUEUE_SEL, u32::from(index));
        self.bus.read32(VIRTIO_MMIO_QUEUE_NUM_MAX)
    }

    /// Tells the device where queue `index` lies and enables it.
    ///
    /// # Errors
    /// When the device has no such queue, or not of that size.
    pub fn enable_queue(&self, index: u16, queue: QueueAddresses) -> Result<(), MmioError> {
        let max = self.queue_max(index);
        if u32::from(queue.size) > max {
            return Err(MmioError::QueueSize { device: self.id, index, max, wanted: queue.size });
        }
        self.bus.write32(VIRTIO_MMIO_QUEUE_NUM, u32::from(queue.size));
        for (low, high, address) in [
            (VIRTIO_MMIO_QUEUE_DESC_LOW, VIRTIO_MMIO_QUEUE_DESC_HIGH, queue.desc),
            (VIRTIO_MMIO_QUEUE_AVAIL_LOW, VIRTIO_MMIO_QUEUE_AVAIL_HIGH, queue.avail),
            (VIRTIO_MMIO_QUEUE_USED_LOW, VIRTIO_MMIO_QUEUE_USED_HIGH, queue.used),
        ] {
            self.bus.write32(low, address as u32);
            self.bus.write32(high, (address >> 32) as u32);
        }
        self.bus.write32(VIRTIO_MMIO_QUEUE_READY, 1);
        Ok(())
    }

    /// The device goes live ("Device Initialization" 8).
    ///
    /// # Errors
    /// When the device refuses with DEVICE_NEEDS_RESET.
    pub fn driver_ok(&self) -> Result<(), MmioError> {
        self.add_status(VIRTIO_CONFIG_S_DRIVER_OK);
        self.check()
    }

    /// Fails when the device has set DEVICE_NEEDS_RESET.
    ///
    /// # Errors
    /// Just then.
    pub fn check(&self) -> Result<(), MmioError> {
        let status = self.status();
        if status & VIRTIO_CONFIG_S_NEEDS_RESET != 0 {
            return Err(MmioError::NeedsReset { device: self.id, status });
        }
        Ok(())
    }

    /// Resets the device; when it returns, the device touches no queue any more.
    ///
    /// # Errors
    /// When the status register does not read zero afterwards.
    pub fn reset(&self) -> Result<(), MmioError> {
        self.bus.write32(VIRTIO_MMIO_STATUS, 0);
        match self.status() {
            0 => Ok(()),
            status => Err(MmioError::Reset { device: self.id, status }),
        }
    }

    /// The doorbell of queue `index`.
    #[inline]
    pub fn kick(&self, index: u16) {
        self.bus.write32(VIRTIO_MMIO_QUEUE_NOTIFY, u32::from(index));
    }

    /// The status register.
    pub fn status(&self) -> u32 {
        self.bus.read32(VIRTIO_MMIO_STATUS)
    }

    fn add_status(&self, bit: u32) {
        self.bus.write32(VIRTIO_MMIO_STATUS, self.status() | bit);
    }
}
