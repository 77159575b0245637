//! The served devices, each behind its socket.

use std::{
    error::Error,
    path::{Path, PathBuf},
    sync::Arc,
};

use iommu_endpoints::{
    BlkConfig, BlkCounters, CableEnd, DirectPort, Disk, DmaPort, Nic, NicConfig, NicCounters, VirtioBlk,
};
use iommu_vfio_user::{PciDevice, Server, ServerCounters, ServerOptions};
use virtio_iommu::{
    Counters, Device, DeviceOptions, EndpointPort,
    epoch::Fences,
    fault::FaultListener,
    memory::{AddressSpace, GuestRam},
};
use virtio_transport::{ServiceMode, VirtioDevice};

use super::{
    address::Unit,
    volume::{Bytes, Volume},
};

/// Guest-physical addresses a device can be lent memory at: below 1 TiB.
const SPACE_BYTES: u64 = 1 << 40;

/// What shall be served.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PlatformOptions {
    /// Where devices work.
    pub(crate) service: ServiceMode,
    /// Whether the endpoints are behind the IOMMU; otherwise there is none, and their addresses are guest-physical.
    pub(crate) iommu: bool,
    /// Size of the disk in MiB, if there shall be one.
    pub(crate) disk_mib: Option<u32>,
    /// Whether the disk has INTx alone, so that QEMU survives its being unplugged.
    pub(crate) disk_intx: bool,
}

impl PlatformOptions {
    /// The units that this makes, the IOMMU first.
    pub(crate) fn units(&self) -> Vec<Unit> {
        let is_there = |unit: &Unit| match unit {
            Unit::Iommu => self.iommu,
            Unit::Nic0 | Unit::Nic1 => true,
            Unit::Disk => self.disk_mib.is_some(),
        };
        Unit::ALL.into_iter().filter(is_there).collect()
    }
}

/// A network card, whatever it reaches memory through.
trait Card: VirtioDevice {
    fn counted(&self) -> NicCounters;
    fn broke(&self) -> Option<String>;
}

impl<P: DmaPort + 'static> Card for Nic<P> {
    fn counted(&self) -> NicCounters {
        self.counters()
    }

    fn broke(&self) -> Option<String> {
        self.failed()
    }
}

/// What is served.
pub(crate) struct Platform {
    // Servers go first: they reset the devices.
    servers: Vec<(Unit, Server)>,
    iommu: Option<Arc<Device>>,
    volume: Volume,
    nics: [Arc<dyn Card>; 2],
    disk: Option<Arc<VirtioBlk<EndpointPort>>>,
}

/// What has been counted since the start; of what is not there, nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Snapshot {
    pub(crate) iommu: Counters,
    pub(crate) domains: usize,
    pub(crate) bytes: Bytes,
    pub(crate) nics: [NicCounters; 2],
    pub(crate) disk: BlkCounters,
    pub(crate) servers: Vec<(Unit, ServerCounters)>,
}

type Spaces = [Arc<AddressSpace>; Unit::ALL.len()];

impl Platform {
    /// Starts to serve all units at sockets in `folder`.
    ///
    /// # Errors
    /// When memory, a device or a socket cannot be had.
    pub(crate) fn start(
        folder: &Path,
        options: &PlatformOptions,
        listener: Box<dyn FaultListener>,
    ) -> Result<Self, Box<dyn Error>> {
        let mut spaces = Vec::new();
        for _ in Unit::ALL {
            spaces.push(Arc::new(AddressSpace::new(SPACE_BYTES)?));
        }
        let spaces: Spaces = spaces.try_into().map_err(|_| "a unit without an address space")?;
        let iommu = options.iommu.then(|| iommu(options, &spaces, listener)).transpose()?;
        let volume = Volume::default();
        if let Some(iommu) = &iommu {
            iommu.set_observers(|_| Box::new(volume.clone()));
        }
        let nics = match &iommu {
            Some(iommu) => cards(options.service, |unit| port(iommu, &spaces, unit))?,
            None => cards(options.service, |unit| {
                Ok(DirectPort::new(GuestRam::of_space(spaces[unit as usize].clone())))
            })?,
        };
        let disk = match (&iommu, options.disk_mib) {
            (Some(iommu), Some(mib)) => {
                let store = Disk::ram(u64::from(mib) << 20);
                let port = port(iommu, &spaces, Unit::Disk)?;
                Some(Arc::new(VirtioBlk::new(BlkConfig::default(), options.service, &store, [port])?))
            }
            _ => None,
        };
        let mut servers = Vec::new();
        for unit in options.units() {
            let device: Option<Arc<dyn VirtioDevice>> = match unit {
                Unit::Iommu => iommu.clone().map(|device| device as _),
                Unit::Nic0 => Some(nics[0].clone()),
                Unit::Nic1 => Some(nics[1].clone()),
                Unit::Disk => disk.clone().map(|device| device as _),
            };
            let Some(device) = device else { continue };
            let space = spaces[unit as usize].clone();
            let device = match unit {
                Unit::Disk if options.disk_intx => PciDevice::without_msix(device, space),
                _ => PciDevice::new(device, space),
            };
            let device = Arc::new(device);
            servers.push((unit, Server::start(&socket(folder, unit), device, ServerOptions::default())?));
        }
        Ok(Self { servers, iommu, volume, nics, disk })
    }

    /// What has been counted.
    pub(crate) fn snapshot(&self) -> Snapshot {
        Snapshot {
            iommu: self.iommu.as_ref().map(|iommu| iommu.counters()).unwrap_or_default(),
            domains: self.iommu.as_ref().map_or(0, |iommu| iommu.domains()),
            bytes: self.volume.bytes(),
            nics: self.nics.each_ref().map(|nic| nic.counted()),
            disk: self.disk.as_ref().map(|disk| disk.counters()).unwrap_or_default(),
            servers: self.servers.iter().map(|(unit, server)| (*unit, server.counters())).collect(),
        }
    }

    /// What a device's worker panicked with, if one did.
    pub(crate) fn failure(&self) -> Option<String> {
        let nics = self.nics.iter().find_map(|nic| nic.broke());
        let iommu = self.iommu.as_ref().and_then(|iommu| iommu.failure());
        iommu.or(nics).or_else(|| self.disk.as_ref().and_then(|disk| disk.failed()))
    }
}

fn iommu(
    options: &PlatformOptions,
    spaces: &Spaces,
    listener: Box<dyn FaultListener>,
) -> Result<Arc<Device>, Box<dyn Error>> {
    let device =
        DeviceOptions { service: options.service, fences: Fences::best(), ..DeviceOptions::default() };
    let ram = GuestRam::of_space(spaces[Unit::Iommu as usize].clone());
    let iommu = Arc::new(Device::new(device, ram)?);
    iommu.set_fault_listener(listener);
    for unit in options.units().into_iter().filter(|unit| *unit != Unit::Iommu) {
        iommu.add_emulated_endpoint(unit.address().endpoint())?;
    }
    Ok(iommu)
}

fn port(iommu: &Device, spaces: &Spaces, unit: Unit) -> Result<EndpointPort, Box<dyn Error>> {
    let ram = GuestRam::of_space(spaces[unit as usize].clone());
    Ok(iommu.endpoint_port_to(unit.address().endpoint(), ram)?)
}

/// Two cards, joined by a cable.
fn cards<P: DmaPort + 'static>(
    service: ServiceMode,
    port: impl Fn(Unit) -> Result<P, Box<dyn Error>>,
) -> Result<[Arc<dyn Card>; 2], Box<dyn Error>> {
    let nic = |unit: Unit, end, mac: u8| -> Result<Arc<dyn Card>, Box<dyn Error>> {
        let config = NicConfig { mac: [0x02, 0x10, 0, 0, 0, mac], ..NicConfig::default() };
        Ok(Arc::new(Nic::new(config, service, end, [port(unit)?, port(unit)?])?))
    };
    let (left, right) = CableEnd::pair();
    Ok([nic(Unit::Nic0, left, 1)?, nic(Unit::Nic1, right, 2)?])
}

/// Where a unit's socket is.
pub(crate) fn socket(folder: &Path, unit: Unit) -> PathBuf {
    folder.join(format!("{}.sock", unit.name()))
}
