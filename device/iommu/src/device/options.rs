//! What a device is built with, and the checks on it.

use thiserror::Error;
use virtio_bindings::{
    virtio_config::VIRTIO_F_VERSION_1,
    virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC},
};
use virtio_iommu_spec::{
    EndpointId, IovaRange, feature,
    private::{F_REQUEST_QUEUES, MAX_REQUEST_QUEUES},
};
use virtio_transport::service::ServiceMode;

use crate::{
    endpoint::UnattachedPolicy,
    epoch::{Fences, Patience},
    iotlb::{IotlbError, IotlbOptions},
    properties::{NPlusI, Platform},
};

/// Transport feature: virtio 1.0.
pub const F_VERSION_1: u64 = 1 << VIRTIO_F_VERSION_1;
/// Transport feature: indirect descriptors.
pub const F_INDIRECT_DESC: u64 = 1 << VIRTIO_RING_F_INDIRECT_DESC;
/// Transport feature: event indices.
pub const F_EVENT_IDX: u64 = 1 << VIRTIO_RING_F_EVENT_IDX;

/// How a device is set up.
#[derive(Clone, Debug)]
pub struct DeviceOptions {
    /// Page sizes that can be mapped; the lowest bit is the granule. "The device MUST set at least one bit."
    pub page_size_mask: u64,
    /// Addresses that can be mapped.
    pub input_range: IovaRange,
    /// First and last domain ID.
    pub domain_range: (u32, u32),
    /// Size of the properties of a PROBE, in bytes.
    pub probe_size: u32,
    /// Initial value of the `bypass` configuration field: whether firmware may use devices before a driver for the
    /// IOMMU is there.
    pub boot_bypass: bool,
    /// Offer the legacy BYPASS feature instead of BYPASS_CONFIG; there is no `bypass` field then.
    pub legacy_bypass: bool,
    /// Offer PROBE.
    pub probe: bool,
    /// Offer MMIO.
    pub mmio: bool,
    /// The machine, which decides what emulated endpoints report.
    pub platform: Platform,
    /// Whether an endpoint without a region may join one with an IDENTITY region there.
    pub n_plus_i: NPlusI,
    /// What unattached endpoints may do.
    pub unattached: UnattachedPolicy,
    /// Most domains at a time; one more gets NOMEM.
    pub max_domains: usize,
    /// Most mappings at a time, over all domains; one more gets NOMEM.
    pub max_mappings: u64,
    /// Most memory of all domains' mapping tables, in bytes; a MAP that needs more gets NOMEM. A domain's first table
    /// (4 KiB) is not refused: `max_domains` bounds those.
    pub max_table_bytes: u64,
    /// Most fault reports that wait for the event queue; more are dropped and counted.
    pub event_backlog: usize,
    /// Maximum sizes of each request queue and of the event queue.
    pub queue_sizes: [u16; 2],
    /// Request queues. With 1 the device is the standard one; with more it offers the private feature
    /// [`F_REQUEST_QUEUES`] (`docs/multi-queue.md`).
    pub request_queues: u16,
    /// Where requests are served.
    pub service: ServiceMode,
    /// How long an access to removed mappings is waited for.
    pub patience: Patience,
    /// Who pays for the fence between accesses and UNMAP.
    pub fences: Fences,
    /// Gives each endpoint port an IOTLB of this shape; `None`: every translation walks the mapping table.
    pub iotlb: Option<IotlbOptions>,
}

impl Default for DeviceOptions {
    /// 4 KiB granule, 48 bits, every domain ID, boot bypass on, an x86 machine, inline service; a million domains'
    /// and sixteen million mappings' worth of caps.
    fn default() -> Self {
        Self {
            page_size_mask: !0xfff,
            input_range: IovaRange::new(0, (1 << 48) - 1).unwrap_or(IovaRange::ALL),
            domain_range: (0, u32::MAX),
            probe_size: 512,
            boot_bypass: true,
            legacy_bypass: false,
            probe: true,
            mmio: true,
            platform: Platform::X86,
            n_plus_i: NPlusI::Refuse,
            unattached: UnattachedPolicy::Abort,
            max_domains: 1 << 16,
            max_mappings: 1 << 24,
            max_table_bytes: 1 << 30,
            event_backlog: 256,
            queue_sizes: [256, 256],
            request_queues: 1,
            service: ServiceMode::Inline,
            patience: Patience::default(),
            fences: Fences::Asymmetric,
            iotlb: None,
        }
    }
}

/// Options or endpoint properties that cannot be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum OptionsError {
    /// The shape of the IOTLBs.
    #[error(transparent)]
    Iotlb(#[from] IotlbError),
    /// `page_size_mask` is zero.
    #[error("page_size_mask has no bit set")]
    NoPageSize,
    /// The first domain ID lies after the last.
    #[error("domain_range starts at {start} and ends at {end}")]
    DomainRange {
        /// First ID.
        start: u32,
        /// Last ID.
        end: u32,
    },
    /// The input range holds no whole page.
    #[error("the input range {range} holds no page of 2^{granule_shift} bytes")]
    InputRange {
        /// The range.
        range: IovaRange,
        /// log2 of the granule.
        granule_shift: u32,
    },
    /// `probe_size` is larger than any answered chain may be.
    #[error("probe_size {probe_size} is more than {max}")]
    ProbeSize {
        /// Bytes asked for.
        probe_size: u32,
        /// Most bytes possible.
        max: u32,
    },
    /// A queue's maximum size is not a power of two up to 32768.
    #[error("queue size {size} is not a power of two up to 32768")]
    QueueSize {
        /// The size.
        size: u16,
    },
    /// No request queue, or too many.
    #[error("{request_queues} request queues; 1 to {MAX_REQUEST_QUEUES} are possible")]
    RequestQueues {
        /// How many.
        request_queues: u16,
    },
    /// The endpoint's properties do not fit into `probe_size`.
    #[error("the properties of endpoint {endpoint} take {bytes} bytes, probe_size is {probe_size}")]
    TooManyRegions {
        /// The endpoint.
        endpoint: EndpointId,
        /// Bytes its properties take.
        bytes: usize,
        /// Bytes there are.
        probe_size: u32,
    },
    /// The endpoint's address range or page sizes are empty.
    #[error("endpoint {endpoint} has an empty address range or no page size")]
    EmptyProperties {
        /// The endpoint.
        endpoint: EndpointId,
    },
    /// An endpoint of this ID is there already.
    #[error("endpoint {endpoint} exists")]
    Exists {
        /// The endpoint.
        endpoint: EndpointId,
    },
}

impl DeviceOptions {
    /// log2 of the page granularity.
    pub fn granule_shift(&self) -> u32 {
        self.page_size_mask.trailing_zeros()
    }

    /// Feature bits offered.
    ///
    /// "The device SHOULD offer feature bit VIRTIO_IOMMU_F_MAP_UNMAP." "Devices SHOULD NOT offer both
    /// VIRTIO_IOMMU_F_BYPASS and VIRTIO_IOMMU_F_BYPASS_CONFIG."
    pub fn features(&self) -> u64 {
        let choose = |on, bit| if on { bit } else { 0 };
        F_VERSION_1
            | F_INDIRECT_DESC
            | F_EVENT_IDX
            | feature::INPUT_RANGE
            | feature::DOMAIN_RANGE
            | feature::MAP_UNMAP
            | choose(self.probe, feature::PROBE)
            | choose(self.mmio, feature::MMIO)
            | if self.legacy_bypass { feature::BYPASS } else { feature::BYPASS_CONFIG }
            | choose(self.request_queues > 1, F_REQUEST_QUEUES)
    }

    /// The maximum size of each queue, by index.
    pub(super) fn queue_max_sizes(&self) -> Box<[u16]> {
        let [requests, events] = self.queue_sizes;
        let more = usize::from(self.request_queues).saturating_sub(1);
        [requests, events].into_iter().chain(std::iter::repeat_n(requests, more)).collect()
    }

    pub(super) fn check(&self) -> Result<(), OptionsError> {
        if self.page_size_mask == 0 {
            return Err(OptionsError::NoPageSize);
        }
        let (start, end) = self.domain_range;
        if end < start {
            return Err(OptionsError::DomainRange { start, end });
        }
        let (range, granule_shift) = (self.input_range, self.granule_shift());
        if super::control::whole_pages(range, granule_shift).is_none() {
            return Err(OptionsError::InputRange { range, granule_shift });
        }
        let max = (crate::request::MAX_WRITABLE_BYTES - 4) as u32;
        if self.probe_size > max {
            return Err(OptionsError::ProbeSize { probe_size: self.probe_size, max });
        }
        let request_queues = self.request_queues;
        if !(1..=MAX_REQUEST_QUEUES).contains(&request_queues) {
            return Err(OptionsError::RequestQueues { request_queues });
        }
        if let Some(iotlb) = &self.iotlb {
            iotlb.check()?;
        }
        match self.queue_sizes.iter().find(|size| !size.is_power_of_two()) {
            Some(&size) => Err(OptionsError::QueueSize { size }),
            None => Ok(()),
        }
    }
}
