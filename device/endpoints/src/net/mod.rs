//! The virtio network device (virtio 5.1): one or several pairs of receive and transmit queue, segmentation offload; with
//! several pairs a control queue, which says how many are in use.

use std::sync::{
    Arc,
    atomic::{AtomicU16, Ordering},
};

use thiserror::Error;
use virtio_bindings::{
    virtio_ids::VIRTIO_ID_NET,
    virtio_net::{
        VIRTIO_NET_F_CSUM, VIRTIO_NET_F_CTRL_VQ, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO4,
        VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_MAC, VIRTIO_NET_F_MQ, VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_MTU,
    },
    virtio_ring::VIRTIO_RING_F_INDIRECT_DESC,
};
use virtio_transport::{ActivateError, Activation, Interrupt, ServiceError, ServiceMode, VirtioDevice};

use crate::{
    DmaObserver, DmaPort, NetCounters, NoObserver,
    crew::{ACCESS_PLATFORM, Crew, VERSION_1, is_queue_size, read_space},
};

mod budget;
mod control;
mod engine;
mod receive;
#[cfg(test)]
mod tests;
mod transmit;

pub use budget::{BURST_BYTES, BURST_CHAINS};
use control::Pairs;
use engine::Engine;

/// Index of the first pair's receive queue; that of pair `n` is `2 * n` more.
pub const RX_QUEUE: u16 = 0;
/// Index of the first pair's transmit queue; that of pair `n` is `2 * n` more.
pub const TX_QUEUE: u16 = 1;
/// Most queue pairs a card can have here.
pub const MAX_QUEUE_PAIRS: u16 = 64;
/// Index of the control queue of a driver that does not use MQ.
const CONTROL_WITHOUT_MQ: u16 = 2;
/// The index of none.
const NO_QUEUE: u16 = u16::MAX;

/// Name in errors and logs.
const NAME: &str = "virtio-net";

const INDIRECT: u64 = 1 << VIRTIO_RING_F_INDIRECT_DESC;
const MERGEABLE: u64 = 1 << VIRTIO_NET_F_MRG_RXBUF;
const MTU: u64 = 1 << VIRTIO_NET_F_MTU;
const MULTI_QUEUE: u64 = 1 << VIRTIO_NET_F_MQ;
const CONTROL: u64 = 1 << VIRTIO_NET_F_CTRL_VQ;
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
    /// No queue pair, or too many.
    #[error("{pairs} queue pairs; 1 to {MAX_QUEUE_PAIRS} are possible")]
    QueuePairs {
        /// How many.
        pairs: usize,
    },
    /// A service could not be set up.
    #[error(transparent)]
    Service(#[from] ServiceError),
}

/// A network card, the wires behind it and the peers at their other ends: one of each for each queue pair.
///
/// Each pair has a way to memory, a service and a peer of its own. What a peer answers goes to the receive queue of the pair
/// that the flow was transmitted on (automatic receive steering, virtio 5.1.6.5.5).
pub struct VirtioNet<P: DmaPort + 'static, O: DmaObserver = NoObserver> {
    config: NetConfig,
    /// Queue pairs.
    pairs: u16,
    queue_sizes: Vec<u16>,
    /// Index of the control queue as it was negotiated.
    control: AtomicU16,
    crew: Crew<Engine<P, O>>,
}

impl<P: DmaPort + 'static> VirtioNet<P> {
    /// A card with one queue pair that accesses memory through `port`, served as `mode` says.
    ///
    /// # Errors
    /// When the queue size is none, or the service cannot be set up.
    pub fn new(config: NetConfig, mode: ServiceMode, port: P) -> Result<Self, NetError> {
        Self::with_observers(config, mode, [(port, NoObserver)])
    }
}

impl<P: DmaPort + 'static, O: DmaObserver> VirtioNet<P, O> {
    /// A card with a queue pair for each port, each with an observer of DMA latencies. With more than one it offers MQ and a
    /// control queue, which the first pair's port and service serve.
    ///
    /// # Errors
    /// When the queue size or the number of ports is impossible, or a service cannot be set up.
    pub fn with_observers(
        config: NetConfig,
        mode: ServiceMode,
        ports: impl IntoIterator<Item = (P, O)>,
    ) -> Result<Self, NetError> {
        let size = config.queue_size;
        if !is_queue_size(size) {
            return Err(NetError::QueueSize { size });
        }
        let ports: Vec<_> = ports.into_iter().collect();
        let pairs = u16::try_from(ports.len()).unwrap_or(u16::MAX);
        if !(1..=MAX_QUEUE_PAIRS).contains(&pairs) {
            return Err(NetError::QueuePairs { pairs: ports.len() });
        }
        let in_use = Pairs::new(usize::from(pairs));
        let crew = Crew::new(NAME, mode, ports, |(port, observer), pair, status| {
            Engine::new(&config, pair, port, observer, Arc::clone(&in_use), status)
        })?;
        let queues = if pairs > 1 { 2 * usize::from(pairs) + 1 } else { 2 };
        let control = AtomicU16::new(NO_QUEUE);
        Ok(Self { pairs, queue_sizes: vec![size; queues], control, crew, config })
    }

    /// What was counted since creation, on all pairs.
    pub fn counters(&self) -> NetCounters {
        self.pair_counters().fold(NetCounters::default(), NetCounters::add)
    }

    /// What each queue pair counted.
    pub fn pair_counters(&self) -> impl Iterator<Item = NetCounters> {
        self.crew.counters().map(|(counters, kicks)| NetCounters { kicks, ..counters })
    }

    /// What a worker panicked with, if one did since the last activation.
    pub fn failed(&self) -> Option<String> {
        self.crew.failed()
    }

    /// Calls `f` with the first pair's observer; `None` while the device is active.
    pub fn observer<R>(&self, f: impl FnOnce(&mut O) -> R) -> Option<R> {
        self.crew.at_home(0, |engine| f(&mut engine.observer))
    }

    /// `struct virtio_net_config` (5.1.4) up to the MTU; fields whose feature is not offered are zero.
    fn space(&self) -> [u8; 12] {
        let mut space = [0; 12];
        space[..6].copy_from_slice(&self.config.mac);
        let pairs = if self.pairs > 1 { self.pairs } else { 0 };
        space[8..10].copy_from_slice(&pairs.to_le_bytes());
        space[10..].copy_from_slice(&self.config.mtu.unwrap_or(0).to_le_bytes());
        space
    }
}

impl<P: DmaPort + 'static, O: DmaObserver> VirtioDevice for VirtioNet<P, O> {
    fn device_id(&self) -> u32 {
        VIRTIO_ID_NET
    }

    fn features(&self) -> u64 {
        self.config.features() | if self.pairs > 1 { MULTI_QUEUE | CONTROL } else { 0 }
    }

    /// ACCESS_PLATFORM must be acknowledged (6.1: without it the driver would hand out guest-physical addresses), and
    /// offloads and MQ only with what they need (5.1.3.1).
    fn accepts_features(&self, acknowledged: u64) -> bool {
        let platform = !self.config.access_platform || acknowledged & ACCESS_PLATFORM != 0;
        let needs = TSO.iter().chain(&[(MULTI_QUEUE, CONTROL)]);
        platform && needs.into_iter().all(|(bit, needs)| acknowledged & bit == 0 || acknowledged & needs != 0)
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    /// One pair, and the control queue behind it, unless MQ says that there are all (5.1.2).
    fn queue_count(&self, features: u64) -> usize {
        match control_queue(features, self.pairs) {
            Some(control) => usize::from(control) + 1,
            None => 2,
        }
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_space(&self.space(), offset, data);
    }

    /// All fields are read-only.
    fn write_config(&self, _offset: u64, _data: &[u8]) {}

    fn activate(&self, activation: Activation, interrupt: Arc<dyn Interrupt>) -> Result<(), ActivateError> {
        let control = control_queue(activation.features, self.pairs).unwrap_or(NO_QUEUE);
        self.control.store(control, Ordering::Relaxed);
        self.crew.activate(&activation, &interrupt)
    }

    /// Any queue's kick wakes the pair it belongs to, the control queue's the first.
    #[inline]
    fn notify(&self, index: u16) {
        // Relaxed: the transport lets no kick through before `activate` has returned.
        let control = self.pairs > 1 && index == self.control.load(Ordering::Relaxed);
        self.crew.notify(if control { 0 } else { index / 2 });
    }

    fn reset(&self) {
        self.crew.reset();
    }

    fn needs_reset(&self) -> bool {
        self.crew.needs_reset()
    }
}

/// Index of the control queue with these features, on a card with so many pairs (5.1.2).
fn control_queue(features: u64, pairs: u16) -> Option<u16> {
    if pairs == 1 || features & CONTROL == 0 {
        return None;
    }
    Some(if features & MULTI_QUEUE != 0 { 2 * pairs } else { CONTROL_WITHOUT_MQ })
}
