//! The virtio network device (virtio 5.1): one receive queue, one transmit queue, segmentation offload, no control
//! queue.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use thiserror::Error;
use virtio_bindings::{
    virtio_config::{VIRTIO_F_ACCESS_PLATFORM, VIRTIO_F_VERSION_1},
    virtio_ids::VIRTIO_ID_NET,
    virtio_net::{
        VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_HOST_TSO4,
        VIRTIO_NET_F_MAC, VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_MTU,
    },
    virtio_ring::VIRTIO_RING_F_INDIRECT_DESC,
};
use virtio_iommu::queue::MAX_QUEUE_SIZE;
use virtio_transport::{
    ActivateError, Activation, Interrupt, Progress, QueueWorker, Service, ServiceError, ServiceMode,
    VirtioDevice,
};

use crate::{DmaObserver, DmaPort, NetCounters, NoObserver};

mod budget;
mod engine;
mod receive;
#[cfg(test)]
mod tests;
mod transmit;

pub use budget::{BURST_BYTES, BURST_CHAINS};
use engine::Engine;

/// Index of the receive queue.
pub const RX_QUEUE: u16 = 0;
/// Index of the transmit queue.
pub const TX_QUEUE: u16 = 1;

/// Name in errors and logs.
const NAME: &str = "virtio-net";

const VERSION_1: u64 = 1 << VIRTIO_F_VERSION_1;
const ACCESS_PLATFORM: u64 = 1 << VIRTIO_F_ACCESS_PLATFORM;
const INDIRECT: u64 = 1 << VIRTIO_RING_F_INDIRECT_DESC;
const MERGEABLE: u64 = 1 << VIRTIO_NET_F_MRG_RXBUF;
const MTU: u64 = 1 << VIRTIO_NET_F_MTU;
/// Segmentation offload in both directions, and the checksum offload it needs (5.1.3.1).
const TSO: [(u64, u64); 2] = [
    (1 << VIRTIO_NET_F_HOST_TSO4, 1 << VIRTIO_NET_F_CSUM),
    (1 << VIRTIO_NET_F_GUEST_TSO4, 1 << VIRTIO_NET_F_GUEST_CSUM),
];

/// What a network endpoint is like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetConfig {
    /// The device's address.
    pub mac: [u8; 6],
    /// The peer's address.
    pub peer_mac: [u8; 6],
    /// MTU the device advises, in bytes; `None` does not offer the feature.
    pub mtu: Option<u16>,
    /// Maximum size of each queue: a power of two up to 32768.
    pub queue_size: u16,
    /// Offers ACCESS_PLATFORM and insists on it: addresses are the platform's (I/O virtual), not guest-physical.
    pub access_platform: bool,
    /// Offers MRG_RXBUF.
    pub mergeable: bool,
    /// Offers INDIRECT_DESC. Behind an IOMMU each indirect table is one more mapping.
    pub indirect: bool,
    /// Answers that may wait for receive buffers before the device stops to transmit.
    pub wire_frames: usize,
}

impl Default for NetConfig {
    fn default() -> Self {
        Self {
            mac: [0x02, 0, 0, 0, 0, 1],
            peer_mac: [0x02, 0, 0, 0, 0, 2],
            mtu: None,
            queue_size: 256,
            access_platform: true,
            mergeable: true,
            indirect: false,
            wire_frames: 256,
        }
    }
}

impl NetConfig {
    fn features(&self) -> u64 {
        let when = |on: bool, bits: u64| if on { bits } else { 0 };
        TSO.iter().fold(VERSION_1 | 1 << VIRTIO_NET_F_MAC, |bits, (tso, csum)| bits | tso | csum)
            | when(self.access_platform, ACCESS_PLATFORM)
            | when(self.mergeable, MERGEABLE)
            | when(self.indirect, INDIRECT)
            | when(self.mtu.is_some(), MTU)
    }

    /// `struct virtio_net_config` (5.1.4) up to the MTU; fields whose feature is not offered are zero.
    fn space(&self) -> [u8; 12] {
        let mut space = [0; 12];
        space[..6].copy_from_slice(&self.mac);
        space[10..].copy_from_slice(&self.mtu.unwrap_or(0).to_le_bytes());
        space
    }
}

/// A network endpoint could not be made.
#[derive(Debug, Error)]
pub enum NetError {
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

/// What device and worker share.
#[derive(Default)]
struct Status {
    counters: Mutex<NetCounters>,
    /// A ring broke.
    broken: AtomicBool,
}

/// A network card, the wire behind it and the peer at its other end.
pub struct VirtioNet<P: DmaPort + 'static, O: DmaObserver = NoObserver> {
    config: NetConfig,
    queue_sizes: [u16; 2],
    status: Arc<Status>,
    service: Service,
    /// Here between reset and activation; with the worker while it serves.
    home: Home<P, O>,
}

type Home<P, O> = Arc<Mutex<Option<Engine<P, O>>>>;

impl<P: DmaPort + 'static> VirtioNet<P> {
    /// A card that accesses memory through `port`, served as `mode` says.
    ///
    /// # Errors
    /// When the queue size is none, or the service cannot be set up.
    pub fn new(config: NetConfig, mode: ServiceMode, port: P) -> Result<Self, NetError> {
        Self::with_observer(config, mode, port, NoObserver)
    }
}

impl<P: DmaPort + 'static, O: DmaObserver> VirtioNet<P, O> {
    /// As [`new`](VirtioNet::new), with an observer of DMA latencies.
    ///
    /// # Errors
    /// As [`new`](VirtioNet::new).
    pub fn with_observer(
        config: NetConfig,
        mode: ServiceMode,
        port: P,
        observer: O,
    ) -> Result<Self, NetError> {
        let size = config.queue_size;
        if !size.is_power_of_two() || size > MAX_QUEUE_SIZE {
            return Err(NetError::QueueSize { size });
        }
        let status = Arc::new(Status::default());
        let engine = Engine::new(&config, port, observer, Arc::clone(&status));
        Ok(Self {
            queue_sizes: [size; 2],
            status,
            service: Service::new(NAME, mode)?,
            home: Arc::new(Mutex::new(Some(engine))),
            config,
        })
    }

    /// What was counted since creation.
    pub fn counters(&self) -> NetCounters {
        NetCounters { kicks: self.service.kicks(), ..*lock(&self.status.counters) }
    }

    /// What the worker panicked with, if it did since the last activation.
    pub fn failed(&self) -> Option<String> {
        self.service.failed()
    }

    /// Calls `f` with the observer; `None` while the device is active.
    pub fn observer<R>(&self, f: impl FnOnce(&mut O) -> R) -> Option<R> {
        lock(&self.home).as_mut().map(|engine| f(&mut engine.observer))
    }
}

fn refuse(reason: impl ToString) -> ActivateError {
    ActivateError { device: NAME, reason: reason.to_string() }
}

impl<P: DmaPort + 'static, O: DmaObserver> VirtioDevice for VirtioNet<P, O> {
    fn device_id(&self) -> u32 {
        VIRTIO_ID_NET
    }

    fn features(&self) -> u64 {
        self.config.features()
    }

    /// ACCESS_PLATFORM must be acknowledged (6.1: without it the driver would hand out guest-physical addresses), and
    /// offloads only with what they need.
    fn accepts_features(&self, acknowledged: u64) -> bool {
        let platform = !self.config.access_platform || acknowledged & ACCESS_PLATFORM != 0;
        platform && TSO.iter().all(|(tso, needs)| acknowledged & tso == 0 || acknowledged & needs != 0)
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let space = self.config.space();
        let rest = usize::try_from(offset).ok().and_then(|offset| space.get(offset..)).unwrap_or(&[]);
        for (byte, value) in data.iter_mut().zip(rest) {
            *byte = *value;
        }
    }

    /// All fields are read-only.
    fn write_config(&self, _offset: u64, _data: &[u8]) {}

    fn activate(&self, activation: Activation, interrupt: Arc<dyn Interrupt>) -> Result<(), ActivateError> {
        let mut engine = lock(&self.home).take().ok_or_else(|| refuse("it is active already"))?;
        self.status.broken.store(false, Ordering::Release);
        let prepared = engine.prepare(&activation, Arc::clone(&interrupt)).map_err(refuse);
        // From here on the engine finds its way home when the worker goes.
        let worker = NetWorker { engine: Some(engine), home: Arc::clone(&self.home) };
        prepared?;
        self.service.start(Box::new(worker), interrupt).map_err(refuse)
    }

    #[inline]
    fn notify(&self, _index: u16) {
        self.service.notify();
    }

    fn reset(&self) {
        self.service.stop();
    }

    fn needs_reset(&self) -> bool {
        self.status.broken.load(Ordering::Acquire) || self.service.failed().is_some()
    }
}

struct NetWorker<P: DmaPort, O: DmaObserver> {
    engine: Option<Engine<P, O>>,
    home: Home<P, O>,
}

impl<P: DmaPort, O: DmaObserver> QueueWorker for NetWorker<P, O> {
    #[inline]
    fn run(&mut self) -> Progress {
        self.engine.as_mut().map_or(Progress::Idle, Engine::run)
    }

    fn suppress_kicks(&mut self, on: bool) {
        if let Some(engine) = &mut self.engine {
            engine.suppress_kicks(on);
        }
    }
}

impl<P: DmaPort, O: DmaObserver> Drop for NetWorker<P, O> {
    fn drop(&mut self) {
        if let Some(mut engine) = self.engine.take() {
            engine.disconnect();
            *lock(&self.home) = Some(engine);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Values are replaced whole, so a panic elsewhere leaves nothing half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
