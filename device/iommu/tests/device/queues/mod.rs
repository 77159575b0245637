//! More than one request queue: `docs/multi-queue.md`.

mod life;
mod negotiation;
mod overtaking;
mod parallel;
mod refused;

use std::{
    thread,
    time::{Duration, Instant},
};

use virtio_iommu::{
    Device, DeviceOptions,
    spec::{EndpointId, Status, private::request_queue, request as wire},
};
use virtio_transport::{Activation, QueueLayout, VirtioDevice};
use vm_memory::{Bytes, GuestAddress};

use crate::support::*;

/// Where each request queue has its rings and, behind them, its buffers.
const LANES: u64 = 0x80_0000;
const LANE_BYTES: u64 = 0x2_0000;
/// Readable and writable part of a request lie in one of these each.
const SLOT_BYTES: u64 = 0x100;

fn several(request_queues: u16) -> DeviceOptions {
    let patience = virtio_iommu::epoch::Patience { spins: 10, yields: 1_000_000, naps: 100_000 };
    DeviceOptions { request_queues, patience, ..options() }
}

/// The driver's side of one request queue; one thread drives one.
struct Lane {
    ring: Ring,
    number: u16,
    buffers: u64,
    queued: u16,
}

impl Lane {
    fn new(rig: &Rig, number: u16) -> Self {
        let base = LANES + LANE_BYTES * u64::from(number);
        let ring = Ring::new(&rig.ram, request_queue(number), base, QUEUE_SIZE);
        Self { ring, number, buffers: base + 0x1_0000, queued: 0 }
    }

    /// Makes a request available, without a kick.
    fn queue(&mut self, readable: &[u8], writable: usize) -> u64 {
        let slot = self.queued % (QUEUE_SIZE / 2);
        self.queued = self.queued.wrapping_add(1);
        let at = self.buffers + 2 * SLOT_BYTES * u64::from(slot);
        let ram = self.ring.ram.clone();
        ram.write_slice(readable, GuestAddress(at)).unwrap();
        ram.write_slice(&vec![FILL; writable], GuestAddress(at + SLOT_BYTES)).unwrap();
        let buffers = [(at, readable.len() as u32, 0), (at + SLOT_BYTES, writable as u32, WRITE)];
        let used: Vec<_> = buffers.into_iter().filter(|buffer| buffer.1 > 0).collect();
        self.ring.put_chain(2 * slot, &used);
        self.ring.make_available(2 * slot);
        at + SLOT_BYTES
    }

    fn kick(&self, device: &Device) {
        device.notify(self.ring.layout.index);
    }

    /// Waits for the next chain to come back; its used length.
    fn wait(&mut self) -> u32 {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some((_, len)) = self.ring.pop_used() {
                return len;
            }
            assert!(Instant::now() < deadline, "request queue {} does not answer", self.number);
            thread::yield_now();
        }
    }

    fn send(&mut self, device: &Device, readable: &[u8], writable: usize) -> Answer {
        let at = self.queue(readable, writable);
        self.kick(device);
        let used_len = self.wait();
        let mut bytes = vec![0; writable];
        self.ring.ram.read_slice(&mut bytes, GuestAddress(at)).unwrap();
        Answer { used_len, bytes }
    }

    fn status(&mut self, device: &Device, readable: &[u8]) -> Status {
        self.send(device, readable, 4).status()
    }
}

fn attach(domain: u32, endpoint: u32) -> [u8; 20] {
    wire::Attach { domain, endpoint, flags: 0, reserved: [0; 4] }.encode()
}

fn detach(domain: u32, endpoint: u32) -> [u8; 20] {
    wire::Detach { domain, endpoint, reserved: [0; 8] }.encode()
}

fn map(domain: u32, first: u64, last: u64, phys: u64) -> [u8; 36] {
    let (virt_start, virt_end) = (first << 12, (last << 12) + 0xfff);
    wire::Map { domain, virt_start, virt_end, phys_start: phys << 12, flags: 3 }.encode()
}

fn unmap(domain: u32, first: u64, last: u64) -> [u8; 28] {
    let (virt_start, virt_end) = (first << 12, (last << 12) + 0xfff);
    wire::Unmap { domain, virt_start, virt_end, reserved: [0; 4] }.encode()
}

/// Everything offered but EVENT_IDX.
fn features(rig: &Rig) -> u64 {
    rig.device.features() & !virtio_iommu::device::F_EVENT_IDX
}

fn layouts(rig: &Rig, lanes: &[Lane]) -> Vec<QueueLayout> {
    let lanes = lanes.iter().map(|lane| lane.ring.layout);
    lanes.chain([rig.events.layout]).collect()
}

/// A device with endpoints 8 and 9 and that many request queues in use.
fn start(options: DeviceOptions) -> (Rig, Vec<Lane>) {
    let rig = Rig::idle(options);
    rig.device.add_emulated_endpoint(EndpointId(8)).unwrap();
    rig.device.add_emulated_endpoint(EndpointId(9)).unwrap();
    let lanes = begin(&rig);
    (rig, lanes)
}

/// DRIVER_OK, with zeroed rings.
fn begin(rig: &Rig) -> Vec<Lane> {
    let count = rig.device.options().request_queues;
    let zeros = vec![0; (LANE_BYTES * u64::from(count)) as usize];
    rig.ram.write_slice(&zeros, GuestAddress(LANES)).unwrap();
    let lanes: Vec<_> = (0..count).map(|number| Lane::new(rig, number)).collect();
    let activation = Activation { features: features(rig), queues: layouts(rig, &lanes) };
    rig.device.activate(activation, rig.irq.clone()).unwrap();
    lanes
}
