//! The local machine: guest driver, IOMMU and endpoint in this process, meeting in shared guest memory.
//!
//! There is no kernel IOMMU, VFIO or KVM in the path: what is measured is the guest's DMA API, the virtqueue, the
//! device and the endpoint's translated DMA.

use std::{
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use iommu_churn::ProfileOptions;
use iommu_workloads::{
    CaseSpec, Clock, VirtualClock,
    scenario::{Device, Endpoint, Service},
};
use virtio_iommu::spec::IovaRange;
use virtio_transport::ServiceMode;

use super::{
    Amount, CaseError, EndpointFault, Machine, PreparedCase, Real,
    build::{chain, guest_memory},
    record::{RecordLimits, RecordedSlice, Recording, Tape},
    stack::{Rebuilt, Site, Stack},
    vfio_map::{Regions, VfioMap},
};
use crate::clock::WallClock;

/// Threads that would be busy if each service had one: driver, IOMMU, endpoint.
const BUSY_THREADS: usize = 3;

/// Slices of a recording: figures get their intervals from them.
const RECORDED_SLICES: u64 = 8;
/// Packets from which the length of a slice is reckoned.
const FIRST_PACKETS: u64 = 64;
/// Most packets of a recorded slice.
const MOST_PACKETS: u64 = 20_000;
/// Why nothing is recorded of a real device.
const HARDWARE: &str = "the device's accesses and its IOTLB are in hardware: nothing here sees its misses, and the kernel's \
                        probes see its invalidations";

/// Where time comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Time {
    /// From the machine.
    Wall(WallClock),
    /// From the number of readings: everything repeats exactly.
    Virtual,
}

impl Time {
    /// The clock that drivers read.
    pub(super) fn clock(self) -> Arc<dyn Clock> {
        match self {
            Self::Wall(clock) => Arc::new(clock),
            Self::Virtual => Arc::new(VirtualClock::default()),
        }
    }

    /// Nanoseconds since some origin; nothing in virtual time, which reading would advance.
    pub(super) fn wall_ns(self) -> Option<u64> {
        match self {
            Self::Wall(clock) => Some(clock.now_ns()),
            Self::Virtual => None,
        }
    }

    /// The machine's clock; none in virtual time.
    pub(super) fn wall(self) -> Option<WallClock> {
        match self {
            Self::Wall(clock) => Some(clock),
            Self::Virtual => None,
        }
    }

    /// What it is, for the record.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Wall(clock) => clock.name(),
            Self::Virtual => "virtual",
        }
    }
}

/// How the machine is set up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LocalOptions {
    /// Seed of every random choice; the same for all cases, so that they do the same work.
    pub(crate) seed: u64,
    /// Clock of drivers and observers.
    pub(crate) time: Time,
    /// Whether the run has a single case: pollers of another would take its cores.
    pub(crate) alone: bool,
    /// Failure to provoke.
    pub(crate) fault: Option<EndpointFault>,
    /// I/O virtual addresses that the real devices' IOMMU has, for all cases of the run.
    pub(crate) input_range: Option<IovaRange>,
    /// Whether kernel probes may be used.
    pub(crate) probes: bool,
}

/// See the module.
pub(crate) struct LocalMachine {
    options: LocalOptions,
    /// What passthrough endpoints are.
    hardware: Option<Arc<Real>>,
    /// Memory of the cases that map it through VFIO.
    regions: Mutex<Regions>,
}

impl LocalMachine {
    /// With these options.
    pub(crate) fn new(options: LocalOptions, hardware: Option<Real>) -> Self {
        Self { options, hardware: hardware.map(Arc::new), regions: Mutex::default() }
    }

    /// The mode in which services work, the same for all modes of a case: they are compared with each other.
    fn service(&self, case: &CaseSpec) -> ServiceMode {
        match case.params.service {
            _ if matches!(self.options.time, Time::Virtual) => ServiceMode::Inline,
            Service::Inline => ServiceMode::Inline,
            Service::Thread => ServiceMode::Thread,
            Service::Poll => ServiceMode::Poll,
            Service::Auto => {
                let cores = thread::available_parallelism().map_or(1, usize::from);
                if cores < BUSY_THREADS { ServiceMode::Inline } else { ServiceMode::Thread }
            }
        }
    }
}

impl Machine for LocalMachine {
    fn prepare(&self, case: &CaseSpec) -> Result<Box<dyn PreparedCase>, CaseError> {
        let (service, options) = (self.service(case), self.options);
        if case.endpoint == Endpoint::Passthrough {
            let failed = |cause: String| CaseError { case: case.id.clone(), cause };
            let hardware = self.hardware.clone().ok_or_else(|| failed("no real device".to_owned()))?;
            if let Real::Bare(bare) = &*hardware {
                // A region is there or not, whatever happened to who asked for it.
                let mut regions = self.regions.lock().unwrap_or_else(PoisonError::into_inner);
                let (time, probes) = (options.time, options.probes);
                let ready = VfioMap::new(case, &bare.container, &mut regions, time, probes)?;
                return Ok(Box::new(ready));
            }
            let memory =
                guest_memory(case.params.guest_memory_mib).map_err(|error| failed(chain(&*error)))?;
            let (hardware, memory) = (Some(hardware), Some(memory));
            return Ok(Box::new(Rebuilt { case: case.clone(), service, options, hardware, memory }));
        }
        if service == ServiceMode::Poll && !options.alone {
            let (hardware, memory) = (None, None);
            return Ok(Box::new(Rebuilt { case: case.clone(), service, options, hardware, memory }));
        }
        Ok(Box::new(Stack::new(case, service, options, Site::default())?))
    }

    fn record(&self, case: &CaseSpec, limits: RecordLimits) -> Result<Result<Recording, String>, CaseError> {
        if case.endpoint == Endpoint::Passthrough {
            return Ok(Err(HARDWARE.to_owned()));
        }
        if !case.mode.translates() {
            return Ok(Err(format!("nothing is translated in mode {}", case.mode)));
        }
        if case.test.device() == Device::None {
            return Ok(Err("the test maps and unmaps, and accesses nothing".to_owned()));
        }
        let options = ProfileOptions {
            expected_accesses: limits.accesses,
            seed: self.options.seed,
            ..ProfileOptions::default()
        };
        let tape = Tape::new(options);
        let quiet = LocalOptions { time: Time::Virtual, fault: None, ..self.options };
        let mut stack = Box::new(Stack::new(
            case,
            ServiceMode::Inline,
            quiet,
            Site { tape: Some(&tape), ..Site::default() },
        )?);
        // Setting up and the first packets say how many accesses a packet takes; they are no part of the recording.
        tape.stretch();
        let first = FIRST_PACKETS.min(limits.packets);
        stack.run_slice(Amount::Packets(first))?;
        let wanted = limits.accesses / RECORDED_SLICES;
        let in_a_slice = (wanted * first / tape.stretch().accesses.max(1))
            .min(limits.packets.div_ceil(RECORDED_SLICES))
            .clamp(1, MOST_PACKETS);
        let mut recording = Recording { streams: tape.streams(), slices: Vec::new() };
        for _ in 0..RECORDED_SLICES {
            let slice = stack.run_slice(Amount::Packets(in_a_slice))?;
            let (packets, payload_bytes) = (slice.packets, slice.payload_bytes);
            recording.slices.push(RecordedSlice { packets, payload_bytes, stretch: tape.stretch() });
        }
        stack.finish()?;
        Ok(Ok(recording))
    }
}
