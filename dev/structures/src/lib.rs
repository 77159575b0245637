//! Concurrent maps of the ecosystem as mapping tables, measured side by side with the project's own.
//!
//! - [`DashTable`], [`SkipTable`], [`TreeIndexTable`], [`CongeeTable`]: the maps, each behind
//!   `virtio_iommu::table::MappingTable`;
//! - [`shootout`]: nanoseconds of every structure, measured in turns;
//! - [`render`], [`plot`]: the result as text and as a picture.
//!
//! The crate is not part of the command: `iommu-bench tables` starts the helper `iommu-bench-structures`, so that measuring an
//! IOMMU does not build four crates that only this comparison reads.

mod congee;
mod dash;
pub mod plot;
pub mod render;
pub mod shootout;
mod skip;
#[cfg(test)]
mod tests;
mod tree_index;

pub use congee::CongeePages;
pub use dash::DashPages;
pub use skip::SkipPages;
pub use tree_index::TreeIndexPages;

use iommu_shootout::tables::PerGranule;

/// `dashmap::DashMap`, sharded locks around hash tables.
pub type DashTable = PerGranule<DashPages>;
/// `crossbeam_skiplist::SkipMap`, a lock-free ordered map.
pub type SkipTable = PerGranule<SkipPages>;
/// `scc::TreeIndex`, a B+ tree for many readers.
pub type TreeIndexTable = PerGranule<TreeIndexPages>;
/// `congee::Congee`, an adaptive radix tree with optimistic locks.
pub type CongeeTable = PerGranule<CongeePages>;
