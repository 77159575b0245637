//! MAP_STORM: guest CPUs that map and unmap through the IOMMU's request queue, and nothing else.
//!
//! All CPUs work in one domain, as those of a guest with one busy device do, and share the request queue's lock, or as
//! many as there are request queues, in turn. Each keeps to addresses of its own, which the [pattern](crate::scenario::Pattern) orders; there is no allocator of
//! addresses in the path. A mapping is one MAP and one UNMAP request, whatever its size. Strict mode waits for each
//! UNMAP; lazy mode queues them and waits for all when `flush_entries` are held back and one more comes, or after
//! `flush_ms`; no address is used again before that.

use std::{
    sync::{Arc, atomic::AtomicBool},
    thread,
};

use virtio_iommu_spec::{DomainId, EndpointId};

mod addresses;
mod cpu;

use crate::{
    clock::Clock,
    dma::Counts,
    iommu::IommuDriver,
    netperf::{SliceStats, Stop},
    pages::PageAllocator,
    scenario::{CaseSpec, Pattern},
    workload::{Platform, Workload, WorkloadError, share, with_iommu},
};
use addresses::Addresses;
use cpu::Cpu;

/// A domain, and the CPUs that map and unmap in it.
pub(crate) struct Storm {
    iommu: Arc<IommuDriver>,
    endpoint: EndpointId,
    domain: DomainId,
    cpus: Vec<Cpu>,
}

impl Storm {
    /// Attaches the idle endpoint to a domain, counted from the first; each domain before it has a CPU.
    pub(crate) fn attach(
        platform: &Platform,
        iommu: &Arc<IommuDriver>,
        case: &CaseSpec,
        domain: u32,
        threads: u16,
        pattern: Pattern,
    ) -> Result<Self, WorkloadError> {
        let config = iommu.config();
        let first_cpu = domain as usize;
        let domain = DomainId(config.domain_start.saturating_add(domain));
        let cpu = |index: u16| -> Result<Cpu, WorkloadError> {
            let seed = platform.seed.wrapping_add(u64::from(index));
            let addresses = Addresses::new(&case.params, case.mode, pattern, index, config.input_end, seed)?;
            Ok(Cpu::new(platform, iommu, case, first_cpu + usize::from(index), domain, addresses))
        };
        let cpus = (0..threads).map(cpu).collect::<Result<_, _>>()?;
        iommu.attach(platform.idle, domain, false)?;
        Ok(Self { iommu: Arc::clone(iommu), endpoint: platform.idle, domain, cpus })
    }

    pub(crate) fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for cpu in &self.cpus {
            counts += cpu.counts();
        }
        counts
    }

    /// Maps and unmaps until `stop`; whether it was cancelled. Nothing stays mapped.
    pub(crate) fn run(&mut self, stop: Stop, cancel: &AtomicBool) -> Result<bool, WorkloadError> {
        let count = self.cpus.len();
        thread::scope(|scope| {
            let mut cpus = self.cpus.iter_mut().enumerate();
            let first = cpus.next();
            let others: Vec<_> = cpus
                .map(|(index, cpu)| scope.spawn(move || cpu.run(share(stop, index, count), cancel)))
                .collect();
            let mut outcome =
                first.map_or(Ok(false), |(index, cpu)| cpu.run(share(stop, index, count), cancel));
            for other in others {
                let other = other.join().unwrap_or(Err(WorkloadError::Panicked));
                outcome = outcome.and_then(|cancelled| other.map(|more| cancelled | more));
            }
            outcome
        })
    }

    /// Detaches the endpoint.
    pub(crate) fn close(&mut self) -> Result<(), WorkloadError> {
        Ok(self.iommu.detach(self.endpoint, self.domain)?)
    }
}

/// A case of the test.
pub struct MapStorm {
    storm: Storm,
    clock: Arc<dyn Clock>,
    baseline: Counts,
    broken: bool,
}

impl MapStorm {
    /// Probes the IOMMU and makes a domain.
    ///
    /// # Errors
    /// When the mode has no IOMMU, or the addresses do not fit its range.
    pub fn new(platform: Platform, case: &CaseSpec) -> Result<Self, WorkloadError> {
        let pages = PageAllocator::new(Arc::clone(&platform.memory));
        let iommu = platform.iommu(case.mode, &case.params, &pages)?;
        let iommu = iommu.ok_or(WorkloadError::NoIommu(case.mode))?;
        let params = &case.params;
        let storm = Storm::attach(&platform, &iommu, case, 0, params.threads, params.pattern)?;
        let baseline = with_iommu(storm.counts(), Some(&iommu));
        Ok(Self { storm, clock: platform.clock, baseline, broken: false })
    }

    fn total(&self) -> Counts {
        with_iommu(self.storm.counts(), Some(&self.storm.iommu))
    }
}

impl Workload for MapStorm {
    fn run_slice(&mut self, stop: Stop, cancel: &AtomicBool) -> Result<SliceStats, WorkloadError> {
        if std::mem::replace(&mut self.broken, true) {
            return Err(WorkloadError::Broken);
        }
        let before = self.counts();
        let start_ns = self.clock.now_ns();
        let cancelled = self.storm.run(stop, cancel)?;
        let elapsed_ns = self.clock.now_ns().saturating_sub(start_ns);
        self.broken = false;
        Ok(SliceStats { elapsed_ns, counts: self.counts() - before, cancelled })
    }

    fn counts(&self) -> Counts {
        self.total() - self.baseline
    }

    fn shutdown(mut self: Box<Self>) -> Result<Counts, WorkloadError> {
        self.storm.close()?;
        Ok(self.total())
    }
}
