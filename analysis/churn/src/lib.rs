//! IOTLB churn: what a stream of page accesses and invalidations would do to a translation cache.
//!
//! A pure library: no files, no clock, no device. Feed it a stream of [`Event`]s in order, in one pass.
//!
//! Counted, exact facts of the stream:
//! - [`WorkingSet`]: unique pages of each window;
//! - [`ReuseDistances`]: how many other pages came between two uses of a page, with a histogram.
//!
//! Modelled, marked by the type [`Modelled`] all the way into JSON:
//! - [`MissRatioCurve`]: the miss ratio of a fully associative LRU cache against its capacity: exact by Mattson's
//!   stack, or sampled by [`Shards`] for long streams;
//! - [`WalkModel`]: memory reads of the page walks behind the misses;
//! - [`FastAndSafe`]: the throughput that these reads allow.
//!
//! [`Profile`] follows a stream with all of them, stretch by stretch.
//!
//! **Invalidations are part of the stream.** An invalidated page leaves the cache whatever its capacity, so its next use
//! is a miss at every capacity; the curve's right end is not only the first uses, but these as well. The entry that it
//! leaves is free: the next page that comes in takes it and evicts nothing. All of this is exact, see [`stack`].

pub mod histogram;
pub mod modelled;
pub mod profile;
pub mod shards;
pub mod stack;
pub mod throughput;
pub mod working_set;

mod curve;
mod fenwick;

pub use curve::MissRatioCurve;
pub use histogram::ReuseHistogram;
pub use modelled::{Model, Modelled};
pub use profile::{Profile, ProfileOptions, Stretch};
pub use shards::{Rate, Sample, Shards, ShardsError};
pub use stack::{Reuse, ReuseDistances};
pub use throughput::{FastAndSafe, WalkError, WalkModel};
pub use working_set::{Window, WorkingSet};

/// One event of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// A page is translated. Pages are numbers: IOVA / page size, with the endpoint or domain mixed in by the caller where
    /// several share a cache.
    Access(u64),
    /// A page's translation is invalidated.
    Invalidate(u64),
    /// All translations are invalidated.
    Flush,
}
