//! One guest CPU.

use std::sync::{Arc, atomic::AtomicBool};

use virtio_iommu_spec::{
    DomainId,
    request::{MAP_F_READ, MAP_F_WRITE, Map, Unmap},
};

use super::Addresses;
use crate::{
    clock::{Clock, Recorder},
    dma::{Counts, Mode, Sampler},
    iommu::IommuDriver,
    netperf::Stop,
    scenario::CaseSpec,
    workload::{Platform, Quota, WorkloadError},
};

/// See the module.
pub(super) struct Cpu {
    iommu: Arc<IommuDriver>,
    /// Which CPU of the guest it is.
    number: usize,
    domain: DomainId,
    addresses: Addresses,
    map_bytes: u64,
    mode: Mode,
    flush_entries: usize,
    flush_ns: u64,
    held: Vec<u64>,
    /// When the flush timer fires.
    deadline_ns: Option<u64>,
    now_ns: u64,
    clock: Arc<dyn Clock>,
    recorder: Arc<dyn Recorder>,
    maps: Sampler,
    unmaps: Sampler,
    counts: Counts,
}

impl Cpu {
    pub(super) fn new(
        platform: &Platform,
        iommu: &Arc<IommuDriver>,
        case: &CaseSpec,
        number: usize,
        domain: DomainId,
        addresses: Addresses,
    ) -> Self {
        let params = &case.params;
        let every = platform.recorder.sample_every();
        Self {
            iommu: Arc::clone(iommu),
            number,
            domain,
            addresses,
            map_bytes: u64::from(params.map_bytes),
            mode: case.mode,
            flush_entries: params.flush_entries as usize,
            flush_ns: u64::from(params.flush_ms) * 1_000_000,
            held: Vec::new(),
            deadline_ns: None,
            now_ns: 0,
            clock: Arc::clone(&platform.clock),
            recorder: Arc::clone(&platform.recorder),
            maps: Sampler::new(every),
            unmaps: Sampler::new(every),
            counts: Counts::default(),
        }
    }

    pub(super) fn counts(&self) -> Counts {
        self.counts
    }

    /// Maps as often as `stop` says, unmapping whenever enough is live, and everything at the end.
    pub(super) fn run(&mut self, stop: Stop, cancel: &AtomicBool) -> Result<bool, WorkloadError> {
        let mut quota = Quota::new(stop, cancel);
        loop {
            self.now_ns = self.clock.now_ns();
            if self.deadline_ns.is_some_and(|deadline_ns| self.now_ns >= deadline_ns) {
                self.counts.flushes_timer += 1;
                self.flush()?;
            }
            quota.look(self.now_ns);
            if quota.left == 0 {
                break;
            }
            quota.left -= 1;
            if self.addresses.is_full()
                && let Some(slot) = self.addresses.leave()
            {
                self.unmap(slot)?;
            }
            self.map()?;
        }
        while let Some(slot) = self.addresses.leave() {
            self.unmap(slot)?;
        }
        self.flush()?;
        Ok(quota.cancelled)
    }

    #[inline]
    fn map(&mut self) -> Result<(), WorkloadError> {
        let slot = self.addresses.take();
        let virt_start = self.addresses.iova(slot);
        // Nothing is accessed: any address with the same alignment does.
        let phys_start = self.addresses.stride();
        let virt_end = virt_start + (self.map_bytes - 1);
        let flags = MAP_F_READ | MAP_F_WRITE;
        let request = Map { domain: self.domain.0, virt_start, virt_end, phys_start, flags };
        let start_ns = self.maps.due().then(|| self.clock.now_ns());
        let mut requests = self.iommu.requests(self.number);
        requests.map(&request)?;
        requests.sync()?;
        drop(requests);
        if let Some(start_ns) = start_ns {
            self.recorder.map_latency(self.clock.now_ns().saturating_sub(start_ns));
        }
        self.counts.dma_maps += 1;
        self.counts.transactions += 1;
        Ok(())
    }

    #[inline]
    fn unmap(&mut self, slot: u64) -> Result<(), WorkloadError> {
        let virt_start = self.addresses.iova(slot);
        let virt_end = virt_start + (self.map_bytes - 1);
        let request = Unmap { domain: self.domain.0, virt_start, virt_end, reserved: [0; 4] };
        let start_ns = self.unmaps.due().then(|| self.clock.now_ns());
        let mut requests = self.iommu.requests(self.number);
        requests.unmap(&request)?;
        if self.mode == Mode::Strict {
            requests.sync()?;
            drop(requests);
            self.counts.invalidations += 1;
            self.addresses.release(slot);
        } else {
            drop(requests);
            if self.held.len() == self.flush_entries {
                self.counts.flushes_full += 1;
                self.flush()?;
            }
            self.held.push(slot);
            self.deadline_ns.get_or_insert(self.now_ns.saturating_add(self.flush_ns));
        }
        if let Some(start_ns) = start_ns {
            self.recorder.unmap_latency(self.clock.now_ns().saturating_sub(start_ns));
        }
        self.counts.dma_unmaps += 1;
        Ok(())
    }

    /// Waits for every UNMAP queued, and makes the addresses held back usable.
    fn flush(&mut self) -> Result<(), WorkloadError> {
        if self.held.is_empty() {
            return Ok(());
        }
        self.iommu.requests(self.number).sync()?;
        self.counts.invalidations += 1;
        self.deadline_ns = None;
        for slot in self.held.drain(..) {
            self.addresses.release(slot);
        }
        Ok(())
    }
}
