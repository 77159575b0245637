//! What is particular to an endpoint: page sizes, addresses it can drive, regions that are not the guest's to map.

mod merge;
mod platform;
mod resv;

pub use merge::{Incompatible, merge, merge_kinds};
pub use platform::{ARM_PAGE_SIZES, Platform, X86_MSI_WINDOW};
pub use resv::{NPlusI, Regions, RegionsError, ResvKind, ResvRegion};

use virtio_iommu_spec::IovaRange;

/// Properties of one endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct EndpointProperties {
    /// Page sizes it supports, when they differ from the device's `page_size_mask`; the lowest bit is its granule.
    pub page_size_mask: Option<u64>,
    /// First and last address it can drive, when that is less than the device's `input_range`.
    pub input_range: Option<(u64, u64)>,
    /// Regions reported by PROBE.
    pub regions: Regions,
}

impl EndpointProperties {
    /// No limits of its own, with these regions.
    pub fn with_regions(regions: Regions) -> Self {
        Self { regions, ..Self::default() }
    }

    /// log2 of its granule, when it has one of its own.
    pub fn granule_shift(&self) -> Option<u32> {
        self.page_size_mask.filter(|mask| *mask != 0).map(u64::trailing_zeros)
    }

    /// The addresses it can drive, when it has limits of its own.
    pub fn range(&self) -> Option<IovaRange> {
        self.input_range.and_then(|(start, end)| IovaRange::new(start, end))
    }
}
