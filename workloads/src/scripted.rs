//! A register block and an IOMMU that misbehave on demand, for what the real device never does.
//!
//! The device side of the queues is rust-vmm's.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use virtio_bindings::virtio_mmio::*;
use virtio_iommu_spec::{
    DEVICE_ID,
    config::Config,
    feature,
    request::{Map, TAIL_BYTES, Unmap, kind},
};
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::bus::Bus;

/// What the device answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Status OK, at once.
    Ok,
    /// This status.
    Status(u8),
    /// Status OK, and a used length of zero.
    ShortLength,
    /// Nothing, ever.
    Silence,
}

/// A request the device has seen, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    Map { start: u64, end: u64, phys: u64 },
    Unmap { start: u64, end: u64 },
    Other(u8),
    Kick,
}

struct State {
    registers: BTreeMap<u32, u32>,
    addresses: BTreeMap<(u32, u32), u32>,
    queues: BTreeMap<u32, Queue>,
    answer: Answer,
    seen: Vec<Seen>,
}

/// The device.
pub(crate) struct Scripted {
    memory: Arc<GuestMemoryMmap>,
    features: u64,
    config: Config,
    state: Mutex<State>,
}

pub(crate) fn memory() -> Arc<GuestMemoryMmap> {
    Arc::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 16 << 20)]).unwrap())
}

impl Scripted {
    pub(crate) fn new(memory: &Arc<GuestMemoryMmap>) -> Self {
        let registers = [
            (VIRTIO_MMIO_MAGIC_VALUE, 0x7472_6976),
            (VIRTIO_MMIO_VERSION, 2),
            (VIRTIO_MMIO_DEVICE_ID, DEVICE_ID),
            (VIRTIO_MMIO_QUEUE_NUM_MAX, 256),
        ];
        let state = State {
            registers: registers.into(),
            addresses: BTreeMap::new(),
            queues: BTreeMap::new(),
            answer: Answer::Ok,
            seen: Vec::new(),
        };
        Self {
            memory: Arc::clone(memory),
            features: 1 << 32 | feature::MAP_UNMAP | feature::INPUT_RANGE | feature::BYPASS_CONFIG,
            config: Config {
                page_size_mask: !0xfff,
                input_start: 0,
                input_end: (1 << 48) - 1,
                domain_start: 0,
                domain_end: u32::MAX,
                probe_size: 0,
                bypass: 1,
            },
            state: Mutex::new(state),
        }
    }

    pub(crate) fn without(mut self, features: u64) -> Self {
        self.features &= !features;
        self
    }

    pub(crate) fn with_config(mut self, edit: impl FnOnce(&mut Config)) -> Self {
        edit(&mut self.config);
        self
    }

    pub(crate) fn with_register(self, offset: u32, value: u32) -> Self {
        self.state.lock().unwrap().registers.insert(offset, value);
        self
    }

    pub(crate) fn answer(&self, answer: Answer) {
        self.state.lock().unwrap().answer = answer;
    }

    /// What was seen since the last call.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.state.lock().unwrap().seen)
    }

    fn serve(&self, state: &mut State) {
        state.seen.push(Seen::Kick);
        if state.answer == Answer::Silence {
            return;
        }
        let Some(queue) = state.queues.get_mut(&0) else { return };
        while let Some(chain) = queue.pop_descriptor_chain(&*self.memory) {
            let head = chain.head_index();
            let parts: Vec<_> = chain.collect();
            let mut readable = vec![0; parts[0].len() as usize];
            self.memory.read_slice(&mut readable, parts[0].addr()).unwrap();
            state.seen.push(seen(&readable));
            let (status, written) = match state.answer {
                Answer::Status(status) => (status, TAIL_BYTES as u32),
                Answer::ShortLength => (0, 0),
                Answer::Ok | Answer::Silence => (0, TAIL_BYTES as u32),
            };
            self.memory.write_slice(&[status, 0, 0, 0], parts[1].addr()).unwrap();
            queue.add_used(&*self.memory, head, written).unwrap();
        }
    }

    fn ready(&self, state: &mut State, index: u32) {
        let address = |register| {
            let half = |offset| u64::from(state.addresses.get(&(index, offset)).copied().unwrap_or(0));
            half(register) | half(register + 4) << 32
        };
        let mut queue = Queue::new(256).unwrap();
        queue.set_size(state.registers[&VIRTIO_MMIO_QUEUE_NUM] as u16);
        queue.try_set_desc_table_address(GuestAddress(address(VIRTIO_MMIO_QUEUE_DESC_LOW))).unwrap();
        queue.try_set_avail_ring_address(GuestAddress(address(VIRTIO_MMIO_QUEUE_AVAIL_LOW))).unwrap();
        queue.try_set_used_ring_address(GuestAddress(address(VIRTIO_MMIO_QUEUE_USED_LOW))).unwrap();
        queue.set_ready(true);
        state.queues.insert(index, queue);
    }
}

fn seen(readable: &[u8]) -> Seen {
    match readable[0] {
        kind::MAP => {
            let map = Map::decode(readable.first_chunk().unwrap());
            Seen::Map { start: map.virt_start, end: map.virt_end, phys: map.phys_start }
        }
        kind::UNMAP => {
            let unmap = Unmap::decode(readable.first_chunk().unwrap());
            Seen::Unmap { start: unmap.virt_start, end: unmap.virt_end }
        }
        other => Seen::Other(other),
    }
}

impl Bus for Scripted {
    fn read32(&self, offset: u32) -> u32 {
        let state = self.state.lock().unwrap();
        let register = |offset| state.registers.get(&offset).copied().unwrap_or(0);
        match offset {
            VIRTIO_MMIO_DEVICE_FEATURES => {
                (self.features >> (32 * register(VIRTIO_MMIO_DEVICE_FEATURES_SEL))) as u32
            }
            offset => register(offset),
        }
    }

    fn write32(&self, offset: u32, value: u32) {
        let state = &mut *self.state.lock().unwrap();
        let index = state.registers.get(&VIRTIO_MMIO_QUEUE_SEL).copied().unwrap_or(0);
        match offset {
            VIRTIO_MMIO_QUEUE_NOTIFY if value == 0 => self.serve(state),
            VIRTIO_MMIO_QUEUE_NOTIFY => {}
            VIRTIO_MMIO_QUEUE_READY => self.ready(state, index),
            VIRTIO_MMIO_QUEUE_DESC_LOW..=VIRTIO_MMIO_QUEUE_USED_HIGH => {
                state.addresses.insert((index, offset), value);
            }
            _ => {
                state.registers.insert(offset, value);
            }
        }
    }

    fn read_config(&self, _offset: u32, data: &mut [u8]) {
        data.copy_from_slice(&self.config.encode()[..data.len()]);
    }

    fn write_config(&self, _offset: u32, _data: &[u8]) {}
}
