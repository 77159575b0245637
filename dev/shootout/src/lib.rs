//! Figures of the fast path: the measurements behind `iommu-bench tables`.
//!
//! - [`tables`]: this project's table, the shapes that other virtio-iommu devices use and the bound that none can beat, all
//!   behind `virtio_iommu::table::MappingTable`;
//! - [`figures`]: the measurements, one file each; every ratio is of two things measured alternately in one run;
//! - [`report`], [`render`]: the result as JSON and as text.
//!
//! Threads are bound to a CPU each, and measured in batches of about a millisecond. Work that never waits for another
//! thread is measured in CPU time; work that does, in wall time, and a batch in which the kernel took the CPU away from one of its threads is measured
//! again (see [`clock`]).

pub mod clock;
pub mod figures;
pub mod render;
pub mod report;
pub mod ring;
pub mod rounds;
pub mod tables;
pub mod workload;
