//! The function against a device that records what it is told.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering::SeqCst},
};

use proptest::prelude::*;
use virtio_bindings::virtio_config::{VIRTIO_CONFIG_S_NEEDS_RESET, VIRTIO_F_VERSION_1};

use super::{interrupts::NO_VECTOR, layout::*, *};
use crate::{
    QueueLayout,
    recorder::{ACK_DRIVER, OFFERED, Recorder},
    registers::{DRIVER_OK, FEATURES_OK},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Signal {
    Message(u16, Message),
    Line(bool),
}

#[derive(Default)]
struct Wires {
    seen: Mutex<Vec<Signal>>,
    unplugged: AtomicBool,
}

impl Wires {
    fn take(&self) -> Vec<Signal> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }
}

impl Signals for Wires {
    fn message(&self, vector: u16, message: Message) -> bool {
        let plugged = !self.unplugged.load(SeqCst);
        if plugged {
            self.seen.lock().unwrap().push(Signal::Message(vector, message));
        }
        plugged
    }
    fn line(&self, asserted: bool) {
        self.seen.lock().unwrap().push(Signal::Line(asserted));
    }
}

struct Rig {
    function: PciTransport,
    device: Arc<Recorder>,
    wires: Arc<Wires>,
}

fn rig(owner: VectorOwner) -> Rig {
    let (device, wires) = (Arc::new(Recorder::default()), Arc::new(Wires::default()));
    Rig { function: PciTransport::new(device.clone(), owner, wires.clone()), device, wires }
}

impl Rig {
    fn config<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut data = [0; N];
        self.function.read_config(at as u64, &mut data);
        data
    }
    fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes(self.config(at))
    }
    fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.config(at))
    }
    fn set(&self, at: usize, data: &[u8]) {
        self.function.write_config(at as u64, data);
    }
    fn common<const N: usize>(&self, at: u64) -> [u8; N] {
        let mut data = [0; N];
        self.function.read_bar(STRUCTURES_BAR, at, &mut data);
        data
    }
    fn write(&self, at: u64, data: &[u8]) {
        self.function.write_bar(STRUCTURES_BAR, at, data);
    }
    fn status(&self) -> u8 {
        self.common::<1>(0x14)[0]
    }
    /// Brings the device to DRIVER_OK with queue 1 enabled and vectors 2, 1 for configuration and queue 1.
    fn start(&self) {
        self.write(0x14, &[0]);
        self.write(0x14, &[ACK_DRIVER as u8]);
        for (half, features) in [(0_u32, 1_u32), (1, 1 << (VIRTIO_F_VERSION_1 - 32))] {
            self.write(0x08, &half.to_le_bytes());
            self.write(0x0c, &features.to_le_bytes());
        }
        self.write(0x14, &[ACK_DRIVER as u8 | FEATURES_OK as u8]);
        self.write(0x10, &2_u16.to_le_bytes());
        self.write(0x16, &1_u16.to_le_bytes());
        self.write(0x18, &128_u16.to_le_bytes());
        self.write(0x1a, &1_u16.to_le_bytes());
        self.write(0x20, &0x1000_u32.to_le_bytes());
        self.write(0x24, &1_u32.to_le_bytes());
        self.write(0x28, &0x2_0000_2000_u64.to_le_bytes());
        self.write(0x30, &0x3000_u32.to_le_bytes());
        self.write(0x1c, &1_u16.to_le_bytes());
        self.write(0x14, &[(ACK_DRIVER | FEATURES_OK | DRIVER_OK) as u8]);
    }
    fn entry(&self, vector: u64, address: u64, data: u32, masked: bool) {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&address.to_le_bytes());
        bytes[8..12].copy_from_slice(&data.to_le_bytes());
        bytes[12] = masked.into();
        for (at, word) in bytes.chunks(4).enumerate() {
            self.function.write_bar(MSIX_BAR, vector * 16 + at as u64 * 4, word);
        }
    }
    fn enable_msix(&self, function_mask: bool) {
        let mask = if function_mask { config::MSIX_FUNCTION_MASK } else { 0 };
        self.set(config::MSIX_CONTROL, &(config::MSIX_ENABLE | mask).to_le_bytes());
    }
    fn pending(&self) -> u8 {
        let mut byte = [0];
        self.function.read_bar(MSIX_BAR, PBA_OFFSET, &mut byte);
        byte[0]
    }
    fn interrupt(&self) -> Arc<dyn crate::Interrupt> {
        self.device.interrupt.lock().unwrap().clone().unwrap()
    }
}

/// "A driver MUST match any device by PCI vendor and device ID"; the capability list leads to every structure once.
#[test]
fn header_and_capabilities() {
    let rig = rig(VectorOwner::Function);
    assert_eq!((rig.u16(0), rig.u16(2)), (0x1af4, 0x1040 + 23));
    assert_eq!(rig.config::<4>(8), [1, 0, 6, 8], "revision 1, class IOMMU");
    assert_ne!(rig.u16(config::STATUS) & config::STATUS_CAPABILITIES, 0);
    let mut found = Vec::new();
    let mut at = usize::from(rig.config::<1>(config::CAPABILITIES)[0]);
    while at != 0 {
        let [id, next, len, cfg_type] = rig.config::<4>(at);
        found.push((id, if id == 9 { (len, cfg_type) } else { (0, 0) }));
        assert!(found.len() < 10, "the list ends");
        at = usize::from(next);
    }
    assert_eq!(found, [(9, (16, 1)), (9, (16, 3)), (9, (16, 4)), (9, (20, 2)), (9, (20, 5)), (17, (0, 0))]);
    assert_eq!(rig.u32(config::NOTIFY_CAP + 16), NOTIFY_MULTIPLIER);
    assert_eq!(rig.u16(config::MSIX_CONTROL) & 0x7ff, 2, "three vectors: two queues, configuration");
}

/// A function that was made without has no such capability, and nothing switches it on.
#[test]
fn msix_can_be_left_out() {
    let Rig { function, device, wires } = rig(VectorOwner::Monitor);
    let rig = Rig { function: function.without_msix(), device, wires };
    let mut at = usize::from(rig.config::<1>(config::CAPABILITIES)[0]);
    while at != 0 {
        let [id, next] = rig.config::<2>(at);
        assert_eq!(id, 9, "virtio's own, never MSI-X");
        at = usize::from(next);
    }
    rig.enable_msix(false);
    rig.start();
    rig.interrupt().queue(0);
    assert_eq!(rig.wires.take(), [Signal::Line(true)]);
}

#[test]
fn bars_tell_their_size() {
    let rig = rig(VectorOwner::Function);
    for (bar, bytes) in [(0, STRUCTURES_BYTES), (2, MSIX_BYTES)] {
        let at = config::BAR0 + bar * 4;
        assert_eq!(rig.u32(at), 0b100, "64-bit memory");
        rig.set(at, &[0xff; 8]);
        let size = u64::from_le_bytes(rig.config(at));
        assert_eq!(!(size & !0xf) + 1, bytes);
        rig.set(at, &0xfe00_0000_u64.to_le_bytes());
        assert_eq!(rig.u32(at), 0xfe00_0004);
    }
    rig.set(config::BAR0 + 16, &[0xff; 8]);
    assert_eq!(rig.config(config::BAR0 + 16), [0; 8], "BARs 4 and 5 do not exist");
    rig.set(0, &[0; 4]);
    assert_eq!(rig.u16(0), 0x1af4, "read-only");
}

#[test]
fn a_driver_brings_the_device_up() {
    let rig = rig(VectorOwner::Function);
    assert_eq!(u16::from_le_bytes(rig.common(0x12)), 2);
    rig.write(0, &1_u32.to_le_bytes());
    assert_eq!(u32::from_le_bytes(rig.common(4)), (OFFERED >> 32) as u32);
    rig.write(NOTIFY_OFFSET + 4, &1_u16.to_le_bytes());
    assert!(rig.device.kicks.lock().unwrap().is_empty(), "not live yet");
    rig.start();
    let activation = rig.device.activations.lock().unwrap().pop().unwrap();
    assert_eq!(activation.features, 1 << VIRTIO_F_VERSION_1 | 1);
    let layout = QueueLayout { index: 1, size: 128, desc: 0x1_0000_1000, avail: 0x2_0000_2000, used: 0x3000 };
    assert_eq!(activation.queues, [layout]);
    assert_eq!(u64::from_le_bytes(rig.common(0x20)), layout.desc, "addresses read back");
    assert_eq!(u16::from_le_bytes(rig.common(0x1e)), 1, "queue_notify_off");
    rig.write(NOTIFY_OFFSET + 4, &1_u16.to_le_bytes());
    rig.write(NOTIFY_OFFSET, &0_u32.to_le_bytes());
    assert_eq!(*rig.device.kicks.lock().unwrap(), [1, 0]);
    for (at, data) in [(0, 1_u16), (4, 0), (8, 2), (4092, 1023)] {
        rig.write(NOTIFY_OFFSET + at, &data.to_le_bytes());
    }
    rig.write(NOTIFY_OFFSET + 4, &[1]);
    assert_eq!(rig.device.kicks.lock().unwrap().len(), 2, "no kick of what is not there");
}

#[test]
fn what_the_state_forbids_is_ignored_and_counted() {
    let rig = rig(VectorOwner::Function);
    rig.start();
    assert_eq!(rig.function.refused_writes(), 0);
    rig.write(0x18, &4_u16.to_le_bytes());
    rig.write(0x1c, &0_u16.to_le_bytes());
    rig.write(0x20, &[1; 8]);
    rig.write(0x0c, &[1; 4]);
    rig.write(0x12, &[1; 2]);
    assert_eq!(rig.function.refused_writes(), 5);
    assert_eq!(u16::from_le_bytes(rig.common(0x18)), 128);
    rig.write(0x16, &9_u16.to_le_bytes());
    assert_eq!(rig.common(0x18), [0; 0x20], "a queue that does not exist reads as zero");
}

#[test]
fn each_queue_and_the_configuration_have_their_vector() {
    let rig = rig(VectorOwner::Function);
    rig.start();
    rig.entry(1, 0xfee0_1000, 0x41, false);
    rig.entry(2, 0x1_fee0_2000, 0x42, false);
    rig.enable_msix(false);
    rig.interrupt().queue(1);
    rig.interrupt().config();
    rig.interrupt().queue(0);
    let message = |vector, address, data| Signal::Message(vector, Message { address, data });
    let expected = [message(1, 0xfee0_1000, 0x41), message(2, 0x1_fee0_2000, 0x42)];
    assert_eq!(rig.wires.take(), expected, "queue 0 has no vector");
    assert_eq!(rig.common::<1>(ISR_OFFSET), [0]);
    // "If a mapping fails, the device MUST return NO_VECTOR".
    rig.write(0x1a, &3_u16.to_le_bytes());
    assert_eq!(u16::from_le_bytes(rig.common(0x1a)), NO_VECTOR);
}

#[test]
fn masked_vectors_stay_pending() {
    let rig = rig(VectorOwner::Function);
    rig.start();
    rig.entry(1, 0x1000, 7, true);
    rig.enable_msix(false);
    rig.interrupt().queue(1);
    rig.interrupt().queue(1);
    assert_eq!((rig.pending(), rig.wires.take().len()), (0b10, 0));
    rig.enable_msix(true);
    rig.function.write_bar(MSIX_BAR, 16 + 12, &[0; 4]);
    assert_eq!(rig.wires.take(), [], "the function is masked still");
    rig.enable_msix(false);
    let fired = [Signal::Message(1, Message { address: 0x1000, data: 7 })];
    assert_eq!((rig.wires.take().as_slice(), rig.pending()), (&fired[..], 0));
}

#[test]
fn a_monitor_masks_by_itself_and_what_it_cannot_take_yet_is_kept() {
    let rig = rig(VectorOwner::Monitor);
    rig.start();
    rig.enable_msix(false);
    rig.wires.unplugged.store(true, SeqCst);
    rig.interrupt().queue(1);
    assert_eq!((rig.pending(), rig.wires.take().len()), (0b10, 0));
    rig.wires.unplugged.store(false, SeqCst);
    rig.function.retry();
    rig.function.retry();
    assert_eq!((rig.pending(), rig.wires.take().len()), (0, 1));
}

#[test]
fn without_msix_the_line_follows_the_isr() {
    let rig = rig(VectorOwner::Function);
    rig.start();
    rig.interrupt().queue(1);
    rig.interrupt().config();
    assert_eq!(rig.wires.take(), [Signal::Line(true)]);
    assert_ne!(rig.u16(config::STATUS) & config::STATUS_INTERRUPT, 0);
    rig.set(config::COMMAND, &config::COMMAND_INTX_DISABLE.to_le_bytes());
    assert_eq!(rig.wires.take(), [Signal::Line(false)]);
    rig.set(config::COMMAND, &[0; 2]);
    assert_eq!(rig.wires.take(), [Signal::Line(true)]);
    assert_eq!([rig.common(ISR_OFFSET), rig.common::<1>(ISR_OFFSET)], [[3], [0]], "reading acknowledges");
    assert_eq!(rig.wires.take(), [Signal::Line(false)]);
    assert!(!rig.function.line_asserted());
}

#[test]
fn configuration_space_gives_a_way_to_the_bars() {
    let rig = rig(VectorOwner::Function);
    let aim = |bar: u8, offset: u32, length: u32| {
        rig.set(config::CFG_CAP_BAR, &[bar]);
        rig.set(config::CFG_CAP_OFFSET, &offset.to_le_bytes());
        rig.set(config::CFG_CAP_LENGTH, &length.to_le_bytes());
    };
    aim(0, 0x14, 1);
    rig.set(config::CFG_DATA, &[ACK_DRIVER as u8]);
    assert_eq!((rig.status(), rig.config::<1>(config::CFG_DATA)), (ACK_DRIVER as u8, [ACK_DRIVER as u8]));
    aim(0, DEVICE_OFFSET as u32, 4);
    assert_eq!(rig.config::<4>(config::CFG_DATA), [0x10, 0x11, 0x12, 0x13]);
    for (bar, offset, length) in
        [(0, 0x13, 2), (0, STRUCTURES_BYTES as u32, 4), (0, 0, 3), (1, 0, 4), (7, u32::MAX, 4)]
    {
        aim(bar, offset, length);
        rig.set(config::CFG_DATA, &[0; 4]);
        assert_eq!(rig.config::<4>(config::CFG_DATA), [0; 4], "{bar} {offset:#x} {length}");
    }
    assert_eq!(rig.status(), ACK_DRIVER as u8);
}

#[test]
fn a_reset_works_in_every_state() {
    let fresh = rig(VectorOwner::Function);
    let table = |rig: &Rig| {
        let mut table = [0; 48];
        rig.function.read_bar(MSIX_BAR, 0, &mut table);
        table
    };
    assert_eq!(table(&fresh)[12], 1, "vectors are masked after power-on");
    for step in 0..6 {
        let rig = rig(VectorOwner::Function);
        match step {
            0 => (),
            1 => rig.write(0x14, &[1]),
            2 => rig.write(0x14, &[0x80]),
            _ => rig.start(),
        }
        if step > 3 {
            rig.entry(1, 0x1000, 7, true);
            rig.enable_msix(step == 4);
            rig.interrupt().queue(1);
        }
        if step == 5 {
            rig.device.failed.store(true, SeqCst);
            assert_ne!(u32::from(rig.status()) & VIRTIO_CONFIG_S_NEEDS_RESET, 0);
        }
        // All that a guest can write: BARs, command, latencies, the window, the vector table.
        rig.set(0, &[0xff; CONFIG_BYTES as usize]);
        rig.set(config::BAR0, &0xfe00_0000_1000_0000_u64.to_le_bytes());
        rig.entry(0, 0xfee0_1004, 0x41, false);
        rig.set(config::COMMAND, &[6, 4]);
        rig.function.reset();
        assert_eq!(rig.config::<{ CONFIG_BYTES as usize }>(0), fresh.config(0), "step {step}");
        assert_eq!(table(&rig), table(&fresh), "step {step}");
        assert_eq!(rig.common::<0x38>(0), fresh.common(0), "step {step}");
        assert_eq!(rig.device.system_resets.load(SeqCst), 1);
        assert_eq!((rig.status(), rig.pending(), rig.u16(config::COMMAND)), (0, 0, 0), "step {step}");
        assert_eq!(rig.u16(config::MSIX_CONTROL) >> 14, 0);
        assert_eq!(u16::from_le_bytes(rig.common(0x10)), NO_VECTOR);
        assert!(rig.device.interrupt.lock().unwrap().is_none());
        rig.device.failed.store(false, SeqCst);
        rig.start();
        assert_eq!(u32::from(rig.status()), ACK_DRIVER | FEATURES_OK | DRIVER_OK, "and it starts again");
    }
}

#[test]
fn a_virtio_reset_keeps_how_msix_is_set_up() {
    let rig = rig(VectorOwner::Function);
    rig.start();
    rig.entry(1, 0x1000, 7, true);
    rig.enable_msix(false);
    rig.interrupt().queue(1);
    rig.set(config::BAR0, &0xfe00_0000_u64.to_le_bytes());
    rig.set(config::COMMAND, &[6, 4]);
    rig.write(0x14, &[0]);
    assert_eq!((rig.u32(config::BAR0), rig.u16(config::COMMAND)), (0xfe00_0004, 0x406));
    let mut entry = [0; 16];
    rig.function.read_bar(MSIX_BAR, 16, &mut entry);
    assert_eq!((entry[..2].as_ref(), entry[8], entry[12]), (&[0, 0x10][..], 7, 1), "the vector table stays");
    assert_eq!((rig.status(), rig.pending(), rig.device.system_resets.load(SeqCst)), (0, 0, 0));
    rig.start();
    rig.function.write_bar(MSIX_BAR, 16 + 12, &[0; 4]);
    assert_eq!(rig.wires.take(), [], "what was pending is forgotten");
    rig.interrupt().queue(1);
    assert_eq!(rig.wires.take().len(), 1);
}

proptest! {
    /// Whatever is accessed, nothing panics, reads are answered in full, and a reset brings the function back.
    #[test]
    fn hostile_accesses_are_survived(
        accesses in prop::collection::vec(
            (0_u8..8, prop_oneof![0_u64..0x4100, any::<u64>()], 0_usize..20, any::<bool>(), any::<u8>()), 0..200),
    ) {
        let rig = rig(VectorOwner::Function);
        for (target, offset, len, write, value) in accesses {
            let mut data = vec![value; len];
            match (target, write) {
                (7, true) => rig.function.write_config(offset % 300, &data),
                (7, false) => rig.function.read_config(offset % 300, &mut data),
                (bar, true) => rig.function.write_bar(bar, offset, &data),
                (bar, false) => rig.function.read_bar(bar, offset, &mut data),
            }
        }
        rig.function.reset();
        rig.start();
        prop_assert_eq!(u32::from(rig.status()), ACK_DRIVER | FEATURES_OK | DRIVER_OK);
    }
}
