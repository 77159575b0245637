//! The virtio block device (virtio 5.2): a disk in RAM or in a file, one or several request queues.

use std::sync::Arc;

use thiserror::Error;
use virtio_bindings::{
    virtio_blk::{
        VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_MQ, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_ID_BYTES,
    },
    virtio_ids::VIRTIO_ID_BLOCK,
    virtio_ring::VIRTIO_RING_F_INDIRECT_DESC,
};
use virtio_transport::{ActivateError, Activation, Interrupt, ServiceError, ServiceMode, VirtioDevice};

use crate::{
    DmaObserver, DmaPort, NoObserver,
    crew::{ACCESS_PLATFORM, VERSION_1, is_queue_size, read_space},
    queues::Queues,
};

mod disk;
mod request;
#[cfg(test)]
mod tests;

pub use disk::{Disk, SECTOR_BYTES};
use request::Requests;

/// Name in errors and logs.
const NAME: &str = "virtio-blk";
/// Most queues a device can have here.
const MAX_QUEUES: usize = 64;
/// Length of `struct virtio_blk_config` up to `num_queues`, in bytes.
const SPACE_BYTES: usize = 36;

/// What a block device is like; it has as many queues as it is given ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlkConfig {
    /// Maximum size of each queue: a power of two up to 32768.
    pub queue_size: u16,
    /// Offers ACCESS_PLATFORM and insists on it.
    pub access_platform: bool,
    /// Offers INDIRECT_DESC. Behind an IOMMU each indirect table is one more mapping.
    pub indirect: bool,
    /// Most data segments of a request (SEG_MAX).
    pub seg_max: u32,
    /// Block size in bytes that the device advises (BLK_SIZE): a power of two from 512 on.
    pub blk_size: u32,
    /// What GET_ID answers.
    pub id: [u8; VIRTIO_BLK_ID_BYTES as usize],
}

impl Default for BlkConfig {
    fn default() -> Self {
        Self {
            queue_size: 256,
            access_platform: true,
            indirect: false,
            seg_max: 254,
            blk_size: 512,
            id: *b"iommu-bench\0\0\0\0\0\0\0\0\0",
        }
    }
}

/// A block device could not be made.
#[derive(Debug, Error)]
pub enum BlkError {
    /// Not a size a queue can have.
    #[error("queue size {size} is not a power of two up to 32768")]
    QueueSize {
        /// The size.
        size: u16,
    },
    /// No queue, or more than any guest has processors here.
    #[error("{queues} queues; 1 to {MAX_QUEUES} are possible")]
    Queues {
        /// How many.
        queues: usize,
    },
    /// Not a block size.
    #[error("block size {bytes} is not a power of two from 512 on")]
    BlockSize {
        /// The size in bytes.
        bytes: u32,
    },
    /// Its service could not be set up.
    #[error(transparent)]
    Service(#[from] ServiceError),
}

/// Counts of a block device since its creation, resets included, over all queues.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlkCounters {
    /// Reads (IN) that succeeded.
    pub reads: u64,
    /// Bytes copied into guest memory by them.
    pub read_bytes: u64,
    /// Writes (OUT) that succeeded.
    pub writes: u64,
    /// Bytes copied out of guest memory by them.
    pub written_bytes: u64,
    /// Flushes that succeeded.
    pub flushes: u64,
    /// Requests answered with IOERR or UNSUPP.
    pub failed: u64,
    /// Chains without room for header or status, or otherwise malformed: returned unanswered.
    pub malformed: u64,
    /// Accesses that memory, or the IOMMU, refused.
    pub dma_faults: u64,
    /// Times a ring was found broken, which stops its queue until the device is reset.
    pub ring_failures: u64,
    /// Kicks that reached the device.
    pub kicks: u64,
}

impl BlkCounters {
    /// Data bytes in both directions.
    pub fn bytes(&self) -> u64 {
        self.read_bytes + self.written_bytes
    }

    fn add(self, other: Self) -> Self {
        Self {
            reads: self.reads + other.reads,
            read_bytes: self.read_bytes + other.read_bytes,
            writes: self.writes + other.writes,
            written_bytes: self.written_bytes + other.written_bytes,
            flushes: self.flushes + other.flushes,
            failed: self.failed + other.failed,
            malformed: self.malformed + other.malformed,
            dma_faults: self.dma_faults + other.dma_faults,
            ring_failures: self.ring_failures + other.ring_failures,
            kicks: self.kicks + other.kicks,
        }
    }
}

/// A block device.
pub struct VirtioBlk<P: DmaPort + 'static, O: DmaObserver = NoObserver> {
    config: BlkConfig,
    sectors: u64,
    queues: Queues<P, O, Requests>,
}

impl<P: DmaPort + 'static> VirtioBlk<P> {
    /// A device with `disk` behind one queue for each port, served as `mode` says.
    ///
    /// # Errors
    /// When a size or the number of ports is impossible, or a service cannot be set up.
    pub fn new(
        config: BlkConfig,
        mode: ServiceMode,
        disk: &Disk,
        ports: impl IntoIterator<Item = P>,
    ) -> Result<Self, BlkError> {
        Self::with_observers(config, mode, disk, ports.into_iter().map(|port| (port, NoObserver)))
    }
}

impl<P: DmaPort + 'static, O: DmaObserver> VirtioBlk<P, O> {
    /// As [`new`](VirtioBlk::new), with an observer of DMA latencies for each queue.
    ///
    /// # Errors
    /// As [`new`](VirtioBlk::new).
    pub fn with_observers(
        config: BlkConfig,
        mode: ServiceMode,
        disk: &Disk,
        ports: impl IntoIterator<Item = (P, O)>,
    ) -> Result<Self, BlkError> {
        let size = config.queue_size;
        if !is_queue_size(size) {
            return Err(BlkError::QueueSize { size });
        }
        let bytes = config.blk_size;
        if !bytes.is_power_of_two() || u64::from(bytes) < SECTOR_BYTES {
            return Err(BlkError::BlockSize { bytes });
        }
        let lanes = ports
            .into_iter()
            .map(|(port, observer)| (port, observer, Requests::new(disk.clone(), config.id)));
        let queues = Queues::new(NAME, size, mode, lanes)?;
        let count = queues.sizes().len();
        if !(1..=MAX_QUEUES).contains(&count) {
            return Err(BlkError::Queues { queues: count });
        }
        Ok(Self { config, sectors: disk.sectors(), queues })
    }

    /// What was counted since creation.
    pub fn counters(&self) -> BlkCounters {
        let each = self.queues.counters().map(|(counters, kicks)| BlkCounters { kicks, ..counters });
        each.fold(BlkCounters::default(), BlkCounters::add)
    }

    /// What a worker panicked with, if one did since the last activation.
    pub fn failed(&self) -> Option<String> {
        self.queues.failed()
    }

    /// `struct virtio_blk_config` (5.2.4) up to `num_queues`; fields whose feature is not offered are zero.
    fn space(&self) -> [u8; SPACE_BYTES] {
        let mut space = [0; SPACE_BYTES];
        space[..8].copy_from_slice(&self.sectors.to_le_bytes());
        space[12..16].copy_from_slice(&self.config.seg_max.to_le_bytes());
        space[20..24].copy_from_slice(&self.config.blk_size.to_le_bytes());
        // At most MAX_QUEUES.
        space[34..36].copy_from_slice(&(self.queues.sizes().len() as u16).to_le_bytes());
        space
    }
}

impl<P: DmaPort + 'static, O: DmaObserver> VirtioDevice for VirtioBlk<P, O> {
    fn device_id(&self) -> u32 {
        VIRTIO_ID_BLOCK
    }

    fn features(&self) -> u64 {
        let when = |on: bool, bits: u64| if on { bits } else { 0 };
        let always = [VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_MQ];
        always.iter().fold(VERSION_1, |bits, bit| bits | 1 << bit)
            | when(self.config.access_platform, ACCESS_PLATFORM)
            | when(self.config.indirect, 1 << VIRTIO_RING_F_INDIRECT_DESC)
    }

    fn accepts_features(&self, acknowledged: u64) -> bool {
        !self.config.access_platform || acknowledged & ACCESS_PLATFORM != 0
    }

    fn queue_max_sizes(&self) -> &[u16] {
        self.queues.sizes()
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_space(&self.space(), offset, data);
    }

    /// All fields are read-only: CONFIG_WCE is not offered.
    fn write_config(&self, _offset: u64, _data: &[u8]) {}

    fn activate(&self, activation: Activation, interrupt: Arc<dyn Interrupt>) -> Result<(), ActivateError> {
        self.queues.activate(&activation, &interrupt)
    }

    #[inline]
    fn notify(&self, index: u16) {
        self.queues.notify(index);
    }

    fn reset(&self) {
        self.queues.reset();
    }

    fn needs_reset(&self) -> bool {
        self.queues.needs_reset()
    }
}
