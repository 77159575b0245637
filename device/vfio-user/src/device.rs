//! One PCI device and what its client has lent it.

use std::{os::fd::AsFd, sync::Arc, time::Duration};

use rustix::io::Errno;
use virtio_iommu::memory::{AddressSpace, RamFile, RamFileError, SpaceError, is_sealed};
use virtio_transport::{
    PciTransport, VirtioDevice,
    pci::{VectorOwner, layout},
};

use crate::{
    Lent, aside,
    irqs::{Irqs, MSIX},
    request::{DmaMap, Refusal, SetIrqs},
};

/// Regions a PCI device has in VFIO: six BARs, ROM, configuration space, VGA.
pub(crate) const REGIONS: u32 = 9;
/// Index of configuration space.
const CONFIG_REGION: u32 = 7;
/// How long a seal may wait for the writers of a memory file.
const SEAL_PATIENCE: Duration = Duration::from_secs(2);

/// A virtio device as a PCI function, the interrupts that leave it and the guest memory it works on.
pub struct PciDevice {
    function: PciTransport,
    irqs: Arc<Irqs>,
    space: Arc<AddressSpace>,
}

impl PciDevice {
    /// A function around `device`, which must reach guest memory through `space`.
    pub fn new(device: Arc<dyn VirtioDevice>, space: Arc<AddressSpace>) -> Self {
        let vectors = u16::try_from(device.queue_max_sizes().len() + 1).unwrap_or(layout::MAX_VECTORS);
        let irqs = Arc::new(Irqs::new(vectors.min(layout::MAX_VECTORS)));
        let function = PciTransport::new(device, VectorOwner::Monitor, irqs.clone());
        Self { function, irqs, space }
    }

    /// As [`new`](Self::new), with INTx alone. QEMU 11.1 aborts when a vfio-user device with MSI-X is unplugged.
    pub fn without_msix(device: Arc<dyn VirtioDevice>, space: Arc<AddressSpace>) -> Self {
        let irqs = Arc::new(Irqs::new(0));
        let function = PciTransport::new(device, VectorOwner::Monitor, irqs.clone()).without_msix();
        Self { function, irqs, space }
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

    pub(crate) fn set_irqs(&self, request: &SetIrqs<'_>, fds: Vec<Lent>) -> Result<(), Refusal> {
        self.irqs.set(request, fds)?;
        if request.index == MSIX {
            // What fired before the client had a way to hear of it.
            self.function.retry();
        }
        Ok(())
    }

    /// Maps a piece of guest memory. Read-only memory without a file (a ROM) is known, so that it can be unmapped and
    /// nothing is mapped over it, but out of the device's reach.
    pub(crate) fn map(&self, map: DmaMap, fd: Option<Lent>) -> Result<(), Refusal> {
        let DmaMap { offset, address, size, writable } = map;
        let mapped = match fd {
            Some(fd) => self.space.map(address, size, &ram_file(fd)?, offset, writable),
            None if writable => return Err(Refusal::NoFile { address, size }),
            None => self.space.map_unreachable(address, size),
        };
        mapped.map_err(|error| memory(&error))
    }

    /// Unmaps one region.
    pub(crate) fn unmap(&self, address: u64, size: u64) -> Result<(), Refusal> {
        self.space.unmap(address, size).map_err(|error| memory(&error))
    }

    /// Unmaps all regions.
    pub(crate) fn unmap_all(&self) -> Result<(), Refusal> {
        self.space.unmap_all().map_err(|error| memory(&error))
    }

    /// The client is gone: the device is as after power-on and gives back all it was lent.
    pub(crate) fn disconnect(&self) {
        self.function.reset();
        self.irqs.clear();
        if let Err(error) = self.unmap_all() {
            virtio_transport::complain!(error, %error, "guest memory is still mapped");
        }
    }
}

/// Checks a memory file. Adding the seal may block, so that is done on another thread.
fn ram_file(fd: Lent) -> Result<RamFile<Lent>, Refusal> {
    let bad = |error: RamFileError| Refusal::BadDescriptor { reason: error.to_string() };
    if is_sealed(fd.as_fd()).map_err(bad)? {
        return RamFile::new(fd).map_err(bad);
    }
    let checked = aside::run(SEAL_PATIENCE, move || RamFile::new(fd));
    let stuck =
        format!("the memory file could not be sealed within {SEAL_PATIENCE:?}; share it with seal=on");
    checked.ok_or(Refusal::BadDescriptor { reason: stuck })?.map_err(bad)
}

fn memory(error: &SpaceError) -> Refusal {
    let errno = match error {
        SpaceError::Overlap { .. } => Errno::EXIST.raw_os_error(),
        SpaceError::TooMany => Errno::NOSPC.raw_os_error(),
        SpaceError::Kernel { source, .. } | SpaceError::Huge { source, .. } => {
            source.raw_os_error().unwrap_or(Errno::IO.raw_os_error())
        }
        _ => Errno::INVAL.raw_os_error(),
    };
    Refusal::Memory { reason: error.to_string(), errno }
}
