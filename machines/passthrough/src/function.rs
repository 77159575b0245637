//! The registers of a device behind VFIO, as a driver reaches them.

#![allow(unsafe_code, reason = "device registers are mapped and accessed by volatile reads and writes")]

use std::{io, os::fd::AsRawFd, ptr::NonNull, sync::Arc};

use iommu_workloads::pci::PciFunction;
use thiserror::Error;
use vfio_bindings::bindings::vfio::{VFIO_PCI_CONFIG_REGION_INDEX, VFIO_REGION_INFO_FLAG_MMAP};

use crate::container::Container;

/// Offset of the command register, and its bits: memory accesses, and accesses by the device itself.
const COMMAND: u16 = 4;
const COMMAND_MEMORY_AND_MASTER: u16 = 1 << 1 | 1 << 2;
/// Base address registers a function has.
const BARS: usize = 6;

/// The registers cannot be reached.
#[derive(Debug, Error)]
#[error("BAR {bar} of PCI device {address} cannot be mapped: {source}")]
pub struct FunctionError {
    bar: usize,
    address: String,
    source: io::Error,
}

/// The device in a container.
pub struct VfioFunction {
    bars: [Option<Mapped>; BARS],
    container: Arc<Container>,
}

impl VfioFunction {
    /// Maps the registers and lets the device answer and access memory.
    ///
    /// # Errors
    /// When a BAR that can be mapped is not.
    pub fn new(container: Arc<Container>) -> Result<Self, FunctionError> {
        let mut bars = [const { None }; BARS];
        for (bar, mapped) in bars.iter_mut().enumerate() {
            let device = container.device();
            let (size, flags) = (device.get_region_size(bar as u32), device.get_region_flags(bar as u32));
            if size > 0 && flags & VFIO_REGION_INFO_FLAG_MMAP != 0 {
                let error = |source| FunctionError { bar, address: container.address().to_owned(), source };
                let offset = device.get_region_offset(bar as u32);
                *mapped = Some(Mapped::new(device, offset, size).map_err(error)?);
            }
        }
        let function = Self { bars, container };
        let mut command = [0; 2];
        function.config_read(COMMAND, &mut command);
        let command = u16::from_le_bytes(command) | COMMAND_MEMORY_AND_MASTER;
        function.config_write(COMMAND, &command.to_le_bytes());
        Ok(function)
    }

    fn mapped(&self, bar: u8) -> Option<&Mapped> {
        self.bars.get(usize::from(bar))?.as_ref()
    }
}

impl PciFunction for VfioFunction {
    fn config_read(&self, offset: u16, data: &mut [u8]) {
        self.container.device().region_read(VFIO_PCI_CONFIG_REGION_INDEX, data, u64::from(offset));
    }

    fn config_write(&self, offset: u16, data: &[u8]) {
        self.container.device().region_write(VFIO_PCI_CONFIG_REGION_INDEX, data, u64::from(offset));
    }

    fn bar_read(&self, bar: u8, offset: u64, data: &mut [u8]) {
        match self.mapped(bar) {
            Some(mapped) => mapped.read(offset, data),
            None => self.container.device().region_read(u32::from(bar), data, offset),
        }
    }

    fn bar_write(&self, bar: u8, offset: u64, data: &[u8]) {
        match self.mapped(bar) {
            Some(mapped) => mapped.write(offset, data),
            None => self.container.device().region_write(u32::from(bar), data, offset),
        }
    }
}

/// A BAR in this process's memory.
struct Mapped {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: registers may be accessed from any thread; each access is one volatile operation.
unsafe impl Send for Mapped {}
// SAFETY: as for Send.
unsafe impl Sync for Mapped {}

impl Mapped {
    fn new(file: &impl AsRawFd, offset: u64, len: u64) -> io::Result<Self> {
        let too_large = |_| io::Error::from(io::ErrorKind::FileTooLarge);
        let len = usize::try_from(len).map_err(too_large)?;
        let offset = libc::off_t::try_from(offset).map_err(too_large)?;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing of ours.
        let start = unsafe {
            libc::mmap(std::ptr::null_mut(), len, protection, libc::MAP_SHARED, file.as_raw_fd(), offset)
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, len })
    }

    /// The address of `len` bytes at `offset`, naturally aligned and inside.
    fn at(&self, offset: u64, len: usize) -> Option<*mut u8> {
        let offset = usize::try_from(offset).ok()?;
        let inside = offset.checked_add(len)? <= self.len && offset.is_multiple_of(len);
        // SAFETY: inside the mapping, as was just checked.
        inside.then(|| unsafe { self.start.as_ptr().add(offset) })
    }

    fn read(&self, offset: u64, data: &mut [u8]) {
        let Some(at) = self.at(offset, data.len()) else { return data.fill(0xff) };
        // SAFETY (all three): `at` is inside the mapping, which lives as long as self, and aligned for the width.
        match data.len() {
            // SAFETY: above.
            1 => data.copy_from_slice(&unsafe { at.read_volatile() }.to_ne_bytes()),
            // SAFETY: above.
            2 => data.copy_from_slice(&unsafe { at.cast::<u16>().read_volatile() }.to_ne_bytes()),
            // SAFETY: above.
            4 => data.copy_from_slice(&unsafe { at.cast::<u32>().read_volatile() }.to_ne_bytes()),
            // No register has another width; a bus answers such a read with ones.
            _ => data.fill(0xff),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let Some(at) = self.at(offset, data.len()) else { return };
        match *data {
            // SAFETY: as in `read`.
            [a] => unsafe { at.write_volatile(a) },
            // SAFETY: as in `read`.
            [a, b] => unsafe { at.cast::<u16>().write_volatile(u16::from_ne_bytes([a, b])) },
            // SAFETY: as in `read`.
            [a, b, c, d] => unsafe { at.cast::<u32>().write_volatile(u32::from_ne_bytes([a, b, c, d])) },
            _ => (),
        }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: our own mapping, whole; nobody has a pointer into it any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}
