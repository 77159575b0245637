//! The device behind the virtio-iommu: every access is translated.

use std::sync::Arc;

use virtio_iommu::{
    Device, DeviceOptions, EndpointPort,
    memory::GuestRam,
    spec::{EndpointId, request},
};
use virtio_transport::{Activation, NoInterrupt, QueueLayout, ServiceMode, VirtioDevice};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::rig::*;
use crate::{
    NetConfig, RX_QUEUE, TX_QUEUE, VirtioNet,
    frame::{Kind, NET_HEADER_BYTES},
};

/// I/O virtual addresses are far from where guest memory is.
const SHIFT: u64 = 0x7000_0000;
const ENDPOINT: u32 = 8;
const DOMAIN: u32 = 1;
const REQUEST: u64 = 0x4_0000;
const STATUS: u64 = 0x4_1000;

struct Platform {
    memory: Arc<GuestMemoryMmap>,
    iommu: Device,
    requests: Ring,
    nic: VirtioNet<EndpointPort>,
    rx: Ring,
    tx: Ring,
}

impl Platform {
    fn new() -> Self {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), RAM_BYTES as usize)]).unwrap();
        let memory = Arc::new(memory);
        let ram = GuestRam::new(Arc::clone(&memory)).unwrap();
        let iommu =
            Device::new(DeviceOptions { boot_bypass: false, ..DeviceOptions::default() }, ram).unwrap();
        iommu.add_emulated_endpoint(EndpointId(ENDPOINT)).unwrap();
        let port = iommu.endpoint_port(EndpointId(ENDPOINT)).unwrap();
        let nic = VirtioNet::new(NetConfig::default(), ServiceMode::Inline, port).unwrap();
        let [rx, tx, requests] = [(RX_QUEUE, 0x1_0000), (TX_QUEUE, 0x2_0000), (0, 0x3_0000)]
            .map(|(i, at)| Ring::new(&memory, i, at));
        let activation = Activation { features: iommu.features(), queues: vec![requests.layout] };
        iommu.activate(activation, Arc::new(NoInterrupt)).unwrap();
        Self { memory, iommu, requests, nic, rx, tx }
    }

    /// One request, served inline; its status.
    fn request(&mut self, bytes: &[u8]) -> u8 {
        self.memory.write_slice(bytes, GuestAddress(REQUEST)).unwrap();
        self.memory.write_obj(0xffu8, GuestAddress(STATUS)).unwrap();
        self.requests.describe(0, (REQUEST, bytes.len() as u32, NEXT, 1));
        self.requests.describe(1, (STATUS, request::TAIL_BYTES as u32, WRITE, 0));
        self.requests.offer(0);
        self.iommu.notify(0);
        assert_eq!(self.requests.collect().len(), 1);
        self.memory.read_obj(GuestAddress(STATUS)).unwrap()
    }

    fn attach(&mut self) {
        let attach = request::Attach { domain: DOMAIN, endpoint: ENDPOINT, flags: 0, reserved: [0; 4] };
        assert_eq!(self.request(&attach.encode()), 0);
    }

    fn map(&mut self, gpa: u64, bytes: u64, flags: u32) {
        let virt_start = gpa + SHIFT;
        let virt_end = virt_start + bytes - 1;
        let map = request::Map { domain: DOMAIN, virt_start, virt_end, phys_start: gpa, flags };
        assert_eq!(self.request(&map.encode()), 0);
    }

    fn unmap(&mut self, gpa: u64, bytes: u64) {
        let virt_start = gpa + SHIFT;
        let virt_end = virt_start + bytes - 1;
        let unmap = request::Unmap { domain: DOMAIN, virt_start, virt_end, reserved: [0; 4] };
        assert_eq!(self.request(&unmap.encode()), 0);
    }

    fn activate(&self) -> bool {
        let shifted = |ring: &Ring| QueueLayout {
            desc: ring.layout.desc + SHIFT,
            avail: ring.layout.avail + SHIFT,
            used: ring.layout.used + SHIFT,
            ..ring.layout
        };
        let queues = vec![shifted(&self.rx), shifted(&self.tx)];
        let features = self.nic.features();
        self.nic.activate(Activation { features, queues }, Arc::new(NoInterrupt)).is_ok()
    }

    /// Rings mapped and running; buffers are not.
    fn running() -> Self {
        let mut platform = Self::new();
        platform.attach();
        for gpa in [0x1_0000, 0x2_0000] {
            platform.map(gpa, 0x3000, request::MAP_F_READ | request::MAP_F_WRITE);
        }
        assert!(platform.activate());
        platform
    }

    fn post(&mut self, at: u16) {
        let buffer = RX_BUFFERS + SHIFT + u64::from(at) * BUFFER_STRIDE;
        self.rx.describe(at, (buffer, 0x4000, WRITE, 0));
        self.rx.offer(at);
    }

    fn send(&mut self, frame: &[u8]) {
        let bytes = [[0; NET_HEADER_BYTES].as_slice(), frame].concat();
        self.memory.write_slice(&bytes, GuestAddress(BUFFERS)).unwrap();
        self.tx.describe(0, (BUFFERS + SHIFT, bytes.len() as u32, 0, 0));
        self.tx.offer(0);
        self.nic.notify(TX_QUEUE);
    }
}

fn ask(seq: u32) -> Vec<u8> {
    frame(Kind::Request, seq, &[0x5a; 9000], 10000, 0)
}

#[test]
fn frames_cross_mappings_both_ways() {
    let mut platform = Platform::running();
    // Page by page: each frame spans several mappings.
    for page in 0..3 {
        platform.map(BUFFERS + page * 0x1000, 0x1000, request::MAP_F_READ);
    }
    for page in 0..4 {
        platform.map(RX_BUFFERS + page * 0x1000, 0x1000, request::MAP_F_WRITE);
    }
    platform.post(0);
    platform.send(&ask(1));
    let total = HEADERS + 10000;
    assert_eq!(platform.rx.collect(), [(0, total as u32)]);
    let mut received = vec![0; total];
    platform.memory.read_slice(&mut received, GuestAddress(RX_BUFFERS)).unwrap();
    let (response, body) = split(&received);
    assert_eq!((response.crc, body.len()), (crc32c::crc32c(body), 10000));
    let counters = platform.nic.counters();
    assert_eq!((counters.bytes_verified, counters.dma_faults, counters.frames_dropped), (9000, 0, 0));
}

#[test]
fn an_unmapped_buffer_faults_and_a_mapped_one_works_again() {
    let mut platform = Platform::running();
    platform.map(RX_BUFFERS, 0x4000, request::MAP_F_WRITE);
    platform.post(0);
    platform.map(BUFFERS, 0x3000, request::MAP_F_READ);
    platform.unmap(BUFFERS, 0x3000);
    platform.send(&ask(1));
    assert_eq!((platform.tx.collect(), platform.nic.counters().dma_faults), (vec![(0, 0)], 1));
    platform.map(BUFFERS, 0x3000, request::MAP_F_READ);
    platform.send(&ask(2));
    let counters = platform.nic.counters();
    assert_eq!((counters.tx_frames, counters.rx_frames, counters.frames_dropped), (1, 1, 1));
}

#[test]
fn permissions_are_those_of_the_mapping() {
    let mut platform = Platform::running();
    platform.map(BUFFERS, 0x3000, request::MAP_F_WRITE);
    platform.map(RX_BUFFERS, 0x4000, request::MAP_F_READ);
    platform.post(0);
    platform.send(&ask(1));
    assert_eq!(platform.nic.counters().dma_faults, 1, "reads what may only be written");
    platform.unmap(BUFFERS, 0x3000);
    platform.map(BUFFERS, 0x3000, request::MAP_F_READ);
    platform.send(&ask(2));
    let counters = platform.nic.counters();
    assert_eq!((counters.dma_faults, counters.tx_frames, counters.rx_frames), (2, 1, 0));
    assert_eq!(platform.rx.collect(), [(0, 0)]);
}

#[test]
fn rings_that_are_not_mapped_stop_the_device() {
    let platform = Platform::new();
    assert!(!platform.activate(), "not attached");
    let mut platform = Platform::running();
    platform.unmap(0x2_0000, 0x3000);
    platform.nic.notify(TX_QUEUE);
    assert!(platform.nic.needs_reset());
    assert_eq!(platform.nic.counters().ring_failures, 1);
    platform.map(0x2_0000, 0x3000, request::MAP_F_READ | request::MAP_F_WRITE);
    platform.nic.reset();
    assert!(platform.activate());
}
