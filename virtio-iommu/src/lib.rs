//! Reference virtio-iommu device with a lock-free mapping table.

pub mod dma;
pub mod epoch;
pub mod memory;
pub mod queue;
mod sync;
pub mod table;

pub use virtio_iommu_spec as spec;
