//! A real NVMe disk behind VFIO.

use std::{error::Error, path::Path, sync::Arc};

use iommu_passthrough::{
    Address, Container, Endpoint, PciDevice, VfioFunction,
    bind::Bound,
    endpoint::{Observer, properties},
    sysfs::{SYSFS, SysfsError, VFIO_DRIVER},
};
use iommu_workloads::{
    CaseSpec,
    nvme::{Contents, Drive, load},
    scenario::Device as Wanted,
};
use virtio_iommu::{
    Device,
    passthrough::Backend,
    properties::EndpointProperties,
    spec::{EndpointId, IovaRange},
};
use vm_memory::GuestMemoryMmap;

use super::{
    build::chain,
    card::{Card, CardCounts},
    hardware::{HardwareError, VfioTimer, left_behind, take, too_narrow},
    real::{Allowed, recover},
};
use crate::{clock::WallClock, measure::Latencies};

/// Class of NVMe disks.
const NVME: u32 = 0x01_08_02;

/// A disk, taken over.
pub(crate) struct Disk {
    container: Arc<Container>,
    properties: EndpointProperties,
    writable: bool,
    contents: Contents,
    /// Dropped last: the disk goes back to its driver once nobody uses it.
    _bound: Bound,
}

impl Disk {
    /// Whether a case is for disks.
    pub(super) fn suits(case: &CaseSpec) -> bool {
        matches!(case.test.device(), Wanted::Disk | Wanted::Engine)
    }

    /// Takes over the disk at `wanted`, or the first that the host has no driver for.
    pub(super) fn open(
        cases: &[&CaseSpec],
        wanted: Option<&str>,
        allowed: Allowed<'_>,
    ) -> Result<Self, HardwareError> {
        let other = |error: &dyn Error| HardwareError::Other(chain(error));
        for case in cases {
            if let Some(why) = load::conflict(case) {
                return Err(HardwareError::Case { case: case.id.clone(), why });
            }
        }
        let address = |text: &str| text.parse::<Address>().map_err(|error| other(&error));
        let writable = allowed.writes.map(address).transpose()?;
        recover()?;
        let disk = match wanted.map(address).transpose()? {
            Some(address) => named(address)?,
            None => first(allowed.bind)
                .map_err(|error| other(&error))?
                .ok_or(HardwareError::NoDisk { bind: allowed.bind })?,
        };
        let may_write = writable == Some(disk.address());
        if !may_write && let Some(case) = cases.iter().find(|case| load::writes(case)) {
            return Err(HardwareError::ReadOnly { address: disk.address(), case: case.id.clone() });
        }
        let bound = take(&disk, allowed)?;
        let container = Container::open(&disk).map(Arc::new).map_err(|error| other(&error))?;
        let properties = properties(&disk, &container).map_err(|error| other(&error))?;
        Ok(Self { container, properties, writable: may_write, contents: Contents::default(), _bound: bound })
    }

    pub(super) fn address(&self) -> &str {
        self.container.address()
    }

    pub(super) fn input_range(&self) -> Option<IovaRange> {
        self.properties.input_range.and_then(|(start, end)| IovaRange::new(start, end))
    }

    /// The disk for one case: behind the IOMMU, or with all of memory before it.
    pub(super) fn drive(
        &self,
        memory: &Arc<GuestMemoryMmap>,
        iommu: Option<(&Device, EndpointId)>,
        id: EndpointId,
        timing: Option<(WallClock, Arc<Latencies>)>,
    ) -> Result<(Arc<dyn Card>, Drive), Box<dyn Error>> {
        let observer =
            timing.map(|(clock, latencies)| VfioTimer::shared(clock, latencies) as Arc<dyn Observer>);
        let endpoint = Arc::new(Endpoint::new(Arc::clone(&self.container), Arc::clone(memory), observer));
        let behind_iommu = iommu.is_some();
        match iommu {
            Some((device, id)) => {
                let backend = Arc::clone(&endpoint) as Arc<dyn Backend>;
                device.add_passthrough_endpoint(id, self.properties.clone(), backend).map_err(too_narrow)?;
            }
            None => endpoint.show_all()?,
        }
        let drive = Drive {
            function: Arc::new(VfioFunction::new(Arc::clone(&self.container))?),
            endpoint: id,
            writable: self.writable,
            contents: self.contents.clone(),
        };
        Ok((Arc::new(DiskCard { endpoint, behind_iommu }), drive))
    }
}

fn named(address: Address) -> Result<PciDevice, HardwareError> {
    let other = |error: &dyn Error| HardwareError::Other(chain(error));
    let device = PciDevice::new(Path::new(SYSFS), address).map_err(|error| other(&error))?;
    let class = device.class().map_err(|error| other(&error))?;
    if class == NVME { Ok(device) } else { Err(HardwareError::NoNvme { address, class }) }
}

/// The first disk that is bound to vfio-pci; otherwise, if it may be bound, one that no driver has. A disk that the host's
/// driver has is only taken by name.
fn first(may_bind: bool) -> Result<Option<PciDevice>, SysfsError> {
    let mut disks = Vec::new();
    for device in PciDevice::all(Path::new(SYSFS))? {
        if device.class()? == NVME {
            disks.push((device.driver(), device));
        }
    }
    let bound = disks.iter().find(|(driver, _)| driver.as_deref() == Some(VFIO_DRIVER));
    let free = disks.iter().find(|(driver, _)| driver.is_none() && may_bind);
    Ok(bound.or(free).map(|(_, device)| device.clone()))
}

/// The disk as the machine sees it.
struct DiskCard {
    endpoint: Arc<Endpoint>,
    behind_iommu: bool,
}

impl Card for DiskCard {
    fn counts(&self) -> CardCounts {
        CardCounts { vfio: Some(self.endpoint.counts()), ..CardCounts::default() }
    }

    fn failed(&self) -> Option<String> {
        None
    }

    fn left_behind(&self) -> Option<String> {
        left_behind(&self.endpoint, self.behind_iommu)
    }
}
