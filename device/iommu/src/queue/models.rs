//! Models of the ring's publication: a device and a driver around memory whose plain accesses loom tracks.
//!
//! The queue is the shipped one. Its memory is a [`DmaMemory`] whose indices and flags are loom's atomics, with the
//! orderings that the queue asks for, and whose descriptors, ring entries and buffers are tracked objects.

use std::sync::Arc;

use ::loom::{
    sync::atomic::{AtomicU16, Ordering, fence},
    thread,
};
use virtio_transport::QueueLayout;
use vm_memory::VolatileSlice;

use super::*;
use crate::{
    dma::{Access, DmaError, DmaMemory},
    loom_model::{Tracked, model},
};

const LAYOUT: QueueLayout = QueueLayout { index: 0, size: 1, desc: 0x1000, avail: 0x2000, used: 0x3000 };
/// VRING_AVAIL_F_NO_INTERRUPT and VRING_USED_F_NO_NOTIFY.
const SUPPRESS: u16 = 1;
/// An event index that is not passed.
const FAR: u16 = 100;

/// A ring of one descriptor, and the buffer it describes.
struct Ram {
    avail_flags: AtomicU16,
    avail_index: AtomicU16,
    avail_entry: Tracked,
    used_event: AtomicU16,
    used_flags: AtomicU16,
    used_index: AtomicU16,
    used_element: Tracked,
    avail_event: AtomicU16,
    desc: [Tracked; 2],
    buffer: Tracked,
}

impl Ram {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            avail_flags: AtomicU16::new(SUPPRESS),
            avail_index: AtomicU16::new(0),
            avail_entry: Tracked::new(7),
            used_event: AtomicU16::new(FAR),
            used_flags: AtomicU16::new(SUPPRESS),
            used_index: AtomicU16::new(0),
            used_element: Tracked::new(0),
            avail_event: AtomicU16::new(FAR),
            desc: [Tracked::new(0), Tracked::new(0)],
            buffer: Tracked::new(0),
        })
    }

    fn index(&self, addr: u64) -> &AtomicU16 {
        match addr {
            0x2000 => &self.avail_flags,
            0x2002 => &self.avail_index,
            0x2006 => &self.used_event,
            0x3000 => &self.used_flags,
            0x3002 => &self.used_index,
            0x300c => &self.avail_event,
            _ => panic!("no index at {addr:#x}"),
        }
    }

    /// The driver's half of making its one chain available: a writable buffer of 16 bytes.
    fn make_available(&self) {
        self.desc[0].write(0x5000);
        self.desc[1].write(16 | 2 << 32);
        self.avail_entry.write(0);
        self.avail_index.store(1, Ordering::Release);
    }
}

impl DmaMemory for Ram {
    fn slice(&self, addr: u64, _len: u64, _access: Access) -> Result<VolatileSlice<'_>, DmaError> {
        Err(DmaError::NotRam { gpa: addr })
    }

    fn load_index(&self, addr: u64, order: Ordering) -> Result<u16, DmaError> {
        // An entry of the available ring is plain memory: the index before it orders it.
        Ok(if addr == 0x2004 { self.avail_entry.read() as u16 } else { self.index(addr).load(order) })
    }

    fn store_index(&self, addr: u64, value: u16, order: Ordering) -> Result<(), DmaError> {
        self.index(addr).store(value, order);
        Ok(())
    }

    fn write_u64(&self, addr: u64, value: u64) -> Result<(), DmaError> {
        assert_eq!(addr, 0x3004);
        self.used_element.write(value);
        Ok(())
    }

    fn read_u64_pair(&self, addr: u64) -> Result<(u64, u64), DmaError> {
        assert_eq!(addr, 0x1000);
        Ok((self.desc[0].read(), self.desc[1].read()))
    }
}

fn queue(event_idx: bool) -> Queue {
    Queue::new(&LAYOUT, event_idx).unwrap()
}

/// The device reads a chain only after the driver has written it, and the driver reads the answer, and uses its memory
/// again, only after the device is done with it.
#[test]
fn chains_and_answers_happen_before_their_indices() {
    for event_idx in [false, true] {
        model(move || {
            let ram = Ram::new();
            let device = {
                let ram = ram.clone();
                thread::spawn(move || {
                    let (mut queue, mut chain) = (queue(event_idx), Chain::new());
                    while !queue.pop(&*ram, &mut chain).unwrap() {
                        thread::yield_now();
                    }
                    assert_eq!((chain.head(), chain.writable_len(), chain.fault()), (0, 16, None));
                    ram.buffer.write(0xa5);
                    queue.push_used(&*ram, chain.head(), 16).unwrap();
                    queue.publish(&*ram).unwrap();
                })
            };
            ram.make_available();
            while ram.used_index.load(Ordering::Acquire) == 0 {
                thread::yield_now();
            }
            assert_eq!((ram.used_element.read(), ram.buffer.read()), (16 << 32, 0xa5));
            ram.desc[0].write(0);
            ram.avail_entry.write(7);
            device.join().unwrap();
        });
    }
}

/// The driver asks for interrupts, then looks once more: it finds the answer, or is interrupted.
#[test]
fn an_answer_is_seen_or_interrupts() {
    for event_idx in [false, true] {
        model(move || {
            let ram = Ram::new();
            let device = {
                let ram = ram.clone();
                thread::spawn(move || {
                    let mut queue = queue(event_idx);
                    queue.push_used(&*ram, 0, 16).unwrap();
                    queue.publish(&*ram).unwrap()
                })
            };
            ram.used_event.store(0, Ordering::Relaxed);
            ram.avail_flags.store(0, Ordering::Relaxed);
            fence(Ordering::SeqCst);
            let seen = ram.used_index.load(Ordering::Acquire) == 1;
            let interrupted = device.join().unwrap();
            assert!(seen || interrupted, "the answer is there, and the driver sleeps");
        });
    }
}

/// The device asks for kicks, then looks once more: it finds the chain, or is kicked.
#[test]
fn a_chain_is_seen_or_kicks() {
    for event_idx in [false, true] {
        model(move || {
            let ram = Ram::new();
            let device = {
                let ram = ram.clone();
                thread::spawn(move || {
                    let mut queue = queue(event_idx);
                    queue.set_kicks(&*ram, true).unwrap();
                    queue.has_work(&*ram).unwrap()
                })
            };
            ram.make_available();
            fence(Ordering::SeqCst);
            let kicked = if event_idx {
                ram.avail_event.load(Ordering::Relaxed) == 0
            } else {
                ram.used_flags.load(Ordering::Relaxed) & SUPPRESS == 0
            };
            let seen = device.join().unwrap();
            assert!(seen || kicked, "a chain is there, and the device sleeps");
        });
    }
}
