//! Geometry of the tree, and the one loop that all operations walk it with.

use virtio_iommu_spec::IovaRange;

use super::{
    RadixTable,
    entry::{Entry, Word},
    node::{FAN_OUT, LEVEL_BITS, Node, Slot},
};
use crate::epoch::Guard;

/// Levels that resolve 64-bit addresses at the smallest granule.
pub(super) const MAX_LEVELS: u32 = if cfg!(any(loom, shuttle)) { 4 } else { 6 };

/// How addresses are cut into indices.
#[derive(Clone, Copy, Debug)]
pub(super) struct Geometry {
    granule_shift: u32,
    top: u32,
    /// Last address the tree resolves.
    last: u64,
    /// First address that the unrolled walk does not resolve: all of them, unless the geometry is [`USUAL`].
    usual_end: u64,
}

/// What nearly every table is: 48-bit addresses in granules of 4 KiB. Walks with these constants are unrolled.
const USUAL: (u32, u32) = (12, 3);

impl Geometry {
    /// Enough levels for `bits`-bit addresses.
    pub(super) fn new(granule_shift: u32, bits: u32) -> Self {
        let levels = bits.saturating_sub(granule_shift).div_ceil(LEVEL_BITS).clamp(1, MAX_LEVELS);
        let last = 1u64.checked_shl(granule_shift + LEVEL_BITS * levels).map_or(u64::MAX, |end| end - 1);
        let usual_end = if (granule_shift, levels - 1) == USUAL { last + 1 } else { 0 };
        Self { granule_shift, top: levels - 1, last, usual_end }
    }

    #[inline(always)]
    pub(super) fn top(&self) -> u32 {
        self.top
    }

    /// Bytes of a granule.
    pub(super) fn granule_bytes(&self) -> u64 {
        1 << self.granule_shift
    }

    /// Bytes that one table of the lowest level covers.
    pub(super) fn table_bytes(&self) -> u64 {
        self.granule_bytes() << LEVEL_BITS
    }

    /// Address bits below a slot of this level.
    #[inline(always)]
    pub(super) fn shift(&self, level: u32) -> u32 {
        self.granule_shift + LEVEL_BITS * level
    }

    #[inline(always)]
    pub(super) fn index(&self, va: u64, level: u32) -> usize {
        (va >> self.shift(level)) as usize & (FAN_OUT - 1)
    }

    /// Last address of the slot of this level that holds `va`.
    #[inline(always)]
    pub(super) fn slot_end(&self, va: u64, level: u32) -> u64 {
        va | ((1u64 << self.shift(level)) - 1)
    }

    /// First address of the slot of this level that holds `va`.
    #[inline(always)]
    pub(super) fn slot_start(&self, va: u64, level: u32) -> u64 {
        va & !((1u64 << self.shift(level)) - 1)
    }

    #[inline(always)]
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// The address bits below a slot of this level, of a range that begins and ends under one slot.
    pub(super) fn below(&self, start: u64, end: u64, level: u32) -> Option<IovaRange> {
        let mask = (1u64 << self.shift(level)) - 1;
        IovaRange::new(start & mask, end & mask)
    }

    /// Whether both addresses lie under the same table of this level.
    #[inline(always)]
    fn same_table(&self, a: u64, b: u64, level: u32) -> bool {
        level == self.top || (a ^ b) >> self.shift(level + 1) == 0
    }

    /// Whether `range` is one granule.
    #[inline(always)]
    pub(super) fn is_granule(&self, range: IovaRange) -> bool {
        range.end() == self.slot_end(range.start(), 0) && range.start() == self.slot_start(range.start(), 0)
    }

    /// The level at which `range` is exactly one slot, if there is one.
    #[inline(always)]
    pub(super) fn single_slot_level(&self, range: IovaRange) -> Option<u32> {
        (0..=self.top).find(|&level| {
            let (start, end) = (self.slot_start(range.start(), level), self.slot_end(range.start(), level));
            start == range.start() && end == range.end()
        })
    }
}

/// A slot on the way, and the word that was loaded from it.
pub(super) struct At<'g> {
    pub(super) slot: &'g Slot,
    pub(super) word: Word,
    pub(super) level: u32,
    /// The address looked for.
    va: u64,
    pub(super) start: u64,
    pub(super) end: u64,
}

impl At<'_> {
    /// Whether `range` covers the whole slot.
    #[inline(always)]
    pub(super) fn within(&self, range: IovaRange) -> bool {
        range.start() <= self.start && self.end <= range.end()
    }

    /// Whether `range` covers the whole slot and nothing of it has been visited yet.
    #[inline(always)]
    pub(super) fn entered_whole(&self, range: IovaRange) -> bool {
        self.va == self.start && self.within(range)
    }
}

/// What to do after a slot was looked at.
pub(super) enum Step {
    /// Go down into the table the slot points to.
    Descend,
    /// Look at the slot again: it changed.
    Again,
    /// The slot is frozen: finish the replacement of its table, then start over from the root.
    Thaw,
    /// Finished up to and including this address.
    Past(u64),
}

impl RadixTable {
    /// The slot of the granule at `va`, where tables lead down to it. The fast path of MAP and UNMAP.
    #[inline(always)]
    pub(super) fn granule_slot<'g>(&'g self, guard: &'g Guard<'_>, va: u64) -> Option<&'g Slot> {
        let (slot, _, level) = self.descend(guard, va)?;
        (level == 0).then_some(slot)
    }

    /// The slot of `va` that tables lead down to, the word that was loaded from it, and its level; `None` beyond the
    /// last address. One load a level.
    #[inline(always)]
    pub(super) fn descend<'g>(&'g self, guard: &'g Guard<'_>, va: u64) -> Option<(&'g Slot, Word, u32)> {
        if va >= self.geometry.usual_end {
            return self.descend_slowly(guard, va);
        }
        let index = |level: u32| (va >> (USUAL.0 + LEVEL_BITS * level)) as usize & (FAN_OUT - 1);
        let mut node: &'g Node = &self.root;
        for level in (1..=USUAL.1).rev() {
            let slot = node.slot(index(level));
            let word = slot.load();
            match word.plain_table(guard) {
                Some(child) => node = child,
                None if word.is_table() => return self.descend_slowly(guard, va),
                None => return Some((slot, word, level)),
            }
        }
        let slot = node.slot(index(0));
        Some((slot, slot.load(), 0))
    }

    /// Prefetches the lowest slot of `va`: the tables above it are few and near, the lowest ones are many. Only where the
    /// walk is unrolled, which is where it pays.
    #[inline(always)]
    pub(super) fn ask_for(&self, guard: &Guard<'_>, va: u64) {
        if va >= self.geometry.usual_end {
            return;
        }
        let index = |level: u32| (va >> (USUAL.0 + LEVEL_BITS * level)) as usize & (FAN_OUT - 1);
        let mut node = &*self.root;
        for level in (1..=USUAL.1).rev() {
            let Some(child) = node.slot(index(level)).load().plain_table(guard) else { return };
            node = child;
        }
        node.slot(index(0)).prefetch();
    }

    /// The same for any geometry, and past frozen tables.
    #[inline(never)]
    fn descend_slowly<'g>(&'g self, guard: &'g Guard<'_>, va: u64) -> Option<(&'g Slot, Word, u32)> {
        let geometry = self.geometry;
        if va > geometry.last {
            return None;
        }
        let mut node: &'g Node = &self.root;
        for level in (1..=geometry.top).rev() {
            let slot = node.slot(geometry.index(va, level));
            let word = slot.load();
            let Entry::Table(child) = word.entry(guard) else { return Some((slot, word, level)) };
            node = child;
        }
        let slot = node.slot(geometry.index(va, 0));
        Some((slot, slot.load(), 0))
    }

    /// Visits the slots that hold `range`, from the root down and in ascending order.
    #[inline(always)]
    pub(super) fn walk<'g, E>(
        &'g self,
        guard: &'g Guard<'_>,
        range: IovaRange,
        mut visit: impl FnMut(&At<'g>) -> Result<Step, E>,
    ) -> Result<(), E> {
        let geometry = self.geometry;
        let mut va = range.start();
        'root: loop {
            let mut node: &'g Node = &self.root;
            let mut level = geometry.top();
            loop {
                let slot = node.slot(geometry.index(va, level));
                let word = slot.load();
                let (start, end) = (geometry.slot_start(va, level), geometry.slot_end(va, level));
                match visit(&At { slot, word, level, va, start, end })? {
                    Step::Descend => {
                        if let Entry::Table(child) = word.entry(guard) {
                            node = child;
                            level -= 1;
                        }
                    }
                    Step::Again => {}
                    Step::Thaw => {
                        self.thaw(guard, va);
                        continue 'root;
                    }
                    Step::Past(end) if end >= range.end() => return Ok(()),
                    Step::Past(end) => {
                        let next = end + 1;
                        let stay = geometry.same_table(va, next, level);
                        va = next;
                        if !stay {
                            continue 'root;
                        }
                    }
                }
            }
        }
    }
}
