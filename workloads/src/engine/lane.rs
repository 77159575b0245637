//! One DMA engine and the guest CPU that drives it.

use std::{
    hint::black_box,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use rand::{RngExt as _, SeedableRng};
use rand_pcg::Pcg64Mcg;

use super::ENGINE_ID;
use crate::{
    clock::Clock,
    dma::{Counts, Direction, Dma, Mapping},
    endpoint_queue::EndpointQueue,
    memory::Span,
    netperf::Stop,
    pages::PageAllocator,
    pattern::Pattern as Payloads,
    ring::Segment,
    scenario::{DmaDirection, Params, Pattern},
    wait::Wait,
    workload::{Attached, Platform, Quota, WorkloadError},
};

/// One transfer in so many is checked byte for byte as it comes back; a prime, so that no size of the working set
/// keeps the same buffers unchecked. Checking is three more passes over the bytes, which must not show in the throughput.
pub(crate) const CHECK_EVERY: u64 = 251;

/// As long as the engine's own buffer, so that it lies in memory as that does; no transfer is longer.
const HOST_BYTES: usize = 1 << 20;

/// Bytes at the start of a buffer that are overwritten where the whole need not be.
const SPOILT_BYTES: usize = 64;

struct Buffer {
    memory: Span,
    mapping: Mapping,
    in_flight: u16,
}

/// See the module.
pub(super) struct Lane {
    queue: EndpointQueue,
    buffers: Vec<Buffer>,
    /// Where transfers are read back to.
    scratch: Buffer,
    clock: Arc<dyn Clock>,
    rng: Pcg64Mcg,
    pattern: Pattern,
    direction: DmaDirection,
    bytes: u32,
    depth: u16,
    remap_every: u64,
    /// Buffers to be mapped anew that were still in flight when their time came.
    owed: u64,
    /// What the engine delivers.
    payload: Vec<u8>,
    /// The other side of plain copies.
    host: Box<[u8]>,
    next: usize,
    last: usize,
    transfers: u64,
    verified_bytes: u64,
}

impl Lane {
    pub(super) fn new(
        platform: &Platform,
        attached: &Attached,
        mut dma: Dma,
        pages: &PageAllocator,
        params: &Params,
        seed: u64,
    ) -> Result<Self, WorkloadError> {
        let bytes = params.transfer_bytes;
        let (count, _) = params.working_set();
        let direction = params.dma_direction;
        let mut payloads = Payloads::new(seed, bytes);
        let mut buffer = |number: u64, access| -> Result<Buffer, WorkloadError> {
            let memory = pages.alloc(u64::from(bytes))?;
            memory.write(0, payloads.payload(number, bytes).0);
            let mapping = dma.map(memory.gpa(), bytes, access)?;
            Ok(Buffer { memory, mapping, in_flight: 0 })
        };
        let scratch = buffer(0, Direction::Both)?;
        let buffers = (1..=u64::from(count)).map(|number| buffer(number, access(direction)));
        let buffers = buffers.collect::<Result<Vec<_>, _>>()?;
        let mut payload = vec![0; bytes as usize];
        scratch.memory.read(0, &mut payload);
        let queue =
            EndpointQueue::probe(attached, ENGINE_ID, 0, params.ring_size, pages, dma, platform.watchdog)?;
        let longest = u64::from(u32::from_le_bytes(queue.device.config::<4>()?));
        if u64::from(bytes) > longest {
            return Err(WorkloadError::TooLong { wanted: bytes, longest });
        }
        let mut lane = Self {
            queue,
            buffers,
            scratch,
            clock: Arc::clone(&platform.clock),
            rng: Pcg64Mcg::seed_from_u64(seed),
            pattern: params.pattern,
            direction,
            bytes,
            depth: params.queue_depth,
            remap_every: u64::from(params.remap_every),
            owed: 0,
            payload,
            host: vec![0; HOST_BYTES].into_boxed_slice(),
            next: 0,
            last: 0,
            transfers: 0,
            verified_bytes: 0,
        };
        // What the engine delivers from now on, if it is to write.
        lane.alone(true)?;
        Ok(lane)
    }

    pub(super) fn counts(&self) -> Counts {
        let mut counts = self.queue.dma.own_counts();
        counts.kicks_endpoint = self.queue.kicks;
        counts.transactions = self.transfers;
        counts.packets = self.transfers;
        match self.direction {
            DmaDirection::Read => counts.tx_packets = self.transfers,
            DmaDirection::Write => counts.rx_packets = self.transfers,
        }
        counts.bytes_moved = self.transfers * u64::from(self.bytes);
        counts.bytes_verified = self.verified_bytes;
        counts
    }

    /// Bytes of a transfer.
    pub(super) fn transfer_bytes(&self) -> u64 {
        u64::from(self.bytes)
    }

    pub(super) fn take_faults(&mut self) -> Result<u64, WorkloadError> {
        Ok(self.queue.dma.take_faults()?)
    }

    /// Moves transfers until `stop`; whether it was cancelled.
    pub(super) fn run(&mut self, stop: Stop, cancel: &AtomicBool) -> Result<bool, WorkloadError> {
        let mut quota = Quota::new(stop, cancel);
        let mut wait = self.queue.wait();
        loop {
            let now_ns = self.clock.now_ns();
            self.queue.dma.tick(now_ns)?;
            quota.look(now_ns);
            let mut issued = false;
            while quota.left > 0 && self.queue.ring.outstanding() < self.depth {
                self.issue()?;
                quota.left -= 1;
                issued = true;
            }
            if issued {
                self.queue.kick();
            }
            if self.reap()? || issued {
                wait.progress();
            } else if quota.left == 0 && self.queue.ring.outstanding() == 0 {
                break;
            } else {
                self.queue.pause(&mut wait)?;
            }
        }
        while self.owed > 0 {
            self.owed -= 1;
            self.remap(self.last)?;
        }
        Ok(quota.cancelled)
    }

    /// The buffer whose turn it is.
    #[inline]
    fn turn(&mut self) -> usize {
        let index = match self.pattern {
            Pattern::Random => self.rng.random_range(0..self.buffers.len()),
            _ => self.next,
        };
        self.next = if self.next + 1 == self.buffers.len() { 0 } else { self.next + 1 };
        index
    }

    /// Copies what the engine would, in the same order, by plain `memcpy`, until `until_ns`; the number of copies. Nothing
    /// is in flight.
    pub(super) fn memcpy(&mut self, until_ns: u64, cancel: &AtomicBool) -> u64 {
        let len = self.bytes as usize;
        if self.direction == DmaDirection::Write {
            // What the engine delivers, so that checks find it.
            self.host[..len].copy_from_slice(&self.payload);
        }
        let mut copies = 0_u64;
        // Relaxed, as in `Quota::look`.
        while self.clock.now_ns() < until_ns && !cancel.load(Ordering::Relaxed) {
            for _ in 0..self.depth {
                let index = self.turn();
                let memory = &self.buffers[index].memory;
                match self.direction {
                    DmaDirection::Read => memory.memcpy_out(&mut self.host[..len]),
                    DmaDirection::Write => memory.memcpy_in(&self.host[..len]),
                }
                black_box(&mut self.host);
            }
            copies += u64::from(self.depth);
        }
        if self.direction == DmaDirection::Write {
            // So that a transfer that writes nothing is found out.
            for buffer in &self.buffers {
                buffer.memory.zero(0, len.min(SPOILT_BYTES));
            }
        }
        copies
    }

    #[inline]
    fn issue(&mut self) -> Result<(), WorkloadError> {
        let index = self.turn();
        let buffer = &mut self.buffers[index];
        buffer.in_flight += 1;
        let segment = [Segment { addr: buffer.mapping.device_address(), len: self.bytes }];
        match self.direction {
            // At most 2^20 buffers.
            DmaDirection::Read => self.queue.ring.add(&segment, &[], index as u32)?,
            DmaDirection::Write => self.queue.ring.add(&[], &segment, index as u32)?,
        }
        Ok(())
    }

    /// Takes back what the engine is done with; whether there was anything.
    #[inline]
    fn reap(&mut self) -> Result<bool, WorkloadError> {
        let mut any = false;
        while let Some(used) = self.queue.ring.pop()? {
            any = true;
            let index = used.token as usize;
            let expected = if self.direction == DmaDirection::Write { self.bytes } else { 0 };
            if used.written != expected {
                return Err(WorkloadError::Incomplete { written: used.written, expected });
            }
            self.buffers[index].in_flight -= 1;
            self.last = index;
            self.transfers += 1;
            if self.direction == DmaDirection::Write && self.transfers.is_multiple_of(CHECK_EVERY) {
                self.check(index)?;
            }
            if self.remap_every > 0 && self.transfers.is_multiple_of(self.remap_every) {
                self.owed += 1;
            }
            if self.owed > 0 && self.buffers[index].in_flight == 0 {
                self.owed -= 1;
                self.remap(index)?;
            }
        }
        Ok(any)
    }

    /// A buffer gets another address, as one that is given back and posted again does.
    fn remap(&mut self, index: usize) -> Result<(), WorkloadError> {
        let buffer = &mut self.buffers[index];
        self.queue.dma.unmap(buffer.mapping)?;
        buffer.mapping = self.queue.dma.map(buffer.memory.gpa(), self.bytes, access(self.direction))?;
        Ok(())
    }

    /// Compares a buffer the engine has written with what it must have written, and spoils it unless it is about to be
    /// written again anyway, so that a transfer that writes nothing is found out.
    fn check(&mut self, index: usize) -> Result<(), WorkloadError> {
        let buffer = &self.buffers[index];
        let mut found = vec![0; self.payload.len()];
        buffer.memory.read(0, &mut found);
        if found != self.payload {
            return Err(WorkloadError::Corrupt { what: "buffer", number: index as u64 });
        }
        self.verified_bytes += u64::from(self.bytes);
        if buffer.in_flight == 0 {
            buffer.memory.zero(0, found.len());
        }
        Ok(())
    }

    /// After a slice: what the engine read last is read back and compared, or one more transfer written and compared.
    pub(super) fn verify(&mut self) -> Result<(), WorkloadError> {
        if self.transfers == 0 {
            return Ok(());
        }
        self.alone(false)?;
        let mut expected = vec![0; self.payload.len()];
        match self.direction {
            DmaDirection::Read => self.buffers[self.last].memory.read(0, &mut expected),
            DmaDirection::Write => expected.copy_from_slice(&self.payload),
        }
        let mut found = vec![0; expected.len()];
        self.scratch.memory.read(0, &mut found);
        if found != expected {
            return Err(WorkloadError::Corrupt { what: "buffer", number: self.last as u64 });
        }
        self.verified_bytes += u64::from(self.bytes);
        self.scratch.memory.zero(0, found.len());
        Ok(())
    }

    /// One transfer with the scratch buffer: read by the engine, or written.
    fn alone(&mut self, read: bool) -> Result<(), WorkloadError> {
        let segment = [Segment { addr: self.scratch.mapping.device_address(), len: self.bytes }];
        let expected = if read { 0 } else { self.bytes };
        if read {
            self.queue.ring.add(&segment, &[], 0)?;
        } else {
            self.queue.ring.add(&[], &segment, 0)?;
        }
        self.queue.kick();
        let mut wait: Wait = self.queue.wait();
        loop {
            match self.queue.ring.pop()? {
                Some(used) if used.written == expected => return Ok(()),
                Some(used) => return Err(WorkloadError::Incomplete { written: used.written, expected }),
                None => self.queue.pause(&mut wait)?,
            }
        }
    }

    pub(super) fn close(&mut self) -> Result<(), WorkloadError> {
        let Self { queue, buffers, scratch, .. } = self;
        queue.close(|dma| {
            for buffer in buffers.iter().chain([&*scratch]) {
                dma.unmap(buffer.mapping)?;
            }
            Ok(())
        })
    }
}

fn access(direction: DmaDirection) -> Direction {
    match direction {
        DmaDirection::Read => Direction::ToDevice,
        DmaDirection::Write => Direction::FromDevice,
    }
}
