//! Configuration space: header, BARs and capabilities, and which bits the driver may write.

use super::layout::{
    COMMON_BYTES, COMMON_OFFSET, CONFIG_BYTES, DEVICE_BYTES, DEVICE_OFFSET, ISR_OFFSET, MSIX_BAR, MSIX_BYTES,
    NOTIFY_BYTES, NOTIFY_MULTIPLIER, NOTIFY_OFFSET, PBA_OFFSET, STRUCTURES_BAR, STRUCTURES_BYTES,
    TABLE_OFFSET, config,
};

const SIZE: usize = CONFIG_BYTES as usize;

/// PCI vendor of all virtio devices (virtio 4.1.2).
const VENDOR: u16 = 0x1af4;
/// Device ID of virtio device 0 (4.1.2).
const FIRST_DEVICE: u16 = 0x1040;
const CAP_VENDOR_SPECIFIC: u8 = 0x09;
const CAP_MSIX: u8 = 0x11;
/// Memory, 64 bits, not prefetchable.
const BAR_MEMORY_64: u32 = 0b100;

/// `cfg_type` of the virtio capabilities (4.1.4).
#[derive(Clone, Copy)]
enum CfgType {
    Common = 1,
    Notify = 2,
    Isr = 3,
    Device = 4,
    Pci = 5,
}

/// Configuration space as a value, with a mask of what can be written.
#[derive(Clone)]
pub(super) struct Space {
    bytes: [u8; SIZE],
    writable: [u8; SIZE],
    initial: [u8; SIZE],
}

impl Space {
    /// Of a virtio device of this type with so many MSI-X vectors.
    pub(super) fn new(device_id: u32, vectors: u16) -> Self {
        let mut space = Self { bytes: [0; SIZE], writable: [0; SIZE], initial: [0; SIZE] };
        space.header(device_id);
        space.bar(STRUCTURES_BAR, STRUCTURES_BYTES);
        space.bar(MSIX_BAR, MSIX_BYTES);
        space.capabilities(vectors);
        space.initial = space.bytes;
        space
    }

    /// Takes MSI-X, the last of the list, out of the list of capabilities, for good.
    pub(super) fn hide_msix(&mut self) {
        self.put(config::CFG_CAP + 1, [0]);
        self.allow(config::MSIX_CONTROL, [0; 2]);
        self.initial = self.bytes;
    }

    fn put<const N: usize>(&mut self, at: usize, value: [u8; N]) {
        self.bytes[at..at + N].copy_from_slice(&value);
    }

    fn allow<const N: usize>(&mut self, at: usize, mask: [u8; N]) {
        self.writable[at..at + N].copy_from_slice(&mask);
    }

    fn header(&mut self, device_id: u32) {
        // Device types are below 64; one that is not would still be told apart by its low bits.
        let device = FIRST_DEVICE + (device_id & 0x3f) as u16;
        self.put(0x00, VENDOR.to_le_bytes());
        self.put(0x02, device.to_le_bytes());
        self.put(config::STATUS, config::STATUS_CAPABILITIES.to_le_bytes());
        // "Non-transitional devices SHOULD have a PCI Revision ID of 1 or higher" (4.1.2.1).
        self.put(0x08, [1]);
        let [sub, base] = class(device_id);
        self.put(0x0a, [sub, base]);
        self.put(0x2c, VENDOR.to_le_bytes());
        // "a PCI Subsystem Device ID of 0x40 or higher".
        self.put(0x2e, device.to_le_bytes());
        self.put(config::CAPABILITIES, [config::COMMON_CAP as u8]);
        // INTA#.
        self.put(config::INTERRUPT_PIN, [1]);
        self.allow(config::COMMAND, config::COMMAND_WRITABLE.to_le_bytes());
        // Cache line size and interrupt line mean nothing to the device.
        self.allow(0x0c, [0xff]);
        self.allow(config::INTERRUPT_LINE, [0xff]);
    }

    fn bar(&mut self, bar: u8, bytes: u64) {
        let at = config::BAR0 + usize::from(bar) * 4;
        self.put(at, BAR_MEMORY_64.to_le_bytes());
        self.allow(at, (!(bytes - 1)).to_le_bytes());
    }

    fn capabilities(&mut self, vectors: u16) {
        use config::{CFG_CAP, COMMON_CAP, DEVICE_CAP, ISR_CAP, MSIX_CAP, NOTIFY_CAP};
        self.cap(COMMON_CAP, ISR_CAP, 16, CfgType::Common, COMMON_OFFSET, COMMON_BYTES);
        self.cap(ISR_CAP, DEVICE_CAP, 16, CfgType::Isr, ISR_OFFSET, 1);
        self.cap(DEVICE_CAP, NOTIFY_CAP, 16, CfgType::Device, DEVICE_OFFSET, DEVICE_BYTES);
        self.cap(NOTIFY_CAP, CFG_CAP, 20, CfgType::Notify, NOTIFY_OFFSET, NOTIFY_BYTES);
        self.put(NOTIFY_CAP + 16, NOTIFY_MULTIPLIER.to_le_bytes());
        self.cap(CFG_CAP, MSIX_CAP, 20, CfgType::Pci, 0, 0);
        // "The device MUST [let] cap.bar, cap.length, cap.offset and pci_cfg_data" be written (4.1.4.9.1).
        self.allow(config::CFG_CAP_BAR, [0xff]);
        self.allow(config::CFG_CAP_OFFSET, [0xff; 12]);
        self.put(MSIX_CAP, [CAP_MSIX, 0]);
        self.put(config::MSIX_CONTROL, (vectors - 1).to_le_bytes());
        self.allow(config::MSIX_CONTROL, (config::MSIX_ENABLE | config::MSIX_FUNCTION_MASK).to_le_bytes());
        self.put(MSIX_CAP + 4, (TABLE_OFFSET as u32 | u32::from(MSIX_BAR)).to_le_bytes());
        self.put(MSIX_CAP + 8, (PBA_OFFSET as u32 | u32::from(MSIX_BAR)).to_le_bytes());
    }

    /// `struct virtio_pci_cap` (4.1.4).
    fn cap(&mut self, at: usize, next: usize, len: u8, cfg_type: CfgType, offset: u64, bytes: u64) {
        self.put(at, [CAP_VENDOR_SPECIFIC, next as u8, len, cfg_type as u8, STRUCTURES_BAR]);
        self.put(at + 8, (offset as u32).to_le_bytes());
        self.put(at + 12, (bytes as u32).to_le_bytes());
    }

    /// As after power-on.
    pub(super) fn reset(&mut self) {
        self.bytes = self.initial;
    }

    /// Fills `data` from `offset`; what lies outside reads as all ones, as on a bus where nobody answers.
    pub(super) fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        let at = usize::try_from(offset).unwrap_or(SIZE).min(SIZE);
        for (byte, value) in data.iter_mut().zip(&self.bytes[at..]) {
            *byte = *value;
        }
    }

    /// Writes the writable bits of what lies inside.
    pub(super) fn write(&mut self, offset: u64, data: &[u8]) {
        let at = usize::try_from(offset).unwrap_or(SIZE).min(SIZE);
        let room = self.bytes[at..].iter_mut().zip(&self.writable[at..]);
        for ((byte, mask), value) in room.zip(data) {
            *byte = *byte & !mask | value & mask;
        }
    }

    pub(super) fn u8_at(&self, at: usize) -> u8 {
        self.bytes[at]
    }

    pub(super) fn u16_at(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.bytes[at], self.bytes[at + 1]])
    }

    pub(super) fn u32_at(&self, at: usize) -> u32 {
        u32::from(self.u16_at(at)) | u32::from(self.u16_at(at + 2)) << 16
    }

    /// Shows an asserted INTx in the status register.
    pub(super) fn show_interrupt(&mut self, asserted: bool) {
        let bit = config::STATUS_INTERRUPT as u8;
        let status = &mut self.bytes[config::STATUS];
        *status = *status & !bit | if asserted { bit } else { 0 };
    }
}

/// Subclass and base class of a device type.
fn class(device_id: u32) -> [u8; 2] {
    match device_id {
        // Ethernet controller.
        1 => [0x00, 0x02],
        // Mass storage, as other implementations of virtio-blk say.
        2 => [0x00, 0x01],
        // Base system peripheral: IOMMU.
        23 => [0x06, 0x08],
        _ => [0x00, 0xff],
    }
}
