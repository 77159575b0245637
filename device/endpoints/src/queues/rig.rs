//! A guest for tests: memory, a ring, and just enough of a driver.

use std::sync::{Arc, atomic::Ordering};

use virtio_iommu::memory::GuestRam;
use virtio_transport::{Activation, NoInterrupt, QueueLayout, VirtioDevice};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::DirectPort;

pub(crate) const RAM_BYTES: u64 = 8 << 20;
pub(crate) const SIZE: u16 = 64;
pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
/// Where buffers may lie; the rings are below.
pub(crate) const BUFFERS: u64 = 0x10_0000;

/// A descriptor: address, length, flags, next.
pub(crate) type Desc = (u64, u32, u16, u16);

pub(crate) struct Guest {
    pub(crate) memory: Arc<GuestMemoryMmap>,
    layouts: Vec<QueueLayout>,
    avail: Vec<u16>,
    used: Vec<u16>,
}

impl Guest {
    pub(crate) fn new(queues: u16) -> Self {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), RAM_BYTES as usize)]).unwrap();
        let layout = |index| {
            let desc = 0x1_0000 + u64::from(index) * 0x3000;
            QueueLayout { index, size: SIZE, desc, avail: desc + 0x1000, used: desc + 0x2000 }
        };
        let none = vec![0; usize::from(queues)];
        Self {
            memory: Arc::new(memory),
            layouts: (0..queues).map(layout).collect(),
            avail: none.clone(),
            used: none,
        }
    }

    /// The driver starts over after a reset.
    pub(crate) fn clear_rings(&mut self) {
        self.write(0x1_0000, &vec![0; 0x3000 * self.layouts.len()]);
        self.avail.fill(0);
        self.used.fill(0);
    }

    pub(crate) fn port(&self) -> DirectPort {
        DirectPort::new(GuestRam::new(Arc::clone(&self.memory)).unwrap())
    }

    pub(crate) fn activation(&self, device: &dyn VirtioDevice) -> Activation {
        Activation { features: device.features(), queues: self.layouts.clone() }
    }

    pub(crate) fn start(&self, device: &dyn VirtioDevice) {
        device.activate(self.activation(device), Arc::new(NoInterrupt)).unwrap();
    }

    pub(crate) fn write(&self, addr: u64, bytes: &[u8]) {
        self.memory.write_slice(bytes, GuestAddress(addr)).unwrap();
    }

    pub(crate) fn read(&self, addr: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory.read_slice(&mut bytes, GuestAddress(addr)).unwrap();
        bytes
    }

    pub(crate) fn describe(&self, queue: u16, at: u16, (addr, len, flags, next): Desc) {
        let mut bytes = addr.to_le_bytes().to_vec();
        bytes.extend(len.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(next.to_le_bytes());
        self.write(self.layouts[usize::from(queue)].desc + 16 * u64::from(at), &bytes);
    }

    /// Makes the chain at `head` available, without a kick.
    pub(crate) fn offer(&mut self, queue: u16, head: u16) {
        let index = usize::from(queue);
        let (avail, at) = (self.layouts[index].avail, self.avail[index]);
        self.write(avail + 4 + 2 * u64::from(at % SIZE), &head.to_le_bytes());
        self.avail[index] = at.wrapping_add(1);
        self.publish(queue, self.avail[index]);
    }

    pub(crate) fn publish(&self, queue: u16, index: u16) {
        let avail = self.layouts[usize::from(queue)].avail;
        self.memory.store(index, GuestAddress(avail + 2), Ordering::Release).unwrap();
    }

    /// What came back since the last look: heads and lengths.
    pub(crate) fn collect(&mut self, queue: u16) -> Vec<(u32, u32)> {
        let used = self.layouts[usize::from(queue)].used;
        let index: u16 = self.memory.load(GuestAddress(used + 2), Ordering::Acquire).unwrap();
        let taken = &mut self.used[usize::from(queue)];
        let mut elements = Vec::new();
        while *taken != index {
            let at = GuestAddress(used + 4 + 8 * u64::from(*taken % SIZE));
            let [head, len]: [u32; 2] = self.memory.read_obj(at).unwrap();
            elements.push((head, len));
            *taken = taken.wrapping_add(1);
        }
        elements
    }

    /// Offers one chain, whose descriptors are linked in order, kicks and returns its used length.
    pub(crate) fn submit(
        &mut self,
        device: &dyn VirtioDevice,
        queue: u16,
        chain: &[(u64, u32, bool)],
    ) -> u32 {
        for (at, &(addr, len, writable)) in (0..).zip(chain) {
            let last = usize::from(at) + 1 == chain.len();
            let flags = if writable { WRITE } else { 0 } | if last { 0 } else { NEXT };
            self.describe(queue, at, (addr, len, flags, at + 1));
        }
        self.offer(queue, 0);
        device.notify(queue);
        loop {
            match self.collect(queue).as_slice() {
                [] if !device.needs_reset() => std::thread::yield_now(),
                [(0, len)] => return *len,
                other => panic!("{other:?}"),
            }
        }
    }
}
