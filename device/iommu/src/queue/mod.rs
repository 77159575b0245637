//! Device side of a split virtqueue (virtio 2.7), over any [`DmaMemory`](crate::dma::DmaMemory).
//!
//! The ring walk is part of the map/unmap fast path, so it is ours: no allocation per chain, the available index is
//! read once per batch, used elements are staged and published once ([`Queue::publish`]). Everything the guest
//! controls is checked; rust-vmm's `virtio-queue` is the oracle it is tested against.

mod chain;
#[cfg(all(test, loom))]
mod models;
mod ring;

pub use chain::{Chain, ChainFault, Segment};
pub use ring::{MAX_QUEUE_SIZE, Queue, QueueError};

#[cfg(all(test, not(loom)))]
mod tests;
