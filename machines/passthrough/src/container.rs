//! A VFIO container (type 1, version 2) with one device in it, and its limits.

#![allow(
    unsafe_code,
    reason = "system calls of VFIO's that vfio-ioctls does not have: read-only mappings, limits"
)]

use std::{
    io,
    os::fd::{AsRawFd, RawFd},
    sync::Arc,
};

use thiserror::Error;
use vfio_bindings::bindings::vfio::{
    VFIO_BASE, VFIO_DMA_MAP_FLAG_READ, VFIO_DMA_MAP_FLAG_WRITE, VFIO_IOMMU_INFO_CAPS,
    VFIO_IOMMU_INFO_PGSIZES, VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE, VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL,
    VFIO_TYPE, vfio_iommu_type1_dma_map, vfio_iommu_type1_dma_unmap,
};
use vfio_ioctls::{VfioContainer, VfioDevice, VfioError};
use vmm_sys_util::ioctl::{ioctl_with_mut_ptr, ioctl_with_mut_ref, ioctl_with_ref};

use crate::{
    shadow::{Kernel, Rights},
    sysfs::{PciDevice, SysfsError, VFIO_DRIVER},
};

/// `_IO(VFIO_TYPE, VFIO_BASE + number)`: the kernel's number of a request without an argument's size in it.
const fn request_number(number: u32) -> libc::c_ulong {
    (VFIO_TYPE as libc::c_ulong) << 8 | (VFIO_BASE + number) as libc::c_ulong
}

const VFIO_IOMMU_GET_INFO: libc::c_ulong = request_number(12);
const VFIO_IOMMU_MAP_DMA: libc::c_ulong = request_number(13);
const VFIO_IOMMU_UNMAP_DMA: libc::c_ulong = request_number(14);

/// Page sizes of an IOMMU that does not say: the kernel's.
const DEFAULT_PAGE_SIZES: u64 = 1 << 12;
/// Room for the answer to `VFIO_IOMMU_GET_INFO`, capabilities included, in bytes.
const INFO_BYTES: usize = 4096;

/// A device that cannot be taken over.
#[derive(Debug, Error)]
pub enum ContainerError {
    /// What sysfs says, or does not.
    #[error(transparent)]
    Sysfs(#[from] SysfsError),
    /// Another driver has it.
    #[error(
        "PCI device {address} is bound to {}, not to {VFIO_DRIVER}; give --bind, or bind it by hand",
        driver.as_deref().unwrap_or("no driver")
    )]
    NotBound {
        /// Its address.
        address: String,
        /// The driver it is bound to.
        driver: Option<String>,
    },
    /// Other devices of its group are the host's.
    #[error("IOMMU group {group} of PCI device {address} is not viable: {}", not_viable(others))]
    NotViable {
        /// Its address.
        address: String,
        /// Its group.
        group: u32,
        /// The others that a driver has, and their drivers.
        others: Vec<String>,
    },
    /// The kernel has no VFIO.
    #[error("/dev/vfio/vfio cannot be opened ({0}): load the modules vfio_iommu_type1 and vfio-pci, as root")]
    NoVfio(io::Error),
    /// The group's file.
    #[error("/dev/vfio/{group} cannot be opened ({source}): another process has it, or root is needed")]
    Group {
        /// The group.
        group: u32,
        /// Why.
        source: io::Error,
    },
    /// Interrupts are not isolated.
    #[error(
        "the kernel refuses PCI device {address} ({source}); if its log says \"No interrupt remapping support\", \
         interrupts are not isolated here: VFIO can be told to accept that with the module parameter \
         vfio_iommu_type1.allow_unsafe_interrupts=1"
    )]
    Iommu {
        /// Its address.
        address: String,
        /// Why.
        source: VfioError,
    },
    /// Anything else.
    #[error("VFIO and PCI device {address}: {source}")]
    Vfio {
        /// Its address.
        address: String,
        /// Why.
        source: VfioError,
    },
    /// The IOMMU does not tell its limits.
    #[error("VFIO_IOMMU_GET_INFO failed: {0}")]
    Info(io::Error),
}

/// Remedy for a group that is not viable. PCI bridges and devices without a driver are never named.
fn not_viable(others: &[String]) -> String {
    if others.is_empty() {
        return "the kernel does not say which device is in the way; its log may".to_owned();
    }
    let others = others.join(", ");
    format!("{others} of it must be bound to {VFIO_DRIVER} too, or to no driver")
}

/// What a container's IOMMU can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Page sizes, as a mask.
    pub page_sizes: u64,
    /// First and last addresses that can be mapped, reserved regions left out; empty when the kernel does not say.
    pub ranges: Vec<(u64, u64)>,
    /// Mappings that still fit (the module's `dma_entry_limit`), when the kernel says.
    pub mappings_left: Option<u32>,
}

/// A container with one device.
pub struct Container {
    device: VfioDevice,
    vfio: Arc<VfioContainer>,
    address: String,
}

impl Container {
    /// Takes the device over.
    ///
    /// # Errors
    /// When it is not bound to vfio-pci, its group is not viable or in use, or the IOMMU refuses.
    pub fn open(pci: &PciDevice) -> Result<Self, ContainerError> {
        let address = pci.address().to_string();
        let group = pci.group()?;
        let driver = pci.driver();
        if driver.as_deref() != Some(VFIO_DRIVER) {
            return Err(ContainerError::NotBound { address, driver });
        }
        let vfio = VfioContainer::new(None).map_err(|error| match error {
            VfioError::OpenContainer(source) => ContainerError::NoVfio(source),
            source => ContainerError::Vfio { address: address.clone(), source },
        })?;
        let vfio = Arc::new(vfio);
        let device = match VfioDevice::new(pci.folder(), Arc::clone(&vfio) as _, false) {
            Ok(device) => device,
            Err(VfioError::GroupViable) => {
                let name = |device: &PciDevice| Some(format!("{} ({})", device.address(), device.driver()?));
                let others = pci.blockers()?.iter().filter_map(name).collect();
                return Err(ContainerError::NotViable { address, group, others });
            }
            Err(VfioError::OpenGroup(source, _)) => return Err(ContainerError::Group { group, source }),
            Err(source @ (VfioError::ContainerSetIOMMU(_) | VfioError::GroupSetContainer)) => {
                return Err(ContainerError::Iommu { address, source });
            }
            Err(source) => return Err(ContainerError::Vfio { address, source }),
        };
        Ok(Self { device, vfio, address })
    }

    /// The device's PCI address.
    pub fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn device(&self) -> &VfioDevice {
        &self.device
    }

    /// What its IOMMU can do, now.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn limits(&self) -> Result<Limits, ContainerError> {
        // The kernel reads and writes 64-bit fields.
        let mut words = [0_u64; INFO_BYTES / 8];
        words[0] = INFO_BYTES as u64;
        // SAFETY: the kernel writes at most `argsz` bytes, which is the first field and the size of the buffer.
        let asked = unsafe { ioctl_with_mut_ptr(&self.fd(), VFIO_IOMMU_GET_INFO, words.as_mut_ptr()) };
        if asked != 0 {
            return Err(ContainerError::Info(io::Error::last_os_error()));
        }
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        Ok(parse_info(&bytes))
    }

    fn fd(&self) -> Fd {
        Fd(self.vfio.as_raw_fd())
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // Whatever the device was told to do, it does no more when its memory goes. Devices without a reset are stopped by
        // their IOMMU domain's end.
        self.device.reset();
    }
}

/// Borrowed from the container that makes it.
struct Fd(RawFd);

impl AsRawFd for Fd {
    fn as_raw_fd(&self) -> RawFd {
        self.0
    }
}

impl Kernel for Container {
    fn map(&self, iova: u64, len: u64, host: u64, rights: Rights) -> Result<(), i32> {
        let read = if rights.read { VFIO_DMA_MAP_FLAG_READ } else { 0 };
        let write = if rights.write { VFIO_DMA_MAP_FLAG_WRITE } else { 0 };
        let request = vfio_iommu_type1_dma_map {
            argsz: size_of::<vfio_iommu_type1_dma_map>() as u32,
            flags: read | write,
            vaddr: host,
            iova,
            size: len,
        };
        // SAFETY: the structure is whole. What the device does to `[host, host + len)` afterwards is upheld by the only
        // callers: `Endpoint` maps guest memory, which everyone accesses by volatile or atomic operations only, `Direct` a
        // region that nobody accesses; both keep it until it has been unmapped.
        let done = unsafe { ioctl_with_ref(&self.fd(), VFIO_IOMMU_MAP_DMA, &request) };
        if done == 0 { Ok(()) } else { Err(errno()) }
    }

    fn unmap(&self, iova: u64, len: u64) -> Result<u64, i32> {
        let mut request = vfio_iommu_type1_dma_unmap {
            argsz: size_of::<vfio_iommu_type1_dma_unmap>() as u32,
            iova,
            size: len,
            ..Default::default()
        };
        // SAFETY: the structure is whole, and taking mappings away endangers nobody.
        let done = unsafe { ioctl_with_mut_ref(&self.fd(), VFIO_IOMMU_UNMAP_DMA, &mut request) };
        if done == 0 { Ok(request.size) } else { Err(errno()) }
    }
}

fn errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

/// Reads `struct vfio_iommu_type1_info` and the capabilities that follow it. The kernel wrote it, but nothing is believed
/// that would leave the buffer.
fn parse_info(bytes: &[u8]) -> Limits {
    const HEADER_BYTES: usize = 8;
    let u16_at = |at: usize| Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    let u32_at = |at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let u64_at = |at: usize| Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    let flags = u32_at(4).unwrap_or(0);
    let page_sizes = u64_at(8).filter(|mask| flags & VFIO_IOMMU_INFO_PGSIZES != 0 && *mask != 0);
    let mut limits = Limits {
        page_sizes: page_sizes.unwrap_or(DEFAULT_PAGE_SIZES),
        ranges: Vec::new(),
        mappings_left: None,
    };
    let mut next = if flags & VFIO_IOMMU_INFO_CAPS != 0 { u32_at(16).unwrap_or(0) as usize } else { 0 };
    // Capabilities lie one after the other; one that points back would lead in circles.
    while next >= HEADER_BYTES {
        let (Some(id), Some(following)) = (u16_at(next), u32_at(next + 4)) else { break };
        let body = next + HEADER_BYTES;
        match u32::from(id) {
            VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE => {
                let count = u32_at(body).unwrap_or(0) as usize;
                let range = |n: usize| Some((u64_at(body + 8 + 16 * n)?, u64_at(body + 16 + 16 * n)?));
                limits.ranges = (0..count).map_while(range).collect();
            }
            VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL => limits.mappings_left = u32_at(body),
            _ => (),
        }
        if following as usize <= next {
            break;
        }
        next = following as usize;
    }
    limits
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn info(flags: u32, sizes: u64, caps: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(4096_u32.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(sizes.to_ne_bytes());
        bytes.extend(24_u32.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(caps);
        bytes
    }

    #[test]
    fn limits_of_a_real_answer() {
        let mut caps = Vec::new();
        // IOVA ranges: id 1, version 1, next at 24 + 48.
        caps.extend([1, 0, 1, 0]);
        caps.extend(72_u32.to_ne_bytes());
        caps.extend(2_u32.to_ne_bytes());
        caps.extend([0; 4]);
        for (start, end) in [(0_u64, 0xfedf_ffff_u64), (0xfef0_0000, (1 << 39) - 1)] {
            caps.extend(start.to_ne_bytes());
            caps.extend(end.to_ne_bytes());
        }
        // DMA_AVAIL: id 3, last.
        caps.extend([3, 0, 1, 0]);
        caps.extend(0_u32.to_ne_bytes());
        caps.extend(65535_u32.to_ne_bytes());
        let found = parse_info(&info(3, !0xfff, &caps));
        assert_eq!(found.page_sizes, !0xfff);
        assert_eq!(found.ranges, [(0, 0xfedf_ffff), (0xfef0_0000, (1 << 39) - 1)]);
        assert_eq!(found.mappings_left, Some(65535));
    }

    #[test]
    fn an_old_kernel_says_little() {
        let found = parse_info(&info(0, 0, &[]));
        assert_eq!(found, Limits { page_sizes: 4096, ranges: vec![], mappings_left: None });
    }

    proptest! {
        #[test]
        fn any_answer_ends(caps in proptest::collection::vec(any::<u8>(), 0..200), flags in 0..4_u32) {
            let found = parse_info(&info(flags, !0xfff, &caps));
            prop_assert!(found.ranges.len() <= 200 / 16);
        }
    }
}
