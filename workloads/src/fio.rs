//! FIO_RANDREAD and FIO_RANDWRITE: random reads or writes of a disk, so many in flight, without a file system.
//!
//! A request is what Linux's virtio_blk makes of a direct one without indirect descriptors: a header of 16 bytes and a
//! status byte, which lie beside each other, and the data in pieces of at most `frag_bytes`. As `virtqueue_add_sgs()` maps
//! every entry of its scatterlists by itself, that is `2 + ceil(block_bytes / frag_bytes)` maps a request, and as many
//! unmaps when it has completed: header and status are two mappings of one page.
//!
//! Every block holds a pattern that depends on its number and on how often it was written. Reads are verified as they
//! come; what was written is read back and verified when the case ends.

use std::sync::{Arc, atomic::AtomicBool};

use arrayvec::ArrayVec;
use rand::{RngExt as _, SeedableRng};
use rand_pcg::Pcg64Mcg;
use virtio_bindings::{
    virtio_blk::{
        VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_S_OK, VIRTIO_BLK_T_IN,
        VIRTIO_BLK_T_OUT,
    },
    virtio_ids::VIRTIO_ID_BLOCK,
};
use virtio_iommu_spec::Gpa;

use crate::{
    clock::{Clock, Recorder},
    dma::{Counts, Direction, Dma, Mapping},
    endpoint_queue::EndpointQueue,
    iommu::IommuDriver,
    memory::Span,
    netperf::{SliceStats, Stop},
    pages::PageAllocator,
    pattern::Pattern,
    ring::{Segment, Used},
    scenario::{CaseSpec, Test},
    workload::{Platform, Quota, Workload, WorkloadError, dma_settings, with_iommu},
};

const SECTOR_BYTES: u64 = 512;
const HEADER_BYTES: u32 = 16;
/// Where in a request's memory the status byte lies: beside the header, as in Linux's `struct virtblk_req`.
const STATUS: u32 = 16;
/// What the status byte says before the device has written it.
const UNWRITTEN: u8 = 0xff;
/// Bytes at the start of each block that say which it is: number and version.
const STAMP_BYTES: usize = 16;
/// Most pieces of one block: 1 MiB in pages.
const MAX_PIECES: usize = 256;

/// One request, reused.
struct Request {
    head: Span,
    data: Span,
    mapped: Vec<Mapping>,
    block: u32,
    writes: bool,
    start_ns: u64,
}

/// A case of either test.
pub struct Fio {
    queue: EndpointQueue,
    iommu: Option<Arc<IommuDriver>>,
    requests: Vec<Request>,
    free: Vec<u32>,
    /// Per block: how often it was written, and whether a request for it is in flight.
    blocks: Vec<(u32, bool)>,
    pattern: Pattern,
    rng: Pcg64Mcg,
    clock: Arc<dyn Clock>,
    recorder: Arc<dyn Recorder>,
    block_bytes: u32,
    frag_bytes: u32,
    writes: bool,
    counts: Counts,
    baseline: Counts,
    scratch: Vec<u8>,
    broken: bool,
}

impl Fio {
    /// Probes the disk and fills it.
    ///
    /// # Errors
    /// As [`start`](crate::workload::start).
    pub fn new(platform: Platform, case: &CaseSpec) -> Result<Self, WorkloadError> {
        let params = &case.params;
        let attached = platform.devices.first().ok_or(WorkloadError::Devices { wanted: 1, given: 0 })?;
        let pages = PageAllocator::new(Arc::clone(&platform.memory));
        let iommu = platform.iommu(case.mode, params, &pages)?;
        let behind = iommu.as_ref().map(|iommu| (Arc::clone(iommu), attached.endpoint));
        let (clock, recorder) = (Arc::clone(&platform.clock), Arc::clone(&platform.recorder));
        let dma = Dma::new(dma_settings(case, 0), behind, clock, recorder)?;
        let optional = 1 << VIRTIO_BLK_F_SEG_MAX | 1 << VIRTIO_BLK_F_BLK_SIZE | 1 << VIRTIO_BLK_F_FLUSH;
        let size = params.ring_size;
        let queue =
            EndpointQueue::probe(attached, VIRTIO_ID_BLOCK, optional, size, &pages, dma, platform.watchdog)?;
        let sectors = u64::from_le_bytes(queue.device.config::<8>()?);
        let wanted = u64::from(params.blocks()) * u64::from(params.block_bytes);
        if sectors.saturating_mul(SECTOR_BYTES) < wanted {
            return Err(WorkloadError::TooLong { wanted: params.block_bytes, longest: sectors });
        }
        let request = || -> Result<Request, WorkloadError> {
            let (head, data) = (pages.alloc(4096)?, pages.alloc(u64::from(params.block_bytes))?);
            Ok(Request { head, data, mapped: Vec::new(), block: 0, writes: false, start_ns: 0 })
        };
        let depth = u32::from(params.queue_depth);
        let mut fio = Self {
            queue,
            iommu,
            requests: (0..depth).map(|_| request()).collect::<Result<_, _>>()?,
            free: (0..depth).rev().collect(),
            blocks: vec![(0, false); params.blocks() as usize],
            pattern: Pattern::new(platform.seed, params.block_bytes),
            rng: Pcg64Mcg::seed_from_u64(platform.seed),
            clock: Arc::clone(&platform.clock),
            recorder: Arc::clone(&platform.recorder),
            block_bytes: params.block_bytes,
            frag_bytes: params.frag_bytes,
            writes: case.test == Test::FioRandwrite,
            counts: Counts::default(),
            baseline: Counts::default(),
            scratch: vec![0; params.block_bytes as usize],
            broken: false,
        };
        fio.sweep(true)?;
        // What filling has left in lazy mode's queue is no part of the load.
        fio.queue.dma.flush()?;
        fio.counts = Counts::default();
        fio.baseline = fio.total();
        Ok(fio)
    }

    fn total(&self) -> Counts {
        let mut counts = self.counts;
        counts += self.queue.dma.own_counts();
        counts.kicks_endpoint = self.queue.kicks;
        with_iommu(counts, self.iommu.as_ref())
    }

    /// Writes, or reads and verifies, every block once.
    fn sweep(&mut self, writes: bool) -> Result<(), WorkloadError> {
        let mut wait = self.queue.wait();
        let mut next = 0;
        while (next as usize) < self.blocks.len() || self.queue.ring.outstanding() > 0 {
            let now_ns = self.clock.now_ns();
            self.queue.dma.tick(now_ns)?;
            let mut added = false;
            while (next as usize) < self.blocks.len()
                && let Some(slot) = self.free.pop()
            {
                self.add(slot, next, writes)?;
                (next, added) = (next + 1, true);
            }
            if added {
                self.queue.kick();
            }
            if self.reap()? { wait.progress() } else { self.queue.pause(&mut wait)? }
        }
        Ok(())
    }

    /// A block nobody is busy with: drawn, or the next one after that. There are more blocks than requests.
    fn draw(&mut self) -> u32 {
        let mut at = self.rng.random_range(0..self.blocks.len());
        while self.blocks[at].1 {
            at = (at + 1) % self.blocks.len();
        }
        at as u32
    }

    /// Maps a request's buffers and queues it.
    #[inline]
    fn add(&mut self, slot: u32, block: u32, writes: bool) -> Result<(), WorkloadError> {
        let (version, busy) = &mut self.blocks[block as usize];
        *busy = true;
        let request = &mut self.requests[slot as usize];
        if writes {
            *version = version.wrapping_add(1);
            let (payload, _) = self.pattern.payload(phase(block, *version), self.block_bytes);
            request.data.write(0, payload);
            request.data.write_array(0, stamp(block, *version));
        }
        (request.block, request.writes, request.start_ns) = (block, writes, self.clock.now_ns());
        let kind = if writes { VIRTIO_BLK_T_OUT } else { VIRTIO_BLK_T_IN };
        let sector = u64::from(block) * u64::from(self.block_bytes) / SECTOR_BYTES;
        let header = u128::from(kind) | u128::from(sector) << 64;
        request.head.write_array(0, header.to_le_bytes());
        request.head.write_array(STATUS as usize, [UNWRITTEN]);
        let mut segments = ArrayVec::<Segment, { MAX_PIECES + 2 }>::new();
        let dma = &mut self.queue.dma;
        let mut map = |gpa, len, direction| -> Result<(), WorkloadError> {
            let mapping = dma.map(gpa, len, direction)?;
            segments.push(Segment { addr: mapping.device_address(), len });
            request.mapped.push(mapping);
            Ok(())
        };
        let (head, data) = (request.head.gpa(), request.data.gpa());
        map(head, HEADER_BYTES, Direction::ToDevice)?;
        let direction = if writes { Direction::ToDevice } else { Direction::FromDevice };
        let mut done = 0;
        while done < self.block_bytes {
            let len = self.frag_bytes.min(self.block_bytes - done);
            map(Gpa(data.0 + u64::from(done)), len, direction)?;
            done += len;
        }
        map(Gpa(head.0 + u64::from(STATUS)), 1, Direction::FromDevice)?;
        let readable = if writes { segments.len() - 1 } else { 1 };
        let (readable, writable) = segments.split_at(readable);
        Ok(self.queue.ring.add(readable, writable, slot)?)
    }

    /// Takes back, unmaps and verifies what has completed; whether there was anything.
    #[inline]
    fn reap(&mut self) -> Result<bool, WorkloadError> {
        let mut any = false;
        while let Some(used) = self.queue.ring.pop()? {
            any = true;
            self.finish(used)?;
        }
        Ok(any)
    }

    fn finish(&mut self, Used { token, written }: Used) -> Result<(), WorkloadError> {
        let request = &mut self.requests[token as usize];
        for mapping in request.mapped.drain(..) {
            self.queue.dma.unmap(mapping)?;
        }
        let [status] = request.head.read_array(STATUS as usize);
        let expected = if request.writes { 1 } else { self.block_bytes + 1 };
        let block = request.block;
        if u32::from(status) != VIRTIO_BLK_S_OK || written != expected {
            return Err(WorkloadError::Disk { block: u64::from(block), status, written, expected });
        }
        let (version, busy) = &mut self.blocks[block as usize];
        *busy = false;
        let version = *version;
        let bytes = u64::from(self.block_bytes);
        if request.writes {
            self.counts.tx_packets += 1;
        } else {
            self.counts.rx_packets += 1;
            request.data.read(0, &mut self.scratch);
            let (payload, _) = self.pattern.payload(phase(block, version), self.block_bytes);
            let (head, rest) = self.scratch.split_at(STAMP_BYTES);
            if head != stamp(block, version) || rest != &payload[STAMP_BYTES..] {
                return Err(WorkloadError::Corrupt { what: "block", number: u64::from(block) });
            }
            // So that a read that writes nothing is found out.
            request.data.write_array(0, [0_u8; STAMP_BYTES]);
            self.counts.bytes_verified += bytes;
        }
        self.counts.packets += 1;
        self.counts.transactions += 1;
        self.counts.bytes_moved += bytes;
        let latency_ns = self.clock.now_ns().saturating_sub(request.start_ns);
        self.recorder.transaction_latency(latency_ns);
        self.free.push(token);
        Ok(())
    }
}

impl Workload for Fio {
    fn run_slice(&mut self, stop: Stop, cancel: &AtomicBool) -> Result<SliceStats, WorkloadError> {
        if std::mem::replace(&mut self.broken, true) {
            return Err(WorkloadError::Broken);
        }
        let before = self.counts();
        let start_ns = self.clock.now_ns();
        let mut quota = Quota::new(stop, cancel);
        let mut wait = self.queue.wait();
        loop {
            let now_ns = self.clock.now_ns();
            self.queue.dma.tick(now_ns)?;
            quota.look(now_ns);
            // As an asynchronous submitter with completions at hand does: as many as there is room for, then one kick.
            let mut added = false;
            while quota.left > 0
                && let Some(slot) = self.free.pop()
            {
                let block = self.draw();
                self.add(slot, block, self.writes)?;
                quota.left -= 1;
                added = true;
            }
            if added {
                self.queue.kick();
            }
            if self.reap()? || added {
                wait.progress();
            } else if quota.left == 0 && self.queue.ring.outstanding() == 0 {
                break;
            } else {
                self.queue.pause(&mut wait)?;
            }
        }
        let elapsed_ns = self.clock.now_ns().saturating_sub(start_ns);
        let faults = self.queue.dma.take_faults()?;
        if faults > 0 {
            return Err(WorkloadError::Faults(faults));
        }
        self.broken = false;
        Ok(SliceStats { elapsed_ns, counts: self.counts() - before, cancelled: quota.cancelled })
    }

    fn counts(&self) -> Counts {
        self.total() - self.baseline
    }

    fn shutdown(mut self: Box<Self>) -> Result<Counts, WorkloadError> {
        if self.writes && !self.broken {
            self.sweep(false)?;
        }
        let Self { queue, requests, .. } = &mut *self;
        queue.close(|dma| {
            for mapping in requests.iter_mut().flat_map(|request| request.mapped.drain(..)) {
                dma.unmap(mapping)?;
            }
            Ok(())
        })?;
        Ok(self.total())
    }
}

/// Which of the pattern's payloads a block holds.
fn phase(block: u32, version: u32) -> u64 {
    u64::from(block) + u64::from(version)
}

fn stamp(block: u32, version: u32) -> [u8; STAMP_BYTES] {
    (u128::from(block) | u128::from(version) << 64).to_le_bytes()
}
