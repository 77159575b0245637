//! From the cable to the guest (virtio 5.1.6.3, 5.1.6.4).

use std::sync::Arc;

use virtio_bindings::virtio_net::VIRTIO_NET_F_MRG_RXBUF;
use virtio_iommu::{
    dma::{DmaError, DmaMemory},
    queue::{Chain, Queue, QueueError},
};

use super::{
    HEADER_BYTES, NicCounters,
    cable::{Lane, Packet},
    half::{Outcome, Work},
};
use crate::{BURST_BYTES, BURST_CHAINS, frame::NUM_BUFFERS_OFFSET};

/// Most chains one frame is spread over: 64 KiB fit buffers of 1.5 KiB.
const MAX_MERGED: usize = 64;

/// Kicks of this queue are wanted only while frames wait and buffers have run out.
pub(super) struct Reception {
    lane: Arc<Lane>,
    queue: Option<Queue>,
    /// Chains taken for the next frame are the first `taken`; the others are kept for reuse.
    chains: Vec<Chain>,
    taken: usize,
    room: u64,
    most: usize,
    kicks: bool,
    quiet: bool,
}

enum Room {
    Enough,
    Starved,
    /// No number of buffers would do.
    Refused,
}

impl Reception {
    pub(super) fn new(lane: Arc<Lane>) -> Self {
        let chains = Vec::new();
        Self { lane, queue: None, chains, taken: 0, room: 0, most: 1, kicks: true, quiet: false }
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

    fn take<M: DmaMemory>(&mut self, mem: &M) -> Result<bool, QueueError> {
        let Some(queue) = &mut self.queue else { return Ok(false) };
        if self.taken == self.chains.len() {
            self.chains.push(Chain::new());
        }
        queue.pop(mem, &mut self.chains[self.taken])
    }

    /// Takes chains until `need` bytes fit.
    fn make_room<M: DmaMemory>(
        &mut self,
        mem: &M,
        need: u64,
        counters: &mut NicCounters,
    ) -> Result<Room, QueueError> {
        while self.room < need {
            if self.taken >= self.most {
                return Ok(Room::Refused);
            }
            if !self.take(mem)? {
                if self.quiet || self.kicks {
                    return Ok(Room::Starved);
                }
                // Ask for kicks, and look once more: buffers may have come in between.
                self.set_kicks(mem, true)?;
                if !self.take(mem)? {
                    return Ok(Room::Starved);
                }
            }
            let chain = &self.chains[self.taken];
            if chain.fault().is_some() || chain.writable_len() == 0 {
                counters.malformed += 1;
                let head = chain.head();
                if let Some(queue) = &mut self.queue {
                    queue.push_used(mem, head, 0)?;
                }
                continue;
            }
            self.room = self.room.saturating_add(chain.writable_len());
            self.taken += 1;
        }
        Ok(Room::Enough)
    }

    /// Writes a frame into the chains taken, or nothing, and returns them.
    fn place<M: DmaMemory>(
        &mut self,
        mem: &M,
        packet: Option<&Packet>,
        counters: &mut NicCounters,
    ) -> Result<(), QueueError> {
        let taken = std::mem::take(&mut self.taken);
        self.room = 0;
        let mut left = 0;
        if let Some(Packet { header, frame }) = packet {
            let mut header = *header;
            // At most MAX_MERGED.
            header[NUM_BUFFERS_OFFSET..].copy_from_slice(&(taken as u16).to_le_bytes());
            if scatter(mem, &self.chains[..taken], &header, frame).is_ok() {
                left = (HEADER_BYTES + frame.len()) as u64;
                counters.rx_frames += 1;
                counters.rx_bytes += frame.len() as u64;
            } else {
                counters.dma_faults += 1;
            }
        }
        let Some(queue) = &mut self.queue else { return Ok(()) };
        for chain in &self.chains[..taken] {
            let len = left.min(chain.writable_len());
            left -= len;
            // At most a frame's length.
            queue.push_used(mem, chain.head(), len as u32)?;
        }
        Ok(())
    }
}

impl Work for Reception {
    const QUEUE: u16 = crate::RX_QUEUE;

    fn open<M: DmaMemory>(&mut self, mem: &M, queue: Option<Queue>, features: u64) -> Result<(), QueueError> {
        let there = queue.is_some();
        (self.queue, self.taken, self.room) = (queue, 0, 0);
        (self.kicks, self.quiet) = (true, false);
        self.most = if features & 1 << VIRTIO_NET_F_MRG_RXBUF != 0 { MAX_MERGED } else { 1 };
        self.set_kicks(mem, false)?;
        self.lane.set_open(there.then_some(features));
        Ok(())
    }

    fn close(&mut self) {
        self.queue = None;
        self.lane.set_open(None);
    }

    fn burst<M: DmaMemory>(&mut self, mem: &M, counters: &mut NicCounters) -> Result<Outcome, QueueError> {
        if self.queue.is_none() {
            return Ok(Outcome::default());
        }
        let (mut frames, mut bytes) = (0, 0);
        while frames < BURST_CHAINS
            && bytes < BURST_BYTES
            && let Some(packet) = self.lane.receive()
        {
            let need = (HEADER_BYTES + packet.frame.len()) as u64;
            match self.make_room(mem, need, counters)? {
                Room::Enough => self.place(mem, Some(&packet), counters)?,
                Room::Refused => {
                    counters.dropped += 1;
                    self.place(mem, None, counters)?;
                }
                Room::Starved => {
                    self.lane.put_back(packet);
                    break;
                }
            }
            frames += 1;
            bytes += packet.frame.len() as u64;
            self.lane.recycle(packet);
        }
        if frames == 0 {
            return Ok(Outcome::default());
        }
        self.set_kicks(mem, false)?;
        let interrupt = match &mut self.queue {
            Some(queue) => queue.publish(mem)?,
            None => false,
        };
        Ok(Outcome { worked: true, interrupt, wake: true })
    }

    /// The service polls or is awake: kicks are not wanted even when buffers run out.
    fn suppress_kicks<M: DmaMemory>(&mut self, mem: &M, on: bool) -> Result<(), QueueError> {
        self.quiet = on;
        if on { self.set_kicks(mem, false) } else { Ok(()) }
    }

    fn wake(&self) {
        self.lane.wake_sender();
    }
}

/// Writes `header` and then `frame` over the writable parts of `chains`, which are large enough.
fn scatter<M: DmaMemory>(
    mem: &M,
    chains: &[Chain],
    mut header: &[u8],
    mut frame: &[u8],
) -> Result<(), DmaError> {
    for chain in chains {
        let placed = chain.write_at(mem, 0, header)?;
        header = &header[placed..];
        if header.is_empty() && !frame.is_empty() {
            let more = chain.write_at(mem, placed as u64, frame)?;
            frame = &frame[more..];
        }
    }
    Ok(())
}
