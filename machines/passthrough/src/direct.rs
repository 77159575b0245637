//! One mapping at a time, straight into a container: what VFIO itself costs.

use std::sync::Arc;

use thiserror::Error;

use crate::{
    container::{Container, ContainerError},
    region::Region,
    shadow::{Kernel, Rights},
};

/// VFIO did not do as asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DirectError {
    /// It refused to map.
    #[error("VFIO does not map {bytes:#x} bytes (errno {errno}): {}", why(*errno))]
    Map {
        /// How much.
        bytes: u64,
        /// Why.
        errno: i32,
    },
    /// It refused to unmap.
    #[error("VFIO does not unmap {bytes:#x} bytes (errno {errno})")]
    Unmap {
        /// How much.
        bytes: u64,
        /// Why.
        errno: i32,
    },
    /// It unmapped something else.
    #[error("VFIO unmapped {unmapped:#x} bytes of {bytes:#x}")]
    Partial {
        /// How much was mapped.
        bytes: u64,
        /// How much it says is gone.
        unmapped: u64,
    },
}

fn why(errno: i32) -> &'static str {
    match errno {
        libc::ENOMEM => "locked memory is used up: raise RLIMIT_MEMLOCK (`ulimit -l`)",
        libc::ENOSPC => "the container has as many mappings as vfio_iommu_type1.dma_entry_limit allows",
        _ => "see the kernel's log",
    }
}

const RW: Rights = Rights { read: true, write: true };

/// A container and the memory that is mapped in it, or not.
pub struct Direct {
    container: Arc<Container>,
    region: Arc<Region>,
    mapped: Option<(u64, u64)>,
}

impl Direct {
    /// Nothing is mapped yet.
    pub fn new(container: Arc<Container>, region: Arc<Region>) -> Self {
        Self { container, region, mapped: None }
    }

    /// Maps the first `bytes` of the region, or all of it, at I/O virtual address `iova`.
    ///
    /// # Errors
    /// When the kernel refuses, or something is mapped already.
    pub fn map(&mut self, iova: u64, bytes: u64) -> Result<(), DirectError> {
        let bytes = bytes.min(self.region.len() as u64);
        if self.mapped.is_some() {
            return Err(DirectError::Map { bytes, errno: libc::EEXIST });
        }
        self.container
            .map(iova, bytes, self.region.address(), RW)
            .map_err(|errno| DirectError::Map { bytes, errno })?;
        self.mapped = Some((iova, bytes));
        Ok(())
    }

    /// Unmaps what is mapped; returns its length in bytes.
    ///
    /// # Errors
    /// When the kernel refuses, or does something else.
    pub fn unmap(&mut self) -> Result<u64, DirectError> {
        let Some((iova, bytes)) = self.mapped else { return Ok(0) };
        let unmapped =
            self.container.unmap(iova, bytes).map_err(|errno| DirectError::Unmap { bytes, errno })?;
        self.mapped = None;
        if unmapped == bytes { Ok(bytes) } else { Err(DirectError::Partial { bytes, unmapped }) }
    }
}

impl Drop for Direct {
    fn drop(&mut self) {
        if self.unmap().is_err() {
            // The device may still reach the memory, so it stays until the process ends.
            std::mem::forget(Arc::clone(&self.region));
        }
    }
}

/// Two addresses, `bytes` apart at least and aligned to 1 GiB where possible, at which so much can be mapped.
///
/// # Errors
/// When the kernel does not say what can be mapped.
pub fn two_addresses(container: &Container, bytes: u64) -> Result<Option<[u64; 2]>, ContainerError> {
    Ok(fitting(&container.limits()?.ranges, bytes))
}

fn fitting(ranges: &[(u64, u64)], bytes: u64) -> Option<[u64; 2]> {
    const ALIGN: u64 = 1 << 30;
    // A kernel that does not say: above everything that x86 reserves, in 39 bits.
    if ranges.is_empty() {
        return Some([4 * ALIGN, 4 * ALIGN + bytes.checked_next_multiple_of(ALIGN)?]);
    }
    ranges.iter().find_map(|(start, end)| {
        let first = start.checked_next_multiple_of(ALIGN)?;
        let second = first.checked_add(bytes)?.checked_next_multiple_of(ALIGN)?;
        (second.checked_add(bytes)? - 1 <= *end).then_some([first, second])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_lie_in_one_range_and_do_not_overlap() {
        let ranges = [(0x1000, 0x4fff_ffff), (0xfef0_0000, (1 << 39) - 1)];
        assert_eq!(fitting(&ranges, 4096), Some([1 << 32, 5 << 30]));
        assert_eq!(fitting(&ranges[..1], 4096), None);
        assert_eq!(fitting(&[(0, u64::MAX)], 3 << 29), Some([0, 2 << 30]));
        assert_eq!(fitting(&[(0, u64::MAX)], u64::MAX), None);
        assert!(fitting(&[], 4096).is_some() && fitting(&[], u64::MAX).is_none());
    }
}
