//! The structures, and what each can do.
//!
//! | structure | mappings of several granules | two racing overlapping MAPs |
//! |---|---|---|
//! | this project's radix table | yes | exactly one wins |
//! | `RwLock<BTreeMap>`, `Mutex<BTreeMap>` | yes | exactly one wins |
//! | all others ([`PerGranule`]) | no: one key a granule | exactly one wins, a granule |
//!
//! A concurrent map can only decide about one key at a time. To map a range it would have to insert many keys, and
//! readers would see half a mapping; so those structures are measured with single granules, which flatters them.

mod bare;
mod congee;
mod dash;
mod granules;
mod mutex;
mod shape;
mod skip;
#[cfg(test)]
mod tests;
mod tree_index;

pub use bare::BarePages;
pub use congee::CongeePages;
pub use dash::DashPages;
pub use granules::{PageMap, PerGranule};
pub use mutex::MutexTable;
pub use shape::{Scope, Shape};
pub use skip::SkipPages;
pub use tree_index::TreeIndexPages;

/// The bound: what a radix tree costs that does nothing but walk and swap.
pub type BareRadix = PerGranule<BarePages>;
/// `dashmap::DashMap`, sharded locks around hash tables.
pub type DashTable = PerGranule<DashPages>;
/// `crossbeam_skiplist::SkipMap`, a lock-free ordered map.
pub type SkipTable = PerGranule<SkipPages>;
/// `scc::TreeIndex`, a B+ tree for many readers.
pub type TreeIndexTable = PerGranule<TreeIndexPages>;
/// `congee::Congee`, an adaptive radix tree with optimistic locks.
pub type CongeeTable = PerGranule<CongeePages>;
