//! Structures that the figures are ratios of, and what each can do. `iommu-structures` adds those of the ecosystem.
//!
//! | structure | mappings of several granules | two racing overlapping MAPs |
//! |---|---|---|
//! | this project's radix table | yes | exactly one wins |
//! | `RwLock<BTreeMap>`, `Mutex<BTreeMap>` | yes | exactly one wins |
//! | all others ([`PerGranule`]) | no: one key per granule | exactly one wins, per granule |
//!
//! A concurrent map can only decide about one key at a time. To map a range it would have to insert many keys, and
//! readers would see half a mapping; so those structures are measured with single granules, which flatters them.

mod bare;
mod granules;
mod mutex;
mod shape;

pub use bare::BarePages;
pub use granules::{PageMap, PerGranule};
pub use mutex::MutexTable;
pub use shape::{Scope, Shape};

/// The bound: what a radix tree costs that does nothing but walk and swap.
pub type BareRadix = PerGranule<BarePages>;
