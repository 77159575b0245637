//! One case on the local machine, set up: guest memory, devices, register blocks, drivers.

use std::{
    collections::BTreeMap,
    error::Error,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use iommu_endpoints::DirectPort;
use iommu_results::{Param, names};
use iommu_workloads::{
    Attached, CaseSpec, NullRecorder, Platform, Recorder, Stop, Workload,
    dma::Counts,
    nvme::Load,
    workload::{self, Memcpy},
};
use virtio_iommu::{
    Counters, Device, DeviceOptions, device::RequestKind, iotlb::IotlbCounters, memory::GuestRam,
    spec::EndpointId,
};
use virtio_transport::{ServiceMode, VirtioDevice};
use vm_memory::GuestMemoryMmap;

use super::{
    Amount, CaseError, LocalOptions, PreparedCase, Real, Slice, Time,
    build::{bus, chain, guest_memory, iommu_options, iotlb_options},
    card::{Card, CardBuilder, cards_of, ports_of},
    observer::BatchTimer,
    record::Tape,
};
use crate::{
    clock::process_cpu_ns,
    measure::{Latencies, Taken},
};

/// The first device's endpoint ID: bus 0, device 1, function 0. The others follow, one device each.
const FIRST_ENDPOINT: u32 = 8;
/// An endpoint with nothing behind it.
const IDLE_ENDPOINT: EndpointId = EndpointId(7);
/// How long the driver waits for a device before it gives up.
const WATCHDOG: Duration = Duration::from_secs(10);
/// Plain copies take this part of a slice at its start, and again at its end.
const MEMCPY_SHARE: u32 = 6;

/// A case that can run slices.
pub(super) struct Stack {
    case: CaseSpec,
    service: ServiceMode,
    time: Time,
    latencies: Arc<Latencies>,
    iommu: Option<Arc<Device>>,
    cards: Vec<Arc<dyn Card>>,
    load: Box<dyn Workload>,
    /// Device-side counts at the end of the slice before.
    seen: DeviceSide,
}

/// What the devices count and the driver cannot.
#[derive(Clone, Copy, Debug, Default)]
struct DeviceSide {
    bytes_verified: u64,
    faults: u64,
    faults_dropped: u64,
    /// Of the modelled IOTLBs, where there are any.
    iotlb: Option<IotlbCounters>,
    /// What went through VFIO, where there is a real device.
    vfio: Option<iommu_passthrough::endpoint::Counts>,
}

/// What a case is set up with besides what it brings.
#[derive(Clone, Copy, Default)]
pub(super) struct Site<'a> {
    /// The real devices of a passthrough endpoint.
    pub(super) hardware: Option<&'a Real>,
    /// Guest memory to use again; none: new memory.
    pub(super) memory: Option<&'a Arc<GuestMemoryMmap>>,
    /// Where the accesses of emulated endpoints are recorded.
    pub(super) tape: Option<&'a Arc<Tape>>,
}

impl Stack {
    pub(super) fn new(
        case: &CaseSpec,
        service: ServiceMode,
        options: LocalOptions,
        site: Site<'_>,
    ) -> Result<Self, CaseError> {
        let failed = |cause: String| CaseError { case: case.id.clone(), cause };
        Self::build(case, service, options, site).map_err(|error| failed(chain(&*error)))
    }

    fn build(
        case: &CaseSpec,
        service: ServiceMode,
        options: LocalOptions,
        site: Site<'_>,
    ) -> Result<Self, Box<dyn Error>> {
        let memory = match site.memory {
            Some(memory) => Arc::clone(memory),
            None => guest_memory(case.params.guest_memory_mib)?,
        };
        let ram = GuestRam::new(Arc::clone(&memory))?;
        let latencies = Arc::new(Latencies::default());
        let iommu = if case.mode.has_iommu() {
            let options_of_device = iommu_options(case, service);
            let input_range = options.input_range.unwrap_or(options_of_device.input_range);
            // A real device is shown all of memory while it bypasses, which takes long and helps nobody here.
            let boot_bypass = site.hardware.is_none();
            let device =
                Device::new(DeviceOptions { boot_bypass, input_range, ..options_of_device }, ram.clone())?;
            device.add_emulated_endpoint(IDLE_ENDPOINT)?;
            if let Time::Wall(clock) = options.time {
                device.set_observers(|_| Box::new(BatchTimer::new(clock, Arc::clone(&latencies))));
            }
            if let Some(tape) = site.tape {
                device.set_observers(|_| tape.observer());
            }
            Some(Arc::new(device))
        } else {
            None
        };
        let builder = CardBuilder { case, service, options, latencies: &latencies };
        let (mut cards, mut devices, mut drive) = (Vec::new(), Vec::new(), None);
        for index in 0..u32::from(cards_of(case)) {
            let endpoint = EndpointId(FIRST_ENDPOINT + 8 * index);
            let behind = iommu.as_deref().map(|device| (device, endpoint));
            if let Some(Real::Disk(disk)) = site.hardware {
                let timing = options.time.wall().map(|clock| (clock, Arc::clone(&latencies)));
                let (card, found) = disk.drive(&memory, behind, endpoint, timing)?;
                cards.push(card);
                drive = Some(found);
                continue;
            }
            let (card, bus) = match (site.hardware, behind) {
                (Some(hardware), _) => {
                    let timing = options.time.wall().map(|clock| (clock, Arc::clone(&latencies)));
                    hardware.card(case, &memory, behind, timing)?
                }
                (None, Some((device, endpoint))) => {
                    device.add_emulated_endpoint(endpoint)?;
                    let ports = (0..ports_of(case)).map(|_| device.endpoint_port(endpoint));
                    let ports = ports.collect::<Result<Vec<_>, _>>()?;
                    let (card, device) = match site.tape {
                        Some(tape) => {
                            let recording = ports.into_iter().map(|port| tape.port(endpoint, port));
                            builder.with_ports(recording.collect())?
                        }
                        None => builder.with_ports(ports)?,
                    };
                    (card, bus(device))
                }
                (None, None) => {
                    let ports = (0..ports_of(case)).map(|_| DirectPort::new(ram.clone()));
                    let (card, device) = builder.with_ports(ports.collect())?;
                    (card, bus(device))
                }
            };
            devices.push(Attached { bus, endpoint });
            cards.push(card);
        }
        let platform = Platform {
            memory,
            iommu_bus: iommu.as_ref().map(|device| bus(Arc::clone(device) as Arc<dyn VirtioDevice>)),
            devices,
            idle: IDLE_ENDPOINT,
            clock: options.time.clock(),
            recorder: match options.time {
                Time::Wall(_) => Arc::clone(&latencies) as Arc<dyn Recorder>,
                Time::Virtual => Arc::new(NullRecorder),
            },
            seed: options.seed,
            watchdog: WATCHDOG,
        };
        let load = match drive {
            Some(drive) => Box::new(Load::new(&platform, &drive, case)?),
            None => workload::start(platform, case)?,
        };
        // What setting up took is no sample of the load.
        latencies.take();
        let mut stack = Self {
            case: case.clone(),
            service,
            time: options.time,
            latencies,
            iommu,
            cards,
            load,
            seen: DeviceSide::default(),
        };
        stack.seen = stack.device_side();
        Ok(stack)
    }
}

impl Stack {
    /// Plain copies for a share of a slice, where the load has such a thing and time passes: once before the load and
    /// once after it, so that a drift of the machine's speed cancels.
    fn memcpy(&mut self, amount: Amount) -> Option<Memcpy> {
        let (Amount::For(time), Some(now_ns)) = (amount, self.time.wall_ns()) else { return None };
        let share_ns = (time / MEMCPY_SHARE).as_nanos() as u64;
        self.load.memcpy(now_ns.saturating_add(share_ns), &AtomicBool::new(false))
    }

    fn error(&self, cause: impl Into<String>) -> CaseError {
        CaseError { case: self.case.id.clone(), cause: cause.into() }
    }

    fn device_side(&self) -> DeviceSide {
        let counters = self.iommu.as_ref().map(|device| device.counters());
        let faults = counters.as_ref().map(|counters| counters.faults).unwrap_or_default();
        DeviceSide {
            bytes_verified: self.cards.iter().map(|card| card.counts().bytes_verified).sum(),
            vfio: self.cards.iter().find_map(|card| card.counts().vfio),
            faults: faults.delivered,
            faults_dropped: faults.dropped(),
            iotlb: counters.filter(|_| iotlb_options(&self.case).is_some()).map(|counters| counters.iotlb),
        }
    }

    /// The counts of a slice that ended just now.
    fn counts(&mut self, driver: Counts) -> BTreeMap<String, u64> {
        let now = self.device_side();
        let before = std::mem::replace(&mut self.seen, now);
        let mut counts: BTreeMap<String, u64> =
            driver.named().map(|(name, n)| (name.to_owned(), n)).collect();
        *counts.entry(names::BYTES_VERIFIED.to_owned()).or_default() +=
            now.bytes_verified - before.bytes_verified;
        if self.iommu.is_some() {
            counts.insert(names::FAULTS.to_owned(), now.faults - before.faults);
            counts.insert(names::FAULTS_DROPPED.to_owned(), now.faults_dropped - before.faults_dropped);
        }
        if let (Some(now), Some(before)) = (now.vfio, before.vfio) {
            let pairs = vfio_counts(&now).into_iter().zip(vfio_counts(&before));
            counts.extend(pairs.map(|((name, now), (_, before))| (name.to_owned(), now - before)));
        }
        if let (Some(now), Some(before)) = (now.iotlb, before.iotlb) {
            let pairs = iotlb_counts(&now).into_iter().zip(iotlb_counts(&before));
            counts.extend(pairs.map(|((name, now), (_, before))| (name.to_owned(), now - before)));
        }
        counts
    }
}

impl PreparedCase for Stack {
    fn params(&self) -> BTreeMap<String, Param> {
        params(&self.case, self.service, self.time)
    }

    fn run_slice(&mut self, amount: Amount) -> Result<Slice, CaseError> {
        let (whole, copied_from) = (amount, process_cpu_ns());
        let before = self.memcpy(amount);
        let copied_ns = process_cpu_ns().saturating_sub(copied_from);
        let amount = match (amount, before) {
            (Amount::For(time), Some(_)) => Amount::For(time - 2 * (time / MEMCPY_SHARE)),
            (amount, _) => amount,
        };
        let start_ns = self.time.wall_ns();
        let stop = match (amount, start_ns) {
            (Amount::For(time), Some(now)) => {
                Stop::Deadline { at_ns: now.saturating_add(time.as_nanos() as u64) }
            }
            (Amount::For(_), None) => return Err(self.error("virtual time never ends a slice")),
            (Amount::Packets(n), _) => Stop::Packets(n),
        };
        let cpu_before = process_cpu_ns();
        let outcome = self.load.run_slice(stop, &AtomicBool::new(false));
        let cpu_ns = process_cpu_ns().saturating_sub(cpu_before);
        // The driver only sees that nobody answers; the device knows why.
        if let Some(cause) = broken(&self.cards, self.iommu.as_deref()) {
            return Err(self.error(cause));
        }
        let stats = outcome.map_err(|error| self.error(chain(&error)))?;
        let timed = start_ns.is_some();
        let Taken { histograms, means_ns } = self.latencies.take();
        let copied_from = process_cpu_ns();
        let after = self.memcpy(whole);
        Ok(Slice {
            memcpy_cpu_ns: copied_ns + process_cpu_ns().saturating_sub(copied_from),
            memcpy: before.zip(after).map(|(before, after)| Memcpy {
                bytes: before.bytes + after.bytes,
                copies: before.copies + after.copies,
                elapsed_ns: before.elapsed_ns + after.elapsed_ns,
            }),
            elapsed_ns: timed.then_some(stats.elapsed_ns),
            cpu_ns: timed.then_some(cpu_ns),
            packets: stats.counts.packets,
            payload_bytes: stats.counts.bytes_moved,
            transactions: stats.counts.transactions,
            counts: self.counts(stats.counts),
            served: None,
            histograms,
            means_ns,
            // Whoever drives the slices counts for the whole process.
            counted: BTreeMap::new(),
            ..Slice::default()
        })
    }

    fn finish(self: Box<Self>) -> Result<(), CaseError> {
        let Self { case, iommu, cards, load, .. } = *self;
        let error = |cause: String| CaseError { case: case.id.clone(), cause };
        let outcome = load.shutdown();
        if let Some(cause) = broken(&cards, iommu.as_deref()) {
            return Err(error(cause));
        }
        let total = outcome.map_err(|source| error(chain(&source)))?;
        if let Some(cause) = cards.iter().find_map(|card| card.left_behind()) {
            return Err(error(cause));
        }
        iommu.map_or(Ok(()), |device| agree(&total, &device.counters())).map_err(error)
    }
}

/// Counters of IOTLBs by their name in a result.
fn iotlb_counts(counters: &IotlbCounters) -> [(&'static str, u64); 7] {
    [
        (names::IOTLB_LOOKUPS, counters.lookups),
        (names::IOTLB_HITS, counters.hits),
        (names::IOTLB_MISSES, counters.misses),
        (names::IOTLB_FILLS, counters.fills),
        (names::IOTLB_EVICTIONS, counters.evictions),
        (names::IOTLB_INVALIDATIONS, counters.invalidations),
        (names::IOTLB_FLUSHES, counters.flushes),
    ]
}

/// What broke, if anything: a panic on a service thread, damaged payload, a fault nobody provoked.
fn broken(cards: &[Arc<dyn Card>], iommu: Option<&Device>) -> Option<String> {
    if let Some(panic) = cards.iter().find_map(|card| card.failed()) {
        return Some(format!("the endpoint's service panicked: {panic}"));
    }
    if let Some(panic) = iommu.and_then(Device::failure) {
        return Some(format!("the IOMMU's service panicked: {panic}"));
    }
    let faults = iommu.map_or(0, |device| device.counters().faults.faults());
    let counts: Vec<_> = cards.iter().map(|card| card.counts()).collect();
    if let Some(corruption) = counts.iter().find_map(|counts| counts.corruption.clone()) {
        return Some(corruption);
    }
    if faults > 0 || counts.iter().any(|counts| counts.dma_faults > 0) {
        return Some(format!("the IOMMU refused {faults} accesses of the endpoint; none was expected"));
    }
    let malformed: u64 = counts.iter().map(|counts| counts.malformed).sum();
    (malformed > 0).then(|| format!("the endpoint found {malformed} chains or frames malformed"))
}

/// Both sides of the request queue, having counted independently, must agree.
fn agree(driver: &Counts, device: &Counters) -> Result<(), String> {
    let seen = (device.requests_of(RequestKind::Map), device.requests_of(RequestKind::Unmap));
    let sent = (driver.requests_map, driver.requests_unmap);
    if seen != sent {
        return Err(format!("the driver sent {sent:?} MAP and UNMAP requests, the device served {seen:?}"));
    }
    let refused: u64 = device.statuses.iter().skip(1).sum();
    if refused > 0 {
        return Err(format!("the device refused {refused} requests; none should be"));
    }
    Ok(())
}

fn vfio_counts(counts: &iommu_passthrough::endpoint::Counts) -> [(&'static str, u64); 4] {
    [
        (names::VFIO_MAPS, counts.maps),
        (names::VFIO_UNMAPS, counts.unmaps),
        (names::VFIO_BYTES_MAPPED, counts.bytes_mapped),
        (names::VFIO_BYTES_UNMAPPED, counts.bytes_unmapped),
    ]
}

/// A case that is set up for each slice and torn down after it: its pollers would take the cores of other cases, or its
/// device is there only once.
pub(super) struct Rebuilt {
    /// The case.
    pub(super) case: CaseSpec,
    /// Where its devices are served.
    pub(super) service: ServiceMode,
    /// As for the stack.
    pub(super) options: LocalOptions,
    /// The real devices of a passthrough endpoint.
    pub(super) hardware: Option<Arc<Real>>,
    /// Guest memory, the same in all slices.
    pub(super) memory: Option<Arc<GuestMemoryMmap>>,
}

impl PreparedCase for Rebuilt {
    fn params(&self) -> BTreeMap<String, Param> {
        let mut params = params(&self.case, self.service, self.options.time);
        if let Some(hardware) = &self.hardware {
            params.insert("device".to_owned(), Param::from(hardware.address()));
        }
        params
    }

    fn run_slice(&mut self, amount: Amount) -> Result<Slice, CaseError> {
        let site = Site { hardware: self.hardware.as_deref(), memory: self.memory.as_ref(), tape: None };
        let mut stack = Box::new(Stack::new(&self.case, self.service, self.options, site)?);
        stack.run_slice(warm_up(amount))?;
        let mut slice = stack.run_slice(amount)?;
        let iommu = stack.iommu.clone();
        stack.finish()?;
        slice.served = iommu.map(|device| {
            let counters = device.counters();
            [RequestKind::Map, RequestKind::Unmap].map(|kind| counters.requests_of(kind))
        });
        Ok(slice)
    }

    fn finish(self: Box<Self>) -> Result<(), CaseError> {
        Ok(())
    }
}

/// A tenth of a slice.
fn warm_up(amount: Amount) -> Amount {
    match amount {
        Amount::For(time) => Amount::For(time / 10),
        Amount::Packets(n) => Amount::Packets(n.div_ceil(10)),
    }
}

fn params(case: &CaseSpec, service: ServiceMode, time: Time) -> BTreeMap<String, Param> {
    let service = match service {
        ServiceMode::Inline => "inline",
        ServiceMode::Thread => "thread",
        ServiceMode::Poll => "poll",
    };
    let viommu = if case.mode.has_iommu() { "virtio-iommu" } else { "none" };
    let texts = [("clock", time.name()), ("doorbell", "mmio"), ("service", service), ("viommu", viommu)];
    texts.into_iter().map(|(name, text)| (name.to_owned(), Param::from(text))).collect()
}
