//! The served devices, each behind its socket.

use std::{
    error::Error,
    path::{Path, PathBuf},
    sync::Arc,
};

use iommu_endpoints::{BlkConfig, BlkCounters, CableEnd, Disk, Nic, NicConfig, NicCounters, VirtioBlk};
use iommu_vfio_user::{PciDevice, Server, ServerCounters, ServerOptions};
use virtio_iommu::{
    Counters, Device, DeviceOptions, EndpointPort,
    epoch::Fences,
    fault::FaultListener,
    memory::{AddressSpace, GuestRam},
};
use virtio_transport::{ServiceMode, VirtioDevice};

use super::address::Unit;

/// Guest-physical addresses a device can be lent memory at: below 1 TiB.
const SPACE_BYTES: u64 = 1 << 40;

/// What is served.
pub(crate) struct Platform {
    // Servers go first: they reset the devices.
    servers: Vec<(Unit, Server)>,
    iommu: Arc<Device>,
    nics: [Arc<Nic<EndpointPort>>; 2],
    disk: Arc<VirtioBlk<EndpointPort>>,
}

/// What has been counted since the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Snapshot {
    pub(crate) iommu: Counters,
    pub(crate) domains: usize,
    pub(crate) nics: [NicCounters; 2],
    pub(crate) disk: BlkCounters,
    pub(crate) servers: Vec<(Unit, ServerCounters)>,
}

impl Platform {
    /// Starts to serve all units at sockets in `folder`.
    pub(crate) fn start(
        folder: &Path,
        mode: ServiceMode,
        disk_mib: u32,
        listener: Box<dyn FaultListener>,
    ) -> Result<Self, Box<dyn Error>> {
        let spaces = Unit::ALL.map(|unit| (unit, AddressSpace::new(SPACE_BYTES).map(Arc::new)));
        let space = |unit: Unit| -> Result<Arc<AddressSpace>, Box<dyn Error>> {
            match &spaces[unit as usize].1 {
                Ok(space) => Ok(space.clone()),
                Err(error) => Err(error.to_string().into()),
            }
        };
        let options = DeviceOptions { service: mode, fences: Fences::best(), ..DeviceOptions::default() };
        let iommu = Arc::new(Device::new(options, GuestRam::of_space(space(Unit::Iommu)?))?);
        iommu.set_fault_listener(listener);
        for unit in Unit::ENDPOINTS {
            iommu.add_emulated_endpoint(unit.address().endpoint())?;
        }
        let port = |unit: Unit| -> Result<EndpointPort, Box<dyn Error>> {
            Ok(iommu.endpoint_port_to(unit.address().endpoint(), GuestRam::of_space(space(unit)?))?)
        };
        let nic = |unit: Unit, end, mac: u8| -> Result<_, Box<dyn Error>> {
            let config = NicConfig { mac: [0x02, 0x10, 0, 0, 0, mac], ..NicConfig::default() };
            Ok(Arc::new(Nic::new(config, mode, end, [port(unit)?, port(unit)?])?))
        };
        let (left, right) = CableEnd::pair();
        let nics = [nic(Unit::Nic0, left, 1)?, nic(Unit::Nic1, right, 2)?];
        let store = Disk::ram(u64::from(disk_mib) << 20);
        let disk = Arc::new(VirtioBlk::new(BlkConfig::default(), mode, &store, [port(Unit::Disk)?])?);
        let [nic0, nic1] = nics.clone();
        let devices: [Arc<dyn VirtioDevice>; 4] = [iommu.clone(), nic0, nic1, disk.clone()];
        let mut servers = Vec::new();
        for (unit, device) in Unit::ALL.into_iter().zip(devices) {
            let device = Arc::new(PciDevice::new(device, space(unit)?));
            servers.push((unit, Server::start(&socket(folder, unit), device, ServerOptions::default())?));
        }
        Ok(Self { servers, iommu, nics, disk })
    }

    /// What has been counted.
    pub(crate) fn snapshot(&self) -> Snapshot {
        Snapshot {
            iommu: self.iommu.counters(),
            domains: self.iommu.domains(),
            nics: self.nics.each_ref().map(|nic| nic.counters()),
            disk: self.disk.counters(),
            servers: self.servers.iter().map(|(unit, server)| (*unit, server.counters())).collect(),
        }
    }

    /// What a device's worker panicked with, if one did.
    pub(crate) fn failure(&self) -> Option<String> {
        let nics = self.nics.iter().find_map(|nic| nic.failed());
        self.iommu.failure().or(nics).or_else(|| self.disk.failed())
    }
}

/// Where a unit's socket is.
pub(crate) fn socket(folder: &Path, unit: Unit) -> PathBuf {
    folder.join(format!("{}.sock", unit.name()))
}
