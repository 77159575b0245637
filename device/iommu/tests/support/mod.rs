//! A driver that is nothing but bytes: rings built by hand in guest memory, requests sent as they lie on the wire.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]

use std::{
    borrow::Borrow,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use virtio_iommu::{
    Counters, Device, DeviceOptions, EndpointPort,
    memory::GuestRam,
    properties::EndpointProperties,
    spec::{EndpointId, Status, fault::Fault, request as wire},
};
use virtio_transport::{Activation, Interrupt, QueueLayout, VirtioDevice};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

pub const RAM_BYTES: usize = 16 << 20;
/// Above 4 GiB, for addresses with a high half.
pub const HIGH_RAM: u64 = 1 << 32;
pub const QUEUE_SIZE: u16 = 256;
const REQUEST_RINGS: u64 = 0x10000;
const EVENT_RINGS: u64 = 0x20000;
const BUFFERS: u64 = 0x40000;
/// What writable buffers hold before the device writes.
pub const FILL: u8 = 0xa5;

pub const NEXT: u16 = 1;
pub const WRITE: u16 = 2;
pub const INDIRECT: u16 = 4;

#[derive(Default)]
pub struct Irq {
    pub queues: [AtomicU64; 8],
    pub config: AtomicU64,
}

impl Interrupt for Irq {
    fn queue(&self, index: u16) {
        self.queues[usize::from(index)].fetch_add(1, Ordering::Relaxed);
    }
    fn config(&self) {
        self.config.fetch_add(1, Ordering::Relaxed);
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Desc {
    pub addr: u64,
    pub len: u32,
    pub flags: u16,
    pub next: u16,
}

/// The driver's half of a split ring.
pub struct Ring {
    pub ram: Arc<GuestMemoryMmap>,
    pub layout: QueueLayout,
    pub avail: u16,
    pub used: u16,
}

impl Ring {
    pub fn new(ram: &Arc<GuestMemoryMmap>, index: u16, base: u64, size: u16) -> Self {
        let layout = QueueLayout { index, size, desc: base, avail: base + 0x4000, used: base + 0x6000 };
        Self { ram: ram.clone(), layout, avail: 0, used: 0 }
    }

    pub fn put_desc(&self, index: u16, desc: Desc) {
        self.put_desc_at(self.layout.desc + 16 * u64::from(index), desc);
    }

    pub fn put_desc_at(&self, at: u64, desc: Desc) {
        let mut bytes = [0u8; 16];
        bytes[..8].copy_from_slice(&desc.addr.to_le_bytes());
        bytes[8..12].copy_from_slice(&desc.len.to_le_bytes());
        bytes[12..14].copy_from_slice(&desc.flags.to_le_bytes());
        bytes[14..].copy_from_slice(&desc.next.to_le_bytes());
        self.ram.write_slice(&bytes, GuestAddress(at)).unwrap();
    }

    /// Descriptors `first..`, each with NEXT but the last.
    pub fn put_chain(&self, first: u16, buffers: &[(u64, u32, u16)]) {
        for (i, &(addr, len, flags)) in buffers.iter().enumerate() {
            let index = first + i as u16;
            let more = if i + 1 < buffers.len() { NEXT } else { 0 };
            self.put_desc(index, Desc { addr, len, flags: flags | more, next: index + 1 });
        }
    }

    pub fn make_available(&mut self, head: u16) {
        let slot = self.layout.avail + 4 + 2 * u64::from(self.avail % self.layout.size);
        self.ram.write_slice(&head.to_le_bytes(), GuestAddress(slot)).unwrap();
        self.avail = self.avail.wrapping_add(1);
        self.ram.write_slice(&self.avail.to_le_bytes(), GuestAddress(self.layout.avail + 2)).unwrap();
    }

    pub fn used_index(&self) -> u16 {
        self.ram.read_obj(GuestAddress(self.layout.used + 2)).unwrap()
    }

    /// The next used element: head and length.
    pub fn pop_used(&mut self) -> Option<(u32, u32)> {
        if self.used_index() == self.used {
            return None;
        }
        let at = self.layout.used + 4 + 8 * u64::from(self.used % self.layout.size);
        self.used = self.used.wrapping_add(1);
        let word: u64 = self.ram.read_obj(GuestAddress(at)).unwrap();
        Some((word as u32, (word >> 32) as u32))
    }
}

/// What lies between the driver and its device, which is passed along for those that have it in front of them. The suite
/// of conformance tests runs on each.
pub trait Plug: Sized {
    /// How the rig holds its device.
    type Device: Borrow<Device>;
    /// A device of its own, guest memory that it reaches, and the way to it.
    fn plug(options: DeviceOptions) -> (Arc<GuestMemoryMmap>, Self::Device, Self);
    /// Features offered.
    fn features(&self, device: &Device) -> u64;
    fn read_config(&self, device: &Device, offset: u64, data: &mut [u8]);
    fn write_config(&self, device: &Device, offset: u64, data: &[u8]);
    /// Negotiates features, sets the queues up and sets DRIVER_OK.
    fn start(&self, device: &Device, activation: Activation, irq: &Arc<Irq>);
    fn kick(&self, device: &Device, queue: u16);
    /// The driver's reset.
    fn reset(&self, device: &Device);
    /// The machine's.
    fn system_reset(&self, device: &Device);
}

/// No transport: the driver calls the device.
pub struct Direct;

impl Plug for Direct {
    type Device = Device;
    fn plug(options: DeviceOptions) -> (Arc<GuestMemoryMmap>, Device, Self) {
        let ram = ram();
        let device = Device::new(options, GuestRam::new(ram.clone()).unwrap()).unwrap();
        (ram, device, Self)
    }
    fn features(&self, device: &Device) -> u64 {
        device.features()
    }
    fn read_config(&self, device: &Device, offset: u64, data: &mut [u8]) {
        device.read_config(offset, data);
    }
    fn write_config(&self, device: &Device, offset: u64, data: &[u8]) {
        device.write_config(offset, data);
    }
    fn start(&self, device: &Device, activation: Activation, irq: &Arc<Irq>) {
        device.activate(activation, irq.clone()).unwrap();
    }
    fn kick(&self, device: &Device, queue: u16) {
        device.notify(queue);
    }
    fn reset(&self, device: &Device) {
        device.reset();
    }
    fn system_reset(&self, device: &Device) {
        device.system_reset();
    }
}

/// A device, its two rings and its guest memory.
pub struct RigOn<P: Plug> {
    pub ram: Arc<GuestMemoryMmap>,
    pub device: P::Device,
    pub irq: Arc<Irq>,
    pub requests: Ring,
    pub events: Ring,
    pub plug: P,
}

/// The device's own methods under test.
pub type Rig = RigOn<Direct>;

/// What came back: used length, and the writable bytes as the device left them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub used_len: u32,
    pub bytes: Vec<u8>,
}

impl Answer {
    /// The status, when the chain was answered in full.
    pub fn status(&self) -> Status {
        assert_eq!(self.used_len as usize, self.bytes.len(), "answered in full: {self:?}");
        let tail = &self.bytes[self.bytes.len() - 4..];
        assert_eq!(tail[1..], [0; 3], "reserved bytes of the tail");
        Status::from_wire(tail[0]).unwrap()
    }

    /// Whether it came back with length 0 and not a byte written.
    pub fn is_untouched(&self) -> bool {
        self.used_len == 0 && self.bytes.iter().all(|byte| *byte == FILL)
    }
}

pub fn ram() -> Arc<GuestMemoryMmap> {
    let ranges = [(GuestAddress(0), RAM_BYTES), (GuestAddress(HIGH_RAM), RAM_BYTES)];
    Arc::new(GuestMemoryMmap::from_ranges(&ranges).unwrap())
}

/// The conformance suite runs on several request queues, too.
fn request_queues() -> u16 {
    std::env::var("CONFORMANCE_REQUEST_QUEUES").ok().and_then(|n| n.parse().ok()).unwrap_or(1)
}

/// Small caps, impatient: what tests want unless they say otherwise.
pub fn options() -> DeviceOptions {
    DeviceOptions {
        boot_bypass: false,
        request_queues: request_queues(),
        patience: virtio_iommu::epoch::Patience { spins: 10, yields: 10, naps: 10 },
        ..DeviceOptions::default()
    }
}

pub fn byte_granule() -> DeviceOptions {
    DeviceOptions { page_size_mask: !0, ..options() }
}

impl<P: Plug> Default for RigOn<P> {
    fn default() -> Self {
        Self::new(options())
    }
}

impl<P: Plug> RigOn<P> {
    /// Endpoints 8 and 9 of the platform's emulated kind; everything offered is negotiated but EVENT_IDX.
    pub fn new(options: DeviceOptions) -> Self {
        Self::negotiating(options, !virtio_iommu::device::F_EVENT_IDX)
    }

    pub fn negotiating(options: DeviceOptions, mask: u64) -> Self {
        let rig = Self::idle(options);
        rig.device().add_emulated_endpoint(EndpointId(8)).unwrap();
        rig.device().add_emulated_endpoint(EndpointId(9)).unwrap();
        rig.activate(rig.features() & mask);
        rig
    }

    /// No endpoints, not activated.
    pub fn idle(options: DeviceOptions) -> Self {
        let (ram, device, plug) = P::plug(options);
        let requests = Ring::new(&ram, 0, REQUEST_RINGS, QUEUE_SIZE);
        let events = Ring::new(&ram, 1, EVENT_RINGS, QUEUE_SIZE);
        Self { ram, device, irq: Arc::default(), requests, events, plug }
    }

    /// The device itself, for what no driver sees: the platform's endpoints, their accesses, counters.
    fn device(&self) -> &Device {
        self.device.borrow()
    }

    /// Features offered.
    pub fn features(&self) -> u64 {
        self.plug.features(self.device())
    }

    pub fn read_config(&self, offset: u64, data: &mut [u8]) {
        self.plug.read_config(self.device(), offset, data);
    }

    pub fn write_config(&self, offset: u64, data: &[u8]) {
        self.plug.write_config(self.device(), offset, data);
    }

    /// The driver's reset.
    pub fn reset(&self) {
        self.plug.reset(self.device());
    }

    /// The machine's.
    pub fn system_reset(&self) {
        self.plug.system_reset(self.device());
    }

    pub fn activate(&self, features: u64) {
        let queues = vec![self.requests.layout, self.events.layout];
        self.plug.start(self.device(), Activation { features, queues }, &self.irq);
    }

    /// Device reset and a fresh start with zeroed rings, as a driver that is loaded again does.
    pub fn restart(&mut self, features: u64) {
        self.reset();
        self.zero_rings();
        self.activate(features);
    }

    pub fn zero_rings(&mut self) {
        self.ram.write_slice(&[0; 0x10000], GuestAddress(REQUEST_RINGS)).unwrap();
        self.ram.write_slice(&[0; 0x10000], GuestAddress(EVENT_RINGS)).unwrap();
        for ring in [&mut self.requests, &mut self.events] {
            (ring.avail, ring.used) = (0, 0);
        }
    }

    pub fn endpoint(&self, id: u32, properties: EndpointProperties) {
        self.device().add_endpoint(EndpointId(id), properties).unwrap();
    }

    pub fn port(&self, id: u32) -> EndpointPort {
        self.device().endpoint_port(EndpointId(id)).unwrap()
    }

    pub fn counters(&self) -> Counters {
        self.device().counters()
    }

    pub fn kick(&self) {
        self.plug.kick(self.device(), 0);
    }

    /// Sends one request in one readable and one writable buffer.
    pub fn send(&mut self, readable: &[u8], writable: usize) -> Answer {
        self.send_split(&[readable], &[writable])
    }

    /// Sends one request cut into buffers.
    pub fn send_split(&mut self, readable: &[&[u8]], writable: &[usize]) -> Answer {
        let mut buffers = Vec::new();
        let mut at = BUFFERS;
        for part in readable {
            self.ram.write_slice(part, GuestAddress(at)).unwrap();
            buffers.push((at, part.len() as u32, 0));
            // A gap, so that a buffer that is read or written past its end shows.
            at += part.len() as u64 + 16;
        }
        let first_writable = buffers.len();
        for &len in writable {
            self.ram.write_slice(&vec![FILL; len + 16], GuestAddress(at)).unwrap();
            buffers.push((at, len as u32, WRITE));
            at += len as u64 + 16;
        }
        let used_len = self.send_buffers(&buffers);
        let mut bytes = Vec::new();
        for &(addr, len, _) in &buffers[first_writable..] {
            let mut part = vec![0; len as usize + 16];
            self.ram.read_slice(&mut part, GuestAddress(addr)).unwrap();
            assert!(part[len as usize..].iter().all(|byte| *byte == FILL), "written past a buffer");
            bytes.extend_from_slice(&part[..len as usize]);
        }
        Answer { used_len, bytes }
    }

    /// Sends a chain of (address, length, flags) and returns its used length.
    pub fn send_buffers(&mut self, buffers: &[(u64, u32, u16)]) -> u32 {
        self.requests.put_chain(0, buffers);
        self.send_head(0)
    }

    /// Makes `head` available, kicks, and returns its used length.
    pub fn send_head(&mut self, head: u16) -> u32 {
        self.requests.make_available(head);
        self.kick();
        let (used_head, len) = self.requests.pop_used().expect("the chain came back");
        assert_eq!(used_head, u32::from(head));
        assert!(self.requests.pop_used().is_none());
        len
    }

    pub fn status(&mut self, readable: &[u8]) -> Status {
        self.send(readable, 4).status()
    }

    pub fn attach(&mut self, domain: u32, endpoint: u32) -> Status {
        self.attach_flags(domain, endpoint, 0)
    }

    pub fn attach_flags(&mut self, domain: u32, endpoint: u32, flags: u32) -> Status {
        self.status(&wire::Attach { domain, endpoint, flags, reserved: [0; 4] }.encode())
    }

    pub fn detach(&mut self, domain: u32, endpoint: u32) -> Status {
        self.status(&wire::Detach { domain, endpoint, reserved: [0; 8] }.encode())
    }

    pub fn map(&mut self, domain: u32, start: u64, end: u64, phys: u64) -> Status {
        self.map_flags(domain, start, end, phys, wire::MAP_F_READ | wire::MAP_F_WRITE)
    }

    pub fn map_flags(&mut self, domain: u32, start: u64, end: u64, phys: u64, flags: u32) -> Status {
        let map = wire::Map { domain, virt_start: start, virt_end: end, phys_start: phys, flags };
        self.status(&map.encode())
    }

    pub fn unmap(&mut self, domain: u32, start: u64, end: u64) -> Status {
        let unmap = wire::Unmap { domain, virt_start: start, virt_end: end, reserved: [0; 4] };
        self.status(&unmap.encode())
    }

    /// PROBE with a properties buffer of `size` bytes.
    pub fn probe_sized(&mut self, endpoint: u32, size: usize) -> Answer {
        self.send(&wire::Probe { endpoint, reserved: [0; 64] }.encode(), size + 4)
    }

    pub fn probe(&mut self, endpoint: u32) -> Vec<u8> {
        let size = self.device().options().probe_size as usize;
        let answer = self.probe_sized(endpoint, size);
        assert_eq!(answer.status(), Status::Ok);
        answer.bytes[..size].to_vec()
    }

    /// Gives the device `count` event buffers of `len` bytes.
    pub fn give_event_buffers(&mut self, count: u16, len: u32) {
        for i in 0..count {
            let index = self.events.avail % QUEUE_SIZE;
            let addr = EVENT_RINGS + 0x8000 + u64::from(i % 64) * 64;
            self.ram.write_slice(&[FILL; 64], GuestAddress(addr)).unwrap();
            self.events.put_desc(index, Desc { addr, len, flags: WRITE, next: 0 });
            self.events.make_available(index);
        }
        self.plug.kick(self.device(), 1);
    }

    /// The next fault record: used length and bytes of the buffer.
    pub fn next_event(&mut self) -> Option<(u32, [u8; 64])> {
        let (head, len) = self.events.pop_used()?;
        let addr: u64 =
            self.ram.read_obj(GuestAddress(self.events.layout.desc + 16 * u64::from(head))).unwrap();
        let mut bytes = [0; 64];
        self.ram.read_slice(&mut bytes, GuestAddress(addr)).unwrap();
        Some((len, bytes))
    }

    pub fn next_fault(&mut self) -> Option<Fault> {
        let (len, bytes) = self.next_event()?;
        assert_eq!(len, 24);
        Some(Fault::decode(bytes.first_chunk().unwrap()))
    }

    pub fn poke(&self, gpa: u64, bytes: &[u8]) {
        self.ram.write_slice(bytes, GuestAddress(gpa)).unwrap();
    }

    pub fn peek<const N: usize>(&self, gpa: u64) -> [u8; N] {
        let mut bytes = [0; N];
        self.ram.read_slice(&mut bytes, GuestAddress(gpa)).unwrap();
        bytes
    }
}

/// Reads through an endpoint's port.
pub fn dma_read(port: &EndpointPort, iova: u64, len: usize) -> Option<Vec<u8>> {
    use virtio_iommu::dma::DmaMemory;
    let mut bytes = vec![0; len];
    port.pin().read(iova, &mut bytes).ok().map(|()| bytes)
}

/// Writes through an endpoint's port.
pub fn dma_write(port: &EndpointPort, iova: u64, bytes: &[u8]) -> bool {
    use virtio_iommu::dma::DmaMemory;
    port.pin().write(iova, bytes).is_ok()
}

/// Numbers that look random: xorshift of 64 bits, from any seed but 0.
pub struct Random(pub u64);

impl Random {
    /// A number below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }

    /// One of these.
    pub fn of<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}
