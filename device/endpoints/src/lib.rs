//! What does the DMA: emulated virtio devices, behind the virtio-iommu or directly on guest memory.
//!
//! [`VirtioNet`] is a network card whose ring, descriptor and payload accesses all go through a view of memory that its
//! [`DmaPort`] hands out for each burst. What it sends travels over a loopback wire to a [`Peer`] on the host's side,
//! which verifies checksums and answers. [`VirtioBlk`] is a disk, [`DmaEngine`] moves bytes and does nothing else. Two [`Nic`]s at the
//! ends of a cable carry the Ethernet frames of real guests. No clock is known here: who wants DMA latencies supplies a [`DmaObserver`].

mod blk;
mod counters;
mod crew;
mod engine;
pub mod frame;
mod net;
mod nic;
mod observe;
mod peer;
mod port;
mod queues;

pub use blk::{BlkConfig, BlkCounters, BlkError, Disk, SECTOR_BYTES, VirtioBlk};
pub use counters::{Corruption, NetCounters};
pub use engine::{DmaEngine, ENGINE_ID, EngineConfig, EngineCounters, EngineError, MAX_TRANSFER_BYTES};
pub use net::{
    BURST_BYTES, BURST_CHAINS, MAX_QUEUE_PAIRS, NetConfig, NetError, RX_QUEUE, TX_QUEUE, VirtioNet,
};
pub use nic::{CableEnd, Nic, NicConfig, NicCounters, NicError};
pub use observe::{Direction, DmaObserver, NoObserver, Stamped};
pub use peer::{Peer, Received, Reply};
pub use port::{DirectPort, DirectView, DmaPort};
