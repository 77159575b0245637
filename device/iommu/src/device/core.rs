//! What the device's front, its workers and its endpoints' ports share.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crossbeam_utils::CachePadded;
use virtio_iommu_spec::{DomainId, EndpointId, feature, private::F_REQUEST_QUEUES, request};

use super::{DeviceOptions, Lane, pool::MappingPool, remains::Remains};
use crate::{
    domain::Domain,
    endpoint::EndpointState,
    epoch::{Epoch, Participant, TooManyParticipants},
    fault::FaultSink,
    halt::Halt,
    iotlb::{InvalidationLog, Ledger},
    memory::GuestRam,
    sync::{AtomicBool, AtomicU64, Ordering},
    table::Budget,
};

/// One endpoint and the domain it is attached to.
pub(crate) struct EndpointSlot {
    pub(crate) state: Arc<EndpointState>,
    pub(crate) domain: Option<DomainId>,
}

/// One domain and the endpoints attached to it, never none.
pub(crate) struct DomainSlot {
    pub(crate) domain: Arc<Domain>,
    pub(crate) members: Vec<EndpointId>,
}

/// What control operations change, all under one lock.
pub(crate) struct Control {
    pub(crate) endpoints: BTreeMap<EndpointId, EndpointSlot>,
    pub(crate) domains: BTreeMap<DomainId, DomainSlot>,
    /// For control operations that come from no worker.
    pub(crate) participant: Participant,
}

/// The shared part of a device.
pub(crate) struct Core {
    pub(crate) options: DeviceOptions,
    pub(crate) ram: GuestRam,
    pub(crate) epoch: Epoch,
    pub(crate) faults: FaultSink,
    pub(crate) pool: MappingPool,
    /// Memory of all domains' tables.
    pub(crate) budget: Budget,
    /// A pause or a reset that waits for the request queues.
    pub(crate) halt: Halt,
    /// Domains that ceased to exist and still have mappings, since a reset did not wait for them to be removed.
    pub(super) remains: Remains,
    /// One for each request queue, at least one.
    pub(crate) lanes: Box<[CachePadded<Lane>]>,
    pub(crate) iotlbs: Ledger,
    control: Mutex<Control>,
    /// Counts changes of the set of domains; workers' caches are true for one value.
    generation: AtomicU64,
    /// The `bypass` configuration field.
    bypass: AtomicBool,
    /// Negotiated features; 0 before DRIVER_OK.
    negotiated: AtomicU64,
    /// Features since FEATURES_OK, where the transport tells; 0 before.
    agreed: AtomicU64,
    /// A queue is broken, or a grace period was given up while resetting.
    pub(crate) broken: AtomicBool,
}

impl Core {
    pub(crate) fn new(options: DeviceOptions, ram: GuestRam) -> Result<Self, TooManyParticipants> {
        let epoch = Epoch::new(options.fences);
        let halt = Halt::default();
        let participant = epoch.register()?;
        Ok(Self {
            faults: FaultSink::new(options.event_backlog, ram.clone()),
            pool: MappingPool::new(options.max_mappings),
            budget: Budget::with_halt(options.max_table_bytes, halt.clone()),
            halt,
            remains: Remains::default(),
            lanes: (0..options.request_queues).map(|_| CachePadded::default()).collect(),
            iotlbs: Ledger::default(),
            control: Mutex::new(Control {
                endpoints: BTreeMap::new(),
                domains: BTreeMap::new(),
                participant,
            }),
            generation: AtomicU64::new(0),
            bypass: AtomicBool::new(options.boot_bypass),
            negotiated: AtomicU64::new(0),
            agreed: AtomicU64::new(0),
            broken: AtomicBool::new(false),
            options,
            ram,
            epoch,
        })
    }

    pub(crate) fn control(&self) -> MutexGuard<'_, Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A log for a new domain, when there are IOTLBs to be kept true.
    pub(crate) fn invalidation_log(&self) -> Option<InvalidationLog> {
        self.options.iotlb.map(|_| InvalidationLog::new())
    }

    /// How many request queues there are with these features.
    pub(crate) fn request_queues(&self, features: u64) -> u16 {
        if features & F_REQUEST_QUEUES != 0 { self.options.request_queues } else { 1 }
    }

    /// Accepted flags of MAP: "If the device doesn't recognize a flags bit, it MUST reject the request."
    pub(crate) fn map_flags(&self, features: u64) -> u32 {
        let mmio = if features & feature::MMIO != 0 { request::MAP_F_MMIO } else { 0 };
        request::MAP_F_READ | request::MAP_F_WRITE | mmio
    }

    /// Which set of domains is current.
    #[inline]
    pub(crate) fn generation(&self) -> u64 {
        // Acquire pairs with the Release in `bump`.
        self.generation.load(Ordering::Acquire)
    }

    /// The set of domains has changed; called with the control lock held.
    pub(crate) fn bump(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn negotiated(&self) -> u64 {
        self.negotiated.load(Ordering::Acquire)
    }

    pub(crate) fn set_negotiated(&self, features: u64) {
        self.negotiated.store(features, Ordering::Release);
    }

    /// The features that hold: those of FEATURES_OK; before, where nothing is negotiated yet, the offer.
    pub(crate) fn features_now(&self) -> u64 {
        // Acquire pairs with the Release in `set_agreed`.
        match (self.negotiated(), self.agreed.load(Ordering::Acquire)) {
            (0, 0) => self.options.features(),
            (0, agreed) => agreed,
            (negotiated, _) => negotiated,
        }
    }

    /// FEATURES_OK, or with 0 its end.
    pub(crate) fn set_agreed(&self, features: u64) {
        // Release pairs with the Acquire in `features_now`.
        self.agreed.store(features, Ordering::Release);
    }

    /// The `bypass` field as the driver reads it.
    pub(crate) fn bypass_field(&self) -> bool {
        !self.options.legacy_bypass && self.bypass.load(Ordering::Acquire)
    }

    pub(crate) fn set_bypass_field(&self, bypass: bool) {
        self.bypass.store(bypass, Ordering::Release);
    }

    /// Whether endpoints without a domain are in bypass mode.
    ///
    /// With BYPASS_CONFIG, the field says so "even if the driver does not accept the VIRTIO_IOMMU_F_BYPASS_CONFIG
    /// feature and the device initializes field bypass to 1"; with the legacy feature, having negotiated it does.
    pub(crate) fn bypass_unattached(&self) -> bool {
        if self.options.legacy_bypass {
            self.negotiated() & feature::BYPASS != 0
        } else {
            self.bypass.load(Ordering::Acquire)
        }
    }
}
