//! Driver side of a split virtqueue ("Split Virtqueues").

use std::sync::atomic::{Ordering, fence};

use thiserror::Error;
use virtio_bindings::virtio_ring::{
    VRING_AVAIL_F_NO_INTERRUPT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE, VRING_USED_F_NO_NOTIFY,
};
use virtio_iommu_spec::Gpa;

use crate::{
    memory::Span,
    pages::{PageAllocator, PagesError},
};

/// Most descriptors a split ring may have.
pub const MAX_SIZE: u16 = 32768;

const DESC_BYTES: usize = 16;
const F_NEXT: u16 = VRING_DESC_F_NEXT as u16;
const F_WRITE: u16 = VRING_DESC_F_WRITE as u16;
const FLAGS: usize = 0;
const INDEX: usize = 2;
const ENTRIES: usize = 4;
/// End of the free list, and a head that is not in use.
const NONE: u16 = u16::MAX;

/// A buffer as the device must address it: a GPA, or the IOVA that the DMA API returned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// Device address of the first byte.
    pub addr: u64,
    /// Length in bytes.
    pub len: u32,
}

/// A buffer the device is done with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// What the caller passed to [`SplitRing::add`].
    pub token: u32,
    /// How many bytes the device says it wrote.
    pub written: u32,
}

/// A ring that cannot be made, filled or trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RingError {
    /// The size is not a power of two from 2 to [`MAX_SIZE`].
    #[error("ring size {0} is not a power of two from 2 to {MAX_SIZE}")]
    Size(u16),
    /// No room for the ring.
    #[error(transparent)]
    Pages(#[from] PagesError),
    /// Not enough free descriptors; take used buffers first.
    #[error("{wanted} descriptors wanted, {free} free")]
    Full {
        /// Descriptors the chain needs.
        wanted: usize,
        /// Descriptors free.
        free: u16,
    },
    /// A chain must have at least one descriptor.
    #[error("a descriptor chain must not be empty")]
    EmptyChain,
    /// The device returned a head that was not outstanding.
    #[error("the device used descriptor {head}, which is not the head of an outstanding chain")]
    ForeignHead {
        /// What the used ring said.
        head: u32,
    },
    /// The device's used index is ahead of everything made available.
    #[error("the device's used index claims {claimed} buffers, {outstanding} are outstanding")]
    UsedAhead {
        /// Buffers the index claims.
        claimed: u16,
        /// Buffers outstanding.
        outstanding: u16,
    },
}

/// Where the three parts of a ring lie in guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingLayout {
    /// Number of descriptors.
    pub size: u16,
    /// Descriptor table, relative to the start of the ring's memory (bytes).
    pub desc: u64,
    /// Available ring, likewise.
    pub avail: u64,
    /// Used ring, likewise.
    pub used: u64,
    /// All of it, in bytes.
    pub bytes: u64,
}

impl RingLayout {
    /// Descriptor table, available ring, used ring, each aligned as "Split Virtqueues" demands (16, 2, 4); the used
    /// ring on its own page, so that driver and device do not share one.
    ///
    /// # Errors
    /// When the size is not a power of two from 2 to [`MAX_SIZE`].
    pub fn new(size: u16) -> Result<Self, RingError> {
        if !size.is_power_of_two() || !(2..=MAX_SIZE).contains(&size) {
            return Err(RingError::Size(size));
        }
        let n = u64::from(size);
        let avail = 16 * n;
        let used = (avail + 6 + 2 * n).next_multiple_of(crate::pages::PAGE_BYTES);
        Ok(Self { size, desc: 0, avail, used, bytes: used + 6 + 8 * n })
    }
}

/// The driver's half of a split ring.
///
/// Descriptor links are kept in private memory too: nothing the device could have written is followed.
#[derive(Debug)]
pub struct SplitRing {
    memory: Span,
    layout: RingLayout,
    /// Next descriptor in the chain or in the free list.
    next: Box<[u16]>,
    /// Per head: descriptors in its chain, or zero when it is not outstanding.
    chain: Box<[u16]>,
    /// Per head: the caller's token.
    tokens: Box<[u32]>,
    free_head: u16,
    free: u16,
    outstanding: u16,
    /// Next available index, ahead of the published one by the unpublished chains.
    avail: u16,
    published: u16,
    /// Next used index to take.
    taken: u16,
    /// Used index last seen, so that a batch costs one load of the shared line.
    seen: u16,
}

impl SplitRing {
    /// An empty ring of `size` descriptors in freshly allocated memory.
    ///
    /// Interrupts are suppressed: this driver polls.
    ///
    /// # Errors
    /// When the size is not legal, or memory is exhausted.
    pub fn new(pages: &PageAllocator, size: u16) -> Result<Self, RingError> {
        let layout = RingLayout::new(size)?;
        let memory = pages.alloc(layout.bytes)?;
        memory.store_u16(layout.avail as usize + FLAGS, VRING_AVAIL_F_NO_INTERRUPT as u16, Ordering::Relaxed);
        let entries = usize::from(size);
        let next = (1..size).chain([NONE]).collect();
        Ok(Self {
            memory,
            layout,
            next,
            chain: vec![0; entries].into(),
            tokens: vec![0; entries].into(),
            free_head: 0,
            free: size,
            outstanding: 0,
            avail: 0,
            published: 0,
            taken: 0,
            seen: 0,
        })
    }

    /// Where the parts lie, relative to [`memory`](Self::memory).
    pub fn layout(&self) -> RingLayout {
        self.layout
    }

    /// The memory the ring lives in; what a driver behind an IOMMU maps.
    pub fn memory(&self) -> &Span {
        &self.memory
    }

    /// Guest-physical address of the ring.
    pub fn gpa(&self) -> Gpa {
        self.memory.gpa()
    }

    /// Free descriptors.
    #[inline]
    pub fn free(&self) -> u16 {
        self.free
    }

    /// Chains added and not yet taken back.
    #[inline]
    pub fn outstanding(&self) -> u16 {
        self.outstanding
    }

    /// The available index that the next chain added will have: its position on the ring, modulo 2^16.
    #[inline]
    pub fn position(&self) -> u16 {
        self.avail
    }

    /// Chains added and not yet published.
    #[inline]
    pub fn unpublished(&self) -> u16 {
        self.avail.wrapping_sub(self.published)
    }

    /// Adds a chain of buffers, first what the device reads, then what it writes; not visible before
    /// [`publish`](Self::publish).
    ///
    /// # Errors
    /// When there are too few free descriptors, or no segment at all; the ring is unchanged then.
    #[inline]
    pub fn add(&mut self, readable: &[Segment], writable: &[Segment], token: u32) -> Result<(), RingError> {
        let wanted = readable.len() + writable.len();
        if wanted == 0 {
            return Err(RingError::EmptyChain);
        }
        if wanted > usize::from(self.free) {
            return Err(RingError::Full { wanted, free: self.free });
        }
        let head = self.free_head;
        let mut at = head;
        let mut left = wanted;
        for (segment, flag) in readable.iter().map(|s| (s, 0)).chain(writable.iter().map(|s| (s, F_WRITE))) {
            left -= 1;
            let next = self.next[usize::from(at)];
            let flags = if left == 0 { flag } else { flag | F_NEXT };
            self.write_descriptor(at, *segment, flags, if left == 0 { 0 } else { next });
            at = next;
        }
        self.free_head = at;
        self.free -= wanted as u16;
        self.chain[usize::from(head)] = wanted as u16;
        self.tokens[usize::from(head)] = token;
        let slot = usize::from(self.avail & (self.layout.size - 1));
        // Relaxed: published by the Release store of the index in `publish`.
        self.memory.store_u16(self.layout.avail as usize + ENTRIES + 2 * slot, head, Ordering::Relaxed);
        self.avail = self.avail.wrapping_add(1);
        self.outstanding += 1;
        Ok(())
    }

    #[inline]
    fn write_descriptor(&self, index: u16, segment: Segment, flags: u16, next: u16) {
        let value = u128::from(segment.addr)
            | u128::from(segment.len) << 64
            | u128::from(flags) << 96
            | u128::from(next) << 112;
        self.memory.write_array(DESC_BYTES * usize::from(index), value.to_le_bytes());
    }

    /// Makes the added chains available and says whether the device wants a kick.
    ///
    /// Without [`VIRTIO_F_EVENT_IDX`](virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX) the device wants one
    /// unless its `NO_NOTIFY` flag is set, even when nothing was added ("Available Buffer Notification Suppression").
    #[inline]
    pub fn publish(&mut self) -> bool {
        if self.published != self.avail {
            self.published = self.avail;
            // Release: pairs with the device's Acquire load of the index; descriptors, ring entries and the buffers
            // they name are visible before the index is.
            self.memory.store_u16(self.layout.avail as usize + INDEX, self.avail, Ordering::Release);
        }
        // SeqCst fence: pairs with the device's fence between clearing NO_NOTIFY and its last look at the available
        // index; either it sees the new index or this load sees the flag clear. Release and Acquire alone would let
        // the load below overtake the store above.
        fence(Ordering::SeqCst);
        let flags = self.memory.load_u16(self.layout.used as usize + FLAGS, Ordering::Relaxed);
        flags & VRING_USED_F_NO_NOTIFY as u16 == 0
    }

    /// Takes back the next buffer the device is done with, if there is one.
    ///
    /// # Errors
    /// When the used ring cannot be true.
    #[inline]
    pub fn pop(&mut self) -> Result<Option<Used>, RingError> {
        if self.seen == self.taken && !self.look()? {
            return Ok(None);
        }
        let slot = usize::from(self.taken & (self.layout.size - 1));
        let entry: [u8; 8] = self.memory.read_array(self.layout.used as usize + ENTRIES + 8 * slot);
        let entry = u64::from_le_bytes(entry);
        let (head, written) = (entry as u32, (entry >> 32) as u32);
        let index = usize::try_from(head).unwrap_or(usize::MAX);
        let descriptors = match self.chain.get_mut(index) {
            Some(chain) if *chain != 0 => std::mem::take(chain),
            _ => return Err(RingError::ForeignHead { head }),
        };
        self.taken = self.taken.wrapping_add(1);
        self.outstanding -= 1;
        self.release(head as u16, descriptors);
        Ok(Some(Used { token: self.tokens[index], written }))
    }

    /// Loads the used index; whether there is something to take.
    fn look(&mut self) -> Result<bool, RingError> {
        // Acquire: pairs with the device's Release store of the index; the entries and the buffers it wrote are
        // visible after it.
        let index = self.memory.load_u16(self.layout.used as usize + INDEX, Ordering::Acquire);
        let claimed = index.wrapping_sub(self.taken);
        let visible = self.outstanding - self.avail.wrapping_sub(self.published);
        if claimed > visible {
            return Err(RingError::UsedAhead { claimed, outstanding: visible });
        }
        self.seen = index;
        Ok(claimed != 0)
    }

    /// Puts a chain back at the front of the free list, so that hot descriptors are reused first.
    fn release(&mut self, head: u16, descriptors: u16) {
        let mut last = head;
        for _ in 1..descriptors {
            last = self.next[usize::from(last)];
        }
        self.next[usize::from(last)] = self.free_head;
        self.free_head = head;
        self.free += descriptors;
    }
}

#[cfg(test)]
#[path = "ring_tests.rs"]
mod tests;
