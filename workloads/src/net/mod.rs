//! A virtio-net driver that polls: for each queue pair one CPU, which uses no other's queues.
//!
//! The rings are mapped once, as coherent memory. A packet to transmit is one linear buffer with `virtio_net_hdr_v1`
//! and the frame's header, mapped by itself, and its payload in pieces of at most
//! [`frag_bytes`](NetSettings::frag_bytes), each mapped by itself; all are mapped when the packet is queued and
//! unmapped when its transmission has completed. A receive buffer is mapped when it is posted and unmapped when it
//! comes back, unless it is one of the [recycled](NetSettings::rx_recycle_ppm), which stay mapped.

use std::{sync::Arc, time::Duration};

use thiserror::Error;
use virtio_bindings::{
    virtio_config::VIRTIO_F_ACCESS_PLATFORM,
    virtio_ids::VIRTIO_ID_NET,
    virtio_net::{
        VIRTIO_NET_F_CSUM, VIRTIO_NET_F_CTRL_VQ, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO4,
        VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_MAC, VIRTIO_NET_F_MQ, VIRTIO_NET_F_MRG_RXBUF,
    },
};
use virtio_iommu_spec::Gpa;

mod control;
mod receive;
mod responder;
mod transmit;

pub use responder::Responder;
pub use transmit::{MAX_FRAGS, Slot};

use crate::{
    bus::Bus,
    dma::{Counts, Direction, Dma, DmaError, DmaSettings, Mapping},
    frame::{Header, LINEAR_BYTES},
    mmio::{MmioDevice, MmioError, QueueAddresses},
    pages::{PageAllocator, PagesError},
    ring::{RingError, SplitRing},
    scenario::Params,
};
use control::Control;
use receive::Receiver;
use transmit::Transmitter;

/// Index of the first pair's receive queue.
pub const RX_QUEUE: u16 = 0;
/// Index of the first pair's transmit queue.
pub const TX_QUEUE: u16 = 1;

const ACCESS_PLATFORM: u64 = 1 << VIRTIO_F_ACCESS_PLATFORM;
const MAC: u64 = 1 << VIRTIO_NET_F_MAC;
const MERGEABLE: u64 = 1 << VIRTIO_NET_F_MRG_RXBUF;
const SEND_LARGE: u64 = 1 << VIRTIO_NET_F_CSUM | 1 << VIRTIO_NET_F_HOST_TSO4;
const MULTI_QUEUE: u64 = 1 << VIRTIO_NET_F_MQ | 1 << VIRTIO_NET_F_CTRL_VQ;
const RECEIVE_LARGE: u64 = 1 << VIRTIO_NET_F_GUEST_CSUM | 1 << VIRTIO_NET_F_GUEST_TSO4;

/// The driver cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NetError {
    /// The registers.
    #[error(transparent)]
    Mmio(#[from] MmioError),
    /// A ring.
    #[error("NIC: {0}")]
    Ring(#[from] RingError),
    /// Memory.
    #[error(transparent)]
    Pages(#[from] PagesError),
    /// The DMA API.
    #[error(transparent)]
    Dma(#[from] DmaError),
    /// The NIC has fewer queue pairs.
    #[error("{wanted} queue pairs are wanted, the NIC says it has {offered}")]
    QueuePairs {
        /// How many are wanted.
        wanted: u16,
        /// `max_virtqueue_pairs` of the configuration.
        offered: u16,
    },
    /// The NIC does not do what the control queue says.
    #[error("the NIC answers {status} when {pairs} queue pairs are to be used")]
    Command {
        /// How many.
        pairs: u16,
        /// The status byte; 255 when it did not answer in time.
        status: u8,
    },
    /// A payload of more pieces than the driver has room for.
    #[error("a payload of {payload} bytes in pieces of {frag} is more than {MAX_FRAGS} pieces")]
    Pieces {
        /// Largest payload, in bytes.
        payload: u32,
        /// Largest piece, in bytes.
        frag: u32,
    },
    /// What arrived is no frame.
    #[error("the NIC delivered {written} bytes that are no frame of the test's protocol")]
    NoFrame {
        /// How many bytes it says it wrote into the first buffer.
        written: u32,
    },
    /// A frame's further buffers are not there.
    #[error("the NIC announced {announced} buffers for a frame and delivered {delivered}")]
    MissingBuffers {
        /// `num_buffers` of the header.
        announced: u16,
        /// Buffers in the used ring.
        delivered: u16,
    },
    /// A frame says it has more payload than arrived.
    #[error("a frame announced {announced} bytes of payload and had {present}")]
    Truncated {
        /// What its header says.
        announced: u32,
        /// What arrived.
        present: u32,
    },
    /// The payload is not what was sent: data were lost, or went elsewhere.
    #[error(
        "payload corrupt: flow {flow}, sequence {seq}: CRC32C {found:#010x}, announced {announced:#010x}"
    )]
    Corrupt {
        /// Flow.
        flow: u16,
        /// Sequence number.
        seq: u32,
        /// What the header says.
        announced: u32,
        /// What the payload has.
        found: u32,
    },
}

/// How the driver is set up.
#[derive(Clone, Copy, Debug)]
pub struct NetSettings {
    /// Queue pairs; with more than one the NIC must have MQ.
    pub queue_pairs: u16,
    /// Descriptors of each ring.
    pub ring_size: u16,
    /// Receive buffers posted; at most `ring_size`.
    pub rx_buffers: u16,
    /// Size of a receive buffer, in bytes. A longer frame is spread over several.
    pub rx_buffer_bytes: u32,
    /// Receive buffers reused while they stay mapped, in millionths: evenly spread, not drawn, so that counts are exact.
    pub rx_recycle_ppm: u32,
    /// Largest piece of payload, in bytes.
    pub frag_bytes: u32,
    /// Largest payload of one packet to transmit, in bytes.
    pub max_payload: u32,
    /// Payload of a segment on the wire, in bytes.
    pub mss: u16,
    /// Longest time without any progress.
    pub watchdog: Duration,
}

impl NetSettings {
    /// The settings of a case.
    pub fn new(params: &Params, max_payload: u32, watchdog: Duration) -> Self {
        Self {
            queue_pairs: params.queue_pairs,
            ring_size: params.ring_size,
            rx_buffers: params.rx_buffers,
            rx_buffer_bytes: params.rx_buffer_bytes,
            rx_recycle_ppm: params.rx_recycle_ppm,
            frag_bytes: params.frag_bytes,
            max_payload,
            mss: params.mss(),
            watchdog,
        }
    }
}

/// The driver of one queue pair.
pub struct NetDriver {
    device: Arc<MmioDevice>,
    /// Number of the pair.
    pair: u16,
    /// With the first pair, where there are several.
    control: Option<Control>,
    dma: Dma,
    transmitter: Transmitter,
    receiver: Receiver,
    mac: [u8; 6],
    counts: Counts,
}

impl NetDriver {
    /// Finds the NIC, negotiates, maps the rings, goes live and posts the receive buffers. Returns a driver for each queue
    /// pair, each with a DMA API of its own that `dma_settings` describe.
    ///
    /// # Errors
    /// When the NIC is not there or lacks a feature the mode or the sizes need, or queue pairs, or memory is exhausted.
    pub fn probe(
        bus: Arc<dyn Bus>,
        pages: &PageAllocator,
        mut dma: Dma,
        dma_settings: DmaSettings,
        settings: &NetSettings,
    ) -> Result<Vec<Self>, NetError> {
        let device = Arc::new(MmioDevice::probe(bus, VIRTIO_ID_NET)?);
        device.negotiate(
            required(&dma, settings),
            ACCESS_PLATFORM | MAC | MERGEABLE | SEND_LARGE | RECEIVE_LARGE,
        )?;
        let mac = device.config::<6>()?;
        let wanted = settings.queue_pairs;
        let mut control = None;
        if wanted > 1 {
            let [.., low, high] = device.config::<10>()?;
            let offered = u16::from_le_bytes([low, high]);
            // At most 0x8000 (5.1.4.1): more would put the control queue beyond the last index.
            if !(wanted..=0x8000 / 2).contains(&offered) {
                return Err(NetError::QueuePairs { wanted, offered });
            }
            control = Some(Control::new(&device, pages, &mut dma, 2 * offered)?);
        }
        let siblings: Vec<Dma> =
            (1..wanted).map(|pair| dma.sibling(dma_settings, usize::from(pair))).collect();
        let mut drivers = Vec::new();
        for (pair, mut dma) in (0..).zip([dma].into_iter().chain(siblings)) {
            let ring = |dma: &mut Dma, queue| {
                MappedRing::new(&device, pages, dma, 2 * pair + queue, settings.ring_size)
            };
            let receive = ring(&mut dma, RX_QUEUE)?;
            let transmit = ring(&mut dma, TX_QUEUE)?;
            let transmitter = Transmitter::new(pages, transmit, settings)?;
            let receiver = Receiver::new(pages, receive, settings)?;
            let (device, control) = (Arc::clone(&device), control.take());
            let counts = Counts::default();
            drivers.push(Self { device, pair, control, dma, transmitter, receiver, mac, counts });
        }
        device.driver_ok()?;
        if let Some(control) = drivers.first_mut().and_then(|driver| driver.control.as_mut()) {
            control.set_pairs(&device, wanted, settings)?;
        }
        for driver in &mut drivers {
            driver.refill()?;
        }
        Ok(drivers)
    }

    /// Whether the NIC on `bus` segments large packets, in both directions. It is reset.
    ///
    /// # Errors
    /// When there is none.
    pub fn segments(bus: Arc<dyn Bus>) -> Result<bool, NetError> {
        let large = SEND_LARGE | RECEIVE_LARGE;
        let device = MmioDevice::probe(bus, VIRTIO_ID_NET)?;
        let offered = device.offered();
        device.reset()?;
        Ok(offered & large == large)
    }

    /// The NIC's address.
    pub fn mac(&self) -> [u8; 6] {
        self.mac
    }

    /// The DMA API below.
    pub fn dma(&mut self) -> &mut Dma {
        &mut self.dma
    }

    /// Everything counted on this pair since the driver was set up, the DMA API's counts included; the first pair has the
    /// IOMMU driver's, too.
    pub fn counts(&self) -> Counts {
        let mut counts = self.counts;
        counts += if self.pair == 0 { self.dma.counts() } else { self.dma.own_counts() };
        counts.packets = counts.tx_packets + counts.rx_packets;
        counts
    }

    /// A free transmit slot, if there is one with room in the ring. Its payload buffer is the caller's until
    /// [`send`](Self::send).
    #[inline]
    pub fn slot(&mut self) -> Option<Slot> {
        self.transmitter.slot()
    }

    /// Copies `bytes` to `at` of a slot's payload buffer.
    ///
    /// # Panics
    /// When they do not fit `max_payload`.
    #[inline]
    pub fn fill(&self, slot: &Slot, at: u32, bytes: &[u8]) {
        self.transmitter.fill(slot, at, bytes);
    }

    /// Maps a packet's buffers and queues it; the NIC sees it at the next [`kick`](Self::kick).
    ///
    /// # Errors
    /// When mapping fails.
    #[inline]
    pub fn send(&mut self, slot: Slot, header: &Header) -> Result<(), NetError> {
        self.counts.bytes_moved += u64::from(header.payload_len);
        self.transmitter.send(&mut self.dma, slot, header)
    }

    /// Publishes what was queued, and kicks unless the NIC does not want it.
    #[inline]
    pub fn kick(&mut self) {
        if self.transmitter.ring.publish() {
            self.counts.kicks_endpoint += 1;
            self.device.kick(2 * self.pair + TX_QUEUE);
        }
    }

    /// Packets queued and not yet reaped.
    pub fn in_flight(&self) -> u16 {
        self.transmitter.ring.outstanding()
    }

    /// Unmaps the buffers of packets whose transmission has completed; returns how many there were.
    ///
    /// # Errors
    /// When the ring is broken or unmapping fails.
    #[inline]
    pub fn reap(&mut self) -> Result<u32, NetError> {
        self.transmitter.reap(&mut self.dma, &mut self.counts)
    }

    /// Calls `f` with the header of each frame received, its payload verified, up to `budget` frames; refills the ring
    /// when half of it is used. Returns how many frames there were.
    ///
    /// # Errors
    /// When the ring is broken, mapping or unmapping fails, or a frame is damaged.
    #[inline]
    pub fn poll(&mut self, budget: u32, mut f: impl FnMut(&Header)) -> Result<u32, NetError> {
        let mut frames = 0;
        while frames < budget {
            let Some(header) = self.receiver.next(&mut self.dma, &mut self.counts)? else { break };
            frames += 1;
            f(&header);
        }
        if self.receiver.wants_refill() {
            self.refill()?;
        }
        Ok(frames)
    }

    /// Posts every receive buffer that is not.
    ///
    /// # Errors
    /// When mapping fails.
    pub fn refill(&mut self) -> Result<(), NetError> {
        if self.receiver.refill(&mut self.dma)? && self.receiver.ring.publish() {
            self.counts.kicks_endpoint += 1;
            self.device.kick(2 * self.pair + RX_QUEUE);
        }
        Ok(())
    }

    /// Fails when the NIC has set DEVICE_NEEDS_RESET.
    ///
    /// # Errors
    /// Just then.
    pub fn check(&self) -> Result<(), NetError> {
        Ok(self.device.check()?)
    }

    /// Resets the NIC, unmaps everything of all its pairs, detaches it from the IOMMU. Returns the final counts.
    ///
    /// # Errors
    /// When the NIC does not reset, or the IOMMU refuses.
    pub fn shutdown(drivers: Vec<Self>) -> Result<Counts, NetError> {
        let mut counts = Counts::default();
        if let Some(driver) = drivers.first() {
            driver.device.reset()?;
        }
        // The first pair's DMA API is the one that detaches.
        for driver in drivers.into_iter().rev() {
            counts += driver.close()?;
        }
        Ok(counts)
    }

    fn close(mut self) -> Result<Counts, NetError> {
        self.transmitter.unmap_all(&mut self.dma)?;
        self.receiver.unmap_all(&mut self.dma)?;
        self.dma.unmap(self.transmitter.mapping)?;
        self.dma.unmap(self.receiver.mapping)?;
        if let Some(control) = &self.control {
            control.unmap(&mut self.dma)?;
        }
        let mut counts = self.counts;
        if self.pair == 0 {
            self.dma.take_faults()?;
            counts += self.dma.shutdown()?;
        } else {
            self.dma.shutdown()?;
            counts += self.dma.own_counts();
        }
        Ok(counts)
    }
}

/// Features without which the case would not be what it claims.
fn required(dma: &Dma, settings: &NetSettings) -> u64 {
    let when = |needed: bool, bits: u64| if needed { bits } else { 0 };
    let frame = LINEAR_BYTES as u32 + settings.max_payload;
    when(dma.mode().has_iommu(), ACCESS_PLATFORM)
        | when(settings.queue_pairs > 1, MULTI_QUEUE)
        | when(settings.max_payload > u32::from(settings.mss), SEND_LARGE | RECEIVE_LARGE)
        | when(frame > settings.rx_buffer_bytes, MERGEABLE)
}

/// A ring, mapped for the device.
struct MappedRing {
    ring: SplitRing,
    mapping: Mapping,
}

impl MappedRing {
    fn new(
        device: &MmioDevice,
        pages: &PageAllocator,
        dma: &mut Dma,
        index: u16,
        size: u16,
    ) -> Result<Self, NetError> {
        let ring = SplitRing::new(pages, size)?;
        let layout = ring.layout();
        // The largest ring takes less than 1 MiB.
        let mapping = dma.map(ring.gpa(), layout.bytes as u32, Direction::Both)?;
        let base = mapping.device_address();
        device.enable_queue(
            index,
            QueueAddresses {
                size,
                desc: base + layout.desc,
                avail: base + layout.avail,
                used: base + layout.used,
            },
        )?;
        Ok(Self { ring, mapping })
    }
}

/// `gpa` and some bytes.
fn offset(gpa: Gpa, bytes: u32) -> Gpa {
    Gpa(gpa.0 + u64::from(bytes))
}
