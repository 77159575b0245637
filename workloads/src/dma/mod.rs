//! The DMA API, as Linux's dma-iommu and virtio-iommu drivers behave.

mod counts;
mod mode;

pub use counts::Counts;
pub use mode::{Mode, UnknownMode};
