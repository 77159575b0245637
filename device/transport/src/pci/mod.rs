//! Device-side virtio over PCI (virtio 4.1), modern only: the function around a [`VirtioDevice`].
//!
//! | BAR | offset | what |
//! |---|---|---|
//! | 0 | 0x0000 | common configuration |
//! | 0 | 0x1000 | ISR status |
//! | 0 | 0x2000 | device-specific configuration |
//! | 0 | 0x3000 | notification, 4 bytes a queue |
//! | 2 | 0x000 | MSI-X table |
//! | 2 | 0x800 | MSI-X pending bits |
//!
//! Accesses of any offset and length are answered: what means nothing is ignored, counted and (rate limited) logged, and
//! reads as zero. As on the mmio transport, a queue cannot be taken back after DRIVER_OK; it takes a reset.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{VirtioDevice, front::Front, registers::Refused};

mod common;
mod interrupts;
pub mod layout;
mod msix;
mod space;
#[cfg(test)]
mod tests;

use interrupts::Interrupts;
use layout::{
    COMMON_BYTES, COMMON_OFFSET, CONFIG_BYTES, DEVICE_BYTES, DEVICE_OFFSET, ISR_OFFSET, MAX_VECTORS,
    MSIX_BAR, MSIX_BYTES, NOTIFY_BYTES, NOTIFY_OFFSET, PBA_OFFSET, STRUCTURES_BAR, STRUCTURES_BYTES, config,
};
use msix::Msix;
use space::Space;

/// What an MSI-X vector writes, and where to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// Address, guest-physical.
    pub address: u64,
    /// The word written there.
    pub data: u32,
}

/// How a function's interrupts leave it. Called from any thread, also while the function's own locks are held: an
/// implementation does not call back into the function.
pub trait Signals: Send + Sync {
    /// An MSI-X vector fires. `false`: nobody can take it yet, keep it pending until [`PciTransport::retry`].
    fn message(&self, vector: u16, message: Message) -> bool;
    /// INTx changes its level.
    fn line(&self, asserted: bool);
}

/// Who holds the MSI-X table that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VectorOwner {
    /// The function's own, reached through its BAR.
    Function,
    /// The virtual machine monitor traps the table and masks vectors itself: the function's copy is never written.
    Monitor,
}

/// One PCI function. All methods may be called by several vCPUs at once.
pub struct PciTransport {
    front: Front,
    interrupts: Arc<Interrupts>,
    space: Mutex<Space>,
}

impl PciTransport {
    /// A function for `device`, as after power-on, with one MSI-X vector for each queue and one for configuration
    /// changes (at most [`MAX_VECTORS`]).
    pub fn new(device: Arc<dyn VirtioDevice>, owner: VectorOwner, signals: Arc<dyn Signals>) -> Self {
        let queues = device.queue_max_sizes().len();
        let vectors = u16::try_from(queues + 1).unwrap_or(MAX_VECTORS).min(MAX_VECTORS);
        let msix = Msix::new(vectors, owner);
        Self {
            space: Mutex::new(Space::new(device.device_id(), vectors)),
            interrupts: Arc::new(Interrupts::new(queues, vectors, msix, signals)),
            front: Front::new(device),
        }
    }

    /// The same function with INTx alone: its configuration space has no MSI-X capability. For monitors that cannot
    /// have a device with MSI-X unplugged.
    #[must_use]
    pub fn without_msix(self) -> Self {
        self.space().hide_msix();
        self
    }

    /// The device behind the function.
    pub fn device(&self) -> &Arc<dyn VirtioDevice> {
        self.front.device()
    }

    /// Number of MSI-X vectors.
    pub fn vectors(&self) -> u16 {
        (self.space().u16_at(config::MSIX_CONTROL) & 0x7ff) + 1
    }

    /// How many writes were ignored because they meant nothing, or the state did not allow them.
    pub fn refused_writes(&self) -> u64 {
        self.front.refused()
    }

    /// Size of a BAR in bytes; 0 for those that do not exist, and upper halves.
    pub fn bar_bytes(bar: u8) -> u64 {
        match bar {
            STRUCTURES_BAR => STRUCTURES_BYTES,
            MSIX_BAR => MSIX_BYTES,
            _ => 0,
        }
    }

    fn space(&self) -> MutexGuard<'_, Space> {
        // Bytes and masks: nothing can be left half done.
        self.space.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads configuration space. What lies outside reads as all ones.
    pub fn read_config(&self, offset: u64, data: &mut [u8]) {
        let mut space = self.space();
        space.show_interrupt(self.interrupts.isr_pending());
        space.read(offset, data);
        let window = window(&space, offset, data.len());
        drop(space);
        if let Some((bar, at, len)) = window {
            self.read_bar(bar, at, &mut data[..len]);
        }
    }

    /// Writes configuration space; read-only bits stay.
    pub fn write_config(&self, offset: u64, data: &[u8]) {
        let mut space = self.space();
        space.write(offset, data);
        let (command, control) = (space.u16_at(config::COMMAND), space.u16_at(config::MSIX_CONTROL));
        let window = window(&space, offset, data.len());
        drop(space);
        self.interrupts.disable_line(command & config::COMMAND_INTX_DISABLE != 0);
        self.interrupts.msix.set_control(control, &*self.interrupts.signals);
        if let Some((bar, at, len)) = window {
            self.write_bar(bar, at, &data[..len]);
        }
    }

    /// Reads a BAR at `offset` (bytes). What does not exist reads as zero.
    pub fn read_bar(&self, bar: u8, offset: u64, data: &mut [u8]) {
        data.fill(0);
        match bar {
            STRUCTURES_BAR => self.read_structures(offset, data),
            MSIX_BAR => {
                // Pieces on both sides of the border, and what lies behind the BAR, read as zero.
                if let Some(at) = within(offset, data.len(), PBA_OFFSET, MSIX_BYTES - PBA_OFFSET) {
                    self.interrupts.msix.read_pending(at, data);
                } else if let Some(at) = within(offset, data.len(), 0, PBA_OFFSET) {
                    self.interrupts.msix.read_table(at, data);
                }
            }
            _ => (),
        }
    }

    fn read_structures(&self, offset: u64, data: &mut [u8]) {
        if let Some(at) = within(offset, data.len(), DEVICE_OFFSET, DEVICE_BYTES) {
            self.device().read_config(at as u64, data);
        } else if let (ISR_OFFSET, [isr, ..]) = (offset, &mut *data) {
            *isr = self.interrupts.take_isr();
        } else if let Some(at) = within(offset, 0, COMMON_OFFSET, COMMON_BYTES) {
            self.read_common(at, data);
        }
    }

    /// Writes a BAR at `offset` (bytes). A kick takes no lock.
    pub fn write_bar(&self, bar: u8, offset: u64, data: &[u8]) {
        let written = match bar {
            STRUCTURES_BAR => self.write_structures(offset, data),
            MSIX_BAR => match within(offset, data.len(), 0, PBA_OFFSET) {
                Some(at) => {
                    self.interrupts.msix.write_table(at, data, &*self.interrupts.signals);
                    Ok(())
                }
                // Pending bits are read-only.
                None => Err(Refused::NoRegister),
            },
            _ => Err(Refused::NoRegister),
        };
        if let Err(refused) = written {
            let mut word = [0; 8];
            for (to, from) in word.iter_mut().zip(data) {
                *to = *from;
            }
            self.front.complain(offset, u64::from_le_bytes(word), refused);
        }
    }

    fn write_structures(&self, offset: u64, data: &[u8]) -> Result<(), Refused> {
        if let Some(at) = within(offset, data.len(), NOTIFY_OFFSET, NOTIFY_BYTES) {
            let queue = common::kicked_queue(at as u64, data).ok_or(Refused::NoRegister)?;
            self.front.kick(queue);
            Ok(())
        } else if let Some(at) = within(offset, data.len(), DEVICE_OFFSET, DEVICE_BYTES) {
            self.device().write_config(at as u64, data);
            Ok(())
        } else if let Some(at) = within(offset, data.len(), COMMON_OFFSET, COMMON_BYTES) {
            self.write_common(at, data)
        } else {
            Err(Refused::NoRegister)
        }
    }

    /// A system, bus or function-level reset: the device lets go of its queues, and all that the guest has set is as after
    /// power-on, configuration of the device included.
    pub fn reset(&self) {
        self.front.system_reset(&*self.interrupts);
        self.interrupts.msix.reset();
        self.space().reset();
        self.interrupts.disable_line(false);
    }

    /// Whether INTx is asserted.
    pub fn line_asserted(&self) -> bool {
        self.interrupts.line_asserted()
    }

    /// Fires pending MSI-X vectors that nobody could take before.
    pub fn retry(&self) {
        self.interrupts.msix.retry(&*self.interrupts.signals);
    }
}

impl Drop for PciTransport {
    /// Device and transport refer to each other by way of the interrupts: the reset undoes that.
    fn drop(&mut self) {
        self.reset();
    }
}

/// Offset in the area of `bytes` at `start`, if an access of `len` lies in it (its first byte, for `len` 0).
fn within(offset: u64, len: usize, start: u64, bytes: u64) -> Option<usize> {
    let at = offset.checked_sub(start)?;
    let end = at.checked_add(len.max(1) as u64)?;
    (end <= bytes).then_some(at as usize)
}

/// What an access to `pci_cfg_data` means: BAR, offset and length (4.1.4.9). "The driver MUST NOT write a
/// cap.offset which is not a multiple of cap.length": that is answered with nothing, as are other widths.
fn window(space: &Space, offset: u64, len: usize) -> Option<(u8, u64, usize)> {
    let length = space.u32_at(config::CFG_CAP_LENGTH);
    let at = space.u32_at(config::CFG_CAP_OFFSET);
    let width = match length {
        1 | 2 | 4 => length as usize,
        _ => return None,
    };
    let whole = offset == config::CFG_DATA as u64 && len >= width && len <= 4;
    let bar = space.u8_at(config::CFG_CAP_BAR);
    let inside = u64::from(at) + u64::from(length) <= PciTransport::bar_bytes(bar);
    (whole && inside && at.is_multiple_of(length)).then_some((bar, at.into(), width))
}

const _: () =
    assert!(config::CFG_DATA + 4 <= config::MSIX_CAP && config::MSIX_CAP + 12 <= CONFIG_BYTES as usize);
