//! One PCI device and what its client has lent it.

use std::{
    collections::BTreeMap,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rustix::io::Errno;
use virtio_iommu::memory::{AddressSpace, MAX_SPACE_REGIONS, RamFile, SpaceError};
use virtio_transport::{
    PciTransport, VirtioDevice,
    pci::{VectorOwner, layout},
};

use crate::{
    irqs::{Irqs, MSIX},
    request::{DmaMap, Refusal, SetIrqs},
};

/// Regions a PCI device has in VFIO: six BARs, ROM, configuration space, VGA.
pub(crate) const REGIONS: u32 = 9;
/// Index of configuration space.
const CONFIG_REGION: u32 = 7;

/// A virtio device as a PCI function, the interrupts that leave it and the guest memory it works on.
pub struct PciDevice {
    function: PciTransport,
    irqs: Arc<Irqs>,
    space: Arc<AddressSpace>,
    /// Read-only memory without a file (ROMs): known, so that it can be unmapped, but out of the device's reach.
    roms: Mutex<BTreeMap<u64, u64>>,
}

impl PciDevice {
    /// A function around `device`, which must reach guest memory through `space`.
    pub fn new(device: Arc<dyn VirtioDevice>, space: Arc<AddressSpace>) -> Self {
        let vectors = u16::try_from(device.queue_max_sizes().len() + 1).unwrap_or(layout::MAX_VECTORS);
        let irqs = Arc::new(Irqs::new(vectors.min(layout::MAX_VECTORS)));
        let function = PciTransport::new(device, VectorOwner::Monitor, irqs.clone());
        Self { function, irqs, space, roms: Mutex::default() }
    }

    /// As [`new`](Self::new), with INTx alone. QEMU 11.1 aborts when a vfio-user device with MSI-X is unplugged.
    pub fn without_msix(device: Arc<dyn VirtioDevice>, space: Arc<AddressSpace>) -> Self {
        let irqs = Arc::new(Irqs::new(0));
        let function = PciTransport::new(device, VectorOwner::Monitor, irqs.clone()).without_msix();
        Self { function, irqs, space, roms: Mutex::default() }
    }

    /// The function.
    pub fn function(&self) -> &PciTransport {
        &self.function
    }

    /// Its interrupts.
    pub fn irqs(&self) -> &Irqs {
        &self.irqs
    }

    /// The memory its client has shared.
    pub fn space(&self) -> &Arc<AddressSpace> {
        &self.space
    }

    fn roms(&self) -> MutexGuard<'_, BTreeMap<u64, u64>> {
        // One insertion or removal at a time.
        self.roms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Size of a region in bytes; 0: not there.
    pub(crate) fn region_bytes(region: u32) -> u64 {
        match region {
            CONFIG_REGION => layout::CONFIG_BYTES,
            0..=5 => PciTransport::bar_bytes(region as u8),
            _ => 0,
        }
    }

    /// Reads a region; the caller has checked that the access lies in it.
    pub(crate) fn read(&self, region: u32, offset: u64, data: &mut [u8]) {
        match region {
            CONFIG_REGION => self.function.read_config(offset, data),
            _ => self.function.read_bar(region as u8, offset, data),
        }
    }

    /// Writes a region; the caller has checked that the access lies in it.
    pub(crate) fn write(&self, region: u32, offset: u64, data: &[u8]) {
        match region {
            CONFIG_REGION => self.function.write_config(offset, data),
            _ => self.function.write_bar(region as u8, offset, data),
        }
    }

    pub(crate) fn set_irqs(&self, request: &SetIrqs<'_>, fds: Vec<OwnedFd>) -> Result<(), Refusal> {
        self.irqs.set(request, fds)?;
        if request.index == MSIX {
            // What fired before the client had a way to hear of it.
            self.function.retry();
        }
        Ok(())
    }

    /// Maps a piece of guest memory.
    pub(crate) fn map(&self, map: DmaMap, fd: Option<OwnedFd>) -> Result<(), Refusal> {
        let DmaMap { offset, address, size, writable } = map;
        let Some(fd) = fd else { return self.map_rom(map) };
        let file = RamFile::new(fd).map_err(|error| Refusal::BadDescriptor { reason: error.to_string() })?;
        if overlaps(&self.roms(), address, size) {
            return Err(memory(&SpaceError::Overlap { gpa: address, len: size, other: address }));
        }
        self.space.map(address, size, &file, offset, writable).map_err(|error| memory(&error))
    }

    fn map_rom(&self, map: DmaMap) -> Result<(), Refusal> {
        let DmaMap { address, size, writable, .. } = map;
        if writable {
            return Err(Refusal::NoFile { address, size });
        }
        let mut roms = self.roms();
        if size == 0 || address.checked_add(size).is_none() || roms.len() >= MAX_SPACE_REGIONS {
            return Err(memory(&SpaceError::Shape { gpa: address, len: size, offset: 0 }));
        }
        if overlaps(&roms, address, size) {
            return Err(memory(&SpaceError::Overlap { gpa: address, len: size, other: address }));
        }
        roms.insert(address, size);
        Ok(())
    }

    /// Unmaps one region.
    pub(crate) fn unmap(&self, address: u64, size: u64) -> Result<(), Refusal> {
        let mut roms = self.roms();
        if roms.get(&address) == Some(&size) {
            roms.remove(&address);
            return Ok(());
        }
        drop(roms);
        self.space.unmap(address, size).map_err(|error| memory(&error))
    }

    /// Unmaps all regions.
    pub(crate) fn unmap_all(&self) -> Result<(), Refusal> {
        self.roms().clear();
        self.space.unmap_all().map_err(|error| memory(&error))
    }

    /// The client is gone: the device is reset and gives back all it was lent.
    pub(crate) fn disconnect(&self) {
        self.function.reset();
        self.irqs.clear();
        if let Err(error) = self.unmap_all() {
            tracing::error!(%error, "guest memory is still mapped");
        }
    }
}

fn overlaps(roms: &BTreeMap<u64, u64>, address: u64, size: u64) -> bool {
    let end = address.saturating_add(size);
    roms.range(..end).next_back().is_some_and(|(start, len)| start.saturating_add(*len) > address)
}

fn memory(error: &SpaceError) -> Refusal {
    let errno = match error {
        SpaceError::Overlap { .. } => Errno::EXIST.raw_os_error(),
        SpaceError::TooMany => Errno::NOSPC.raw_os_error(),
        SpaceError::Kernel { source, .. } => source.raw_os_error().unwrap_or(Errno::IO.raw_os_error()),
        _ => Errno::INVAL.raw_os_error(),
    };
    Refusal::Memory { reason: error.to_string(), errno }
}
