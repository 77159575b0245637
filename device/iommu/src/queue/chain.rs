//! A descriptor chain: the buffers of one request.

use thiserror::Error;

use crate::dma::{DmaError, DmaMemory};

/// One buffer of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Address, as the device accesses it.
    pub addr: u64,
    /// Length in bytes.
    pub len: u32,
}

/// Why a chain is malformed. Its head is known, so the device can still return it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
pub enum ChainFault {
    /// `next` names a descriptor beyond the table.
    #[error("descriptor index {index} is beyond the table of {size}")]
    BadIndex {
        /// The index.
        index: u16,
        /// Number of descriptors.
        size: u32,
    },
    /// The chain is longer than the queue: a loop, or a driver that breaks 2.7.5.3.1.
    #[error("the chain has more than {limit} descriptors")]
    TooLong {
        /// The queue's size.
        limit: u16,
    },
    /// The buffers are longer than 2^32 bytes in total (2.7.5.2.1).
    #[error("the chain is longer than 2^32 bytes")]
    TooManyBytes,
    /// A device-readable descriptor after a device-writable one (2.7.4.2).
    #[error("a device-readable descriptor follows a device-writable one")]
    ReadableAfterWritable,
    /// A buffer wraps around the end of the address space.
    #[error("a buffer of {len} bytes at {addr:#x} wraps around the address space")]
    Wraps {
        /// Start of the buffer.
        addr: u64,
        /// Its length in bytes.
        len: u32,
    },
    /// An indirect descriptor although INDIRECT_DESC was not negotiated (2.7.5.3.1).
    #[error("an indirect descriptor, which was not negotiated")]
    IndirectNotNegotiated,
    /// An indirect table inside an indirect table, beside NEXT, or of a length that is no multiple of 16.
    #[error("a malformed indirect descriptor")]
    BadIndirect,
    /// A descriptor table is out of reach.
    #[error("the descriptor at {addr:#x} cannot be read")]
    Unreadable {
        /// Address of the descriptor.
        addr: u64,
    },
}

/// The buffers of one request, reused from request to request.
#[derive(Debug, Default)]
pub struct Chain {
    head: u16,
    /// Readable segments first, then writable ones.
    segments: Vec<Segment>,
    readable: usize,
    readable_bytes: u64,
    writable_bytes: u64,
    fault: Option<ChainFault>,
}

impl Chain {
    /// An empty chain, to be filled by [`Queue::pop`](super::Queue::pop).
    pub fn new() -> Self {
        Self { segments: Vec::with_capacity(16), ..Self::default() }
    }

    pub(super) fn restart(&mut self, head: u16) {
        self.head = head;
        self.segments.clear();
        self.readable = 0;
        self.readable_bytes = 0;
        self.writable_bytes = 0;
        self.fault = None;
    }

    pub(super) fn set_fault(&mut self, fault: ChainFault) {
        self.fault = Some(fault);
    }

    #[inline]
    pub(super) fn push(&mut self, segment: Segment, writable: bool) -> Result<(), ChainFault> {
        let Segment { addr, len } = segment;
        if len != 0 && addr.checked_add(u64::from(len) - 1).is_none() {
            return Err(ChainFault::Wraps { addr, len });
        }
        if self.readable_bytes + self.writable_bytes + u64::from(len) > 1 << 32 {
            return Err(ChainFault::TooManyBytes);
        }
        if writable {
            self.writable_bytes += u64::from(len);
        } else if self.readable != self.segments.len() {
            return Err(ChainFault::ReadableAfterWritable);
        } else {
            self.readable += 1;
            self.readable_bytes += u64::from(len);
        }
        self.segments.push(segment);
        Ok(())
    }

    pub(super) fn len(&self) -> usize {
        self.segments.len()
    }

    /// Index of the first descriptor: what the used ring calls the chain.
    #[inline]
    pub fn head(&self) -> u16 {
        self.head
    }

    /// What is wrong with the chain, if anything; its segments are then those before the fault.
    #[inline]
    pub fn fault(&self) -> Option<ChainFault> {
        self.fault
    }

    /// Bytes the device may read.
    #[inline]
    pub fn readable_len(&self) -> u64 {
        self.readable_bytes
    }

    /// Bytes the device may write.
    #[inline]
    pub fn writable_len(&self) -> u64 {
        self.writable_bytes
    }

    /// The device-readable buffers, in order.
    #[inline]
    pub fn readable(&self) -> &[Segment] {
        &self.segments[..self.readable]
    }

    /// The device-writable buffers, in order.
    #[inline]
    pub fn writable(&self) -> &[Segment] {
        &self.segments[self.readable..]
    }

    /// Copies the readable bytes from `offset` into `buf` and returns how many there were, at most `buf.len()`.
    ///
    /// # Errors
    /// When a buffer is out of reach.
    #[inline]
    pub fn read_at<M: DmaMemory>(&self, mem: &M, offset: u64, buf: &mut [u8]) -> Result<usize, DmaError> {
        let mut done = 0;
        overlay(self.readable(), offset, buf.len(), |addr, len| {
            mem.read(addr, &mut buf[done..done + len])?;
            done += len;
            Ok(())
        })?;
        Ok(done)
    }

    /// Writes `bytes` over the writable bytes from `offset` and returns how many fitted.
    ///
    /// # Errors
    /// When a buffer is out of reach; what lies before it has been written.
    #[inline]
    pub fn write_at<M: DmaMemory>(&self, mem: &M, offset: u64, bytes: &[u8]) -> Result<usize, DmaError> {
        let mut done = 0;
        overlay(self.writable(), offset, bytes.len(), |addr, len| {
            mem.write(addr, &bytes[done..done + len])?;
            done += len;
            Ok(())
        })?;
        Ok(done)
    }
}

/// Calls `f` with the address and length of each piece of the `want` bytes at `offset` of the joined segments.
#[inline]
fn overlay(
    segments: &[Segment],
    offset: u64,
    want: usize,
    mut f: impl FnMut(u64, usize) -> Result<(), DmaError>,
) -> Result<(), DmaError> {
    let mut skip = offset;
    let mut left = want;
    for segment in segments {
        if left == 0 {
            break;
        }
        let len = u64::from(segment.len);
        if skip >= len {
            skip -= len;
            continue;
        }
        let take = usize::try_from(len - skip).unwrap_or(usize::MAX).min(left);
        f(segment.addr + skip, take)?;
        skip = 0;
        left -= take;
    }
    Ok(())
}
