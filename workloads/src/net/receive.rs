//! Reception: buffers posted, unmapped or recycled, verified.

use super::{MappedRing, NetError, NetSettings};
use crate::{
    dma::{Counts, Direction, Dma, Mapping},
    frame::{HEADER_BYTES, Header, LINEAR_BYTES, NET_HEADER_BYTES},
    memory::Span,
    pages::PageAllocator,
    ring::{Segment, SplitRing, Used},
    scenario::PPM,
};

/// Where `num_buffers` lies in `struct virtio_net_hdr_v1`.
const NUM_BUFFERS: usize = 10;

pub(super) struct Receiver {
    pub(super) ring: SplitRing,
    pub(super) mapping: Mapping,
    buffers: Vec<Span>,
    mapped: Vec<Option<Mapping>>,
    /// Buffers to post, in the order in which they came back.
    idle: Vec<u16>,
    buffer_bytes: u32,
    recycle: Recycle,
    /// The payload of the frame at hand, as a socket's reader would have it.
    payload: Vec<u8>,
}

/// Spreads recycled buffers evenly: after `n` buffers, `n * ppm / 1000000` (rounded down) were recycled.
#[derive(Debug)]
struct Recycle {
    ppm: u32,
    rest: u32,
}

impl Recycle {
    #[inline]
    fn next(&mut self) -> bool {
        self.rest += self.ppm;
        let recycled = self.rest >= PPM;
        if recycled {
            self.rest -= PPM;
        }
        recycled
    }
}

impl Receiver {
    pub(super) fn new(
        pages: &PageAllocator,
        ring: MappedRing,
        settings: &NetSettings,
    ) -> Result<Self, NetError> {
        let MappedRing { ring, mapping } = ring;
        let count = settings.rx_buffers.min(ring.layout().size).max(1);
        let buffer = || pages.alloc(u64::from(settings.rx_buffer_bytes));
        let buffers = (0..count).map(|_| buffer()).collect::<Result<_, _>>()?;
        Ok(Self {
            ring,
            mapping,
            buffers,
            mapped: vec![None; usize::from(count)],
            idle: (0..count).collect(),
            buffer_bytes: settings.rx_buffer_bytes,
            recycle: Recycle { ppm: settings.rx_recycle_ppm.min(PPM), rest: 0 },
            payload: Vec::new(),
        })
    }

    /// Linux refills when half of the ring is used.
    #[inline]
    pub(super) fn wants_refill(&self) -> bool {
        self.idle.len() * 2 >= self.buffers.len()
    }

    /// Maps what is not mapped and adds every idle buffer to the ring; whether there was one.
    pub(super) fn refill(&mut self, dma: &mut Dma) -> Result<bool, NetError> {
        let any = !self.idle.is_empty();
        for &buffer in &self.idle {
            let index = usize::from(buffer);
            let mapping = match self.mapped[index] {
                Some(mapping) => mapping,
                None => dma.map(self.buffers[index].gpa(), self.buffer_bytes, Direction::FromDevice)?,
            };
            self.mapped[index] = Some(mapping);
            let segment = Segment { addr: mapping.device_address(), len: self.buffer_bytes };
            self.ring.add(&[], &[segment], u32::from(buffer))?;
        }
        self.idle.clear();
        Ok(any)
    }

    /// The next frame, its payload verified.
    #[inline]
    pub(super) fn next(&mut self, dma: &mut Dma, counts: &mut Counts) -> Result<Option<Header>, NetError> {
        let Some((first, used)) = self.take(dma, counts)? else { return Ok(None) };
        let written = used.written.min(self.buffer_bytes);
        let no_frame = NetError::NoFrame { written: used.written };
        let Some(rest) = (written as usize).checked_sub(LINEAR_BYTES) else { return Err(no_frame) };
        let linear: [u8; LINEAR_BYTES] = self.buffers[first].read_array(0);
        let announced = u16::from_le_bytes([linear[NUM_BUFFERS], linear[NUM_BUFFERS + 1]]);
        let header = linear[NET_HEADER_BYTES..].first_chunk::<HEADER_BYTES>().and_then(Header::decode);
        let Some(header) = header else { return Err(no_frame) };
        if rest > 0 || announced > 1 {
            self.payload.resize(rest, 0);
            self.buffers[first].read(LINEAR_BYTES, &mut self.payload);
            self.further(dma, counts, announced)?;
            self.verify(&header, counts)?;
        } else if header.payload_len > 0 {
            return Err(NetError::Truncated { announced: header.payload_len, present: 0 });
        }
        counts.rx_packets += 1;
        Ok(Some(header))
    }

    /// Takes one used buffer, unmaps or recycles it, and leaves it idle: it is posted again only after the frame has
    /// been read.
    #[inline]
    fn take(&mut self, dma: &mut Dma, counts: &mut Counts) -> Result<Option<(usize, Used)>, NetError> {
        let Some(used) = self.ring.pop()? else { return Ok(None) };
        // The token is the ring's private copy of the buffer that `refill` gave it.
        let index = used.token as usize;
        counts.rx_buffers += 1;
        if self.recycle.next() {
            counts.rx_recycled += 1;
        } else if let Some(mapping) = self.mapped[index].take() {
            dma.unmap(mapping)?;
        }
        self.idle.push(used.token as u16);
        Ok(Some((index, used)))
    }

    /// Appends the payload in a frame's further buffers.
    fn further(&mut self, dma: &mut Dma, counts: &mut Counts, announced: u16) -> Result<(), NetError> {
        for delivered in 1..announced {
            let Some((index, used)) = self.take(dma, counts)? else {
                return Err(NetError::MissingBuffers { announced, delivered });
            };
            let at = self.payload.len();
            self.payload.resize(at + used.written.min(self.buffer_bytes) as usize, 0);
            self.buffers[index].read(0, &mut self.payload[at..]);
        }
        Ok(())
    }

    fn verify(&self, header: &Header, counts: &mut Counts) -> Result<(), NetError> {
        let announced = header.payload_len;
        let present = self.payload.len() as u32;
        let payload =
            self.payload.get(..announced as usize).ok_or(NetError::Truncated { announced, present })?;
        let found = crc32c::crc32c(payload);
        if found != header.crc {
            return Err(NetError::Corrupt {
                flow: header.flow,
                seq: header.seq,
                announced: header.crc,
                found,
            });
        }
        counts.bytes_moved += u64::from(announced);
        counts.bytes_verified += u64::from(announced);
        Ok(())
    }

    pub(super) fn unmap_all(&mut self, dma: &mut Dma) -> Result<(), NetError> {
        for mapping in self.mapped.iter_mut().filter_map(Option::take) {
            dma.unmap(mapping)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recycling_is_spread_evenly_and_exactly() {
        for ppm in [0, 1, 250_000, 333_333, 994_000, PPM] {
            let mut recycle = Recycle { ppm, rest: 0 };
            let mut recycled = 0_u64;
            for n in 1..=10_000_u64 {
                recycled += u64::from(recycle.next());
                assert_eq!(recycled, n * u64::from(ppm) / u64::from(PPM));
            }
        }
    }
}
