//! The real devices of a run: which kind its cases need, chosen and taken over.

use std::{error::Error, path::Path, sync::Arc};

use iommu_passthrough::{
    Address, Container, PciDevice,
    bind::{self, Bound},
    sysfs::{SYSFS, SysfsError, VFIO_DRIVER},
};
use iommu_workloads::{CaseSpec, scenario::Device as Wanted};
use virtio_iommu::{
    Device,
    spec::{EndpointId, IovaRange},
};
use vm_memory::GuestMemoryMmap;

use super::{
    build::chain,
    disk::Disk,
    hardware::{Hardware, HardwareError, Plugged, take},
};
use crate::{clock::WallClock, measure::Latencies};

/// Class of bridges.
const BRIDGE: u32 = 0x06;

/// What the command line allows to be done to real devices.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Allowed<'a> {
    /// Binding them to vfio-pci.
    pub(crate) bind: bool,
    /// Address of the disk that may be written to.
    pub(crate) writes: Option<&'a str>,
    /// Addresses of devices that are taken although the host uses them.
    pub(crate) in_use: &'a [String],
}

impl Allowed<'_> {
    /// Whether the device may be taken from the host; an address without a domain means domain 0000.
    pub(super) fn takes(&self, device: &PciDevice) -> bool {
        self.in_use.iter().any(|text| text.parse() == Ok(device.address()))
    }
}

/// What a run's passthrough cases have.
pub(crate) enum Real {
    /// Two network cards.
    Nics(Hardware),
    /// An NVMe disk.
    Disk(Disk),
    /// Any device, for its container.
    Bare(Bare),
}

/// A device that is told to do nothing.
pub(crate) struct Bare {
    pub(super) container: Arc<Container>,
    /// Dropped last.
    _bound: Bound,
}

impl Real {
    /// Takes over what the cases need: the device at `wanted`, or the first that will do.
    pub(crate) fn open(
        cases: &[&CaseSpec],
        wanted: Option<&str>,
        allowed: Allowed<'_>,
    ) -> Result<Self, HardwareError> {
        let bare = |case: &&CaseSpec| case.test.device() == Wanted::Container;
        if cases.iter().all(bare) {
            return Bare::open(wanted, allowed).map(Self::Bare);
        }
        if cases.iter().all(|case| Disk::suits(case)) {
            return Disk::open(cases, wanted, allowed).map(Self::Disk);
        }
        if cases.iter().any(|case| Disk::suits(case) || bare(case)) {
            return Err(HardwareError::Mixed);
        }
        cases.iter().try_for_each(|case| Hardware::check(case))?;
        Hardware::open(wanted, allowed).map(Self::Nics)
    }

    /// The address of the device that is measured.
    pub(super) fn address(&self) -> &str {
        match self {
            Self::Nics(cards) => cards.address(),
            Self::Disk(disk) => disk.address(),
            Self::Bare(bare) => bare.container.address(),
        }
    }

    /// I/O virtual addresses of the host's IOMMU, where a guest is to be offered no others.
    pub(crate) fn input_range(&self) -> Option<IovaRange> {
        match self {
            Self::Nics(cards) => cards.input_range(),
            Self::Disk(disk) => disk.input_range(),
            Self::Bare(_) => None,
        }
    }

    /// The network card for one case; see [`Hardware::card`].
    pub(super) fn card(
        &self,
        case: &CaseSpec,
        memory: &Arc<GuestMemoryMmap>,
        iommu: Option<(&Device, EndpointId)>,
        timing: Option<(WallClock, Arc<Latencies>)>,
    ) -> Result<Plugged, Box<dyn Error>> {
        match self {
            Self::Nics(cards) => cards.card(case, memory, iommu, timing),
            Self::Disk(_) | Self::Bare(_) => Err(format!("{} is no network card", self.address()).into()),
        }
    }

    /// Whether large packets can be handed to its network cards; true where there are none.
    pub(crate) fn segments(&self) -> bool {
        match self {
            Self::Nics(cards) => cards.segments(),
            Self::Disk(_) | Self::Bare(_) => true,
        }
    }
}

impl Bare {
    fn open(wanted: Option<&str>, allowed: Allowed<'_>) -> Result<Self, HardwareError> {
        let other = |error: &dyn Error| HardwareError::Other(chain(error));
        recover()?;
        let device = match wanted {
            Some(text) => {
                let address: Address = text.parse().map_err(|error| other(&error))?;
                PciDevice::new(Path::new(SYSFS), address).map_err(|error| other(&error))?
            }
            None => first(allowed.bind)
                .map_err(|error| other(&error))?
                .ok_or(HardwareError::NoDevice { bind: allowed.bind })?,
        };
        let bound = take(&device, allowed)?;
        let container = Arc::new(Container::open(&device).map_err(|error| other(&error))?);
        Ok(Self { container, _bound: bound })
    }
}

/// Undoes what crashed runs left.
pub(super) fn recover() -> Result<(), HardwareError> {
    for address in bind::recover(Path::new(bind::JOURNALS))? {
        tracing::warn!(address, "a run before ended without giving the device back; that is done now");
    }
    Ok(())
}

/// The first device that is bound to vfio-pci; otherwise, if it may be bound, one that no driver has and whose group
/// no driver of the host keeps back.
fn first(may_bind: bool) -> Result<Option<PciDevice>, SysfsError> {
    let all = PciDevice::all(Path::new(SYSFS))?;
    if let Some(bound) = all.iter().find(|device| device.driver().as_deref() == Some(VFIO_DRIVER)) {
        return Ok(Some(bound.clone()));
    }
    if !may_bind {
        return Ok(None);
    }
    let is_bridge = |device: &PciDevice| device.class().is_ok_and(|class| class >> 16 == BRIDGE);
    let alone = |device: &PciDevice| device.blockers().is_ok_and(|others| others.is_empty());
    let mut free = all.into_iter().filter(|device| device.driver().is_none() && !is_bridge(device));
    Ok(free.find(|device| device.group().is_ok() && alone(device)))
}
