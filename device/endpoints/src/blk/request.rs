//! One request: header, data, status byte (virtio 5.2.6).

use std::io;

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_ID_BYTES, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_FLUSH,
    VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
};
use virtio_iommu::{
    dma::{DmaError, DmaMemory},
    queue::Chain,
};
use virtio_transport::Complaints;

use super::{BlkCounters, Disk, SECTOR_BYTES};
use crate::{
    Direction, DmaObserver,
    queues::{Handler, Served},
};

/// Size of the header: type, reserved, sector.
const HEADER_BYTES: usize = 16;
/// Data goes through the host in pieces of this, which stay in cache.
const PIECE_BYTES: usize = 64 << 10;
/// Longest data of one request, in bytes: more than any driver sends, and bounded as the burst has to be.
const MAX_DATA_BYTES: u64 = 16 << 20;

/// Why a request did not succeed.
enum Failure {
    /// Status IOERR.
    Io,
    /// Status UNSUPP.
    Unsupported,
    /// A data buffer is out of reach: nothing can be said about it, so IOERR too.
    Dma,
}

impl From<io::Error> for Failure {
    fn from(_: io::Error) -> Self {
        Self::Io
    }
}

impl From<DmaError> for Failure {
    fn from(_: DmaError) -> Self {
        Self::Dma
    }
}

/// Serves one queue.
pub(super) struct Requests {
    disk: Disk,
    id: [u8; VIRTIO_BLK_ID_BYTES as usize],
    piece: Box<[u8]>,
    complaints: Complaints,
}

impl Requests {
    pub(super) fn new(disk: Disk, id: [u8; VIRTIO_BLK_ID_BYTES as usize]) -> Self {
        let piece = vec![0; PIECE_BYTES].into_boxed_slice();
        Self { disk, id, piece, complaints: Complaints::new() }
    }

    /// Does what is asked; how many bytes of data were written to the guest.
    fn execute<M: DmaMemory, O: DmaObserver>(
        &mut self,
        mem: &M,
        observer: &mut O,
        chain: &Chain,
        header: [u8; HEADER_BYTES],
        counters: &mut BlkCounters,
    ) -> Result<u64, Failure> {
        let kind = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
        let [.., a, b, c, d, e, f, g, h] = header;
        let sector = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
        let incoming = chain.readable_len() - HEADER_BYTES as u64;
        let outgoing = chain.writable_len() - 1;
        match kind {
            VIRTIO_BLK_T_IN => {
                self.check(sector, outgoing)?;
                self.read(mem, observer, chain, sector, outgoing)?;
                counters.reads += 1;
                counters.read_bytes += outgoing;
                Ok(outgoing)
            }
            VIRTIO_BLK_T_OUT => {
                self.check(sector, incoming)?;
                self.write(mem, observer, chain, sector, incoming)?;
                counters.writes += 1;
                counters.written_bytes += incoming;
                Ok(0)
            }
            VIRTIO_BLK_T_FLUSH => {
                self.disk.flush()?;
                counters.flushes += 1;
                Ok(0)
            }
            VIRTIO_BLK_T_GET_ID => {
                let len = self.id.len().min(usize::try_from(outgoing).unwrap_or(usize::MAX));
                chain.write_at(mem, 0, &self.id[..len])?;
                Ok(len as u64)
            }
            _ => Err(Failure::Unsupported),
        }
    }

    /// Whole sectors that lie on the disk, and at least one.
    fn check(&self, sector: u64, len: u64) -> Result<(), Failure> {
        let whole = len > 0 && len.is_multiple_of(SECTOR_BYTES) && len <= MAX_DATA_BYTES;
        if whole && self.disk.contains(sector, len) { Ok(()) } else { Err(Failure::Io) }
    }

    /// From the disk to the guest.
    fn read<M: DmaMemory, O: DmaObserver>(
        &mut self,
        mem: &M,
        observer: &mut O,
        chain: &Chain,
        sector: u64,
        len: u64,
    ) -> Result<(), Failure> {
        let (mut done, mut ticks) = (0, 0);
        while done < len {
            let take = (len - done).min(PIECE_BYTES as u64);
            let piece = &mut self.piece[..take as usize];
            self.disk.read(sector * SECTOR_BYTES + done, piece)?;
            let started = if O::ENABLED { observer.now() } else { 0 };
            chain.write_at(mem, done, piece)?;
            if O::ENABLED {
                ticks += observer.now().saturating_sub(started);
            }
            done += take;
        }
        if O::ENABLED {
            observer.frame(Direction::ToGuest, len, ticks);
        }
        Ok(())
    }

    /// From the guest to the disk. A fault in the middle leaves what came before it written, as a power cut would.
    fn write<M: DmaMemory, O: DmaObserver>(
        &mut self,
        mem: &M,
        observer: &mut O,
        chain: &Chain,
        sector: u64,
        len: u64,
    ) -> Result<(), Failure> {
        let (mut done, mut ticks) = (0, 0);
        while done < len {
            let take = (len - done).min(PIECE_BYTES as u64);
            let piece = &mut self.piece[..take as usize];
            let started = if O::ENABLED { observer.now() } else { 0 };
            chain.read_at(mem, HEADER_BYTES as u64 + done, piece)?;
            if O::ENABLED {
                ticks += observer.now().saturating_sub(started);
            }
            self.disk.write(sector * SECTOR_BYTES + done, piece)?;
            done += take;
        }
        if O::ENABLED {
            observer.frame(Direction::FromGuest, len, ticks);
        }
        Ok(())
    }

    fn judge(&self, outcome: &Result<u64, Failure>, counters: &mut BlkCounters) -> u8 {
        let (status, what) = match outcome {
            Ok(_) => return VIRTIO_BLK_S_OK as u8,
            Err(Failure::Unsupported) => (VIRTIO_BLK_S_UNSUPP, "unsupported request"),
            Err(Failure::Io) => {
                (VIRTIO_BLK_S_IOERR, "outside the disk, no whole sectors, or the disk failed")
            }
            Err(Failure::Dma) => {
                counters.dma_faults += 1;
                (VIRTIO_BLK_S_IOERR, "data buffer out of reach")
            }
        };
        counters.failed += 1;
        if let Some(number) = self.complaints.admit() {
            tracing::warn!(what, number, "block request failed");
        }
        status as u8
    }
}

impl Handler for Requests {
    type Counters = BlkCounters;

    #[inline]
    fn serve<M: DmaMemory, O: DmaObserver>(
        &mut self,
        mem: &M,
        observer: &mut O,
        chain: &Chain,
        counters: &mut BlkCounters,
    ) -> Served {
        // Without a header nothing is asked, without a writable byte nothing can be answered.
        let too_short = chain.readable_len() < HEADER_BYTES as u64 || chain.writable_len() == 0;
        if chain.fault().is_some() || too_short {
            counters.malformed += 1;
            return Served::default();
        }
        let mut header = [0; HEADER_BYTES];
        if chain.read_at(mem, 0, &mut header).is_err() {
            counters.dma_faults += 1;
            return Served::default();
        }
        let before = counters.bytes();
        let outcome = self.execute(mem, observer, chain, header, counters);
        let status = self.judge(&outcome, counters);
        let last = chain.writable_len() - 1;
        if chain.write_at(mem, last, &[status]).is_err() {
            counters.dma_faults += 1;
            return Served::default();
        }
        // Only what is written without a gap from the start counts (2.7.8.2); the status is the last byte.
        let data = outcome.unwrap_or(0);
        let written = if data == last { data + 1 } else { data };
        Served { written: written as u32, payload_bytes: counters.bytes() - before }
    }

    fn ring_failed(counters: &mut BlkCounters) {
        counters.ring_failures += 1;
    }
}
