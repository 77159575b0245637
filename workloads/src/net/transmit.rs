//! Transmission: slots of buffers, mapped per packet.

use arrayvec::ArrayVec;
use virtio_bindings::virtio_net::{
    VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_NONE, VIRTIO_NET_HDR_GSO_TCPV4,
};

use super::{MappedRing, NetError, NetSettings, offset};
use crate::{
    dma::{Counts, Direction, Dma, Mapping},
    frame::{HEADER_BYTES, Header, LINEAR_BYTES, NET_HEADER_BYTES},
    memory::Span,
    pages::PageAllocator,
    ring::{Segment, SplitRing},
};

/// Most pieces of one payload: 64 KiB in pages.
pub const MAX_FRAGS: usize = 16;
/// Distance between linear buffers, in bytes: two cache lines, and several to a page, as small allocations are.
const LINEAR_STRIDE: usize = 128;
/// Where TCP begins and where in it the checksum is.
const CSUM_START: u16 = 34;
const CSUM_OFFSET: u16 = 16;

const _: () = assert!(LINEAR_BYTES <= LINEAR_STRIDE);

/// A packet's buffers, before it is queued.
#[derive(Debug)]
#[must_use = "a slot that is not sent is lost"]
pub struct Slot(u16);

pub(super) struct Transmitter {
    pub(super) ring: SplitRing,
    pub(super) mapping: Mapping,
    linear: Span,
    payloads: Vec<Span>,
    /// Per slot: what is mapped of it.
    mapped: Vec<ArrayVec<Mapping, { MAX_FRAGS + 1 }>>,
    free: Vec<u16>,
    frag_bytes: u32,
    mss: u16,
    /// Descriptors of the largest packet.
    pieces: u16,
}

impl Transmitter {
    pub(super) fn new(
        pages: &PageAllocator,
        ring: MappedRing,
        settings: &NetSettings,
    ) -> Result<Self, NetError> {
        let MappedRing { ring, mapping } = ring;
        let frags = settings.max_payload.div_ceil(settings.frag_bytes.max(1));
        if frags as usize > MAX_FRAGS {
            return Err(NetError::Pieces { payload: settings.max_payload, frag: settings.frag_bytes });
        }
        let pieces = 1 + frags as u16;
        let slots = (ring.layout().size / pieces).max(1);
        let linear = pages.alloc(u64::from(slots) * LINEAR_STRIDE as u64)?;
        let payload = || pages.alloc(u64::from(settings.max_payload));
        let payloads = (0..slots).map(|_| payload()).collect::<Result<_, _>>()?;
        let mapped = (0..slots).map(|_| ArrayVec::new()).collect();
        let free = (0..slots).rev().collect();
        let (frag_bytes, mss) = (settings.frag_bytes, settings.mss);
        Ok(Self { ring, mapping, linear, payloads, mapped, free, frag_bytes, mss, pieces })
    }

    #[inline]
    pub(super) fn slot(&mut self) -> Option<Slot> {
        if self.ring.free() < self.pieces {
            return None;
        }
        // The last one freed first: its buffers are warm.
        self.free.pop().map(Slot)
    }

    #[inline]
    pub(super) fn fill(&self, slot: &Slot, at: u32, bytes: &[u8]) {
        self.payloads[usize::from(slot.0)].write(at as usize, bytes);
    }

    #[inline]
    pub(super) fn send(&mut self, dma: &mut Dma, slot: Slot, header: &Header) -> Result<(), NetError> {
        let index = usize::from(slot.0);
        if header.payload_len as usize > self.payloads[index].len() {
            return Err(NetError::Pieces { payload: header.payload_len, frag: self.frag_bytes });
        }
        let at = index * LINEAR_STRIDE;
        self.linear.write_array::<NET_HEADER_BYTES>(at, net_header(header.payload_len, self.mss));
        self.linear.write_array::<HEADER_BYTES>(at + NET_HEADER_BYTES, header.encode());
        let mapped = &mut self.mapped[index];
        let mut segments = ArrayVec::<Segment, { MAX_FRAGS + 1 }>::new();
        let mut map = |gpa, len| -> Result<(), NetError> {
            let mapping = dma.map(gpa, len, Direction::ToDevice)?;
            segments.push(Segment { addr: mapping.device_address(), len });
            mapped.push(mapping);
            Ok(())
        };
        // A slot's index times the stride is within the 4 GiB that a span of this crate can have.
        map(offset(self.linear.gpa(), at as u32), LINEAR_BYTES as u32)?;
        let payload = self.payloads[index].gpa();
        let mut done = 0;
        while done < header.payload_len {
            let len = self.frag_bytes.min(header.payload_len - done);
            map(offset(payload, done), len)?;
            done += len;
        }
        Ok(self.ring.add(&segments, &[], u32::from(slot.0))?)
    }

    #[inline]
    pub(super) fn reap(&mut self, dma: &mut Dma, counts: &mut Counts) -> Result<u32, NetError> {
        let mut reaped = 0;
        while let Some(used) = self.ring.pop()? {
            // The token is the ring's private copy of the slot that `send` gave it.
            for mapping in self.mapped[used.token as usize].drain(..) {
                dma.unmap(mapping)?;
            }
            self.free.push(used.token as u16);
            counts.tx_packets += 1;
            reaped += 1;
        }
        Ok(reaped)
    }

    pub(super) fn unmap_all(&mut self, dma: &mut Dma) -> Result<(), NetError> {
        for mapping in self.mapped.iter_mut().flat_map(|mapped| mapped.drain(..)) {
            dma.unmap(mapping)?;
        }
        Ok(())
    }
}

/// `struct virtio_net_hdr_v1` of a packet to transmit: segmentation and checksum are left to the NIC, as Linux does.
#[inline]
fn net_header(payload_len: u32, mss: u16) -> [u8; NET_HEADER_BYTES] {
    let large = payload_len > u32::from(mss);
    let mut b = [0; NET_HEADER_BYTES];
    if large {
        b[0] = VIRTIO_NET_HDR_F_NEEDS_CSUM as u8;
        b[1] = VIRTIO_NET_HDR_GSO_TCPV4 as u8;
        b[2..4].copy_from_slice(&(HEADER_BYTES as u16).to_le_bytes());
        b[4..6].copy_from_slice(&mss.to_le_bytes());
        b[6..8].copy_from_slice(&CSUM_START.to_le_bytes());
        b[8..10].copy_from_slice(&CSUM_OFFSET.to_le_bytes());
    } else {
        b[1] = VIRTIO_NET_HDR_GSO_NONE as u8;
    }
    b
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_packets_ask_for_segmentation() {
        assert_eq!(net_header(1448, 1448), [0; 12]);
        assert_eq!(net_header(1449, 1448), [1, 1, 66, 0, 0xa8, 5, 34, 0, 16, 0, 0, 0]);
    }
}
