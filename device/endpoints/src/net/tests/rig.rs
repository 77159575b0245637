//! A guest: memory, two rings, and just enough of a driver.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use virtio_iommu::memory::GuestRam;
use virtio_transport::{
    Activation, Interrupt, MmioTransport, NoInterrupt, QueueLayout, ServiceMode, VirtioDevice,
};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::{
    DirectPort, DmaObserver, NetConfig, NoObserver, RX_QUEUE, TX_QUEUE, VirtioNet,
    frame::{HEADER_BYTES, Header, Kind, NET_HEADER_BYTES},
};

pub(super) const RAM_BYTES: u64 = 4 << 20;
pub(super) const SIZE: u16 = 64;
pub(super) const NEXT: u16 = 1;
pub(super) const WRITE: u16 = 2;
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// A descriptor: address, length, flags, next.
pub(super) type Desc = (u64, u32, u16, u16);

/// The driver's side of one ring.
pub(super) struct Ring {
    pub(super) memory: Arc<GuestMemoryMmap>,
    pub(super) layout: QueueLayout,
    avail: u16,
    used: u16,
}

impl Ring {
    pub(super) fn new(memory: &Arc<GuestMemoryMmap>, index: u16, base: u64) -> Self {
        let layout = QueueLayout { index, size: SIZE, desc: base, avail: base + 0x1000, used: base + 0x2000 };
        Self { memory: Arc::clone(memory), layout, avail: 0, used: 0 }
    }

    fn put<T: vm_memory::ByteValued>(&self, addr: u64, value: T) {
        self.memory.write_obj(value, GuestAddress(addr)).unwrap();
    }

    fn get<T: vm_memory::ByteValued>(&self, addr: u64) -> T {
        self.memory.read_obj(GuestAddress(addr)).unwrap()
    }

    pub(super) fn describe(&self, at: u16, (addr, len, flags, next): Desc) {
        let base = self.layout.desc + 16 * u64::from(at);
        self.put(base, addr);
        self.put(base + 8, len);
        self.put(base + 12, flags);
        self.put(base + 14, next);
    }

    /// Makes the chain at `head` available.
    pub(super) fn offer(&mut self, head: u16) {
        self.put(self.layout.avail + 4 + 2 * u64::from(self.avail % SIZE), head);
        self.avail = self.avail.wrapping_add(1);
        self.publish(self.avail);
    }

    pub(super) fn publish(&self, index: u16) {
        self.memory.store(index, GuestAddress(self.layout.avail + 2), Ordering::Release).unwrap();
    }

    /// What came back since the last look: heads and lengths.
    pub(super) fn collect(&mut self) -> Vec<(u32, u32)> {
        let index: u16 = self.memory.load(GuestAddress(self.layout.used + 2), Ordering::Acquire).unwrap();
        let mut elements = Vec::new();
        while self.used != index {
            let at = self.layout.used + 4 + 8 * u64::from(self.used % SIZE);
            elements.push((self.get(at), self.get(at + 4)));
            self.used = self.used.wrapping_add(1);
        }
        elements
    }

    /// Whether the device asks for kicks.
    pub(super) fn wants_kicks(&self) -> bool {
        self.get::<u16>(self.layout.used) & 1 == 0
    }
}

#[derive(Default)]
pub(super) struct Line {
    pub(super) queues: [AtomicU32; 8],
    pub(super) configs: AtomicU32,
}

impl Interrupt for Line {
    fn queue(&self, index: u16) {
        self.queues[usize::from(index)].fetch_add(1, Ordering::SeqCst);
    }
    fn config(&self) {
        self.configs.fetch_add(1, Ordering::SeqCst);
    }
}

pub(super) type Nic = VirtioNet<DirectPort>;

pub(super) struct Rig<O: DmaObserver = NoObserver> {
    pub(super) memory: Arc<GuestMemoryMmap>,
    pub(super) nic: Arc<VirtioNet<DirectPort, O>>,
    pub(super) line: Arc<Line>,
    pub(super) rx: Ring,
    pub(super) tx: Ring,
}

/// Buffers lie from here on; the rings below.
pub(super) const BUFFERS: u64 = 0x10_0000;
pub(super) const RX_BUFFERS: u64 = 0x20_0000;
/// From one receive buffer to the next; 64 of them fit.
pub(super) const BUFFER_STRIDE: u64 = 0x7000;

impl Rig {
    pub(super) fn new(config: NetConfig) -> Self {
        Self::in_mode(config, ServiceMode::Inline)
    }

    pub(super) fn in_mode(config: NetConfig, mode: ServiceMode) -> Self {
        Self::observed(config, mode, NoObserver)
    }
}

impl<O: DmaObserver> Rig<O> {
    pub(super) fn observed(config: NetConfig, mode: ServiceMode, observer: O) -> Self {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), RAM_BYTES as usize)]).unwrap();
        let memory = Arc::new(memory);
        let port = DirectPort::new(GuestRam::new(Arc::clone(&memory)).unwrap());
        let nic = Arc::new(VirtioNet::with_observers(config, mode, [(port, observer)]).unwrap());
        let (rx, tx) = (Ring::new(&memory, RX_QUEUE, 0x1_0000), Ring::new(&memory, TX_QUEUE, 0x2_0000));
        Self { memory, nic, line: Arc::default(), rx, tx }
    }

    /// The driver starts over after a reset.
    pub(super) fn clear_rings(&mut self) {
        self.memory.write_slice(&[0; 0x2_0000], GuestAddress(0x1_0000)).unwrap();
        (self.rx, self.tx) =
            (Ring::new(&self.memory, RX_QUEUE, 0x1_0000), Ring::new(&self.memory, TX_QUEUE, 0x2_0000));
    }

    pub(super) fn activation(&self) -> Activation {
        Activation { features: self.nic.features(), queues: vec![self.rx.layout, self.tx.layout] }
    }

    /// A device that runs, with mergeable buffers or not as its configuration says.
    pub(super) fn start(self) -> Self {
        self.nic.activate(self.activation(), self.line.clone()).unwrap();
        self
    }

    /// Posts receive buffers of `len` bytes each, in descriptors 0..count.
    pub(super) fn post(&mut self, count: u16, len: u32) {
        for at in 0..count {
            self.rx.describe(at, (RX_BUFFERS + u64::from(at) * BUFFER_STRIDE, len, WRITE, 0));
            self.rx.offer(at);
        }
    }

    /// Puts a frame into memory and offers it, cut into two descriptors after `cut` bytes; descriptors 0 and 1.
    pub(super) fn send(&mut self, frame: &[u8], cut: usize) {
        let bytes = [[0; NET_HEADER_BYTES].as_slice(), frame].concat();
        self.memory.write_slice(&bytes, GuestAddress(BUFFERS)).unwrap();
        self.tx.describe(0, (BUFFERS, cut as u32, NEXT, 1));
        self.tx.describe(1, (BUFFERS + cut as u64, (bytes.len() - cut) as u32, 0, 0));
        self.tx.offer(0);
    }

    pub(super) fn kick(&self) {
        self.nic.notify(TX_QUEUE);
    }

    pub(super) fn bytes(&self, addr: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory.read_slice(&mut bytes, GuestAddress(addr)).unwrap();
        bytes
    }

    /// The registers in front of the same device.
    pub(super) fn transport(&self) -> MmioTransport {
        MmioTransport::new(self.nic.clone(), Arc::new(NoInterrupt))
    }
}

pub(super) fn frame(kind: Kind, seq: u32, payload: &[u8], reply_len: u32, ack_every: u16) -> Vec<u8> {
    let header = Header {
        destination: [2, 0, 0, 0, 0, 2],
        source: MAC,
        kind,
        flow: 5,
        seq,
        payload_len: payload.len() as u32,
        crc: crc32c::crc32c(payload),
        reply_len,
        ack_every,
        mss: 1448,
    };
    [header.encode().as_slice(), payload].concat()
}

pub(super) const HEADERS: usize = NET_HEADER_BYTES + HEADER_BYTES;

pub(super) fn split(bytes: &[u8]) -> (Header, &[u8]) {
    Header::split(&bytes[NET_HEADER_BYTES..]).unwrap()
}
