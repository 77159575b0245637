//! What every transport does alike: negotiation, activation, reset and kicks of one device.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_NEEDS_RESET, VIRTIO_F_NOTIFICATION_DATA, VIRTIO_F_RING_RESET,
};

use crate::{
    Activation, Complaints, Interrupt, VirtioDevice,
    registers::{DRIVER_OK, Refused, Registers, StatusChange},
};

/// Queue reset (virtio 1.2) is not offered.
const NO_QUEUE_RESET: u64 = 1 << VIRTIO_F_RING_RESET;
/// With NOTIFICATION_DATA the notify register would carry more than the queue's index.
const NO_NOTIFICATION_DATA: u64 = 1 << VIRTIO_F_NOTIFICATION_DATA;

/// A transport's interrupt state, which a reset clears.
pub(crate) trait Resettable: Interrupt {
    /// Nothing is pending any more.
    fn clear(&self);
}

/// One device between a transport's registers and its own methods.
pub(crate) struct Front {
    device: Arc<dyn VirtioDevice>,
    queues: u32,
    /// DRIVER_OK and activated: kicks may pass. Read without the lock.
    live: AtomicBool,
    registers: Mutex<Registers>,
    refused: Complaints,
}

impl Front {
    /// RING_RESET and NOTIFICATION_DATA are withdrawn from what the device offers: no transport here has either.
    pub(crate) fn new(device: Arc<dyn VirtioDevice>) -> Self {
        let offered = device.features() & !NO_QUEUE_RESET & !NO_NOTIFICATION_DATA;
        Self {
            queues: u32::try_from(device.queue_max_sizes().len()).unwrap_or(u32::MAX),
            registers: Mutex::new(Registers::new(offered, device.queue_max_sizes(), device.queue_count(0))),
            device,
            live: AtomicBool::new(false),
            refused: Complaints::new(),
        }
    }

    pub(crate) fn device(&self) -> &Arc<dyn VirtioDevice> {
        &self.device
    }

    pub(crate) fn refused(&self) -> u64 {
        self.refused.count()
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Registers> {
        // A panic in the device leaves consistent registers behind; the driver can still reset it.
        self.registers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[inline]
    pub(crate) fn kick(&self, queue: u32) {
        // Acquire pairs with the Release in `activate`. A kick that races with a reset may still arrive; devices
        // ignore spurious ones.
        if queue < self.queues && self.live.load(Ordering::Acquire) {
            self.device.notify(queue as u16);
        }
    }

    pub(crate) fn status(&self) -> u32 {
        let registers = self.lock();
        let broken = registers.broken || registers.status & DRIVER_OK != 0 && self.device.needs_reset();
        registers.status | if broken { VIRTIO_CONFIG_S_NEEDS_RESET } else { 0 }
    }

    /// The driver writes Status.
    pub(crate) fn set_status<I: Resettable + 'static>(
        &self,
        value: u32,
        interrupts: &Arc<I>,
    ) -> Result<(), Refused> {
        let mut registers = self.lock();
        let queues = |features| {
            self.device.accepts_features(features).then(|| {
                self.device.features_ok(features);
                self.device.queue_count(features)
            })
        };
        match registers.set_status(value, queues)? {
            StatusChange::Nothing => (),
            StatusChange::Reset => self.reset(&mut registers, &**interrupts, || self.device.reset()),
            StatusChange::Activate(activation) => self.activate(&mut registers, activation, interrupts),
        }
        Ok(())
    }

    /// The machine, or the function by itself, is reset; allowed in every state.
    pub(crate) fn system_reset(&self, interrupts: &dyn Resettable) {
        self.reset(&mut self.lock(), interrupts, || self.device.system_reset());
    }

    fn activate<I: Resettable + 'static>(
        &self,
        registers: &mut Registers,
        activation: Activation,
        interrupts: &Arc<I>,
    ) {
        match self.device.activate(activation, interrupts.clone()) {
            Ok(()) => self.live.store(true, Ordering::Release),
            Err(error) => {
                if let Some(number) = self.refused.admit() {
                    tracing::warn!(%error, number, "DRIVER_OK refused: device needs reset");
                }
                registers.broken = true;
                interrupts.config();
            }
        }
    }

    /// The lock is held throughout: Status reads 0 only when the device has let go of its queues.
    fn reset(&self, registers: &mut Registers, interrupts: &dyn Resettable, device: impl FnOnce()) {
        self.live.store(false, Ordering::Release);
        device();
        registers.reset();
        interrupts.clear();
    }

    /// Counts and (rate limited) logs a register write without effect.
    pub(crate) fn complain(&self, offset: u64, value: u64, refused: Refused) {
        if let Some(number) = self.refused.admit() {
            let device = self.device.device_id();
            tracing::warn!(device, offset, value, number, %refused, "register write ignored");
        }
    }
}
