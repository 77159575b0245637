//! A network card for real guests: Ethernet frames from one card to another over a cable, checksum and segmentation
//! offload passed through, nothing verified or answered on the way (that is [`VirtioNet`](crate::VirtioNet)).

use std::sync::Arc;

use thiserror::Error;
use virtio_bindings::{
    virtio_config::{VIRTIO_F_ACCESS_PLATFORM, VIRTIO_F_VERSION_1},
    virtio_ids::VIRTIO_ID_NET,
    virtio_net::{
        VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6,
        VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_MAC, VIRTIO_NET_F_MRG_RXBUF,
        VIRTIO_NET_F_MTU,
    },
    virtio_ring::VIRTIO_RING_F_INDIRECT_DESC,
};
use virtio_transport::{ActivateError, Activation, Interrupt, ServiceError, ServiceMode, VirtioDevice};

use crate::{
    DmaPort,
    crew::{is_queue_size, read_space},
};

mod cable;
mod half;
mod offload;
mod receive;
#[cfg(test)]
mod tests;
mod transmit;

pub use cable::CableEnd;
use cable::Lane;
use half::Slot;
use receive::Reception;
use transmit::Transmission;

/// Name in errors and logs.
const NAME: &str = "nic";
/// Size of `struct virtio_net_hdr_v1`, in bytes.
const HEADER_BYTES: usize = crate::frame::NET_HEADER_BYTES;
/// Shortest frame: an Ethernet header.
const MIN_FRAME_BYTES: usize = 14;
/// Longest frame: what segmentation offload hands over at once, with its headers.
const MAX_FRAME_BYTES: usize = 65536 + 256;

const ACCESS_PLATFORM: u64 = 1 << VIRTIO_F_ACCESS_PLATFORM;
/// Offloads, each with what it needs (virtio 5.1.3.1).
const OFFLOADS: [(u32, u32); 4] = [
    (VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_CSUM),
    (VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_CSUM),
    (VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_CSUM),
    (VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_GUEST_CSUM),
];

/// What a card is like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NicConfig {
    /// Its address.
    pub mac: [u8; 6],
    /// MTU it advises, in bytes; `None` does not offer the feature.
    pub mtu: Option<u16>,
    /// Maximum size of each queue: a power of two up to 32768.
    pub queue_size: u16,
    /// Offers ACCESS_PLATFORM and insists on it: addresses are the platform's (I/O virtual), not guest-physical.
    pub access_platform: bool,
    /// Offers INDIRECT_DESC. Behind an IOMMU each indirect table is one more mapping.
    pub indirect: bool,
    /// Offers checksum and segmentation offload.
    pub offloads: bool,
}

impl Default for NicConfig {
    fn default() -> Self {
        Self {
            mac: [0x02, 0, 0, 0, 0, 1],
            mtu: None,
            queue_size: 256,
            access_platform: true,
            indirect: false,
            offloads: true,
        }
    }
}

impl NicConfig {
    fn features(&self) -> u64 {
        let when = |on: bool, bits: u64| if on { bits } else { 0 };
        let offloads = OFFLOADS.iter().fold(0, |bits, (offload, needs)| bits | 1 << offload | 1 << needs);
        1 << VIRTIO_F_VERSION_1
            | 1 << VIRTIO_NET_F_MAC
            | 1 << VIRTIO_NET_F_MRG_RXBUF
            | when(self.offloads, offloads)
            | when(self.access_platform, ACCESS_PLATFORM)
            | when(self.indirect, 1 << VIRTIO_RING_F_INDIRECT_DESC)
            | when(self.mtu.is_some(), 1 << VIRTIO_NET_F_MTU)
    }

    /// `struct virtio_net_config` (5.1.4) up to the MTU.
    fn space(&self) -> [u8; 12] {
        let mut space = [0; 12];
        space[..6].copy_from_slice(&self.mac);
        space[10..].copy_from_slice(&self.mtu.unwrap_or(0).to_le_bytes());
        space
    }
}

/// A card could not be made.
#[derive(Debug, Error)]
pub enum NicError {
    /// Not a size a queue can have.
    #[error("queue size {size} is not a power of two up to 32768")]
    QueueSize {
        /// The size.
        size: u16,
    },
    /// A service could not be set up.
    #[error(transparent)]
    Service(#[from] ServiceError),
}

/// Counts of a card since its creation, resets included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NicCounters {
    /// Frames taken from the guest and put on the cable.
    pub tx_frames: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Frames delivered to the guest.
    pub rx_frames: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// Frames lost because the other card was down, did not take their offload, or its buffers were too small.
    pub dropped: u64,
    /// Frames and chains lost because they were malformed.
    pub malformed: u64,
    /// Frames lost because memory, or the IOMMU, refused the access.
    pub dma_faults: u64,
    /// Times a ring was found broken, which stops its queue until the device is reset.
    pub ring_failures: u64,
    /// Kicks that reached the card, those of the other card's included.
    pub kicks: u64,
}

impl NicCounters {
    fn add(self, other: Self) -> Self {
        Self {
            tx_frames: self.tx_frames + other.tx_frames,
            tx_bytes: self.tx_bytes + other.tx_bytes,
            rx_frames: self.rx_frames + other.rx_frames,
            rx_bytes: self.rx_bytes + other.rx_bytes,
            dropped: self.dropped + other.dropped,
            malformed: self.malformed + other.malformed,
            dma_faults: self.dma_faults + other.dma_faults,
            ring_failures: self.ring_failures + other.ring_failures,
            kicks: self.kicks + other.kicks,
        }
    }
}

/// A network card at one end of a cable.
pub struct Nic<P: DmaPort + 'static> {
    config: NicConfig,
    queue_sizes: [u16; 2],
    reception: Slot<P, Reception>,
    transmission: Slot<P, Transmission>,
    incoming: Arc<Lane>,
    outgoing: Arc<Lane>,
}

impl<P: DmaPort + 'static> Nic<P> {
    /// A card at this end of a cable, with a port for each queue (receive, transmit), served as `mode` says.
    ///
    /// # Errors
    /// When the queue size is none, or a service cannot be set up.
    pub fn new(
        config: NicConfig,
        mode: ServiceMode,
        cable: CableEnd,
        ports: [P; 2],
    ) -> Result<Self, NicError> {
        let size = config.queue_size;
        if !is_queue_size(size) {
            return Err(NicError::QueueSize { size });
        }
        let CableEnd { outgoing, incoming } = cable;
        let [receive, transmit] = ports;
        let reception = Slot::new(mode, receive, Reception::new(incoming.clone()))?;
        let transmission = Slot::new(mode, transmit, Transmission::new(outgoing.clone()))?;
        incoming.connect_receiver(Some(reception.service().clone()));
        outgoing.connect_sender(Some(transmission.service().clone()));
        Ok(Self { config, queue_sizes: [size; 2], reception, transmission, incoming, outgoing })
    }

    /// What was counted since creation.
    pub fn counters(&self) -> NicCounters {
        self.reception.counters().add(self.transmission.counters())
    }

    /// What a worker panicked with, if one did since the last activation.
    pub fn failed(&self) -> Option<String> {
        self.reception.service().failed().or_else(|| self.transmission.service().failed())
    }
}

impl<P: DmaPort + 'static> Drop for Nic<P> {
    /// Services and lanes refer to each other.
    fn drop(&mut self) {
        self.reset();
        self.incoming.connect_receiver(None);
        self.outgoing.connect_sender(None);
    }
}

impl<P: DmaPort + 'static> VirtioDevice for Nic<P> {
    fn device_id(&self) -> u32 {
        VIRTIO_ID_NET
    }

    fn features(&self) -> u64 {
        self.config.features()
    }

    /// ACCESS_PLATFORM must be acknowledged (6.1), and offloads only with what they need.
    fn accepts_features(&self, acknowledged: u64) -> bool {
        let has = |bit: u32| acknowledged & 1 << bit != 0;
        let platform = !self.config.access_platform || acknowledged & ACCESS_PLATFORM != 0;
        platform && OFFLOADS.iter().all(|(offload, needs)| !has(*offload) || has(*needs))
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_space(&self.config.space(), offset, data);
    }

    /// All fields are read-only.
    fn write_config(&self, _offset: u64, _data: &[u8]) {}

    fn activate(&self, activation: Activation, interrupt: Arc<dyn Interrupt>) -> Result<(), ActivateError> {
        let started = self
            .reception
            .start(&activation, &interrupt)
            .and_then(|()| self.transmission.start(&activation, &interrupt));
        if started.is_err() {
            self.reset();
        }
        started
    }

    fn notify(&self, index: u16) {
        match index {
            crate::RX_QUEUE => self.reception.service().notify(),
            crate::TX_QUEUE => self.transmission.service().notify(),
            _ => {}
        }
    }

    fn reset(&self) {
        self.transmission.service().stop();
        self.reception.service().stop();
    }

    fn needs_reset(&self) -> bool {
        self.reception.needs_reset() || self.transmission.needs_reset()
    }
}
