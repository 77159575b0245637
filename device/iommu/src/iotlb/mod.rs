//! The IOTLB: a set-associative cache of translations, one for each [`EndpointPort`](crate::EndpointPort).
//!
//! Only its port's thread touches an [`Iotlb`]: a hit takes no lock, no atomic read-modify-write and no pointer but its
//! own. Invalidation is a message. Whoever removes mappings appends the range to its domain's [`InvalidationLog`] before
//! the grace period; the port reads the log when it pins ([`Iotlb::enter`]) and drops what the ranges cover. An unmapper
//! never waits for a port, nor a port for an unmapper.
//!
//! Why no access finds a translation after its UNMAP was answered:
//! - The unmapper removes the mapping, appends the range, fences, then looks for guards. A port pins, fences, then reads
//!   the log. So either the unmapper waits for the port's guard, or the port sees the range before its first look-up.
//! - A fill can be stale: walked, removed by another thread, then filled. The walk came after the port read the log's
//!   head and did not see the removal, so the range lies beyond that head. The entry lives on under the guard that walked,
//!   which the unmapper waits for, and the next [`enter`](Iotlb::enter) drops it.
//!
//! Why none finds it after the answer to a MAP that took its place: that MAP may be on another request queue, before the
//! range is in the log or while an old guard still runs. Each queue announces what it is about to remove
//! (`Unfinished`); a MAP that overlaps an announcement appends the range itself and waits for a grace period, too.
//!
//! `models` checks all three on the shipped code, and that they fail without the append, with the append too early, or
//! without the announcement.

mod counters;
mod log;
#[cfg(all(test, loom))]
mod models;
mod options;
mod sets;
#[cfg(all(test, not(any(loom, shuttle))))]
mod tests;
mod unfinished;

use std::{cell::Cell, sync::Arc};

use virtio_iommu_spec::{Gpa, IovaRange};

use self::sets::{Sets, Tag};
use crate::table::{Mapping, Perms, Translation};

pub use counters::IotlbCounters;
pub(crate) use counters::{Ledger, LiveIotlb};
pub use log::{InvalidationLog, LOG_RECORDS};
pub use options::{IotlbError, IotlbOptions, PageSize, PageSizes};
pub(crate) use unfinished::{Unfinished, overtakes};

/// A cache's sets, by their number of ways.
enum AnySets {
    One(Sets<1>),
    Two(Sets<2>),
    Four(Sets<4>),
    Eight(Sets<8>),
    Sixteen(Sets<16>),
}

macro_rules! each {
    ($self:expr, $sets:ident => $do:expr) => {
        match &$self.sets {
            AnySets::One($sets) => $do,
            AnySets::Two($sets) => $do,
            AnySets::Four($sets) => $do,
            AnySets::Eight($sets) => $do,
            AnySets::Sixteen($sets) => $do,
        }
    };
}

/// What an entry holds beside its tag: the distance from I/O virtual to guest-physical addresses, how far the mapping
/// goes on, and what it allows.
///
/// ```text
///  63                                    12 11       3  2    1   0
/// +----------------------------------------+----------+----+---+---+
/// | GPA - IOVA, in 4 KiB units              | more     |MMIO| W | R |
/// +----------------------------------------+----------+----+---+---+
/// ```
///
/// `more` counts pages of the entry's size that follow in the same mapping, up to [`MAX_MORE`].
#[derive(Clone, Copy)]
struct Value(u64);

/// Most pages that an entry knows to follow its own.
const MAX_MORE: u64 = 511;
const OFFSET: u64 = !0xfff;
const READ: u64 = 1;
const WRITE: u64 = 2;
const MMIO: u64 = 4;

impl Value {
    fn new(offset: u64, more: u64, perms: Perms) -> Self {
        let bit = |on: bool, mask: u64| if on { mask } else { 0 };
        let perms = bit(perms.read, READ) | bit(perms.write, WRITE) | bit(perms.mmio, MMIO);
        Self(offset & OFFSET | more.min(MAX_MORE) << 3 | perms)
    }

    #[inline(always)]
    fn translation(self, iova: u64, size: PageSize) -> Translation {
        let shift = size.shift();
        let last = iova | ((1 << shift) - 1);
        Translation {
            gpa: Gpa(iova.wrapping_add(self.0 & OFFSET)),
            // Cannot overflow: these are addresses of the mapping.
            run_end: last + ((self.0 >> 3 & MAX_MORE) << shift),
            perms: Perms { read: self.0 & READ != 0, write: self.0 & WRITE != 0, mmio: self.0 & MMIO != 0 },
        }
    }
}

/// A port's cache of translations; see the [module](self).
pub struct Iotlb {
    sets: AnySets,
    sizes: PageSizes,
    /// Live entries by page size.
    live: [Cell<u32>; PageSize::ALL.len()],
    /// The log that entries are kept true by; 0 when there are none.
    log: Cell<u64>,
    /// Records of that log that have been followed.
    seen: Cell<u64>,
    counters: Arc<LiveIotlb>,
}

impl Iotlb {
    /// An empty cache.
    ///
    /// # Errors
    /// When the options cannot be served.
    pub fn new(options: &IotlbOptions) -> Result<Self, IotlbError> {
        options.check()?;
        let sets = options.entries / options.ways;
        Ok(Self {
            sets: match options.ways {
                1 => AnySets::One(Sets::new(sets)),
                2 => AnySets::Two(Sets::new(sets)),
                4 => AnySets::Four(Sets::new(sets)),
                8 => AnySets::Eight(Sets::new(sets)),
                _ => AnySets::Sixteen(Sets::new(sets)),
            },
            sizes: options.page_sizes,
            live: Default::default(),
            log: Cell::new(0),
            seen: Cell::new(0),
            counters: Arc::default(),
        })
    }

    /// Its counters now.
    pub fn counters(&self) -> IotlbCounters {
        self.counters.snapshot()
    }

    pub(crate) fn live_counters(&self) -> &Arc<LiveIotlb> {
        &self.counters
    }

    /// Entries in use.
    pub fn len(&self) -> usize {
        self.live.iter().map(|live| live.get() as usize).sum()
    }

    /// Whether no entry is in use.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Brings the cache up to the log of the domain that the endpoint is attached to, `None` when it has none. To be
    /// called after pinning, before the first [`find`](Self::find) under the guard, and before the walk behind each
    /// [`fill`](Self::fill).
    #[inline(always)]
    pub fn enter(&self, log: Option<&InvalidationLog>) {
        match log {
            Some(log) => {
                let head = log.head();
                if log.id() != self.log.get() || head != self.seen.get() {
                    self.follow(log, head);
                }
            }
            None if self.log.get() == 0 => {}
            None => self.leave(),
        }
    }

    #[cold]
    fn leave(&self) {
        self.flush();
        self.log.set(0);
    }

    #[cold]
    fn follow(&self, log: &InvalidationLog, head: u64) {
        let seen = self.seen.replace(head);
        if self.log.replace(log.id()) != log.id() {
            self.flush();
            return;
        }
        if log.read(seen, head, |range| self.invalidate(range)).is_err() {
            self.flush();
        }
    }

    /// Looks one address up.
    #[inline(always)]
    pub fn find(&self, iova: u64) -> Option<Translation> {
        each!(self, sets => self.find_in(sets, iova))
    }

    #[inline(always)]
    fn find_in<const WAYS: usize>(&self, sets: &Sets<WAYS>, iova: u64) -> Option<Translation> {
        let size = PageSize::Small;
        if let Some(value) = sets.find(Tag::new(iova, size), &self.counters) {
            return Some(Value(value).translation(iova, size));
        }
        PageSize::ALL[1..].iter().find_map(|&size| {
            if self.live[size as usize].get() == 0 {
                return None;
            }
            let value = sets.find(Tag::new(iova, size), &self.counters)?;
            Some(Value(value).translation(iova, size))
        })
    }

    /// Takes up what a walk for `iova` found: the page of the largest size on offer that lies within the mapping. Where
    /// there is none (a mapping smaller than a page), nothing is cached.
    pub fn fill(&self, iova: u64, found: &Mapping) {
        self.counters.miss();
        let Some((size, page)) = self.sizes.largest(iova, &found.range) else { return };
        let offset = found.gpa.0.wrapping_sub(found.range.start());
        if offset & !OFFSET != 0 {
            return;
        }
        let more = (found.range.end() - page.end()) >> size.shift();
        let value = Value::new(offset, more, found.perms);
        let evicted = each!(self, sets => sets.insert(Tag::new(iova, size), value.0, &self.counters));
        match evicted {
            sets::Inserted::Replaced => return,
            sets::Inserted::Free => {}
            sets::Inserted::Evicted(victim) => self.gone(victim, 1),
        }
        let live = &self.live[size as usize];
        live.set(live.get() + 1);
    }

    /// A look-up that found nothing, not even in the table.
    pub fn missed(&self) {
        self.counters.miss();
    }

    fn gone(&self, size: PageSize, count: u32) {
        let live = &self.live[size as usize];
        live.set(live.get() - count);
    }

    /// Drops what a range covers.
    pub fn invalidate(&self, range: IovaRange) {
        for size in PageSize::ALL {
            if self.live[size as usize].get() == 0 {
                continue;
            }
            let (first, last) = (range.start() >> size.shift(), range.end() >> size.shift());
            let dropped = each!(self, sets => if last - first < sets.len() as u64 {
                (first..=last).filter(|page| sets.remove(Tag::of_page(*page, size))).count()
            } else {
                sets.drop_where(|tag| tag.size() == Some(size) && (first..=last).contains(&tag.page()))
            });
            self.gone(size, dropped as u32);
            self.counters.invalidated(dropped as u64);
        }
    }

    /// Drops everything.
    pub fn flush(&self) {
        if !self.is_empty() {
            each!(self, sets => sets.drop_where(|_| true));
            self.live.iter().for_each(|live| live.set(0));
            self.counters.flushed();
        }
    }
}
