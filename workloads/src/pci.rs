//! Driver side of virtio over PCI ("Virtio Over PCI Bus"): a function's modern registers, presented as those of
//! virtio-mmio, so that every driver of this crate drives both.
//!
//! What differs is hidden here: the registers lie where vendor-specific capabilities say; a queue has a doorbell of its
//! own; a reset is waited for; interrupts are off, since the drivers poll.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use thiserror::Error;
use virtio_bindings::virtio_mmio::{
    VIRTIO_MMIO_CONFIG_GENERATION, VIRTIO_MMIO_DEVICE_FEATURES, VIRTIO_MMIO_DEVICE_FEATURES_SEL,
    VIRTIO_MMIO_DEVICE_ID, VIRTIO_MMIO_DRIVER_FEATURES, VIRTIO_MMIO_DRIVER_FEATURES_SEL,
    VIRTIO_MMIO_MAGIC_VALUE, VIRTIO_MMIO_QUEUE_AVAIL_HIGH, VIRTIO_MMIO_QUEUE_AVAIL_LOW,
    VIRTIO_MMIO_QUEUE_DESC_HIGH, VIRTIO_MMIO_QUEUE_DESC_LOW, VIRTIO_MMIO_QUEUE_NOTIFY, VIRTIO_MMIO_QUEUE_NUM,
    VIRTIO_MMIO_QUEUE_NUM_MAX, VIRTIO_MMIO_QUEUE_READY, VIRTIO_MMIO_QUEUE_SEL, VIRTIO_MMIO_QUEUE_USED_HIGH,
    VIRTIO_MMIO_QUEUE_USED_LOW, VIRTIO_MMIO_STATUS, VIRTIO_MMIO_VENDOR_ID, VIRTIO_MMIO_VERSION,
};

use crate::bus::Bus;

/// A PCI function's configuration space and registers. Accesses are of 1, 2 or 4 bytes, little-endian, aligned.
pub trait PciFunction: Send + Sync {
    /// Reads configuration space.
    fn config_read(&self, offset: u16, data: &mut [u8]);
    /// Writes configuration space.
    fn config_write(&self, offset: u16, data: &[u8]);
    /// Reads a register behind a base address register.
    fn bar_read(&self, bar: u8, offset: u64, data: &mut [u8]);
    /// Writes a register behind a base address register.
    fn bar_write(&self, bar: u8, offset: u64, data: &[u8]);
}

/// A function that is no modern virtio device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PciError {
    /// Another vendor or a transitional device.
    #[error("PCI {vendor:04x}:{device:04x} is no modern virtio device (1af4:1041 to 1af4:107f)")]
    Id {
        /// Vendor.
        vendor: u16,
        /// Device.
        device: u16,
    },
    /// A structure is missing.
    #[error("the virtio device has no capability for its {structure}")]
    Capability {
        /// Which.
        structure: &'static str,
    },
}

/// "virt", and the modern layout, as virtio-mmio has them.
const MAGIC: u32 = 0x7472_6976;
const MODERN: u32 = 2;
/// Vendor of all virtio devices.
const VENDOR: u16 = 0x1af4;
/// A modern device's number is this and its virtio ID.
const DEVICE_BASE: u16 = 0x1040;
/// Highest number of a modern device.
const DEVICE_LAST: u16 = 0x107f;
/// Where the list of capabilities begins, and the type of those that are the vendor's.
const CAPABILITIES_POINTER: u16 = 0x34;
const VENDOR_SPECIFIC: u8 = 9;
/// Most capabilities that fit configuration space.
const MOST_CAPABILITIES: usize = 48;
/// `cfg_type` of the structures.
const COMMON: u8 = 1;
const NOTIFY: u8 = 2;
const DEVICE: u8 = 4;
/// No interrupt vector.
const NO_VECTOR: u16 = 0xffff;
/// How long a device may take to reset.
const RESET_LIMIT: Duration = Duration::from_secs(2);

/// Offsets in `struct virtio_pci_common_cfg`.
mod common {
    pub(super) const DEVICE_FEATURE_SELECT: u64 = 0;
    pub(super) const DEVICE_FEATURE: u64 = 4;
    pub(super) const DRIVER_FEATURE_SELECT: u64 = 8;
    pub(super) const DRIVER_FEATURE: u64 = 12;
    pub(super) const CONFIG_MSIX_VECTOR: u64 = 16;
    pub(super) const DEVICE_STATUS: u64 = 20;
    pub(super) const CONFIG_GENERATION: u64 = 21;
    pub(super) const QUEUE_SELECT: u64 = 22;
    pub(super) const QUEUE_SIZE: u64 = 24;
    pub(super) const QUEUE_MSIX_VECTOR: u64 = 26;
    pub(super) const QUEUE_ENABLE: u64 = 28;
    pub(super) const QUEUE_NOTIFY_OFF: u64 = 30;
    pub(super) const QUEUE_DESC: u64 = 32;
    pub(super) const QUEUE_DRIVER: u64 = 40;
    pub(super) const QUEUE_DEVICE: u64 = 48;
}

/// Where a structure lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    bar: u8,
    offset: u64,
}

/// The doorbells of the queues, known once a queue is enabled.
#[derive(Debug, Default)]
struct Doorbells {
    selected: u16,
    offsets: Vec<Option<u64>>,
}

/// One modern virtio-pci function.
pub struct PciBus<F> {
    function: F,
    id: u32,
    common: Place,
    notify: Place,
    notify_multiplier: u64,
    device: Place,
    doorbells: Mutex<Doorbells>,
}

impl<F: PciFunction> PciBus<F> {
    /// Finds the structures of a virtio device.
    ///
    /// # Errors
    /// When it is none, or lacks one.
    pub fn new(function: F) -> Result<Self, PciError> {
        let u16_at = |offset| {
            let mut data = [0; 2];
            function.config_read(offset, &mut data);
            u16::from_le_bytes(data)
        };
        let (vendor, device) = (u16_at(0), u16_at(2));
        if vendor != VENDOR || !(DEVICE_BASE + 1..=DEVICE_LAST).contains(&device) {
            return Err(PciError::Id { vendor, device });
        }
        let found = structures(&function);
        let place = |kind: u8, structure| {
            let first = found.iter().find(|(found, ..)| *found == kind);
            first.map(|(_, place, at)| (*place, *at)).ok_or(PciError::Capability { structure })
        };
        let (common, _) = place(COMMON, "common configuration")?;
        let (notify, at) = place(NOTIFY, "doorbells")?;
        let (device_place, _) = place(DEVICE, "device configuration")?;
        let mut multiplier = [0; 4];
        function.config_read(at + 16, &mut multiplier);
        let bus = Self {
            id: u32::from(device - DEVICE_BASE),
            common,
            notify,
            notify_multiplier: u64::from(u32::from_le_bytes(multiplier)),
            device: device_place,
            doorbells: Mutex::default(),
            function,
        };
        bus.put16(common::CONFIG_MSIX_VECTOR, NO_VECTOR);
        Ok(bus)
    }

    fn doorbells(&self) -> MutexGuard<'_, Doorbells> {
        self.doorbells.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, field: u64, data: &mut [u8]) {
        self.function.bar_read(self.common.bar, self.common.offset + field, data);
    }

    fn get8(&self, field: u64) -> u32 {
        let mut data = [0];
        self.get(field, &mut data);
        u32::from(data[0])
    }

    fn get16(&self, field: u64) -> u16 {
        let mut data = [0; 2];
        self.get(field, &mut data);
        u16::from_le_bytes(data)
    }

    fn get32(&self, field: u64) -> u32 {
        let mut data = [0; 4];
        self.get(field, &mut data);
        u32::from_le_bytes(data)
    }

    fn put(&self, field: u64, data: &[u8]) {
        self.function.bar_write(self.common.bar, self.common.offset + field, data);
    }

    fn put16(&self, field: u64, value: u16) {
        self.put(field, &value.to_le_bytes());
    }

    fn put32(&self, field: u64, value: u32) {
        self.put(field, &value.to_le_bytes());
    }

    /// "After writing 0 to device_status, the driver MUST wait for a read of device_status to return 0 before
    /// reinitializing the device." Who reads the status afterwards sees whether it did.
    fn reset(&self) {
        self.put(common::DEVICE_STATUS, &[0]);
        let since = Instant::now();
        while self.get8(common::DEVICE_STATUS) != 0 && since.elapsed() < RESET_LIMIT {
            std::thread::yield_now();
        }
        self.put16(common::CONFIG_MSIX_VECTOR, NO_VECTOR);
        self.doorbells().offsets.clear();
    }

    fn enable_queue(&self) {
        let mut doorbells = self.doorbells();
        let queue = usize::from(doorbells.selected);
        let offset = u64::from(self.get16(common::QUEUE_NOTIFY_OFF)) * self.notify_multiplier;
        if doorbells.offsets.len() <= queue {
            doorbells.offsets.resize(queue + 1, None);
        }
        doorbells.offsets[queue] = Some(self.notify.offset + offset);
        self.put16(common::QUEUE_MSIX_VECTOR, NO_VECTOR);
        self.put16(common::QUEUE_ENABLE, 1);
    }

    #[inline]
    fn kick(&self, queue: u16) {
        let offset = self.doorbells().offsets.get(usize::from(queue)).copied().flatten();
        if let Some(offset) = offset {
            self.function.bar_write(self.notify.bar, offset, &queue.to_le_bytes());
        }
    }
}

/// Every structure that the capabilities name: its type, its place, and where the capability is.
fn structures(function: &impl PciFunction) -> Vec<(u8, Place, u16)> {
    let byte = |offset: u16| {
        let mut data = [0];
        function.config_read(offset, &mut data);
        data[0]
    };
    let mut found = Vec::new();
    let mut at = u16::from(byte(CAPABILITIES_POINTER) & !3);
    // A list that leads in circles ends here.
    for _ in 0..MOST_CAPABILITIES {
        if at == 0 {
            break;
        }
        if byte(at) == VENDOR_SPECIFIC {
            let mut offset = [0; 4];
            function.config_read(at + 8, &mut offset);
            let place = Place { bar: byte(at + 4), offset: u64::from(u32::from_le_bytes(offset)) };
            found.push((byte(at + 3), place, at));
        }
        at = u16::from(byte(at + 1) & !3);
    }
    found
}

impl<F: PciFunction> Bus for PciBus<F> {
    fn read32(&self, offset: u32) -> u32 {
        match offset {
            VIRTIO_MMIO_MAGIC_VALUE => MAGIC,
            VIRTIO_MMIO_VERSION => MODERN,
            VIRTIO_MMIO_DEVICE_ID => self.id,
            VIRTIO_MMIO_VENDOR_ID => u32::from(VENDOR),
            VIRTIO_MMIO_DEVICE_FEATURES => self.get32(common::DEVICE_FEATURE),
            VIRTIO_MMIO_QUEUE_NUM_MAX => u32::from(self.get16(common::QUEUE_SIZE)),
            VIRTIO_MMIO_QUEUE_READY => u32::from(self.get16(common::QUEUE_ENABLE)),
            VIRTIO_MMIO_STATUS => self.get8(common::DEVICE_STATUS),
            VIRTIO_MMIO_CONFIG_GENERATION => self.get8(common::CONFIG_GENERATION),
            _ => 0,
        }
    }

    fn write32(&self, offset: u32, value: u32) {
        let low_high = |field, high: bool| self.put32(field + 4 * u64::from(high), value);
        match offset {
            VIRTIO_MMIO_QUEUE_NOTIFY => self.kick(value as u16),
            VIRTIO_MMIO_DEVICE_FEATURES_SEL => self.put32(common::DEVICE_FEATURE_SELECT, value),
            VIRTIO_MMIO_DRIVER_FEATURES_SEL => self.put32(common::DRIVER_FEATURE_SELECT, value),
            VIRTIO_MMIO_DRIVER_FEATURES => self.put32(common::DRIVER_FEATURE, value),
            VIRTIO_MMIO_QUEUE_SEL => {
                self.doorbells().selected = value as u16;
                self.put16(common::QUEUE_SELECT, value as u16);
            }
            VIRTIO_MMIO_QUEUE_NUM => self.put16(common::QUEUE_SIZE, value as u16),
            VIRTIO_MMIO_QUEUE_DESC_LOW => low_high(common::QUEUE_DESC, false),
            VIRTIO_MMIO_QUEUE_DESC_HIGH => low_high(common::QUEUE_DESC, true),
            VIRTIO_MMIO_QUEUE_AVAIL_LOW => low_high(common::QUEUE_DRIVER, false),
            VIRTIO_MMIO_QUEUE_AVAIL_HIGH => low_high(common::QUEUE_DRIVER, true),
            VIRTIO_MMIO_QUEUE_USED_LOW => low_high(common::QUEUE_DEVICE, false),
            VIRTIO_MMIO_QUEUE_USED_HIGH => low_high(common::QUEUE_DEVICE, true),
            VIRTIO_MMIO_QUEUE_READY if value == 1 => self.enable_queue(),
            VIRTIO_MMIO_STATUS if value == 0 => self.reset(),
            VIRTIO_MMIO_STATUS => self.put(common::DEVICE_STATUS, &[value as u8]),
            _ => (),
        }
    }

    fn read_config(&self, offset: u32, data: &mut [u8]) {
        for (at, byte) in (u64::from(offset)..).zip(data.iter_mut()) {
            self.function.bar_read(self.device.bar, self.device.offset + at, std::slice::from_mut(byte));
        }
    }

    fn write_config(&self, offset: u32, data: &[u8]) {
        for (at, byte) in (u64::from(offset)..).zip(data) {
            self.function.bar_write(self.device.bar, self.device.offset + at, std::slice::from_ref(byte));
        }
    }
}

impl<F: PciFunction + ?Sized> PciFunction for Arc<F> {
    fn config_read(&self, offset: u16, data: &mut [u8]) {
        (**self).config_read(offset, data);
    }

    fn config_write(&self, offset: u16, data: &[u8]) {
        (**self).config_write(offset, data);
    }

    fn bar_read(&self, bar: u8, offset: u64, data: &mut [u8]) {
        (**self).bar_read(bar, offset, data);
    }

    fn bar_write(&self, bar: u8, offset: u64, data: &[u8]) {
        (**self).bar_write(bar, offset, data);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Plain memory for configuration space and BAR 4.
    struct Memory {
        config: Mutex<[u8; 256]>,
        bar: Mutex<Vec<u8>>,
    }

    fn put(memory: &Mutex<impl AsMut<[u8]>>, at: usize, data: &[u8]) {
        memory.lock().unwrap().as_mut()[at..at + data.len()].copy_from_slice(data);
    }

    impl PciFunction for Memory {
        fn config_read(&self, offset: u16, data: &mut [u8]) {
            data.copy_from_slice(&self.config.lock().unwrap()[usize::from(offset)..][..data.len()]);
        }

        fn config_write(&self, offset: u16, data: &[u8]) {
            put(&self.config, usize::from(offset), data);
        }

        fn bar_read(&self, bar: u8, offset: u64, data: &mut [u8]) {
            assert_eq!(bar, 4);
            data.copy_from_slice(&self.bar.lock().unwrap()[offset as usize..][..data.len()]);
        }

        fn bar_write(&self, bar: u8, offset: u64, data: &[u8]) {
            assert_eq!(bar, 4);
            put(&self.bar, offset as usize, data);
        }
    }

    fn device(id: u16) -> Arc<Memory> {
        let memory = Memory { config: Mutex::new([0; 256]), bar: Mutex::new(vec![0; 0x4000]) };
        put(&memory.config, 0, &VENDOR.to_le_bytes());
        put(&memory.config, 2, &(DEVICE_BASE + id).to_le_bytes());
        put(&memory.config, 0x34, &[0x40]);
        for (n, (kind, offset)) in
            [(COMMON, 0_u32), (NOTIFY, 0x3000), (3, 0x1000), (DEVICE, 0x2000)].into_iter().enumerate()
        {
            let (at, next) = (0x40 + 24 * n, if n == 3 { 0 } else { 0x40 + 24 * (n as u8 + 1) });
            put(&memory.config, at, &[VENDOR_SPECIFIC, next, 20, kind, 4]);
            put(&memory.config, at + 8, &offset.to_le_bytes());
        }
        put(&memory.config, 0x40 + 24 + 16, &4_u32.to_le_bytes());
        Arc::new(memory)
    }

    #[test]
    fn registers_lie_where_the_capabilities_say() {
        let memory = device(1);
        let bus = PciBus::new(Arc::clone(&memory)).unwrap();
        assert_eq!((bus.read32(VIRTIO_MMIO_MAGIC_VALUE), bus.read32(VIRTIO_MMIO_DEVICE_ID)), (MAGIC, 1));
        put(&memory.bar, 4, &0xdead_beef_u32.to_le_bytes());
        assert_eq!(bus.read32(VIRTIO_MMIO_DEVICE_FEATURES), 0xdead_beef);
        put(&memory.bar, 0x2000, &[1, 2, 3, 4, 5, 6]);
        let mut mac = [0; 6];
        bus.read_config(0, &mut mac);
        assert_eq!(mac, [1, 2, 3, 4, 5, 6]);
        bus.write32(VIRTIO_MMIO_STATUS, 0x8f);
        assert_eq!(memory.bar.lock().unwrap()[20..22], [0x8f, 0]);
    }

    #[test]
    fn each_queue_has_its_doorbell() {
        let memory = device(1);
        let bus = PciBus::new(Arc::clone(&memory)).unwrap();
        bus.write32(VIRTIO_MMIO_QUEUE_SEL, 1);
        put(&memory.bar, 30, &5_u16.to_le_bytes());
        bus.write32(VIRTIO_MMIO_QUEUE_NOTIFY, 1);
        assert_eq!(memory.bar.lock().unwrap()[0x3000..0x3100], [0; 0x100], "not enabled yet");
        bus.write32(VIRTIO_MMIO_QUEUE_DESC_LOW, 0x1000);
        bus.write32(VIRTIO_MMIO_QUEUE_DESC_HIGH, 2);
        bus.write32(VIRTIO_MMIO_QUEUE_READY, 1);
        bus.write32(VIRTIO_MMIO_QUEUE_NOTIFY, 1);
        let bar = memory.bar.lock().unwrap();
        assert_eq!(bar[0x3000 + 20..0x3000 + 22], [1, 0], "5 times 4");
        assert_eq!(bar[32..40], [0, 0x10, 0, 0, 2, 0, 0, 0]);
        assert_eq!(bar[26..30], [0xff, 0xff, 1, 0], "no interrupt, enabled");
    }

    #[test]
    fn what_is_no_virtio_device_is_refused() {
        let memory = device(1);
        put(&memory.config, 2, &0x1000_u16.to_le_bytes());
        assert!(matches!(PciBus::new(memory), Err(PciError::Id { device: 0x1000, .. })));
        let memory = device(1);
        // The second capability points back to the first: no device configuration is ever found.
        put(&memory.config, 0x40 + 24 + 1, &[0x40]);
        let error = PciBus::new(memory).err();
        assert_eq!(error, Some(PciError::Capability { structure: "device configuration" }));
    }
}
