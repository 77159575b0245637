//! From the wire to the guest (virtio 5.1.6.3, 5.1.6.4).

use virtio_iommu::{
    dma::{DmaError, DmaMemory},
    queue::{Chain, Queue, QueueError},
};

use super::budget::Budget;
use crate::{
    Direction, DmaObserver, NetCounters,
    frame::{HEADER_BYTES, Kind, NET_HEADER_BYTES, NUM_BUFFERS_OFFSET},
    peer::{Peer, Reply, Wire},
};

/// Most chains one frame is spread over: a 64 KiB frame fits buffers of 1.5 KiB.
const MAX_MERGED: usize = 64;
const HEADERS: usize = NET_HEADER_BYTES + HEADER_BYTES;

/// Buffers the guest posted. The kick of this queue is of interest only when frames wait and buffers have run out.
pub(super) struct Receiver {
    queue: Option<Queue>,
    /// Chains taken for the next frame are the first `taken`; the others are kept for reuse.
    chains: Vec<Chain>,
    taken: usize,
    capacity: u64,
    most: usize,
    kicks: bool,
    quiet: bool,
}

/// What came of looking for room.
enum Room {
    Enough,
    /// The guest has posted too little so far.
    Starved,
    /// No number of buffers would do, or the burst is over.
    Refused,
    BurstOver,
}

impl Receiver {
    pub(super) fn new() -> Self {
        Self { queue: None, chains: Vec::new(), taken: 0, capacity: 0, most: 1, kicks: true, quiet: false }
    }

    pub(super) fn open<M: DmaMemory>(
        &mut self,
        mem: &M,
        queue: Option<Queue>,
        mergeable: bool,
    ) -> Result<(), QueueError> {
        *self = Self { queue, chains: std::mem::take(&mut self.chains), ..Self::new() };
        self.most = if mergeable { MAX_MERGED } else { 1 };
        self.set_kicks(mem, false)
    }

    pub(super) fn close(&mut self) {
        self.queue = None;
    }

    /// The service polls or is awake: kicks are not wanted even when buffers run out.
    pub(super) fn quiet(&mut self, on: bool) {
        self.quiet = on;
    }

    pub(super) fn publish<M: DmaMemory>(&mut self, mem: &M) -> Result<bool, QueueError> {
        self.queue.as_mut().map_or(Ok(false), |queue| queue.publish(mem))
    }

    fn set_kicks<M: DmaMemory>(&mut self, mem: &M, on: bool) -> Result<(), QueueError> {
        if self.kicks != on
            && let Some(queue) = &mut self.queue
        {
            queue.set_kicks(mem, on)?;
            self.kicks = on;
        }
        Ok(())
    }

    /// Delivers frames until none waits, buffers run out or the budget is used up.
    #[inline]
    pub(super) fn deliver<M: DmaMemory, O: DmaObserver>(
        &mut self,
        mem: &M,
        observer: &mut O,
        peer: &Peer,
        wire: &mut Wire,
        counters: &mut NetCounters,
        budget: &mut Budget,
    ) -> Result<(), QueueError> {
        while budget.is_open()
            && let Some(reply) = wire.front()
        {
            match self.make_room(mem, HEADERS as u64 + u64::from(reply.payload_len), counters, budget)? {
                Room::Enough => self.place(mem, observer, peer, &reply, counters, budget)?,
                Room::Refused => {
                    counters.frames_dropped += 1;
                    counters.rx_too_small += 1;
                    self.give_back(mem)?;
                }
                Room::Starved | Room::BurstOver => return Ok(()),
            }
            wire.advance();
        }
        if wire.is_empty() { self.set_kicks(mem, false) } else { Ok(()) }
    }

    /// Takes chains until `need` bytes fit.
    #[inline]
    fn make_room<M: DmaMemory>(
        &mut self,
        mem: &M,
        need: u64,
        counters: &mut NetCounters,
        budget: &mut Budget,
    ) -> Result<Room, QueueError> {
        while self.capacity < need {
            if self.taken >= self.most {
                return Ok(Room::Refused);
            }
            if !budget.is_open() {
                return Ok(Room::BurstOver);
            }
            if !self.take(mem)? {
                if self.quiet || self.kicks {
                    return Ok(Room::Starved);
                }
                // Ask for kicks, and look once more: buffers may have come in between.
                self.set_kicks(mem, true)?;
                if self.queue.is_none() || !self.take(mem)? {
                    return Ok(Room::Starved);
                }
            }
            budget.chain();
            let chain = &self.chains[self.taken];
            if chain.fault().is_some() {
                counters.malformed += 1;
                let head = chain.head();
                if let Some(queue) = &mut self.queue {
                    queue.push_used(mem, head, 0)?;
                }
                continue;
            }
            self.capacity = self.capacity.saturating_add(chain.writable_len());
            self.taken += 1;
        }
        Ok(Room::Enough)
    }

    /// Pops a chain behind those taken.
    #[inline]
    fn take<M: DmaMemory>(&mut self, mem: &M) -> Result<bool, QueueError> {
        let Some(queue) = &mut self.queue else { return Ok(false) };
        if self.taken == self.chains.len() {
            self.chains.push(Chain::new());
        }
        queue.pop(mem, &mut self.chains[self.taken])
    }

    /// Writes a frame into the chains taken and returns them.
    #[inline]
    fn place<M: DmaMemory, O: DmaObserver>(
        &mut self,
        mem: &M,
        observer: &mut O,
        peer: &Peer,
        reply: &Reply,
        counters: &mut NetCounters,
        budget: &mut Budget,
    ) -> Result<(), QueueError> {
        let (header, payload) = peer.compose(reply);
        let mut headers = [0; HEADERS];
        // `taken` is at most MAX_MERGED.
        let buffers = self.taken as u16;
        headers[NUM_BUFFERS_OFFSET..NET_HEADER_BYTES].copy_from_slice(&buffers.to_le_bytes());
        headers[NET_HEADER_BYTES..].copy_from_slice(&header);
        let started = if O::ENABLED { observer.now() } else { 0 };
        if scatter(mem, &self.chains[..self.taken], &headers, payload).is_err() {
            counters.dma_faults += 1;
            counters.frames_dropped += 1;
            return self.give_back(mem);
        }
        let payload_bytes = payload.len() as u64;
        if O::ENABLED {
            observer.frame(Direction::ToGuest, payload_bytes, observer.now().saturating_sub(started));
        }
        budget.bytes(HEADER_BYTES as u64 + payload_bytes);
        counters.rx_frames += 1;
        counters.acks += u64::from(reply.kind == Kind::Ack);
        counters.rx_payload_bytes += payload_bytes;
        self.complete(mem, HEADERS as u64 + payload_bytes)
    }

    /// Returns all chains taken with nothing in them.
    #[cold]
    fn give_back<M: DmaMemory>(&mut self, mem: &M) -> Result<(), QueueError> {
        self.complete(mem, 0)
    }

    #[inline]
    fn complete<M: DmaMemory>(&mut self, mem: &M, mut bytes: u64) -> Result<(), QueueError> {
        let taken = std::mem::take(&mut self.taken);
        self.capacity = 0;
        let Some(queue) = &mut self.queue else { return Ok(()) };
        for chain in &self.chains[..taken] {
            let len = bytes.min(chain.writable_len());
            bytes -= len;
            // At most a frame's length.
            queue.push_used(mem, chain.head(), len as u32)?;
        }
        Ok(())
    }
}

/// Writes `headers` and then `payload` over the writable parts of `chains`, which are large enough.
#[inline]
fn scatter<M: DmaMemory>(
    mem: &M,
    chains: &[Chain],
    mut headers: &[u8],
    mut payload: &[u8],
) -> Result<(), DmaError> {
    for chain in chains {
        let placed = chain.write_at(mem, 0, headers)?;
        headers = &headers[placed..];
        if headers.is_empty() && !payload.is_empty() {
            let more = chain.write_at(mem, placed as u64, payload)?;
            payload = &payload[more..];
        }
    }
    Ok(())
}
