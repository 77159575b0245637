//! A device that records what a transport tells it.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst},
};

use virtio_bindings::virtio_config::{VIRTIO_F_NOTIFICATION_DATA, VIRTIO_F_RING_RESET, VIRTIO_F_VERSION_1};

use crate::{ActivateError, Activation, Interrupt, VirtioDevice};

pub(crate) const OFFERED: u64 = 1 << VIRTIO_F_VERSION_1 | 0b101;
pub(crate) const ACK_DRIVER: u32 = 3;

#[derive(Default)]
pub(crate) struct Recorder {
    pub(crate) activations: Mutex<Vec<Activation>>,
    pub(crate) interrupt: Mutex<Option<Arc<dyn Interrupt>>>,
    pub(crate) kicks: Mutex<Vec<u16>>,
    pub(crate) resets: AtomicU32,
    pub(crate) system_resets: AtomicU32,
    pub(crate) generation: AtomicU32,
    pub(crate) written: AtomicU64,
    pub(crate) refuse_activation: AtomicBool,
    pub(crate) insist_on_bit_0: AtomicBool,
    pub(crate) failed: AtomicBool,
}

impl VirtioDevice for Recorder {
    fn device_id(&self) -> u32 {
        23
    }
    fn features(&self) -> u64 {
        OFFERED | 1 << VIRTIO_F_RING_RESET | 1 << VIRTIO_F_NOTIFICATION_DATA
    }
    fn accepts_features(&self, acknowledged: u64) -> bool {
        !self.insist_on_bit_0.load(SeqCst) || acknowledged & 1 != 0
    }
    fn queue_max_sizes(&self) -> &[u16] {
        &[64, 32768]
    }
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        for (at, byte) in (offset..8).zip(data) {
            *byte = 0x10 + at as u8;
        }
    }
    fn config_generation(&self) -> u32 {
        self.generation.load(SeqCst)
    }
    fn write_config(&self, _offset: u64, data: &[u8]) {
        self.written.fetch_add(data.len() as u64, SeqCst);
    }
    fn activate(&self, activation: Activation, interrupt: Arc<dyn Interrupt>) -> Result<(), ActivateError> {
        if self.refuse_activation.load(SeqCst) {
            return Err(ActivateError { device: "recorder", reason: "told to".into() });
        }
        self.activations.lock().unwrap().push(activation);
        *self.interrupt.lock().unwrap() = Some(interrupt);
        Ok(())
    }
    fn notify(&self, index: u16) {
        self.kicks.lock().unwrap().push(index);
    }
    fn reset(&self) {
        self.resets.fetch_add(1, SeqCst);
        *self.interrupt.lock().unwrap() = None;
    }
    fn system_reset(&self) {
        self.system_resets.fetch_add(1, SeqCst);
        self.reset();
    }
    fn needs_reset(&self) -> bool {
        self.failed.load(SeqCst)
    }
}
