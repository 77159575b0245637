//! From the guest to the wire (virtio 5.1.6.2).

use virtio_iommu::{
    dma::DmaMemory,
    queue::{Chain, Queue, QueueError},
};
use virtio_transport::Complaints;

use super::budget::Budget;
use crate::{
    Direction, DmaObserver, NetCounters,
    frame::{FrameError, HEADER_BYTES, MAX_CHAIN_BYTES, NET_HEADER_BYTES},
    peer::{Peer, Wire},
};

pub(super) struct Transmitter {
    queue: Option<Queue>,
    chain: Chain,
    buffer: Box<[u8]>,
    complaints: Complaints,
}

impl Transmitter {
    pub(super) fn new() -> Self {
        let buffer = vec![0; MAX_CHAIN_BYTES].into_boxed_slice();
        Self { queue: None, chain: Chain::new(), buffer, complaints: Complaints::new() }
    }

    pub(super) fn open(&mut self, queue: Option<Queue>) {
        self.queue = queue;
    }

    pub(super) fn close(&mut self) {
        self.queue = None;
    }

    pub(super) fn set_kicks<M: DmaMemory>(&mut self, mem: &M, enabled: bool) -> Result<(), QueueError> {
        self.queue.as_mut().map_or(Ok(()), |queue| queue.set_kicks(mem, enabled))
    }

    pub(super) fn publish<M: DmaMemory>(&mut self, mem: &M) -> Result<bool, QueueError> {
        self.queue.as_mut().map_or(Ok(false), |queue| queue.publish(mem))
    }

    /// Sends frames until the guest has no more, the wire is full or the budget is used up.
    #[inline]
    pub(super) fn transmit<M: DmaMemory, O: DmaObserver>(
        &mut self,
        mem: &M,
        observer: &mut O,
        peer: &mut Peer,
        wire: &mut Wire,
        counters: &mut NetCounters,
        budget: &mut Budget,
    ) -> Result<(), QueueError> {
        let Self { queue: Some(queue), chain, buffer, complaints } = self else { return Ok(()) };
        while budget.is_open() && !wire.is_full() && queue.pop(mem, chain)? {
            budget.chain();
            if let Some(frame) = fetch(mem, observer, chain, buffer, counters) {
                budget.bytes(frame.len() as u64);
                send(frame, peer, wire, counters, complaints);
            } else {
                counters.frames_dropped += 1;
            }
            queue.push_used(mem, chain.head(), 0)?;
        }
        Ok(())
    }
}

/// Copies a frame out of guest memory.
#[inline]
fn fetch<'b, M: DmaMemory, O: DmaObserver>(
    mem: &M,
    observer: &mut O,
    chain: &Chain,
    buffer: &'b mut [u8],
    counters: &mut NetCounters,
) -> Option<&'b [u8]> {
    let len = chain.readable_len();
    if chain.fault().is_some()
        || len < (NET_HEADER_BYTES + HEADER_BYTES) as u64
        || len > MAX_CHAIN_BYTES as u64
    {
        counters.malformed += 1;
        return None;
    }
    let buffer = &mut buffer[..len as usize];
    let started = if O::ENABLED { observer.now() } else { 0 };
    if chain.read_at(mem, 0, buffer).is_err() {
        counters.dma_faults += 1;
        return None;
    }
    let payload_bytes = len - (NET_HEADER_BYTES + HEADER_BYTES) as u64;
    if O::ENABLED {
        let ticks = observer.now().saturating_sub(started);
        observer.frame(Direction::FromGuest, payload_bytes, ticks);
    }
    counters.tx_payload_bytes += payload_bytes;
    // The header asks for offloads (5.1.6.2), none of which a frame without IP needs.
    Some(&buffer[NET_HEADER_BYTES..])
}

#[inline]
fn send(frame: &[u8], peer: &mut Peer, wire: &mut Wire, counters: &mut NetCounters, complaints: &Complaints) {
    match peer.receive(frame) {
        Ok(received) => {
            counters.tx_frames += 1;
            counters.bytes_verified += received.payload_bytes;
            if let Some(reply) = received.reply {
                wire.push(reply);
            }
        }
        Err(error) => {
            counters.frames_dropped += 1;
            match error {
                FrameError::Checksum { .. } => counters.crc_mismatches += 1,
                _ => counters.malformed += 1,
            }
            if let Some(number) = complaints.admit() {
                tracing::warn!(%error, number, "frame dropped");
            }
        }
    }
}
