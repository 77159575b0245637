//! DMA_THROUGHPUT and IOTLB_CHURN: DMA engines that copy between guest buffers and the host.
//!
//! Each engine is an endpoint in a domain of its own, driven by a guest CPU of its own. Its working set is buffers of
//! one transfer each, mapped once; [`Params::remap_every`](crate::Params::remap_every) transfers, one is unmapped and
//! mapped anew. A noisy neighbour maps and unmaps in yet another domain, through the same request queue, as many pairs as
//! the engines move transfers, or until the deadline.

use std::{
    sync::{Arc, atomic::AtomicBool},
    thread,
};

mod lane;

use crate::{
    clock::Clock,
    dma::{Counts, Dma},
    iommu::IommuDriver,
    netperf::{SliceStats, Stop},
    pages::PageAllocator,
    scenario::{CaseSpec, Pattern, Test},
    storm::Storm,
    workload::{Memcpy, Platform, Workload, WorkloadError, dma_settings, share, with_iommu},
};
pub(crate) use lane::CHECK_EVERY;
use lane::Lane;

/// Device ID of the engine: the first of those that virtio leaves to experiments.
pub const ENGINE_ID: u32 = 65535;

/// A case of either test.
pub struct Engines {
    test: Test,
    lanes: Vec<Lane>,
    neighbour: Option<Storm>,
    iommu: Option<Arc<IommuDriver>>,
    clock: Arc<dyn Clock>,
    baseline: Counts,
    broken: bool,
}

impl Engines {
    /// Probes the engines, maps their buffers, and verifies one transfer of each.
    ///
    /// # Errors
    /// As [`start`](crate::workload::start).
    pub fn new(platform: Platform, case: &CaseSpec) -> Result<Self, WorkloadError> {
        let params = &case.params;
        let (wanted, given) = (usize::from(params.engines), platform.devices.len());
        if given < wanted {
            return Err(WorkloadError::Devices { wanted, given });
        }
        let pages = PageAllocator::new(Arc::clone(&platform.memory));
        let iommu = platform.iommu(case.mode, params, &pages)?;
        let mut lanes = Vec::new();
        for (index, attached) in (0..).zip(&platform.devices[..wanted]) {
            let behind = iommu.as_ref().map(|iommu| (Arc::clone(iommu), attached.endpoint));
            let (clock, recorder) = (Arc::clone(&platform.clock), Arc::clone(&platform.recorder));
            let dma = Dma::new(dma_settings(case, index), behind, clock, recorder)?;
            let seed = platform.seed.wrapping_add(u64::from(index));
            lanes.push(Lane::new(&platform, attached, dma, &pages, params, seed)?);
        }
        let neighbour = match &iommu {
            Some(iommu) if params.noisy_neighbour && case.mode.translates() => {
                let domain = u32::from(params.engines);
                Some(Storm::attach(&platform, iommu, case, domain, 1, Pattern::Ring)?)
            }
            _ => None,
        };
        let mut engines = Self {
            test: case.test,
            lanes,
            neighbour,
            iommu,
            clock: platform.clock,
            baseline: Counts::default(),
            broken: false,
        };
        engines.baseline = engines.total();
        Ok(engines)
    }

    fn total(&self) -> Counts {
        let mut counts = Counts::default();
        for lane in &self.lanes {
            counts += lane.counts();
        }
        if let Some(neighbour) = &self.neighbour {
            // What the neighbour does is its own affair, but for the requests, which go through the same queue, and
            // the waits, which must add up with them.
            let Counts { dma_maps, dma_unmaps, invalidations, flushes_full, .. } = neighbour.counts();
            counts += Counts { dma_maps, dma_unmaps, invalidations, flushes_full, ..Counts::default() };
        }
        with_iommu(counts, self.iommu.as_ref())
    }

    /// Plain copies on the CPUs that drive the engines, each as [`drive`](Self::drive) has it.
    fn copy(&mut self, until_ns: u64, cancel: &AtomicBool) -> u64 {
        thread::scope(|scope| {
            let mut lanes = self.lanes.iter_mut();
            let first = lanes.next();
            let others: Vec<_> =
                lanes.map(|lane| scope.spawn(move || lane.memcpy(until_ns, cancel))).collect();
            let own = first.map_or(0, |lane| lane.memcpy(until_ns, cancel));
            // A copy that panics is out of bounds, which the slice that follows reports as broken.
            own + others.into_iter().map(|other| other.join().unwrap_or(0)).sum::<u64>()
        })
    }

    /// One thread for each lane but the first, which runs here.
    fn drive(&mut self, stop: Stop, cancel: &AtomicBool) -> Result<bool, WorkloadError> {
        let Self { lanes, neighbour, .. } = self;
        let count = lanes.len();
        thread::scope(|scope| {
            let mut others = Vec::new();
            if let Some(neighbour) = neighbour {
                others.push(scope.spawn(move || neighbour.run(stop, cancel)));
            }
            let mut lanes = lanes.iter_mut().enumerate();
            let first = lanes.next();
            for (index, lane) in lanes {
                others.push(scope.spawn(move || lane.run(share(stop, index, count), cancel)));
            }
            let mut outcome =
                first.map_or(Ok(false), |(index, lane)| lane.run(share(stop, index, count), cancel));
            for other in others {
                let other = other.join().unwrap_or(Err(WorkloadError::Panicked));
                outcome = outcome.and_then(|cancelled| other.map(|more| cancelled | more));
            }
            outcome
        })
    }
}

impl Workload for Engines {
    fn run_slice(&mut self, stop: Stop, cancel: &AtomicBool) -> Result<SliceStats, WorkloadError> {
        if std::mem::replace(&mut self.broken, true) {
            return Err(WorkloadError::Broken);
        }
        let before = self.counts();
        let start_ns = self.clock.now_ns();
        let cancelled = self.drive(stop, cancel)?;
        let elapsed_ns = self.clock.now_ns().saturating_sub(start_ns);
        let mut faults = 0;
        for lane in &mut self.lanes {
            // After the clock was read: what verifying takes is no throughput.
            lane.verify()?;
            faults += lane.take_faults()?;
        }
        if faults > 0 {
            return Err(WorkloadError::Faults(faults));
        }
        self.broken = false;
        Ok(SliceStats { elapsed_ns, counts: self.counts() - before, cancelled })
    }

    fn counts(&self) -> Counts {
        self.total() - self.baseline
    }

    fn memcpy(&mut self, until_ns: u64, cancel: &AtomicBool) -> Option<Memcpy> {
        if self.test != Test::DmaThroughput {
            return None;
        }
        let start_ns = self.clock.now_ns();
        let copies = self.copy(until_ns, cancel);
        let bytes = copies * self.lanes.first().map_or(0, Lane::transfer_bytes);
        Some(Memcpy { bytes, copies, elapsed_ns: self.clock.now_ns().saturating_sub(start_ns) })
    }

    fn shutdown(mut self: Box<Self>) -> Result<Counts, WorkloadError> {
        for lane in &mut self.lanes {
            lane.close()?;
        }
        if let Some(neighbour) = &mut self.neighbour {
            neighbour.close()?;
        }
        Ok(self.total())
    }
}
