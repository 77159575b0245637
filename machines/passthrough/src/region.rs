//! Memory of this process to be mapped for a device, backed by pages of a chosen size.

#![allow(unsafe_code, reason = "memory with pages of a chosen size comes from mmap and madvise")]

use std::{fs, io, ptr::NonNull};

use thiserror::Error;

/// Size of a huge page, in bytes.
const HUGE_BYTES: usize = 2 << 20;

/// What memory is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Backing {
    /// Pages of 4 KiB, and no larger ones.
    Small,
    /// Transparent huge pages of 2 MiB.
    Transparent,
    /// Reserved huge pages of 2 MiB.
    Hugetlb,
}

/// There is no such memory.
#[derive(Debug, Error)]
pub enum RegionError {
    /// Address space or memory.
    #[error("{bytes} bytes of memory cannot be had: {source}")]
    Memory {
        /// How much.
        bytes: usize,
        /// Why.
        source: io::Error,
    },
    /// The pool of reserved pages.
    #[error(
        "{pages} huge pages of 2 MiB cannot be had ({source}); reserve them: `sysctl vm.nr_hugepages={pages}`"
    )]
    Hugetlb {
        /// How many.
        pages: usize,
        /// Why.
        source: io::Error,
    },
    /// Transparent huge pages are off or used up.
    #[error(
        "of {wanted} bytes only {got} are transparent huge pages: memory is fragmented, or \
         /sys/kernel/mm/transparent_hugepage/enabled says never"
    )]
    Transparent {
        /// How much.
        wanted: usize,
        /// How much of it is.
        got: usize,
    },
}

/// A run of memory, all of it there, that nothing in this process looks at.
#[derive(Debug)]
pub struct Region {
    start: NonNull<libc::c_void>,
    /// Whole huge pages.
    bytes: usize,
    backing: Backing,
}

// SAFETY: it is an address range that nobody dereferences.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// At least `bytes`, rounded up to huge pages, aligned to one, all of it populated.
    ///
    /// # Errors
    /// When there is not so much memory of that kind.
    pub fn new(backing: Backing, bytes: usize) -> Result<Self, RegionError> {
        let rounded = bytes.max(1).checked_next_multiple_of(HUGE_BYTES);
        let bytes =
            rounded.ok_or(RegionError::Memory { bytes, source: io::ErrorKind::OutOfMemory.into() })?;
        let region = if backing == Backing::Hugetlb { hugetlb(bytes)? } else { anonymous(backing, bytes)? };
        let advice = match backing {
            Backing::Small => Some(libc::MADV_NOHUGEPAGE),
            Backing::Transparent => Some(libc::MADV_HUGEPAGE),
            Backing::Hugetlb => None,
        };
        for advice in advice.into_iter().chain([libc::MADV_POPULATE_WRITE]) {
            // SAFETY: our own mapping, whole; neither advice changes what anybody can see of it.
            let done = unsafe { libc::madvise(region.start.as_ptr(), bytes, advice) };
            if done != 0 {
                let source = io::Error::last_os_error();
                return Err(match backing {
                    Backing::Hugetlb => RegionError::Hugetlb { pages: bytes / HUGE_BYTES, source },
                    _ => RegionError::Memory { bytes, source },
                });
            }
        }
        if backing == Backing::Transparent {
            let got = region.huge_bytes();
            if got < bytes {
                return Err(RegionError::Transparent { wanted: bytes, got });
            }
        }
        Ok(region)
    }

    /// Its length in bytes.
    #[allow(clippy::len_without_is_empty, reason = "never empty")]
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// What it is made of.
    pub fn backing(&self) -> Backing {
        self.backing
    }

    /// Its address in this process.
    pub(crate) fn address(&self) -> u64 {
        self.start.as_ptr() as u64
    }

    /// How much of it transparent huge pages hold, as the kernel says.
    fn huge_bytes(&self) -> usize {
        let maps = fs::read_to_string("/proc/self/smaps").unwrap_or_default();
        let (start, end) = (self.start.as_ptr() as usize, self.start.as_ptr() as usize + self.bytes);
        anon_huge_bytes(&maps, start, end)
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: our own mapping, whole; who mapped it for a device holds the region for as long.
        unsafe { libc::munmap(self.start.as_ptr(), self.bytes) };
    }
}

/// The sum of `AnonHugePages` of the mappings that lie within `[start, end)`.
fn anon_huge_bytes(smaps: &str, start: usize, end: usize) -> usize {
    let (mut inside, mut sum) = (false, 0);
    for line in smaps.lines() {
        let Some(first) = line.split_whitespace().next() else { continue };
        if let Some((low, high)) = first.split_once('-') {
            let address = |text| usize::from_str_radix(text, 16).ok();
            inside = address(low).zip(address(high)).is_some_and(|(low, high)| low < end && high > start);
        } else if inside && first == "AnonHugePages:" {
            let kib = line.split_whitespace().nth(1).and_then(|kib| kib.parse::<usize>().ok());
            sum += kib.unwrap_or(0) << 10;
        }
    }
    sum
}

fn map(bytes: usize, flags: libc::c_int) -> io::Result<NonNull<libc::c_void>> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | flags;
    // SAFETY: a new mapping at an address of the kernel's choice touches nothing of ours.
    let start =
        unsafe { libc::mmap(std::ptr::null_mut(), bytes, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(start).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
}

fn hugetlb(bytes: usize) -> Result<Region, RegionError> {
    let start = map(bytes, libc::MAP_HUGETLB | libc::MAP_HUGE_2MB)
        .map_err(|source| RegionError::Hugetlb { pages: bytes / HUGE_BYTES, source })?;
    Ok(Region { start, bytes, backing: Backing::Hugetlb })
}

/// Aligned to a huge page: what is around it is given back.
fn anonymous(backing: Backing, bytes: usize) -> Result<Region, RegionError> {
    let failed = |source| RegionError::Memory { bytes, source };
    let whole = bytes.checked_add(HUGE_BYTES).ok_or_else(|| failed(io::ErrorKind::OutOfMemory.into()))?;
    let base = map(whole, libc::MAP_NORESERVE).map_err(failed)?;
    let before = (base.as_ptr() as usize).wrapping_neg() % HUGE_BYTES;
    // SAFETY: inside the mapping, which is longer by a huge page.
    let start = unsafe { base.byte_add(before) };
    let after = HUGE_BYTES - before;
    // SAFETY: both ends are our own, and nobody has seen them.
    unsafe {
        if before > 0 {
            libc::munmap(base.as_ptr(), before);
        }
        if after > 0 {
            libc::munmap(start.byte_add(bytes).as_ptr(), after);
        }
    }
    Ok(Region { start, bytes, backing })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_pages_are_small_and_whole() {
        let region = Region::new(Backing::Small, 5000).unwrap();
        assert_eq!((region.len(), region.address() % HUGE_BYTES as u64), (HUGE_BYTES, 0));
        assert_eq!(region.huge_bytes(), 0);
    }

    #[test]
    fn what_cannot_be_had_names_the_remedy() {
        let error = Region::new(Backing::Hugetlb, 1 << 46).unwrap_err();
        assert!(matches!(error, RegionError::Hugetlb { pages: 0x200_0000, .. }), "{error}");
        assert!(error.to_string().contains("vm.nr_hugepages"), "{error}");
        assert!(matches!(Region::new(Backing::Small, usize::MAX), Err(RegionError::Memory { .. })));
    }

    #[test]
    fn huge_pages_are_counted_in_the_range_only() {
        let smaps = "7f0000000000-7f0000400000 rw-p 00000000 00:00 0 \n\
                     Size:               4096 kB\nAnonHugePages:      2048 kB\n\
                     7f0000400000-7f0000600000 rw-p 00000000 00:00 0 \nAnonHugePages:      2048 kB\n\
                     7f0000800000-7f0000a00000 rw-p 00000000 00:00 0 \nAnonHugePages:      2048 kB\n";
        assert_eq!(anon_huge_bytes(smaps, 0x7f00_0000_0000, 0x7f00_0060_0000), 4 << 20);
        assert_eq!(anon_huge_bytes(smaps, 0x7f00_0060_0000, 0x7f00_0080_0000), 0);
    }
}
