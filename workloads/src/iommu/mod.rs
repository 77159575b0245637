//! Driver of the virtio-iommu device, as Linux's `drivers/iommu/virtio-iommu.c` behaves.
//!
//! Requests are queued under one lock, kicked together and waited for by busy-waiting under that lock, so that the
//! device's latency is the guest's stall. Where the device has several request queues (`docs/multi-queue.md`, which
//! Linux does not know) and the guest wants them, each has a lock of its own, and each CPU keeps to one. Unlike Linux, which ignores the status of MAP and UNMAP, every status is
//! checked and becomes an error.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crossbeam_utils::CachePadded;
use virtio_iommu_spec::{
    DEVICE_ID, DomainId, EVENT_QUEUE, EndpointId,
    config::{CONFIG_BYTES, Config},
    fault::Fault,
    feature,
    private::{F_REQUEST_QUEUES, MAX_REQUEST_QUEUES, REQUEST_QUEUES_OFFSET, request_queue},
    probe::{PROPERTY_HEAD_BYTES, RESV_MEM_BYTES, ResvMem, T_RESV_MEM, TYPE_MASK},
    request::{ATTACH_F_BYPASS, Attach, Detach, Map, Probe, Unmap},
};

mod error;
mod events;
mod requests;
#[cfg(test)]
mod tests;

pub use error::{IommuError, RequestFailure, RequestKind};
pub use requests::SLOT_BYTES;

use crate::{
    bus::Bus,
    mmio::{MmioDevice, QueueAddresses},
    pages::{PAGE_BYTES, PageAllocator},
    ring::SplitRing,
};
use events::EventQueue;
use requests::RequestQueue;

/// Largest `probe_size` a driver believes, in bytes.
pub const MAX_PROBE_BYTES: u32 = 1 << 16;

/// How the driver is set up.
#[derive(Clone, Copy, Debug)]
pub struct IommuSettings {
    /// Request queues; with more than one the device must have the private feature.
    pub request_queues: u16,
    /// Descriptors of each request queue; a request takes two. The device may allow fewer.
    pub ring_size: u16,
    /// Descriptors of the event queue, each with a buffer. The device may allow fewer.
    pub event_ring_size: u16,
    /// How long the driver waits for an answer before it gives the device up.
    pub watchdog: Duration,
}

impl Default for IommuSettings {
    fn default() -> Self {
        Self { request_queues: 1, ring_size: 256, event_ring_size: 64, watchdog: Duration::from_secs(10) }
    }
}

/// What the driver counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IommuCounts {
    /// MAP requests queued.
    pub requests_map: u64,
    /// UNMAP requests queued.
    pub requests_unmap: u64,
    /// Doorbells of the request queues.
    pub kicks: u64,
    /// Times the ring was full and was drained first.
    pub ring_full: u64,
}

/// The driver. Shared by all CPUs of the guest.
#[derive(Debug)]
pub struct IommuDriver {
    device: MmioDevice,
    config: Config,
    features: u64,
    /// At least one.
    requests: Box<[CachePadded<Mutex<RequestQueue>>]>,
    events: Mutex<EventQueue>,
}

impl IommuDriver {
    /// Finds the device, negotiates, sets the queues up, goes live and posts the event buffers.
    ///
    /// # Errors
    /// When the device is not there, lacks MAP_UNMAP or the request queues wanted, has a granule larger than a page, or memory is exhausted.
    pub fn probe(
        bus: Arc<dyn Bus>,
        pages: &PageAllocator,
        settings: IommuSettings,
    ) -> Result<Arc<Self>, IommuError> {
        let device = MmioDevice::probe(bus, DEVICE_ID)?;
        let optional = feature::INPUT_RANGE
            | feature::DOMAIN_RANGE
            | feature::PROBE
            | feature::MMIO
            | feature::BYPASS_CONFIG;
        let private = if settings.request_queues > 1 { F_REQUEST_QUEUES } else { 0 };
        let features = device.negotiate(feature::MAP_UNMAP | private, optional)?;
        let config = checked_config(&device, features)?;
        let count = request_queues(&device, features, settings.request_queues)?;
        let rings = (0..count).map(|lane| ring(&device, pages, request_queue(lane), settings.ring_size));
        let rings = rings.collect::<Result<Vec<_>, _>>()?;
        let events = ring(&device, pages, EVENT_QUEUE, settings.event_ring_size)?;
        device.driver_ok()?;
        let probe_bytes = if features & feature::PROBE != 0 { config.probe_size } else { 0 };
        let queue = |(ring, lane)| -> Result<_, IommuError> {
            let index = request_queue(lane);
            let queue = RequestQueue::new(pages, ring, index, probe_bytes, settings.watchdog)?;
            Ok(CachePadded::new(Mutex::new(queue)))
        };
        let requests = rings.into_iter().zip(0..).map(queue).collect::<Result<_, _>>()?;
        let mut events = EventQueue::new(pages, events)?;
        events.post_all(&device)?;
        Ok(Arc::new(Self { device, config, features, requests, events: Mutex::new(events) }))
    }

    /// The device's configuration; ranges whose feature is absent are the widest.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Negotiated features.
    pub fn features(&self) -> u64 {
        self.features
    }

    /// The reserved regions of an endpoint (PROBE); none where the device does not offer PROBE.
    ///
    /// # Errors
    /// When the request fails.
    pub fn reserved_regions(&self, endpoint: EndpointId) -> Result<Vec<ResvMem>, IommuError> {
        if self.features & feature::PROBE == 0 {
            return Ok(Vec::new());
        }
        let request = Probe { endpoint: endpoint.0, reserved: [0; 64] };
        let properties = lock(&self.requests[0]).probe(&self.device, &request.encode())?;
        Ok(parse_properties(&properties))
    }

    /// Attaches an endpoint to a domain; a bypass domain translates nothing.
    ///
    /// # Errors
    /// When the request fails, or a bypass domain is asked for and BYPASS_CONFIG was not negotiated.
    pub fn attach(&self, endpoint: EndpointId, domain: DomainId, bypass: bool) -> Result<(), IommuError> {
        if bypass && self.features & feature::BYPASS_CONFIG == 0 {
            return Err(IommuError::NoBypass);
        }
        let flags = if bypass { ATTACH_F_BYPASS } else { 0 };
        let request = Attach { domain: domain.0, endpoint: endpoint.0, flags, reserved: [0; 4] };
        self.one(RequestKind::Attach, &request.encode())
    }

    /// Detaches an endpoint from its domain.
    ///
    /// # Errors
    /// When the request fails.
    pub fn detach(&self, endpoint: EndpointId, domain: DomainId) -> Result<(), IommuError> {
        let request = Detach { domain: domain.0, endpoint: endpoint.0, reserved: [0; 8] };
        self.one(RequestKind::Detach, &request.encode())
    }

    fn one(&self, kind: RequestKind, request: &[u8]) -> Result<(), IommuError> {
        let mut requests = lock(&self.requests[0]);
        requests.add(&self.device, kind, request)?;
        requests.sync(&self.device)
    }

    /// Takes the lock of a CPU's request queue, to queue several requests and wait for them once. CPUs share the queues in
    /// turn; what has to come after something else must go to the same queue, or wait for its answer.
    #[inline]
    pub fn requests(&self, cpu: usize) -> Requests<'_> {
        // With one queue, which is the rule, nothing is divided.
        let lane = if self.requests.len() == 1 { 0 } else { cpu % self.requests.len() };
        Requests { queue: lock(&self.requests[lane]), device: &self.device }
    }

    /// Calls `f` with each fault reported since the last call, and gives the buffers back to the device.
    ///
    /// # Errors
    /// When the event queue is broken.
    pub fn take_faults(&self, f: impl FnMut(Fault)) -> Result<u64, IommuError> {
        lock(&self.events).take(&self.device, f)
    }

    /// What was counted since the driver was set up.
    pub fn counts(&self) -> IommuCounts {
        let mut total = IommuCounts::default();
        for queue in &self.requests {
            let IommuCounts { requests_map, requests_unmap, kicks, ring_full } = lock(queue).counts;
            total.requests_map += requests_map;
            total.requests_unmap += requests_unmap;
            total.kicks += kicks;
            total.ring_full += ring_full;
        }
        total
    }

    /// Resets the device.
    ///
    /// # Errors
    /// When it does not reset.
    pub fn reset(&self) -> Result<(), IommuError> {
        Ok(self.device.reset()?)
    }
}

/// The lock of a request queue, held.
pub struct Requests<'a> {
    queue: MutexGuard<'a, RequestQueue>,
    device: &'a MmioDevice,
}

impl Requests<'_> {
    /// Queues a MAP; when the ring is full, drains it first.
    ///
    /// # Errors
    /// Only when draining fails: then, what has failed may be an earlier request.
    #[inline]
    pub fn map(&mut self, request: &Map) -> Result<(), IommuError> {
        self.queue.add(self.device, RequestKind::Map, &request.encode())
    }

    /// Queues an UNMAP; when the ring is full, drains it first.
    ///
    /// # Errors
    /// As [`map`](Self::map).
    #[inline]
    pub fn unmap(&mut self, request: &Unmap) -> Result<(), IommuError> {
        self.queue.add(self.device, RequestKind::Unmap, &request.encode())
    }

    /// Kicks and waits until every request on this queue, whoever queued it, has been answered.
    ///
    /// # Errors
    /// The first request that failed since the last wait, or that the device does not answer.
    #[inline]
    pub fn sync(&mut self) -> Result<(), IommuError> {
        self.queue.sync(self.device)
    }
}

fn checked_config(device: &MmioDevice, features: u64) -> Result<Config, IommuError> {
    let mut config = Config::decode(&device.config::<CONFIG_BYTES>()?);
    if features & feature::INPUT_RANGE == 0 {
        (config.input_start, config.input_end) = (0, u64::MAX);
    }
    if features & feature::DOMAIN_RANGE == 0 {
        (config.domain_start, config.domain_end) = (0, u32::MAX);
    }
    let granule = config.page_size_mask & config.page_size_mask.wrapping_neg();
    if granule == 0 || granule > PAGE_BYTES {
        return Err(IommuError::Granule { page_size_mask: config.page_size_mask });
    }
    if config.input_end < config.input_start || config.domain_end < config.domain_start {
        return Err(IommuError::EmptyRange { config });
    }
    if features & feature::PROBE != 0 && config.probe_size > MAX_PROBE_BYTES {
        return Err(IommuError::ProbeSize { probe_size: config.probe_size });
    }
    Ok(config)
}

/// How many request queues to set up: those wanted, and no more than the device has.
fn request_queues(device: &MmioDevice, features: u64, wanted: u16) -> Result<u16, IommuError> {
    if features & F_REQUEST_QUEUES == 0 {
        return Ok(1);
    }
    let config = device.config::<{ REQUEST_QUEUES_OFFSET + 2 }>()?;
    let offered = u16::from_le_bytes([config[REQUEST_QUEUES_OFFSET], config[REQUEST_QUEUES_OFFSET + 1]]);
    if offered > MAX_REQUEST_QUEUES || offered < wanted {
        return Err(IommuError::RequestQueues { wanted, offered });
    }
    Ok(wanted)
}

fn ring(
    device: &MmioDevice,
    pages: &PageAllocator,
    index: u16,
    wanted: u16,
) -> Result<SplitRing, IommuError> {
    let size = u32::from(wanted).min(device.queue_max(index));
    let ring = SplitRing::new(pages, u16::try_from(size).unwrap_or(wanted))?;
    let (base, layout) = (ring.gpa().0, ring.layout());
    // The IOMMU itself is not behind an IOMMU: guest-physical addresses.
    let addresses = QueueAddresses {
        size: layout.size,
        desc: base + layout.desc,
        avail: base + layout.avail,
        used: base + layout.used,
    };
    device.enable_queue(index, addresses)?;
    Ok(ring)
}

/// Reserved regions among the properties; unknown types are skipped, and the list ends at a zero type ("PROBE
/// properties").
fn parse_properties(mut properties: &[u8]) -> Vec<ResvMem> {
    let mut regions = Vec::new();
    while let Some((head, rest)) = properties.split_first_chunk::<PROPERTY_HEAD_BYTES>() {
        let kind = u16::from_le_bytes([head[0], head[1]]) & TYPE_MASK;
        let length = usize::from(u16::from_le_bytes([head[2], head[3]]));
        if kind == 0 || length > rest.len() {
            break;
        }
        if kind == T_RESV_MEM
            && let Some(mut property) = properties.first_chunk::<RESV_MEM_BYTES>().copied()
        {
            property[..2].copy_from_slice(&kind.to_le_bytes());
            regions.extend(ResvMem::decode(&property));
        }
        properties = &rest[length..];
    }
    regions
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic while it was held is a bug of this driver; what is behind it is checked at each use.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
