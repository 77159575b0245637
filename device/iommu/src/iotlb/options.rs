//! What an IOTLB is built with.

use thiserror::Error;
use virtio_iommu_spec::IovaRange;

/// The size of a page that one entry translates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum PageSize {
    /// 4 KiB.
    Small,
    /// 2 MiB.
    Large,
    /// 1 GiB.
    Huge,
}

impl PageSize {
    /// Smallest first.
    pub const ALL: [Self; 3] = [Self::Small, Self::Large, Self::Huge];

    /// log2 of its bytes.
    #[inline(always)]
    pub const fn shift(self) -> u32 {
        12 + 9 * self as u32
    }

    /// Its bytes.
    pub const fn bytes(self) -> u64 {
        1 << self.shift()
    }
}

/// Page sizes that an IOTLB caches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageSizes(u8);

impl PageSizes {
    /// 4 KiB, 2 MiB and 1 GiB.
    pub const ALL: Self = Self(0b111);
    /// 4 KiB alone.
    pub const SMALL: Self = Self(0b001);

    /// These sizes.
    pub fn of(sizes: &[PageSize]) -> Self {
        Self(sizes.iter().fold(0, |bits, &size| bits | 1 << size as u8))
    }

    /// Whether a size is among them.
    pub const fn has(self, size: PageSize) -> bool {
        self.0 & 1 << size as u8 != 0
    }

    /// The largest page around `iova` that lies within `range`.
    pub(super) fn largest(self, iova: u64, range: &IovaRange) -> Option<(PageSize, IovaRange)> {
        PageSize::ALL.into_iter().rev().filter(|size| self.has(*size)).find_map(|size| {
            let low = size.bytes() - 1;
            let page = IovaRange::new(iova & !low, iova | low)?;
            range.covers(&page).then_some((size, page))
        })
    }
}

/// The shape of each port's IOTLB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IotlbOptions {
    /// Entries, over all sets.
    pub entries: usize,
    /// Entries of a set: 1, 2, 4, 8 or 16. With as many ways as entries the cache is fully associative.
    pub ways: usize,
    /// Page sizes an entry may have.
    pub page_sizes: PageSizes,
}

impl Default for IotlbOptions {
    /// 1024 entries in sets of four, every page size.
    fn default() -> Self {
        Self { entries: 1024, ways: 4, page_sizes: PageSizes::ALL }
    }
}

/// Most entries, so that sets are numbered in 32 bits with room to spare.
const MAX_ENTRIES: usize = 1 << 24;

/// An IOTLB that cannot be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum IotlbError {
    /// The number of ways.
    #[error("an IOTLB has 1, 2, 4, 8 or 16 ways, not {ways}")]
    Ways {
        /// The ways asked for.
        ways: usize,
    },
    /// The number of entries.
    #[error("{entries} IOTLB entries are not a power of two from {ways} (the ways) to {MAX_ENTRIES}")]
    Entries {
        /// The entries asked for.
        entries: usize,
        /// The ways asked for.
        ways: usize,
    },
    /// Nothing could be cached.
    #[error("the IOTLB has no page size")]
    NoPageSize,
}

impl IotlbOptions {
    /// Whether an IOTLB can be built with these.
    ///
    /// # Errors
    /// When it cannot.
    pub fn check(&self) -> Result<(), IotlbError> {
        let Self { entries, ways, page_sizes } = *self;
        if !matches!(ways, 1 | 2 | 4 | 8 | 16) {
            return Err(IotlbError::Ways { ways });
        }
        if !entries.is_power_of_two() || !(ways..=MAX_ENTRIES).contains(&entries) {
            return Err(IotlbError::Entries { entries, ways });
        }
        if page_sizes == PageSizes(0) { Err(IotlbError::NoPageSize) } else { Ok(()) }
    }
}
