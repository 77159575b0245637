//! FIO_RANDREAD, FIO_RANDWRITE, DMA_THROUGHPUT and IOTLB_CHURN on a real disk.
//!
//! A request is one command of `block_bytes` (or `transfer_bytes`). FIO maps the data for each, in pieces of `frag_bytes`,
//! and unmaps them when it has completed; the engine's tests map a working set once and move it again and again, one buffer
//! mapped anew after every `remap_every` transfers. "The engine reads guest memory" is a write to the disk.
//!
//! What the disk holds is not known at first. The first read of a block says, and every later one must agree; what was
//! written must come back. After each slice, some of the blocks that were read, and all that were written, are read once
//! more, untimed.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicBool},
};

use rand::{RngExt as _, SeedableRng};
use rand_pcg::Pcg64Mcg;
use virtio_iommu_spec::{EndpointId, Gpa};

use super::{Nvme, NvmeError, prp, wire::Completion};
use crate::{
    clock::{Clock, Recorder},
    dma::{Counts, Direction, Dma, Mapping},
    engine::CHECK_EVERY,
    iommu::IommuDriver,
    memory::Span,
    netperf::{SliceStats, Stop},
    pages::PageAllocator,
    pattern::Pattern as Payloads,
    pci::PciFunction,
    scenario::{CaseSpec, Device, DmaDirection, Pattern, Test},
    workload::{Platform, Quota, Workload, WorkloadError, dma_settings, with_iommu},
};

/// Blocks that were read and are read once more at the end.
const READ_AGAIN: usize = 64;
/// Bytes at the start of what is written that say which block it is, and which time it is written.
const STAMP_BYTES: usize = 16;

/// What is known of a disk's blocks; kept while drivers come and go.
#[derive(Clone, Debug, Default)]
pub struct Contents(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    block_bytes: u32,
    /// By block of that size: the checksum of what it holds, once that is known.
    checksums: Vec<Option<u32>>,
    /// How many blocks were ever written.
    written: u64,
}

impl Contents {
    fn lock(&self) -> MutexGuard<'_, Known> {
        // A checksum is known or not, whatever happened to who looked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Blocks of another size are other blocks.
    fn of(&self, block_bytes: u32, blocks: usize) {
        let mut known = self.lock();
        if known.block_bytes != block_bytes || known.checksums.len() != blocks {
            known.block_bytes = block_bytes;
            known.checksums = vec![None; blocks];
        }
    }
}

/// A disk to be driven.
#[derive(Clone)]
pub struct Drive {
    /// Its registers.
    pub function: Arc<dyn PciFunction>,
    /// Its endpoint ID.
    pub endpoint: EndpointId,
    /// Whether it may be written to.
    pub writable: bool,
    /// What is known of its blocks.
    pub contents: Contents,
}

/// One transfer's memory.
struct Slot {
    data: Span,
    list: Span,
    list_mapping: Mapping,
    /// Of the data.
    mapped: Vec<Mapping>,
    entries: [u64; 2],
    /// Checksum of the data behind the stamp, where they are written to the disk.
    rest: u32,
    in_flight: bool,
}

/// One command in flight.
#[derive(Clone, Copy, Debug, Default)]
struct Flight {
    slot: u32,
    block: u32,
    /// Of what it writes.
    checksum: u32,
    start_ns: u64,
}

/// Whether the data are mapped for each transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mapped {
    ForEach,
    Once { remap_every: u64, pattern: Pattern },
}

/// A case of these tests.
pub struct Load {
    nvme: Nvme,
    iommu: Option<Arc<IommuDriver>>,
    contents: Contents,
    slots: Vec<Slot>,
    /// Where blocks are read once more.
    scratch_slot: Option<Slot>,
    /// By the command's number.
    flights: Vec<Flight>,
    /// Numbers that are not in flight.
    free: Vec<u16>,
    /// Whether a block is in flight.
    busy: Vec<bool>,
    /// Blocks to be read once more at the end.
    touched: BTreeSet<u32>,
    payloads: Payloads,
    rng: Pcg64Mcg,
    clock: Arc<dyn Clock>,
    recorder: Arc<dyn Recorder>,
    bytes: u32,
    frag_bytes: u32,
    /// Blocks of the disk in a block of the case.
    lbas: u16,
    writes: bool,
    mapped: Mapped,
    next: usize,
    /// Buffers to be mapped anew.
    owed: u64,
    counts: Counts,
    baseline: Counts,
    scratch: Vec<u8>,
    broken: bool,
}

/// What a case asks for that no disk does, if anything.
pub fn conflict(case: &CaseSpec) -> Option<&'static str> {
    let params = &case.params;
    let engine = case.test.device() == Device::Engine;
    match () {
        () if params.block_bytes > 1 << 20 => Some("block_bytes is more than 1M"),
        () if engine && !params.transfer_bytes.is_multiple_of(512) => {
            Some("a disk transfers whole blocks: --set transfer_bytes=4K")
        }
        () if engine && params.engines > 1 => Some("one disk is one engine: --set engines=1"),
        () if engine && params.noisy_neighbour => {
            Some("a real disk has no neighbour in this build: --set neighbour=none")
        }
        () => None,
    }
}

/// Whether the case writes to the disk.
pub fn writes(case: &CaseSpec) -> bool {
    match case.test {
        Test::FioRandwrite => true,
        Test::DmaThroughput | Test::IotlbChurn => case.params.dma_direction == DmaDirection::Read,
        _ => false,
    }
}

impl Load {
    /// Opens the disk and takes memory.
    ///
    /// # Errors
    /// When the disk cannot be driven, is too small, or may not be written to and the case would.
    pub fn new(platform: &Platform, drive: &Drive, case: &CaseSpec) -> Result<Self, WorkloadError> {
        let params = &case.params;
        let engine = case.test.device() == Device::Engine;
        let bytes = if engine { params.transfer_bytes } else { params.block_bytes };
        let writes = writes(case);
        if writes && !drive.writable {
            return Err(WorkloadError::ReadOnly);
        }
        let pages = PageAllocator::new(Arc::clone(&platform.memory));
        let iommu = platform.iommu(case.mode, params, &pages)?;
        let behind = iommu.as_ref().map(|iommu| (Arc::clone(iommu), drive.endpoint));
        let (clock, recorder) = (Arc::clone(&platform.clock), Arc::clone(&platform.recorder));
        let dma = Dma::new(dma_settings(case, 0), behind, clock, recorder)?;
        let (function, watchdog) = (Arc::clone(&drive.function), platform.watchdog);
        let nvme = Nvme::open(function, params.queue_depth, &pages, dma, watchdog)?;
        let namespace = nvme.namespace();
        let whole = bytes.is_multiple_of(namespace.block_bytes);
        if !whole || u64::from(bytes) > nvme.longest() {
            return Err(WorkloadError::Blocks {
                wanted: bytes,
                block: namespace.block_bytes,
                longest: nvme.longest(),
            });
        }
        let on_disk = namespace.blocks.saturating_mul(u64::from(namespace.block_bytes)) / u64::from(bytes);
        let wanted = (u64::from(params.disk_mib) << 20) / u64::from(bytes);
        let blocks = usize::try_from(on_disk.min(wanted)).unwrap_or(usize::MAX);
        if blocks <= usize::from(params.queue_depth) {
            return Err(WorkloadError::TooSmall { blocks: blocks as u64, depth: params.queue_depth });
        }
        drive.contents.of(bytes, blocks);
        let mapped = if engine {
            Mapped::Once { remap_every: u64::from(params.remap_every), pattern: params.pattern }
        } else {
            Mapped::ForEach
        };
        let slots = if engine { params.working_set().0 as usize } else { usize::from(params.queue_depth) };
        let mut load = Self {
            iommu,
            contents: drive.contents.clone(),
            slots: Vec::new(),
            scratch_slot: None,
            flights: vec![Flight::default(); usize::from(params.queue_depth)],
            free: (0..params.queue_depth).rev().collect(),
            busy: vec![false; blocks],
            touched: BTreeSet::new(),
            payloads: Payloads::new(platform.seed, bytes),
            rng: Pcg64Mcg::seed_from_u64(platform.seed),
            clock: Arc::clone(&platform.clock),
            recorder: Arc::clone(&platform.recorder),
            bytes,
            frag_bytes: if engine { bytes } else { params.frag_bytes },
            // At most 1 MiB in blocks of at least 512 bytes.
            lbas: (bytes / namespace.block_bytes) as u16,
            writes,
            mapped,
            next: 0,
            owed: 0,
            counts: Counts::default(),
            baseline: Counts::default(),
            scratch: vec![0; bytes as usize],
            broken: false,
            nvme,
        };
        for at in 0..slots {
            let slot = load.slot(&pages, at as u64)?;
            load.slots.push(slot);
        }
        if mapped != Mapped::ForEach {
            for at in 0..load.slots.len() {
                load.map(at)?;
            }
        }
        let mut again = load.slot(&pages, slots as u64)?;
        map(&mut again, &mut load.nvme.dma, bytes, bytes, Direction::FromDevice)?;
        load.scratch_slot = Some(again);
        load.nvme.dma.flush()?;
        load.baseline = load.total();
        Ok(load)
    }

    fn slot(&mut self, pages: &PageAllocator, at: u64) -> Result<Slot, WorkloadError> {
        let (data, list) = (pages.alloc(u64::from(self.bytes))?, pages.alloc(prp::PAGE_BYTES)?);
        let (payload, _) = self.payloads.payload(at, self.bytes);
        data.write(0, payload);
        let rest = crc32c::crc32c(&payload[STAMP_BYTES..]);
        let list_mapping = self.nvme.dma.map(list.gpa(), prp::PAGE_BYTES as u32, Direction::ToDevice)?;
        Ok(Slot { data, list, list_mapping, mapped: Vec::new(), entries: [0; 2], rest, in_flight: false })
    }

    fn total(&self) -> Counts {
        let mut counts = self.counts;
        counts += self.nvme.dma.own_counts();
        counts.kicks_endpoint = self.nvme.kicks();
        with_iommu(counts, self.iommu.as_ref())
    }

    #[inline]
    fn map(&mut self, at: usize) -> Result<(), WorkloadError> {
        let direction = if self.writes { Direction::ToDevice } else { Direction::FromDevice };
        map(&mut self.slots[at], &mut self.nvme.dma, self.bytes, self.frag_bytes, direction)
    }

    #[inline]
    fn unmap(&mut self, at: usize) -> Result<(), WorkloadError> {
        for mapping in self.slots[at].mapped.drain(..) {
            self.nvme.dma.unmap(mapping)?;
        }
        Ok(())
    }

    /// Memory and block of the next command `id`; none when all of the working set is in flight.
    fn draw(&mut self, id: u16) -> Option<(usize, u32)> {
        let blocks = self.busy.len();
        let slot = match self.mapped {
            Mapped::ForEach => usize::from(id),
            Mapped::Once { pattern, .. } => {
                let slots = self.slots.len();
                let from = match pattern {
                    Pattern::Random => self.rng.random_range(0..slots),
                    _ => self.next,
                };
                let slot = (0..slots).map(|n| (from + n) % slots).find(|at| !self.slots[*at].in_flight)?;
                self.next = (slot + 1) % slots;
                slot
            }
        };
        let from = match self.mapped {
            Mapped::ForEach => self.rng.random_range(0..blocks),
            Mapped::Once { .. } => slot % blocks,
        };
        // There are more blocks than commands.
        let block = (0..blocks).map(|n| (from + n) % blocks).find(|at| !self.busy[*at])?;
        Some((slot, block as u32))
    }

    /// Queues one command, if there is memory for it.
    #[inline]
    fn issue(&mut self) -> Result<bool, WorkloadError> {
        let Some(&id) = self.free.last() else { return Ok(false) };
        let Some((at, block)) = self.draw(id) else { return Ok(false) };
        self.free.pop();
        let start_ns = self.clock.now_ns();
        let mut flight = Flight { slot: at as u32, block, checksum: 0, start_ns };
        if self.writes {
            let mut known = self.contents.lock();
            known.written += 1;
            let stamp = (u128::from(block) | u128::from(known.written) << 64).to_le_bytes();
            let slot = &self.slots[at];
            slot.data.write_array(0, stamp);
            let rest_bytes = self.bytes as usize - STAMP_BYTES;
            flight.checksum = crc32c::crc32c_combine(crc32c::crc32c(&stamp), slot.rest, rest_bytes);
            // Until it is done, nobody knows what the block holds.
            known.checksums[block as usize] = None;
        }
        if self.mapped == Mapped::ForEach {
            self.map(at)?;
        }
        self.slots[at].in_flight = true;
        self.busy[block as usize] = true;
        self.flights[usize::from(id)] = flight;
        let lba = u64::from(block) * u64::from(self.lbas);
        self.nvme.push(self.writes, id, lba, self.lbas, self.slots[at].entries)?;
        Ok(true)
    }

    /// Takes back what has completed; whether there was anything.
    #[inline]
    fn reap(&mut self) -> Result<bool, WorkloadError> {
        let mut any = false;
        while let Some(completion) = self.nvme.pop()? {
            any = true;
            self.finish(completion)?;
        }
        Ok(any)
    }

    fn finish(&mut self, completion: Completion) -> Result<(), WorkloadError> {
        let flight = self.flights[usize::from(completion.id)];
        let at = flight.slot as usize;
        if self.mapped == Mapped::ForEach {
            self.unmap(at)?;
        }
        if !completion.status.is_success() {
            let what = if self.writes { "a write" } else { "a read" };
            return Err(NvmeError::Status { what, status: completion.status }.into());
        }
        self.slots[at].in_flight = false;
        self.busy[flight.block as usize] = false;
        self.free.push(completion.id);
        self.count();
        self.recorder.transaction_latency(self.clock.now_ns().saturating_sub(flight.start_ns));
        if self.writes {
            self.contents.lock().checksums[flight.block as usize] = Some(flight.checksum);
            self.touched.insert(flight.block);
        } else {
            self.verify(at, flight.block)?;
        }
        if let Mapped::Once { remap_every, .. } = self.mapped {
            self.owed += u64::from(remap_every > 0 && self.counts.transactions.is_multiple_of(remap_every));
            if self.owed > 0 {
                self.owed -= 1;
                self.unmap(at)?;
                self.map(at)?;
            }
        }
        Ok(())
    }

    #[inline]
    fn count(&mut self) {
        self.counts.packets += 1;
        self.counts.transactions += 1;
        self.counts.bytes_moved += u64::from(self.bytes);
        if self.writes {
            self.counts.tx_packets += 1;
        } else {
            self.counts.rx_packets += 1;
        }
    }

    /// Compares what was read with what the block holds, or learns it; of an engine's transfers, one in so many.
    fn verify(&mut self, at: usize, block: u32) -> Result<(), WorkloadError> {
        let skipped = self.mapped != Mapped::ForEach && !self.counts.transactions.is_multiple_of(CHECK_EVERY);
        let known = self.contents.lock().checksums[block as usize];
        if skipped && known.is_some() {
            return Ok(());
        }
        self.compare(at, block, known)?;
        if self.touched.len() < READ_AGAIN {
            self.touched.insert(block);
        }
        // So that a read that writes nothing is found out.
        self.slots[at].data.zero(0, STAMP_BYTES);
        Ok(())
    }

    /// Compares what a slot got with what the block holds.
    fn compare(&mut self, at: usize, block: u32, known: Option<u32>) -> Result<(), WorkloadError> {
        self.slots[at].data.read(0, &mut self.scratch);
        self.compare_scratch(block, known)
    }

    fn compare_scratch(&mut self, block: u32, known: Option<u32>) -> Result<(), WorkloadError> {
        let found = crc32c::crc32c(&self.scratch);
        match known {
            Some(known) if known != found => {
                return Err(WorkloadError::Corrupt { what: "block", number: u64::from(block) });
            }
            Some(_) => self.counts.bytes_verified += u64::from(self.bytes),
            None => self.contents.lock().checksums[block as usize] = Some(found),
        }
        Ok(())
    }

    /// Reads what was touched once more, one block after the other; nothing is in flight.
    fn sweep(&mut self) -> Result<(), WorkloadError> {
        if self.writes {
            self.nvme.flush()?;
        }
        let Some(again) = self.scratch_slot.take() else { return Ok(()) };
        for block in std::mem::take(&mut self.touched) {
            again.data.zero(0, self.bytes as usize);
            let lba = u64::from(block) * u64::from(self.lbas);
            self.nvme.transfer(false, lba, self.lbas, again.entries)?;
            again.data.read(0, &mut self.scratch);
            let known = self.contents.lock().checksums[block as usize];
            self.compare_scratch(block, known)?;
        }
        self.scratch_slot = Some(again);
        Ok(())
    }
}

/// Maps a slot's data in pieces and describes them to the disk.
fn map(
    slot: &mut Slot,
    dma: &mut Dma,
    bytes: u32,
    frag_bytes: u32,
    direction: Direction,
) -> Result<(), WorkloadError> {
    let mut done = 0;
    while done < bytes {
        let len = frag_bytes.min(bytes - done);
        slot.mapped.push(dma.map(Gpa(slot.data.gpa().0 + u64::from(done)), len, direction)?);
        done += len;
    }
    let pieces = slot.mapped.iter().map(|mapping| (mapping.device_address(), u64::from(mapping.len())));
    let prps = prp::build(pieces, slot.list_mapping.device_address()).map_err(NvmeError::from)?;
    for (entry, at) in prps.list.iter().zip((0..).step_by(8)) {
        slot.list.write_array(at, entry.to_le_bytes());
    }
    slot.entries = prps.entries;
    Ok(())
}

impl Workload for Load {
    fn run_slice(&mut self, stop: Stop, cancel: &AtomicBool) -> Result<SliceStats, WorkloadError> {
        if std::mem::replace(&mut self.broken, true) {
            return Err(WorkloadError::Broken);
        }
        let before = self.counts();
        let start_ns = self.clock.now_ns();
        let mut quota = Quota::new(stop, cancel);
        let mut wait = self.nvme.wait();
        loop {
            let now_ns = self.clock.now_ns();
            self.nvme.dma.tick(now_ns)?;
            quota.look(now_ns);
            let mut added = false;
            while quota.left > 0 && self.issue()? {
                quota.left -= 1;
                added = true;
            }
            if added {
                self.nvme.kick();
            }
            if self.reap()? || added {
                wait.progress();
            } else if quota.left == 0 && self.nvme.outstanding() == 0 {
                break;
            } else {
                self.nvme.pause(&mut wait, "a transfer")?;
            }
        }
        let elapsed_ns = self.clock.now_ns().saturating_sub(start_ns);
        let faults = self.nvme.dma.take_faults()?;
        if faults > 0 {
            return Err(WorkloadError::Faults(faults));
        }
        let mut counts = self.counts() - before;
        // What is verified from here on is not timed, and its doorbells are no part of the load.
        let verified = self.counts.bytes_verified;
        self.sweep()?;
        counts.bytes_verified += self.counts.bytes_verified - verified;
        self.broken = false;
        Ok(SliceStats { elapsed_ns, counts, cancelled: quota.cancelled })
    }

    fn counts(&self) -> Counts {
        self.total() - self.baseline
    }

    fn shutdown(mut self: Box<Self>) -> Result<Counts, WorkloadError> {
        if self.broken {
            // What is in flight ends before its memory is unmapped.
            self.nvme.stop()?;
        }
        self.slots.extend(self.scratch_slot.take());
        for slot in &mut self.slots {
            for mapping in slot.mapped.drain(..).chain([slot.list_mapping]) {
                self.nvme.dma.unmap(mapping)?;
            }
        }
        self.nvme.close()?;
        Ok(self.total())
    }
}
