//! What a frame costs the device, rings and peer included: the driver's side is a handful of stores.

use std::{
    hint::black_box,
    sync::{Arc, atomic::Ordering},
};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use iommu_endpoints::{
    DirectPort, NetConfig, RX_QUEUE, TX_QUEUE, VirtioNet,
    frame::{Header, Kind, NET_HEADER_BYTES},
};
use virtio_iommu::memory::GuestRam;
use virtio_transport::{Activation, NoInterrupt, QueueLayout, ServiceMode, VirtioDevice};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

const SIZE: u16 = 256;
const BUFFERS: u64 = 0x10_0000;

struct Guest {
    memory: GuestMemoryMmap,
    nic: VirtioNet<DirectPort>,
    available: [u16; 2],
}

fn layout(index: u16) -> QueueLayout {
    let base = 0x1_0000 * (u64::from(index) + 1);
    QueueLayout { index, size: SIZE, desc: base, avail: base + 0x2000, used: base + 0x4000 }
}

impl Guest {
    /// Every descriptor of the transmit ring is the same frame; of the receive ring, a buffer of 2 KiB.
    fn new(kind: Kind, payload: &[u8]) -> Self {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 8 << 20)]).unwrap();
        let header = Header {
            destination: [2; 6],
            source: [4; 6],
            kind,
            flow: 0,
            seq: 0,
            payload_len: payload.len() as u32,
            crc: crc32c::crc32c(payload),
            reply_len: 1,
            ack_every: 0,
            mss: 1448,
        };
        let frame = [[0; NET_HEADER_BYTES].as_slice(), &header.encode(), payload].concat();
        memory.write_slice(&frame, GuestAddress(BUFFERS)).unwrap();
        for at in 0..SIZE {
            let tx = (BUFFERS, frame.len() as u32, 0);
            let rx = (BUFFERS + 0x10_0000 + u64::from(at) * 2048, 2048, 2u16);
            for (queue, (addr, len, flags)) in [(TX_QUEUE, tx), (RX_QUEUE, rx)] {
                let desc = layout(queue).desc + 16 * u64::from(at);
                memory.write_obj(addr, GuestAddress(desc)).unwrap();
                memory.write_obj(len, GuestAddress(desc + 8)).unwrap();
                memory.write_obj(flags, GuestAddress(desc + 12)).unwrap();
                memory.write_obj(at, GuestAddress(layout(queue).avail + 4 + 2 * u64::from(at))).unwrap();
            }
        }
        let port = DirectPort::new(GuestRam::new(Arc::new(memory.clone())).unwrap());
        let nic = VirtioNet::new(NetConfig::default(), ServiceMode::Inline, port).unwrap();
        let queues = vec![layout(RX_QUEUE), layout(TX_QUEUE)];
        nic.activate(Activation { features: 0, queues }, Arc::new(NoInterrupt)).unwrap();
        Self { memory, nic, available: [0; 2] }
    }

    fn offer(&mut self, queue: u16, count: u16) {
        let index = &mut self.available[usize::from(queue)];
        *index = index.wrapping_add(count);
        self.memory.store(*index, GuestAddress(layout(queue).avail + 2), Ordering::Release).unwrap();
    }

    fn frames(&mut self, count: u16, answered: bool) {
        if answered {
            self.offer(RX_QUEUE, count);
        }
        self.offer(TX_QUEUE, count);
        self.nic.notify(TX_QUEUE);
    }
}

fn frames(c: &mut Criterion) {
    let mut group = c.benchmark_group("frames");
    for (name, kind, payload) in
        [("data_64k", Kind::Data, 65536), ("data_1448", Kind::Data, 1448), ("round_trip_1", Kind::Request, 1)]
    {
        for burst in [1, 16] {
            let mut guest = Guest::new(kind, &vec![0x5a; payload]);
            let bytes = u64::from(burst) * payload as u64;
            group.throughput(Throughput::Bytes(bytes));
            group.bench_function(BenchmarkId::new(name, burst), |b| {
                b.iter(|| guest.frames(black_box(burst), kind == Kind::Request));
            });
            let counters = guest.nic.counters();
            assert_eq!((counters.frames_dropped, counters.verify()), (0, Ok(())));
        }
    }
    group.finish();
}

criterion_group!(benches, frames);
criterion_main!(benches);
