//! Mapping tables side by side, and the measurements behind `iommu-bench tables`.
//!
//! - [`tables`]: this project's table, the shapes that other virtio-iommu devices use, concurrent maps from the
//!   ecosystem and the bound that none can beat, all behind `virtio_iommu::table::MappingTable`;
//! - [`figures`]: the measurements, one file each; every ratio is of two things measured alternately in one run;
//! - [`shootout`]: nanoseconds of every structure, measured in turns;
//! - [`report`], [`render`], [`plot`]: the result as JSON, as text and as a picture.
//!
//! Threads are bound to a CPU each, and measured in batches of about a millisecond. What waits for nobody is measured in CPU
//! time; what does, in wall time, and a batch in which the kernel took the CPU away from one of its threads is measured
//! again (see [`clock`]).

pub mod clock;
pub mod figures;
pub mod plot;
pub mod render;
pub mod report;
pub mod ring;
pub mod rounds;
pub mod shootout;
pub mod tables;
pub mod workload;
