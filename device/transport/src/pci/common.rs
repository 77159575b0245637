//! `struct virtio_pci_common_cfg` (virtio 4.1.4.3).

use super::{
    PciTransport,
    layout::{COMMON_BYTES, NOTIFY_BYTES, NOTIFY_MULTIPLIER},
};
use crate::registers::{Area, Half, Refused, Registers};

/// Offsets of the fields.
mod field {
    pub(super) const DEVICE_FEATURE_SELECT: usize = 0x00;
    pub(super) const DEVICE_FEATURE: usize = 0x04;
    pub(super) const DRIVER_FEATURE_SELECT: usize = 0x08;
    pub(super) const DRIVER_FEATURE: usize = 0x0c;
    pub(super) const CONFIG_MSIX_VECTOR: usize = 0x10;
    pub(super) const NUM_QUEUES: usize = 0x12;
    pub(super) const DEVICE_STATUS: usize = 0x14;
    pub(super) const CONFIG_GENERATION: usize = 0x15;
    pub(super) const QUEUE_SELECT: usize = 0x16;
    pub(super) const QUEUE_SIZE: usize = 0x18;
    pub(super) const QUEUE_MSIX_VECTOR: usize = 0x1a;
    pub(super) const QUEUE_ENABLE: usize = 0x1c;
    pub(super) const QUEUE_NOTIFY_OFF: usize = 0x1e;
    pub(super) const QUEUE_DESC: usize = 0x20;
    pub(super) const QUEUE_DRIVER: usize = 0x28;
    pub(super) const QUEUE_DEVICE: usize = 0x30;
}

const BYTES: usize = COMMON_BYTES as usize;

impl PciTransport {
    /// Reads the structure in any width and alignment; bytes outside read as zero.
    pub(super) fn read_common(&self, offset: usize, data: &mut [u8]) {
        data.fill(0);
        let bytes = self.common_bytes();
        for (byte, value) in data.iter_mut().zip(bytes.get(offset..).unwrap_or(&[])) {
            *byte = *value;
        }
    }

    fn common_bytes(&self) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        let status = self.front.status();
        let registers = self.front.lock();
        let mut put = |at: usize, value: u64, width: usize| {
            bytes[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
        };
        put(field::DEVICE_FEATURE_SELECT, registers.device_features_sel.into(), 4);
        put(field::DEVICE_FEATURE, registers.device_features().into(), 4);
        put(field::DRIVER_FEATURE_SELECT, registers.driver_features_sel.into(), 4);
        put(field::DRIVER_FEATURE, registers.acknowledged_features().into(), 4);
        put(field::CONFIG_MSIX_VECTOR, self.interrupts.config_vector().into(), 2);
        put(field::NUM_QUEUES, registers.queue_count().into(), 2);
        put(field::DEVICE_STATUS, status.into(), 1);
        put(field::CONFIG_GENERATION, self.device().config_generation().into(), 1);
        put(field::QUEUE_SELECT, registers.queue_sel.into(), 2);
        if registers.queue_max() != 0 {
            put(field::QUEUE_SIZE, registers.queue_size().into(), 2);
            put(field::QUEUE_MSIX_VECTOR, self.interrupts.queue_vector(registers.queue_sel).into(), 2);
            put(field::QUEUE_ENABLE, registers.queue_ready().into(), 2);
            put(field::QUEUE_NOTIFY_OFF, registers.queue_sel.into(), 2);
            put(field::QUEUE_DESC, registers.address(Area::Desc), 8);
            put(field::QUEUE_DRIVER, registers.address(Area::Driver), 8);
            put(field::QUEUE_DEVICE, registers.address(Area::Device), 8);
        }
        bytes
    }

    /// Writes one field: each in its own width, addresses also as a whole (4.1.3.1).
    pub(super) fn write_common(&self, offset: usize, data: &[u8]) -> Result<(), Refused> {
        let value = match *data {
            [a] => u64::from(a),
            [a, b] => u64::from(u16::from_le_bytes([a, b])),
            [a, b, c, d] => u64::from(u32::from_le_bytes([a, b, c, d])),
            [a, b, c, d, e, f, g, h] => u64::from_le_bytes([a, b, c, d, e, f, g, h]),
            _ => return Err(Refused::NoRegister),
        };
        let low = value as u32;
        if let (field::DEVICE_STATUS, 1) = (offset, data.len()) {
            return self.front.set_status(low, &self.interrupts);
        }
        let mut registers = self.front.lock();
        match (offset, data.len()) {
            (field::DEVICE_FEATURE_SELECT, 4) => registers.device_features_sel = low,
            (field::DRIVER_FEATURE_SELECT, 4) => registers.driver_features_sel = low,
            (field::DRIVER_FEATURE, 4) => registers.acknowledge_features(low)?,
            (field::CONFIG_MSIX_VECTOR, 2) => self.interrupts.set_config_vector(low as u16),
            (field::QUEUE_SELECT, 2) => registers.queue_sel = low,
            (field::QUEUE_SIZE, 2) => registers.set_queue_size(low)?,
            (field::QUEUE_MSIX_VECTOR, 2) => {
                let queue = registers.queue_sel;
                if !self.interrupts.set_queue_vector(queue, low as u16) {
                    return Err(Refused::NoQueue { queue });
                }
            }
            (field::QUEUE_ENABLE, 2) => enable(&mut registers, low)?,
            (field::QUEUE_DESC..BYTES, 4 | 8) => set_address(&mut registers, offset, value, data.len())?,
            _ => return Err(Refused::NoRegister),
        }
        Ok(())
    }
}

/// "The driver MUST NOT write a 0 to queue_enable" (4.1.4.3.2): that takes a reset.
fn enable(registers: &mut Registers, value: u32) -> Result<(), Refused> {
    match value {
        1 => registers.set_queue_ready(1),
        _ => Err(Refused::QueueReady { value }),
    }
}

fn set_address(registers: &mut Registers, offset: usize, value: u64, width: usize) -> Result<(), Refused> {
    let area = match offset {
        field::QUEUE_DESC..field::QUEUE_DRIVER => Area::Desc,
        field::QUEUE_DRIVER..field::QUEUE_DEVICE => Area::Driver,
        _ => Area::Device,
    };
    match (offset % 8, width) {
        (0, 4) => registers.set_address(area, Half::Low, value as u32),
        (4, 4) => registers.set_address(area, Half::High, value as u32),
        (0, 8) => {
            registers.set_address(area, Half::Low, value as u32)?;
            registers.set_address(area, Half::High, (value >> 32) as u32)
        }
        _ => Err(Refused::NoRegister),
    }
}

/// The queue that a write to the notification area kicks: "the device MUST ignore" what is none (4.1.4.4).
pub(super) fn kicked_queue(offset: u64, data: &[u8]) -> Option<u32> {
    let queue = match *data {
        [a, b] => u16::from_le_bytes([a, b]),
        [a, b, 0, 0] => u16::from_le_bytes([a, b]),
        _ => return None,
    };
    let queue = u32::from(queue);
    let address = u64::from(queue) * u64::from(NOTIFY_MULTIPLIER);
    (address == offset && offset < NOTIFY_BYTES).then_some(queue)
}
