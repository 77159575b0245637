//! Any case, set up on a machine and run slice by slice.

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use thiserror::Error;
use virtio_iommu_spec::EndpointId;
use vm_memory::GuestMemoryMmap;

use crate::{
    bus::Bus,
    clock::{Clock, Recorder},
    dma::{Counts, DmaError, DmaSettings, Mode},
    engine::Engines,
    fio::Fio,
    iommu::{IommuDriver, IommuError, IommuSettings},
    mmio::MmioError,
    netperf::{Guest, Netperf, NetperfError, SliceStats, Stop},
    pages::{PageAllocator, PagesError},
    ring::RingError,
    scenario::{CaseSpec, Device, Params},
    storm::MapStorm,
};

/// A device behind the IOMMU.
#[derive(Clone)]
pub struct Attached {
    /// Its registers.
    pub bus: Arc<dyn Bus>,
    /// Its endpoint ID.
    pub endpoint: EndpointId,
}

/// What a case runs on.
#[derive(Clone)]
pub struct Platform {
    /// Guest RAM.
    pub memory: Arc<GuestMemoryMmap>,
    /// The IOMMU, for modes that have one.
    pub iommu_bus: Option<Arc<dyn Bus>>,
    /// The devices that [`Test::device`](crate::Test::device) asks for: one NIC, one disk, or as many DMA engines as the
    /// case has; none for a test that accesses nothing.
    pub devices: Vec<Attached>,
    /// An endpoint that does nothing, which holds the domain of MAP_STORM or of a noisy neighbour.
    pub idle: EndpointId,
    /// Time, for deadlines, latencies and lazy mode's timer.
    pub clock: Arc<dyn Clock>,
    /// Where latencies go.
    pub recorder: Arc<dyn Recorder>,
    /// Seed of every random choice.
    pub seed: u64,
    /// Longest time to wait for a device, in real time.
    pub watchdog: Duration,
}

/// A case that cannot be set up, or broke while it ran.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum WorkloadError {
    /// netperf.
    #[error(transparent)]
    Netperf(#[from] NetperfError),
    /// Registers.
    #[error(transparent)]
    Mmio(#[from] MmioError),
    /// A ring.
    #[error("endpoint: {0}")]
    Ring(#[from] RingError),
    /// Memory.
    #[error(transparent)]
    Pages(#[from] PagesError),
    /// The DMA API.
    #[error(transparent)]
    Dma(#[from] DmaError),
    /// The IOMMU's driver.
    #[error(transparent)]
    Iommu(#[from] IommuError),
    /// The mode needs an IOMMU and the machine has none.
    #[error("mode {0} needs an IOMMU")]
    NoIommu(Mode),
    /// No guest does what the test does.
    #[error("{0} is no guest's load")]
    NotGuest(crate::Test),
    /// The machine has too few devices.
    #[error("the case needs {wanted} devices, the machine has {given}")]
    Devices {
        /// How many it needs.
        wanted: usize,
        /// How many there are.
        given: usize,
    },
    /// The device cannot do what the case asks.
    #[error("the device takes {longest} bytes at once, the case asks for {wanted}")]
    TooLong {
        /// Bytes of a transfer.
        wanted: u32,
        /// Longest transfer of the device, in bytes.
        longest: u64,
    },
    /// What came back is not what was sent.
    #[error("{what} {number} holds something else than was written to it")]
    Corrupt {
        /// What it is a number of: a buffer, a block.
        what: &'static str,
        /// Which.
        number: u64,
    },
    /// A real disk.
    #[error(transparent)]
    Nvme(#[from] crate::nvme::NvmeError),
    /// A real disk that may not be written to.
    #[error("the case writes to the disk, which --allow-writes does not name")]
    ReadOnly,
    /// Transfers that the disk does not do.
    #[error(
        "the case transfers {wanted} bytes; the disk transfers blocks of {block} bytes, at most {longest} bytes at once"
    )]
    Blocks {
        /// Bytes of a transfer.
        wanted: u32,
        /// Bytes of the disk's blocks.
        block: u32,
        /// Longest transfer, in bytes.
        longest: u64,
    },
    /// Fewer blocks than transfers.
    #[error("{blocks} blocks are too few for queue_depth ({depth}); raise disk_mib")]
    TooSmall {
        /// Blocks of the case's size.
        blocks: u64,
        /// Transfers in flight.
        depth: u16,
    },
    /// A request to the disk failed.
    #[error("block {block}: status {status}, {written} bytes written of {expected}")]
    Disk {
        /// Which block.
        block: u64,
        /// The status byte.
        status: u8,
        /// Used length.
        written: u32,
        /// What it should have been.
        expected: u32,
    },
    /// A transfer of the DMA engine came back incomplete.
    #[error("a transfer wrote {written} bytes of {expected}")]
    Incomplete {
        /// Used length.
        written: u32,
        /// What it should have been.
        expected: u32,
    },
    /// The addresses of MAP_STORM do not fit the IOMMU's range.
    #[error(
        "the mappings do not fit below I/O virtual address {last:#x}; fewer live_mappings or threads, or less map_bytes"
    )]
    AddressSpace {
        /// Last address of the range.
        last: u64,
    },
    /// Nothing happened for the watchdog's time.
    #[error("no progress for {waited:?}: {outstanding} transfers outstanding")]
    Stalled {
        /// How long.
        waited: Duration,
        /// Chains the device has not returned.
        outstanding: u16,
    },
    /// The IOMMU reported faults, and yet everything arrived.
    #[error("the IOMMU reported {0} faults")]
    Faults(u64),
    /// A thread of the guest panicked.
    #[error("a thread of the guest panicked")]
    Panicked,
    /// An earlier slice failed; the state of the devices is unknown.
    #[error("the case failed in an earlier slice")]
    Broken,
}

/// What the guest's CPUs copied by themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memcpy {
    /// Bytes, of all CPUs.
    pub bytes: u64,
    /// Copies, each of as many bytes as a transfer of the device.
    pub copies: u64,
    /// How long it took, in nanoseconds.
    pub elapsed_ns: u64,
}

/// A case that is set up; its state persists between slices.
pub trait Workload {
    /// Runs until `stop`, or until `cancel` is set, then waits for what is in flight.
    ///
    /// # Errors
    /// When a device or a driver fails, data are corrupt, or nothing happens for the watchdog's time. The case cannot be
    /// continued then.
    fn run_slice(&mut self, stop: Stop, cancel: &AtomicBool) -> Result<SliceStats, WorkloadError>;

    /// What was counted since set-up.
    fn counts(&self) -> Counts;

    /// The same work without any device: the guest's CPUs copy from or to the same buffers themselves, until a time of the
    /// platform's clock. `None` where there is no such thing.
    fn memcpy(&mut self, until_ns: u64, cancel: &AtomicBool) -> Option<Memcpy> {
        let _ = (until_ns, cancel);
        None
    }

    /// Verifies what is left to verify, resets the devices, unmaps everything. Returns all counts, those of set-up and of
    /// this call included: every map has been unmapped.
    ///
    /// # Errors
    /// When a device does not do what is asked, or data are corrupt.
    fn shutdown(self: Box<Self>) -> Result<Counts, WorkloadError>;
}

/// Sets a case up.
///
/// # Errors
/// When a device is not there or lacks what the case needs, or guest memory is too small.
pub fn start(platform: Platform, case: &CaseSpec) -> Result<Box<dyn Workload>, WorkloadError> {
    Ok(match case.test.device() {
        Device::Nic => Box::new(Netperf::new(guest(platform)?, case)?),
        Device::Engine => Box::new(Engines::new(platform, case)?),
        Device::Disk => Box::new(Fio::new(platform, case)?),
        Device::None => Box::new(MapStorm::new(platform, case)?),
        Device::Container => return Err(WorkloadError::NotGuest(case.test)),
    })
}

fn guest(platform: Platform) -> Result<Guest, WorkloadError> {
    let given = platform.devices.len();
    let nic = platform.devices.into_iter().next().ok_or(WorkloadError::Devices { wanted: 1, given })?;
    Ok(Guest {
        memory: platform.memory,
        net_bus: nic.bus,
        iommu_bus: platform.iommu_bus,
        endpoint: nic.endpoint,
        clock: platform.clock,
        recorder: platform.recorder,
        seed: platform.seed,
        watchdog: platform.watchdog,
    })
}

impl Workload for Netperf {
    fn run_slice(&mut self, stop: Stop, cancel: &AtomicBool) -> Result<SliceStats, WorkloadError> {
        Ok(Self::run_slice(self, stop, cancel)?)
    }

    fn counts(&self) -> Counts {
        Self::counts(self)
    }

    fn shutdown(self: Box<Self>) -> Result<Counts, WorkloadError> {
        Ok(Self::shutdown(*self)?)
    }
}

impl Platform {
    /// The IOMMU's driver, where the mode has an IOMMU.
    pub(crate) fn iommu(
        &self,
        mode: Mode,
        params: &Params,
        pages: &PageAllocator,
    ) -> Result<Option<Arc<IommuDriver>>, WorkloadError> {
        if !mode.has_iommu() {
            return Ok(None);
        }
        let bus = self.iommu_bus.clone().ok_or(WorkloadError::NoIommu(mode))?;
        let settings = IommuSettings {
            request_queues: params.request_queues,
            ring_size: params.iommu_ring_size,
            watchdog: self.watchdog,
            ..IommuSettings::default()
        };
        Ok(Some(IommuDriver::probe(bus, pages, settings)?))
    }
}

/// How the DMA API of a device in the given domain is set up.
pub(crate) fn dma_settings(case: &CaseSpec, domain: u32) -> DmaSettings {
    DmaSettings {
        mode: case.mode,
        flush_entries: case.params.flush_entries,
        flush_ns: u64::from(case.params.flush_ms) * 1_000_000,
        domain,
    }
}

/// The IOMMU driver's counts beside those of the DMA API.
pub(crate) fn with_iommu(counts: Counts, iommu: Option<&Arc<IommuDriver>>) -> Counts {
    let below = iommu.map(|iommu| iommu.counts()).unwrap_or_default();
    Counts {
        requests_map: below.requests_map,
        requests_unmap: below.requests_unmap,
        kicks_iommu: below.kicks,
        ring_full: below.ring_full,
        ..counts
    }
}

/// Share `index` of `n` things over `lanes`.
pub(crate) fn share(stop: Stop, index: usize, lanes: usize) -> Stop {
    match stop {
        Stop::Packets(n) => {
            let (lanes, index) = (lanes as u64, index as u64);
            Stop::Packets(n / lanes + u64::from(index < n % lanes))
        }
        deadline => deadline,
    }
}

/// When a lane of a slice stops.
pub(crate) struct Quota<'a> {
    pub(crate) left: u64,
    stop: Stop,
    cancel: &'a AtomicBool,
    pub(crate) cancelled: bool,
}

impl<'a> Quota<'a> {
    pub(crate) fn new(stop: Stop, cancel: &'a AtomicBool) -> Self {
        let left = match stop {
            Stop::Packets(n) => n,
            Stop::Deadline { .. } => u64::MAX,
        };
        Self { left, stop, cancel, cancelled: false }
    }

    /// Looks at time and cancellation.
    #[inline]
    pub(crate) fn look(&mut self, now_ns: u64) {
        if matches!(self.stop, Stop::Deadline { at_ns } if now_ns >= at_ns) {
            self.left = 0;
        }
        // Relaxed: it publishes nothing but itself, and a moment later is as good.
        if self.left > 0 && self.cancel.load(std::sync::atomic::Ordering::Relaxed) {
            (self.cancelled, self.left) = (true, 0);
        }
    }
}
