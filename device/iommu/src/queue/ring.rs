//! The rings: descriptor table, available ring, used ring.

use thiserror::Error;
use virtio_bindings::virtio_ring::{
    VRING_AVAIL_F_NO_INTERRUPT, VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE,
    VRING_USED_F_NO_NOTIFY,
};
use virtio_transport::QueueLayout;

use super::{Chain, ChainFault, Segment};
use crate::{
    dma::{Access, DmaError, DmaMemory},
    sync::{Ordering, fence},
};

/// Largest queue size virtio allows (2.7).
pub const MAX_QUEUE_SIZE: u16 = 32768;

const DESC_BYTES: u64 = 16;
const NEXT: u16 = VRING_DESC_F_NEXT as u16;
const WRITE: u16 = VRING_DESC_F_WRITE as u16;
const INDIRECT: u16 = VRING_DESC_F_INDIRECT as u16;
const NO_INTERRUPT: u16 = VRING_AVAIL_F_NO_INTERRUPT as u16;
const NO_NOTIFY: u16 = VRING_USED_F_NO_NOTIFY as u16;

/// The queue itself is broken: only a reset mends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum QueueError {
    /// The size is not a power of two between 1 and 32768.
    #[error("queue size {size} is not a power of two up to 32768")]
    BadSize {
        /// The size the driver programmed.
        size: u16,
    },
    /// A ring is not aligned, or wraps around the address space.
    #[error("ring at {addr:#x} is misaligned or wraps")]
    BadAddress {
        /// Address of the ring.
        addr: u64,
    },
    /// The available index is further ahead than the queue is long.
    #[error("available index {index} is more than {size} ahead of {next}")]
    IndexJump {
        /// What the driver published.
        index: u16,
        /// What the device would read next.
        next: u16,
        /// The queue's size.
        size: u16,
    },
    /// The available ring names a descriptor beyond the table.
    #[error("available ring names descriptor {head} of {size}")]
    BadHead {
        /// The index.
        head: u16,
        /// The queue's size.
        size: u16,
    },
    /// A ring is out of reach.
    #[error("ring access failed: {0}")]
    Memory(#[from] DmaError),
}

/// A split virtqueue as its device sees it.
#[derive(Debug)]
pub struct Queue {
    layout: QueueLayout,
    /// Next entry of the available ring to read.
    next_avail: u16,
    /// The available index as last read.
    seen_avail: u16,
    /// Used index including staged elements.
    next_used: u16,
    /// Used index the driver can see.
    published: u16,
    event_idx: bool,
    indirect: bool,
}

impl Queue {
    /// A queue that starts empty. `event_idx` says whether EVENT_IDX was negotiated; indirect descriptors are refused
    /// until [`allow_indirect`](Self::allow_indirect).
    ///
    /// # Errors
    /// When size, alignment or addresses are not what virtio 2.7 demands. Whether the rings lie in memory is found
    /// out when they are used; see [`check`](Self::check).
    pub fn new(layout: &QueueLayout, event_idx: bool) -> Result<Self, QueueError> {
        let size = layout.size;
        if !size.is_power_of_two() || size > MAX_QUEUE_SIZE {
            return Err(QueueError::BadSize { size });
        }
        let n = u64::from(size);
        // Sizes include the event-index fields.
        for (addr, align, bytes) in
            [(layout.desc, 16, DESC_BYTES * n), (layout.avail, 2, 6 + 2 * n), (layout.used, 4, 6 + 8 * n)]
        {
            if addr % align != 0 || addr.checked_add(bytes - 1).is_none() {
                return Err(QueueError::BadAddress { addr });
            }
        }
        Ok(Self {
            layout: *layout,
            next_avail: 0,
            seen_avail: 0,
            next_used: 0,
            published: 0,
            event_idx,
            indirect: false,
        })
    }

    /// Accepts indirect descriptors: INDIRECT_DESC was negotiated.
    pub fn allow_indirect(&mut self) {
        self.indirect = true;
    }

    /// Whether all three rings can be reached.
    ///
    /// # Errors
    /// The first address that cannot.
    pub fn check<M: DmaMemory>(&self, mem: &M) -> Result<(), QueueError> {
        let n = u64::from(self.layout.size);
        mem.for_each_piece(self.layout.desc, DESC_BYTES * n, Access::Read, |_| ())?;
        mem.for_each_piece(self.layout.avail, 6 + 2 * n, Access::Read, |_| ())?;
        mem.for_each_piece(self.layout.used, 6 + 8 * n, Access::Write, |_| ())?;
        Ok(())
    }

    /// Number of descriptors.
    pub fn size(&self) -> u16 {
        self.layout.size
    }

    /// Where the queue lies.
    pub fn layout(&self) -> &QueueLayout {
        &self.layout
    }

    /// Indices to save: next available entry, used index published. Staged elements must have been published.
    pub fn indices(&self) -> (u16, u16) {
        (self.next_avail, self.published)
    }

    /// Takes up where saved indices left off.
    pub fn set_indices(&mut self, next_avail: u16, used: u16) {
        self.next_avail = next_avail;
        self.seen_avail = next_avail;
        self.next_used = used;
        self.published = used;
    }

    /// Whether the driver has made a chain available that was not popped yet.
    ///
    /// # Errors
    /// When the index is out of reach or absurd.
    pub fn has_work<M: DmaMemory>(&mut self, mem: &M) -> Result<bool, QueueError> {
        if self.next_avail != self.seen_avail {
            return Ok(true);
        }
        // Acquire pairs with the driver's release of the index: descriptors and ring entries before it are visible.
        let index = mem.load_index(self.layout.avail + 2, Ordering::Acquire)?;
        if index.wrapping_sub(self.next_avail) > self.layout.size {
            return Err(QueueError::IndexJump { index, next: self.next_avail, size: self.layout.size });
        }
        self.seen_avail = index;
        Ok(index != self.next_avail)
    }

    /// Takes the next available chain into `chain`; `false` when there is none.
    ///
    /// A malformed chain is popped too, with [`Chain::fault`] set, so that its head can be returned to the driver.
    ///
    /// # Errors
    /// When the ring itself is broken; the queue should not be used until it is reset.
    #[inline]
    pub fn pop<M: DmaMemory>(&mut self, mem: &M, chain: &mut Chain) -> Result<bool, QueueError> {
        if !self.has_work(mem)? {
            return Ok(false);
        }
        let size = self.layout.size;
        let entry = u64::from(self.next_avail & (size - 1));
        // Relaxed: ordered by the Acquire load of the index.
        let head = mem.load_index(self.layout.avail + 4 + 2 * entry, Ordering::Relaxed)?;
        if head >= size {
            return Err(QueueError::BadHead { head, size });
        }
        self.next_avail = self.next_avail.wrapping_add(1);
        chain.restart(head);
        if let Err(fault) = self.walk(mem, head, chain) {
            chain.set_fault(fault);
        }
        Ok(true)
    }

    /// Puts the last `chains` chains back that were popped and not returned: they are available again.
    pub fn unpop(&mut self, chains: u16) {
        self.next_avail = self.next_avail.wrapping_sub(chains);
    }

    #[inline]
    fn walk<M: DmaMemory>(&self, mem: &M, head: u16, chain: &mut Chain) -> Result<(), ChainFault> {
        let mut table =
            Table { base: self.layout.desc, entries: u32::from(self.layout.size), indirect: false };
        let mut index = head;
        loop {
            let desc = table.read(mem, index)?;
            if desc.flags & INDIRECT != 0 {
                // The table's own segments start over at its entry 0 and end the chain (2.7.5.3).
                table = self.enter_indirect(&table, &desc)?;
                index = 0;
                continue;
            }
            if chain.len() >= usize::from(self.layout.size) {
                return Err(ChainFault::TooLong { limit: self.layout.size });
            }
            chain.push(Segment { addr: desc.addr, len: desc.len }, desc.flags & WRITE != 0)?;
            if desc.flags & NEXT == 0 {
                return Ok(());
            }
            index = desc.next;
        }
    }

    #[cold]
    fn enter_indirect(&self, table: &Table, desc: &Desc) -> Result<Table, ChainFault> {
        if !self.indirect {
            return Err(ChainFault::IndirectNotNegotiated);
        }
        let bytes = u64::from(desc.len);
        let wraps = desc.addr.checked_add(bytes).is_none();
        let entries = desc.len / DESC_BYTES as u32;
        // More entries than `next` can name are no table.
        let bad_size = bytes == 0 || bytes % DESC_BYTES != 0 || entries > u32::from(u16::MAX);
        if table.indirect || desc.flags & NEXT != 0 || bad_size || wraps {
            return Err(ChainFault::BadIndirect);
        }
        Ok(Table { base: desc.addr, entries, indirect: true })
    }

    /// Stages the return of a chain, `len` bytes of which were written. The driver sees it at the next
    /// [`publish`](Self::publish).
    ///
    /// # Errors
    /// When the used ring is out of reach.
    #[inline]
    pub fn push_used<M: DmaMemory>(&mut self, mem: &M, head: u16, len: u32) -> Result<(), QueueError> {
        let entry = u64::from(self.next_used & (self.layout.size - 1));
        let element = u64::from(head) | u64::from(len) << 32;
        mem.write_u64(self.layout.used + 4 + 8 * entry, element)?;
        self.next_used = self.next_used.wrapping_add(1);
        Ok(())
    }

    /// Makes the staged elements visible, once for all of them; says whether the driver wants an interrupt.
    ///
    /// # Errors
    /// When the rings are out of reach.
    #[inline]
    pub fn publish<M: DmaMemory>(&mut self, mem: &M) -> Result<bool, QueueError> {
        let (old, new) = (self.published, self.next_used);
        if old == new {
            return Ok(false);
        }
        // Release pairs with the driver's Acquire load of the used index: elements and buffers are written before.
        mem.store_index(self.layout.used + 2, new, Ordering::Release)?;
        self.published = new;
        // Pairs with the driver's fence between setting its event field (or flag) and its last look at the index.
        fence(Ordering::SeqCst);
        if self.event_idx {
            let event =
                mem.load_index(self.layout.avail + 4 + 2 * u64::from(self.layout.size), Ordering::Relaxed)?;
            Ok(passed(event, new, old))
        } else {
            Ok(mem.load_index(self.layout.avail, Ordering::Relaxed)? & NO_INTERRUPT == 0)
        }
    }

    /// Number of staged elements that are not published yet.
    pub fn staged(&self) -> u16 {
        self.next_used.wrapping_sub(self.published)
    }

    /// Asks the driver to kick, or not to. After asking, look for work once more: a chain may have come in between.
    ///
    /// # Errors
    /// When the used ring is out of reach.
    pub fn set_kicks<M: DmaMemory>(&mut self, mem: &M, enabled: bool) -> Result<(), QueueError> {
        if self.event_idx {
            // The driver kicks when it passes this index; one it has left behind is half a ring away.
            let event = if enabled { self.next_avail } else { self.next_avail.wrapping_sub(1) };
            mem.store_index(
                self.layout.used + 4 + 8 * u64::from(self.layout.size),
                event,
                Ordering::Relaxed,
            )?;
        } else {
            mem.store_index(self.layout.used, if enabled { 0 } else { NO_NOTIFY }, Ordering::Relaxed)?;
        }
        // Pairs with the driver's fence between publishing its index and reading this field.
        fence(Ordering::SeqCst);
        Ok(())
    }
}

/// `vring_need_event` (2.7.7.2): whether moving from `old` to `new` passes `event`.
fn passed(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

struct Desc {
    addr: u64,
    len: u32,
    flags: u16,
    next: u16,
}

struct Table {
    base: u64,
    entries: u32,
    indirect: bool,
}

impl Table {
    #[inline]
    fn read<M: DmaMemory>(&self, mem: &M, index: u16) -> Result<Desc, ChainFault> {
        if u32::from(index) >= self.entries {
            return Err(ChainFault::BadIndex { index, size: self.entries });
        }
        // Cannot wrap: `Queue::new` and `enter_indirect` checked the whole table.
        let addr = self.base + DESC_BYTES * u64::from(index);
        let (first, second) = mem.read_u64_pair(addr).map_err(|_| ChainFault::Unreadable { addr })?;
        Ok(Desc {
            addr: first,
            len: second as u32,
            flags: (second >> 32) as u16,
            next: (second >> 48) as u16,
        })
    }
}
