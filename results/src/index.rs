//! The append-only index of a store: which runs it acknowledged, in which order, and how their files read.
//!
//! One file of lines beside the runs' folders. Each line is a JSON object that ends with the CRC-32C of everything before
//! that last key, so a line that is cut off or edited is noticed, and any tool that reads JSON lines can read it.
//!
//! - Writers hold an exclusive `flock(2)` on the file while they append; readers a shared one. The kernel gives it back
//!   when a process dies, however it dies.
//! - An append is one `write(2)` behind the last whole line, then `fdatasync(2)`. When it returns, the record is durable:
//!   acknowledged means on the disk.
//! - A writer that dies in between leaves a line without its end. Nobody was told that it was stored; the next writer
//!   takes it away, readers pass over it.
//! - An append that fails (a full disk) takes back what it wrote.

mod error;
mod log;
mod record;
#[cfg(test)]
mod tests;

pub use error::IndexError;
pub use log::{Appended, Contents, Damage, Index, Line};
pub(crate) use record::crc;
pub use record::{Entry, Operation, Record, RecordError};

/// The schema that this version reads and writes; every line names its own.
pub const INDEX_SCHEMA: &str = "iommu-bench/index/1";
/// File name of the index inside the store.
pub const INDEX_FILE: &str = "index.jsonl";
/// Prefix of the file that a compaction writes before it takes the index's place.
pub(crate) const NEW_INDEX: &str = ".index.new-";
