//! Real network cards behind VFIO: the one that is measured, and the one at the other end of its wire.

use std::{
    error::Error,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use iommu_passthrough::{
    Address, Container, Endpoint, PciDevice, VfioFunction,
    bind::{self, BindError, Bound, Plan},
    endpoint::{Forward, Observer, properties},
    sysfs::{SYSFS, VFIO_DRIVER},
    usage::Host,
};
use iommu_workloads::{
    Bus, CaseSpec, Mode, MonotonicClock, NullRecorder,
    dma::{Dma, DmaSettings},
    net::{NetDriver, NetSettings, Responder},
    pages::PageAllocator,
    pci::PciBus,
    scenario::{Device as Wanted, VfioForward},
};
use thiserror::Error;
use virtio_iommu::{
    Device, OptionsError,
    passthrough::Backend,
    properties::EndpointProperties,
    spec::{EndpointId, IovaRange},
};
use vm_memory::GuestMemoryMmap;

use super::{
    build::{chain, guest_memory},
    card::{Card, CardCounts},
    real::{Allowed, recover},
};
use crate::{clock::WallClock, measure::Latencies};

/// Vendor and device of a modern virtio network card.
const VIRTIO_NET: (u16, u16) = (0x1af4, 0x1041);
/// Memory of whoever sits at the other end of the wire, in MiB.
const FAR_MEMORY_MIB: u32 = 32;
/// How long the far end waits for its card.
const FAR_WATCHDOG: Duration = Duration::from_secs(10);

/// There is no hardware to be had.
#[derive(Debug, Error)]
pub(crate) enum HardwareError {
    /// Fewer than two cards.
    #[error(
        "passthrough needs two virtio network cards (PCI 1af4:1041) wired to each other, and this machine has {found}"
    )]
    TooFew {
        /// How many there are.
        found: usize,
    },
    /// Not a card that can be driven.
    #[error("PCI device {address} ({vendor:04x}:{device:04x}) is no virtio network card (1af4:1041)")]
    Kind {
        /// Its address.
        address: Address,
        /// Vendor.
        vendor: u16,
        /// Device.
        device: u16,
    },
    /// It needs to be bound, and may not be.
    #[error(
        "PCI device {address} must be bound to vfio-pci; --bind does it and undoes it afterwards:\n{commands}"
    )]
    Unbound {
        /// Its address.
        address: Address,
        /// What --bind would do.
        commands: String,
    },
    /// No device at all.
    #[error(
        "no PCI device is bound to vfio-pci{}",
        if *bind { ", and none is free to be bound" } else { "; bind one, or give --bind" }
    )]
    NoDevice {
        /// Whether one may be bound.
        bind: bool,
    },
    /// No disk.
    #[error(
        "no NVMe disk is bound to vfio-pci{}; a disk that the host's driver has is only taken by name: \
         --endpoint passthrough=BDF --bind",
        if *bind { ", and none is without a driver" } else { "" }
    )]
    NoDisk {
        /// Whether one may be bound.
        bind: bool,
    },
    /// Another kind of device.
    #[error("PCI device {address} (class {class:06x}) is no NVMe disk (010802)")]
    NoNvme {
        /// Its address.
        address: Address,
        /// Class, subclass and programming interface.
        class: u32,
    },
    /// It would be written to.
    #[error("{case} writes to the disk {address}, and what is on it would be lost")]
    ReadOnly {
        /// Its address.
        address: Address,
        /// Id of the case.
        case: String,
    },
    /// No real disk does that.
    #[error("{case}: {why}")]
    Case {
        /// Id of the case.
        case: String,
        /// Why, and what to do.
        why: &'static str,
    },
    /// Cases that need different devices.
    #[error(
        "the cases of one run need devices of different kinds; run disks and network cards one after the other"
    )]
    Mixed,
    /// A test of other hardware.
    #[error("{case}: passthrough drives network cards only in this build; use --endpoint emulated")]
    Test {
        /// Id of the case.
        case: String,
    },
    /// Handing over.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// Opening, and everything below.
    #[error("{0}")]
    Other(String),
}

/// A card, and the bus its driver finds it on.
pub(super) type Plugged = (Arc<dyn Card>, Arc<dyn Bus>);

/// Two cards on one wire, taken over.
pub(crate) struct Hardware {
    near: Arc<Container>,
    far: Arc<Container>,
    properties: EndpointProperties,
    /// Whether both cards segment large packets.
    segments: bool,
    /// Dropped last: the cards go back to their drivers once nobody uses them.
    _bound: Vec<Bound>,
}

impl Hardware {
    /// Takes over the card at `wanted`, or the first, and the first other one. What crashed runs left is undone before.
    pub(crate) fn open(wanted: Option<&str>, allowed: Allowed<'_>) -> Result<Self, HardwareError> {
        let other = |error: &dyn Error| HardwareError::Other(chain(error));
        recover()?;
        let [near, far] = choose(wanted)?;
        let bound = take_both([&near, &far], allowed)?;
        let open = |card| Container::open(card).map(Arc::new).map_err(|error| other(&error));
        let (near_container, far_container) = (open(&near)?, open(&far)?);
        let properties = properties(&near, &near_container).map_err(|error| other(&error))?;
        let mut segments = true;
        for container in [&near_container, &far_container] {
            let bus = registers(container).map_err(|error| HardwareError::Other(chain(&*error)))?;
            segments &= NetDriver::segments(bus).map_err(|error| other(&error))?;
        }
        Ok(Self { near: near_container, far: far_container, properties, segments, _bound: bound })
    }

    /// Address of the card that is measured.
    pub(crate) fn address(&self) -> &str {
        self.near.address()
    }

    /// I/O virtual addresses of the host's IOMMU, when it says: a guest is offered no others.
    pub(crate) fn input_range(&self) -> Option<IovaRange> {
        self.properties.input_range.and_then(|(start, end)| IovaRange::new(start, end))
    }

    /// Whether large packets can be handed to the cards.
    pub(crate) fn segments(&self) -> bool {
        self.segments
    }

    /// Whether the case can run on this hardware.
    pub(crate) fn check(case: &CaseSpec) -> Result<(), HardwareError> {
        if case.test.device() == Wanted::Nic {
            return Ok(());
        }
        Err(HardwareError::Test { case: case.id.clone() })
    }

    /// The card for one case: behind the IOMMU, or with all of memory before it. The far end answers until it is dropped.
    pub(super) fn card(
        &self,
        case: &CaseSpec,
        memory: &Arc<GuestMemoryMmap>,
        iommu: Option<(&Device, EndpointId)>,
        timing: Option<(WallClock, Arc<Latencies>)>,
    ) -> Result<Plugged, Box<dyn Error>> {
        let observer =
            timing.map(|(clock, latencies)| VfioTimer::shared(clock, latencies) as Arc<dyn Observer>);
        let endpoint = Endpoint::new(Arc::clone(&self.near), Arc::clone(memory), observer);
        let endpoint = Arc::new(endpoint.forwarding(forward(case.params.vfio_forward)));
        let behind_iommu = iommu.is_some();
        match iommu {
            Some((device, id)) => {
                let backend = Arc::clone(&endpoint) as Arc<dyn Backend>;
                device.add_passthrough_endpoint(id, self.properties.clone(), backend).map_err(too_narrow)?;
            }
            None => endpoint.show_all()?,
        }
        let far = FarEnd::start(&self.far, case)?;
        Ok((Arc::new(RealCard { endpoint, behind_iommu, far }), registers(&self.near)?))
    }
}

fn forward(wanted: VfioForward) -> Forward {
    match wanted {
        VfioForward::Request => Forward::Request,
        VfioForward::Coalesced => Forward::Coalesced,
        VfioForward::Batched => Forward::Batched,
    }
}

pub(super) fn too_narrow(error: OptionsError) -> Box<dyn Error> {
    format!("the host's IOMMU cannot do what the virtio-iommu offers: {error}").into()
}

fn registers(container: &Arc<Container>) -> Result<Arc<dyn Bus>, Box<dyn Error>> {
    Ok(Arc::new(PciBus::new(VfioFunction::new(Arc::clone(container))?)?))
}

/// The card that is wanted, and another; those that are bound already come first.
fn choose(wanted: Option<&str>) -> Result<[PciDevice; 2], HardwareError> {
    let failed = |error: &dyn Error| HardwareError::Other(chain(error));
    let sysfs = Path::new(SYSFS);
    let mut cards = Vec::new();
    for device in PciDevice::all(sysfs).map_err(|error| failed(&error))? {
        if device.id().map_err(|error| failed(&error))? == VIRTIO_NET {
            cards.push(device);
        }
    }
    cards.sort_by_key(|card| card.driver().as_deref() != Some(VFIO_DRIVER));
    let near = match wanted {
        Some(text) => {
            let address: Address = text.parse().map_err(|error| failed(&error))?;
            let device = PciDevice::new(sysfs, address).map_err(|error| failed(&error))?;
            let (vendor, number) = device.id().map_err(|error| failed(&error))?;
            if (vendor, number) != VIRTIO_NET {
                return Err(HardwareError::Kind { address, vendor, device: number });
            }
            Some(device)
        }
        None => cards.first().cloned(),
    };
    let found = cards.len();
    let near = near.ok_or(HardwareError::TooFew { found })?;
    let far = cards.into_iter().find(|card| card.address() != near.address());
    Ok([near, far.ok_or(HardwareError::TooFew { found })?])
}

/// Binds both cards; what is to be done for both is said at once.
fn take_both(cards: [&PciDevice; 2], allowed: Allowed<'_>) -> Result<Vec<Bound>, HardwareError> {
    match cards.map(|card| take(card, allowed)) {
        [
            Err(HardwareError::Unbound { address, commands }),
            Err(HardwareError::Unbound { commands: others, .. }),
        ] => Err(HardwareError::Unbound { address, commands: format!("{commands}\n{others}") }),
        both => both.into_iter().collect(),
    }
}

/// Binds the card, if it is not bound and may be.
pub(super) fn take(card: &PciDevice, allowed: Allowed<'_>) -> Result<Bound, HardwareError> {
    let plan = if allowed.takes(card) { Plan::regardless(card)? } else { Plan::new(card, &Host::default())? };
    if !allowed.bind && !plan.bind.is_empty() {
        let commands = plan.bind.iter().map(|step| format!("  {step}")).collect::<Vec<_>>().join("\n");
        return Err(HardwareError::Unbound { address: card.address(), commands });
    }
    for step in &plan.bind {
        tracing::info!(command = %step, "binding");
    }
    Ok(Bound::new(card, plan, Path::new(bind::JOURNALS))?)
}

/// Times the calls into the kernel.
pub(super) struct VfioTimer {
    clock: WallClock,
    latencies: Arc<Latencies>,
}

impl VfioTimer {
    pub(super) fn shared(clock: WallClock, latencies: Arc<Latencies>) -> Arc<Self> {
        Arc::new(Self { clock, latencies })
    }
}

impl Observer for VfioTimer {
    fn now_ns(&self) -> u64 {
        self.clock.now_ns()
    }

    fn mapped(&self, took_ns: u64) {
        self.latencies.vfio_map(took_ns);
    }

    fn unmapped(&self, took_ns: u64) {
        self.latencies.vfio_unmap(took_ns);
    }
}

/// The card that is measured.
struct RealCard {
    endpoint: Arc<Endpoint>,
    /// The driver takes its mappings away through the IOMMU; without one they stay until the end.
    behind_iommu: bool,
    far: FarEnd,
}

impl Card for RealCard {
    fn counts(&self) -> CardCounts {
        CardCounts {
            bytes_verified: self.far.shared.bytes_verified.load(Ordering::Relaxed),
            vfio: Some(self.endpoint.counts()),
            ..CardCounts::default()
        }
    }

    fn failed(&self) -> Option<String> {
        self.far.shared.failed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn left_behind(&self) -> Option<String> {
        left_behind(&self.endpoint, self.behind_iommu)
    }
}

/// What is still mapped once the driver has let a device go. Behind an IOMMU, it has taken its mappings away itself.
pub(super) fn left_behind(endpoint: &Endpoint, behind_iommu: bool) -> Option<String> {
    if !behind_iommu && let Err(error) = endpoint.show_nothing() {
        return Some(format!("VFIO does not take guest memory back: {error}"));
    }
    let (bytes, counts) = (endpoint.live_bytes(), endpoint.counts());
    let balanced = bytes == 0 && counts.bytes_mapped == counts.bytes_unmapped;
    (!balanced).then(|| format!("VFIO still maps {bytes} bytes after the device was detached ({counts:?})"))
}

/// Whoever sits at the other end of the wire, on a thread of its own.
struct FarEnd {
    shared: Arc<Shared>,
    thread: Option<thread::JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    bytes_verified: AtomicU64,
    failed: Mutex<Option<String>>,
}

impl FarEnd {
    fn start(container: &Arc<Container>, case: &CaseSpec) -> Result<Self, Box<dyn Error>> {
        let memory = guest_memory(FAR_MEMORY_MIB)?;
        let endpoint = Endpoint::new(Arc::clone(container), Arc::clone(&memory), None);
        endpoint.show_all()?;
        let pages = PageAllocator::new(memory);
        let dma_settings = DmaSettings::new(Mode::Off);
        let dma = Dma::new(dma_settings, None, Arc::new(MonotonicClock::default()), Arc::new(NullRecorder))?;
        let longest = case.params.segment_bytes();
        let settings =
            NetSettings { queue_pairs: 1, ..NetSettings::new(&case.params, longest, FAR_WATCHDOG) };
        let pairs = NetDriver::probe(registers(container)?, &pages, dma, dma_settings, &settings)?;
        let [net] = <[NetDriver; 1]>::try_from(pairs).map_err(|_| "the far end drives one queue pair")?;
        let mut responder = Responder::new(net, 0, longest, case.params.mss());
        let shared = Arc::new(Shared::default());
        let seen = Arc::clone(&shared);
        let body = move || {
            // Its memory stays mapped as long as its card may access it.
            let _endpoint = endpoint;
            let done = answer(&mut responder, &seen).and_then(|()| Ok(responder.shutdown().map(drop)?));
            if let Err(error) = done {
                let text = format!("the far end of the wire: {}", chain(&*error));
                *seen.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(text);
            }
        };
        let thread = thread::Builder::new().name("far-end".to_owned()).spawn(body)?;
        Ok(Self { shared, thread: Some(thread) })
    }
}

/// Answers until it is told to stop.
fn answer(responder: &mut Responder, shared: &Shared) -> Result<(), Box<dyn Error>> {
    while !shared.stop.load(Ordering::Relaxed) {
        if !responder.turn()? {
            thread::yield_now();
        }
        shared.bytes_verified.store(responder.bytes_verified(), Ordering::Relaxed);
    }
    Ok(())
}

impl Drop for FarEnd {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // What it panicked with has been printed.
            let _ = thread.join();
        }
    }
}
