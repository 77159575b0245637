//! From the guest to the cable (virtio 5.1.6.2).

use std::sync::Arc;

use virtio_iommu::{
    dma::DmaMemory,
    queue::{Chain, Queue, QueueError},
};

use super::{
    HEADER_BYTES, MAX_FRAME_BYTES, MIN_FRAME_BYTES, NicCounters,
    cable::{Lane, Packet},
    half::{Outcome, Work},
    offload,
};
use crate::{BURST_BYTES, BURST_CHAINS};

pub(super) struct Transmission {
    lane: Arc<Lane>,
    queue: Option<Queue>,
    chain: Chain,
    features: u64,
}

impl Transmission {
    pub(super) fn new(lane: Arc<Lane>) -> Self {
        Self { lane, queue: None, chain: Chain::new(), features: 0 }
    }
}

impl Work for Transmission {
    const QUEUE: u16 = crate::TX_QUEUE;

    fn open<M: DmaMemory>(
        &mut self,
        _mem: &M,
        queue: Option<Queue>,
        features: u64,
    ) -> Result<(), QueueError> {
        (self.queue, self.features) = (queue, features);
        Ok(())
    }

    fn close(&mut self) {
        self.queue = None;
    }

    fn burst<M: DmaMemory>(&mut self, mem: &M, counters: &mut NicCounters) -> Result<Outcome, QueueError> {
        let Self { lane, queue: Some(queue), chain, features } = self else { return Ok(Outcome::default()) };
        let (mut chains, mut bytes, mut sent) = (0, 0, false);
        while chains < BURST_CHAINS && bytes < BURST_BYTES && !lane.is_full() && queue.pop(mem, chain)? {
            chains += 1;
            if let Some(packet) = fetch(mem, chain, lane, *features, counters) {
                bytes += packet.frame.len() as u64;
                counters.tx_frames += 1;
                counters.tx_bytes += packet.frame.len() as u64;
                lane.send(packet);
                sent = true;
            }
            queue.push_used(mem, chain.head(), 0)?;
        }
        let interrupt = chains > 0 && queue.publish(mem)?;
        Ok(Outcome { worked: chains > 0, interrupt, wake: sent })
    }

    fn suppress_kicks<M: DmaMemory>(&mut self, mem: &M, on: bool) -> Result<(), QueueError> {
        self.queue.as_mut().map_or(Ok(()), |queue| queue.set_kicks(mem, !on))
    }

    fn wake(&self) {
        self.lane.wake_receiver();
    }
}

/// Copies a frame out of guest memory; `None` when it is lost.
fn fetch<M: DmaMemory>(
    mem: &M,
    chain: &Chain,
    lane: &Lane,
    features: u64,
    counters: &mut NicCounters,
) -> Option<Packet> {
    let len = chain.readable_len();
    let shortest = (HEADER_BYTES + MIN_FRAME_BYTES) as u64;
    if chain.fault().is_some() || len < shortest || len > (HEADER_BYTES + MAX_FRAME_BYTES) as u64 {
        counters.malformed += 1;
        return None;
    }
    if !lane.is_open() {
        counters.dropped += 1;
        return None;
    }
    let mut packet = lane.packet();
    packet.frame.resize(len as usize - HEADER_BYTES, 0);
    let copied = chain
        .read_at(mem, 0, &mut packet.header)
        .and_then(|_| chain.read_at(mem, HEADER_BYTES as u64, &mut packet.frame));
    if copied.is_err() {
        counters.dma_faults += 1;
        lane.recycle(packet);
        return None;
    }
    match offload::pass_on(&packet.header, packet.frame.len(), features, lane.features()) {
        Ok(header) => packet.header = header,
        Err(offload::Lost::Malformed) => {
            counters.malformed += 1;
            lane.recycle(packet);
            return None;
        }
        Err(offload::Lost::Unwanted) => {
            counters.dropped += 1;
            lane.recycle(packet);
            return None;
        }
    }
    Some(packet)
}
