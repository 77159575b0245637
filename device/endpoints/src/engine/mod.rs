//! A DMA engine: moves bytes between guest buffers and a buffer of the host, and does nothing else.
//!
//! A chain is a transfer. Its readable buffers are copied one after the other to the start of the host's buffer, then
//! its writable buffers are filled from there; so what was read last can be read back. There is no header and no
//! status: the used length is what was written, so zero for a transfer that memory, or the IOMMU, refused or that is
//! malformed; both are counted. The configuration space holds the longest transfer in bytes (32 bits, little endian).
//!
//! No virtio specification has such a device. Its ID is the first of those that virtio leaves to experiments ("What
//! Device Number?": "use 65535 and work backwards").

use std::sync::Arc;

use thiserror::Error;
use virtio_iommu::{
    dma::{DmaError, DmaMemory},
    queue::Chain,
};
use virtio_transport::{ActivateError, Activation, Interrupt, ServiceError, ServiceMode, VirtioDevice};

use crate::{
    Direction, DmaObserver, DmaPort, NoObserver,
    crew::{ACCESS_PLATFORM, VERSION_1, is_queue_size, read_space},
    queues::{Handler, Queues, Served},
};

#[cfg(test)]
mod tests;

/// Device ID of the engine.
pub const ENGINE_ID: u32 = 65535;
/// Longest transfer in either direction, in bytes.
pub const MAX_TRANSFER_BYTES: u32 = 1 << 20;

/// Name in errors and logs.
const NAME: &str = "dma-engine";

/// What an engine is like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineConfig {
    /// Maximum size of its queue: a power of two up to 32768.
    pub queue_size: u16,
    /// Offers ACCESS_PLATFORM and insists on it.
    pub access_platform: bool,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self { queue_size: 256, access_platform: true }
    }
}

/// An engine could not be made.
#[derive(Debug, Error)]
pub enum EngineError {
    /// Not a size a queue can have.
    #[error("queue size {size} is not a power of two up to 32768")]
    QueueSize {
        /// The size.
        size: u16,
    },
    /// Its service could not be set up.
    #[error(transparent)]
    Service(#[from] ServiceError),
}

/// Counts of an engine since its creation, resets included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineCounters {
    /// Transfers that went through.
    pub transfers: u64,
    /// Bytes copied out of guest memory by them.
    pub read_bytes: u64,
    /// Bytes copied into guest memory by them.
    pub written_bytes: u64,
    /// Transfers lost because their chain was malformed or too long.
    pub malformed: u64,
    /// Transfers lost because memory, or the IOMMU, refused the access.
    pub dma_faults: u64,
    /// Times the ring was found broken, which stops the device until it is reset.
    pub ring_failures: u64,
    /// Kicks that reached the device.
    pub kicks: u64,
}

impl EngineCounters {
    fn add(self, other: Self) -> Self {
        Self {
            transfers: self.transfers + other.transfers,
            read_bytes: self.read_bytes + other.read_bytes,
            written_bytes: self.written_bytes + other.written_bytes,
            malformed: self.malformed + other.malformed,
            dma_faults: self.dma_faults + other.dma_faults,
            ring_failures: self.ring_failures + other.ring_failures,
            kicks: self.kicks + other.kicks,
        }
    }
}

/// A DMA engine with a queue for each port.
pub struct DmaEngine<P: DmaPort + 'static, O: DmaObserver = NoObserver> {
    config: EngineConfig,
    queues: Queues<P, O, Copier>,
}

impl<P: DmaPort + 'static> DmaEngine<P> {
    /// An engine that accesses memory through `port`, served as `mode` says.
    ///
    /// # Errors
    /// When the queue size is none, or the service cannot be set up.
    pub fn new(config: EngineConfig, mode: ServiceMode, port: P) -> Result<Self, EngineError> {
        Self::with_observers(config, mode, [(port, NoObserver)])
    }
}

impl<P: DmaPort + 'static, O: DmaObserver> DmaEngine<P, O> {
    /// As [`new`](DmaEngine::new), with as many queues as there are ports, each with an observer of DMA latencies.
    ///
    /// # Errors
    /// As [`new`](DmaEngine::new).
    pub fn with_observers(
        config: EngineConfig,
        mode: ServiceMode,
        ports: impl IntoIterator<Item = (P, O)>,
    ) -> Result<Self, EngineError> {
        let size = config.queue_size;
        if !is_queue_size(size) {
            return Err(EngineError::QueueSize { size });
        }
        let lanes = ports.into_iter().map(|(port, observer)| (port, observer, Copier::new()));
        let queues = Queues::new(NAME, size, mode, lanes)?;
        Ok(Self { config, queues })
    }

    /// What was counted since creation.
    pub fn counters(&self) -> EngineCounters {
        let each = self.queues.counters().map(|(counters, kicks)| EngineCounters { kicks, ..counters });
        each.fold(EngineCounters::default(), EngineCounters::add)
    }

    /// What the worker panicked with, if it did since the last activation.
    pub fn failed(&self) -> Option<String> {
        self.queues.failed()
    }
}

impl<P: DmaPort + 'static, O: DmaObserver> VirtioDevice for DmaEngine<P, O> {
    fn device_id(&self) -> u32 {
        ENGINE_ID
    }

    fn features(&self) -> u64 {
        VERSION_1 | if self.config.access_platform { ACCESS_PLATFORM } else { 0 }
    }

    fn accepts_features(&self, acknowledged: u64) -> bool {
        !self.config.access_platform || acknowledged & ACCESS_PLATFORM != 0
    }

    fn queue_max_sizes(&self) -> &[u16] {
        self.queues.sizes()
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_space(&MAX_TRANSFER_BYTES.to_le_bytes(), offset, data);
    }

    /// The only field is read-only.
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

/// The host's buffer.
struct Copier {
    buffer: Box<[u8]>,
}

impl Copier {
    fn new() -> Self {
        Self { buffer: vec![0; MAX_TRANSFER_BYTES as usize].into_boxed_slice() }
    }

    #[inline]
    fn copy<M: DmaMemory, O: DmaObserver>(
        &mut self,
        mem: &M,
        observer: &mut O,
        chain: &Chain,
    ) -> Result<(u64, u64), DmaError> {
        // `serve` has checked both lengths against the buffer's.
        let (read, written) = (chain.readable_len(), chain.writable_len());
        if read > 0 {
            let started = if O::ENABLED { observer.now() } else { 0 };
            chain.read_at(mem, 0, &mut self.buffer[..read as usize])?;
            if O::ENABLED {
                observer.frame(Direction::FromGuest, read, observer.now().saturating_sub(started));
            }
        }
        if written > 0 {
            let started = if O::ENABLED { observer.now() } else { 0 };
            chain.write_at(mem, 0, &self.buffer[..written as usize])?;
            if O::ENABLED {
                observer.frame(Direction::ToGuest, written, observer.now().saturating_sub(started));
            }
        }
        Ok((read, written))
    }
}

impl Handler for Copier {
    type Counters = EngineCounters;

    #[inline]
    fn serve<M: DmaMemory, O: DmaObserver>(
        &mut self,
        mem: &M,
        observer: &mut O,
        chain: &Chain,
        counters: &mut EngineCounters,
    ) -> Served {
        let longest = u64::from(MAX_TRANSFER_BYTES);
        if chain.fault().is_some() || chain.readable_len() > longest || chain.writable_len() > longest {
            counters.malformed += 1;
            return Served::default();
        }
        match self.copy(mem, observer, chain) {
            Ok((read, written)) => {
                counters.transfers += 1;
                counters.read_bytes += read;
                counters.written_bytes += written;
                Served { written: written as u32, payload_bytes: read + written }
            }
            Err(_) => {
                counters.dma_faults += 1;
                Served::default()
            }
        }
    }

    fn ring_failed(counters: &mut EngineCounters) {
        counters.ring_failures += 1;
    }
}
