//! MAP: one compare-and-swap where the range is one slot; otherwise the slots are taken in ascending order by a pending
//! object, and one store of its state maps them all.

use virtio_iommu_spec::IovaRange;

use super::{
    RadixTable,
    entry::{Entry, Word},
    node::{FAN_OUT, Node},
    shared::{Shared, State},
    walk::{At, Step},
};
use crate::{
    epoch::Guard,
    sync::Ordering,
    table::{MapError, Mapping},
};

/// Why a range could not be mapped as one slot.
enum Single {
    Failed(MapError),
    /// There is a table where the leaf should go; its slots have to be taken one by one.
    HasTable,
}

impl RadixTable {
    #[inline]
    pub(super) fn map_range(&self, guard: &Guard<'_>, mapping: &Mapping) -> Result<(), MapError> {
        let range = mapping.range;
        if range.end() > self.geometry.last() {
            return Err(MapError::OutOfMemory);
        }
        if self.geometry.is_granule(range) {
            let leaf = Word::leaf(range.start(), mapping.gpa.0, mapping.perms);
            if self.granule_slot(guard, range.start()).is_some_and(|slot| slot.replace(Word::EMPTY, leaf)) {
                return Ok(());
            }
        }
        self.map_slowly(guard, mapping)
    }

    /// Whatever is not a granule with tables above it and nothing in its way.
    #[inline(never)]
    fn map_slowly(&self, guard: &Guard<'_>, mapping: &Mapping) -> Result<(), MapError> {
        // Where a whole table fits in, empty ones may be in the way by the thousand.
        let (start, end) = (mapping.range.start(), mapping.range.end());
        if end - start >= self.geometry.table_bytes() {
            let _ = self.vacate(guard, &self.root, self.geometry.top(), mapping.range);
        }
        let mapped = match self.geometry.single_slot_level(mapping.range) {
            Some(level) => match self.map_single(guard, mapping, level) {
                Err(Single::HasTable) => self.map_shared(guard, mapping),
                Err(Single::Failed(error)) => Err(error),
                Ok(()) => Ok(()),
            },
            None => self.map_shared(guard, mapping),
        };
        if mapped.is_err() {
            // Tables were linked on the way to the ends; in between whole slots are taken.
            self.prune(guard, start);
            self.prune(guard, end);
        }
        mapped
    }

    #[inline]
    fn map_single(&self, guard: &Guard<'_>, mapping: &Mapping, level: u32) -> Result<(), Single> {
        let range = mapping.range;
        let leaf = Word::leaf(range.start(), mapping.gpa.0, mapping.perms);
        self.walk(guard, range, |at| match at.word.entry(guard) {
            Entry::Table(_) if at.level > level => Ok(Step::Descend),
            Entry::Table(child) => {
                if !child.looks_empty() {
                    return Err(Single::HasTable);
                }
                Ok(self.drop_empty(guard, at, child))
            }
            Entry::Leaf { .. } => Err(Single::Failed(MapError::Overlap { range })),
            Entry::Shared(other) => self.displace(guard, at, other, range).map_err(Single::Failed),
            Entry::Empty if at.word.is_frozen() => Ok(Step::Thaw),
            Entry::Empty if at.level == level => {
                Ok(if at.slot.replace(at.word, leaf) { Step::Past(at.end) } else { Step::Again })
            }
            Entry::Empty => {
                let node = self.new_node(guard).map_err(Single::Failed)?;
                self.link(at, node);
                Ok(Step::Again)
            }
        })
    }

    /// Links a new table into an empty slot, or frees it when somebody else was faster.
    fn link(&self, at: &At<'_>, node: Box<Node>) -> bool {
        let node = Box::into_raw(node);
        let linked = at.slot.replace(at.word, Word::table(node));
        if !linked {
            // SAFETY: `node` came from `Box::into_raw` above and was not published.
            self.free_private(unsafe { Box::from_raw(node) });
        }
        linked
    }

    /// Makes room where another mapping's object stands, if that mapping is not live.
    fn displace(
        &self,
        guard: &Guard<'_>,
        at: &At<'_>,
        other: &Shared,
        range: IovaRange,
    ) -> Result<Step, MapError> {
        if self.settle(guard, other) {
            return Err(MapError::Overlap { range });
        }
        if at.word.is_frozen() {
            return Ok(Step::Thaw);
        }
        at.slot.replace(at.word, Word::EMPTY);
        Ok(Step::Again)
    }

    fn map_shared(&self, guard: &Guard<'_>, mapping: &Mapping) -> Result<(), MapError> {
        self.objects.fetch_add(1, Ordering::Relaxed);
        let object = Box::into_raw(Shared::new(mapping.range, mapping.gpa, mapping.perms));
        // SAFETY: the object was just made; it is freed through a guard after its last holder has left, and this
        // thread is one and pinned.
        let object: &Shared = unsafe { &*object };
        let reach = self.install(guard, object);
        let result = match object.state() {
            State::Overlapped => Err(MapError::Overlap { range: mapping.range }),
            State::Starved => Err(MapError::OutOfMemory),
            // Dead: mapped, and unmapped by somebody since.
            State::Live | State::Dead | State::Pending => Ok(()),
        };
        if object.state() != State::Live {
            self.clear(guard, object, reach);
        }
        if result.is_err() {
            // Never mapped, so no UNMAP will let go of the slots' share.
            self.leave(guard, object);
        }
        self.leave(guard, object);
        result
    }

    /// Whether `other` is mapped, once it is decided. A pending one is helped to a decision: its slots are taken in
    /// ascending order by everybody, so helping never goes in circles.
    fn settle(&self, guard: &Guard<'_>, other: &Shared) -> bool {
        loop {
            match other.state() {
                State::Live => return true,
                State::Dead | State::Overlapped | State::Starved => return false,
                State::Pending => {}
            }
            if !other.hold() {
                return false;
            }
            let reach = self.install(guard, other);
            if other.state() != State::Live {
                // This thread may have put the object into a slot after its owner had cleared them all.
                self.clear(guard, other, reach);
            }
            self.leave(guard, other);
        }
    }

    /// Takes all slots of a pending mapping and decides its fate. Run by its creator and by threads that find it in
    /// their way; the caller is a holder. Returns the last address up to which this thread may have taken slots.
    fn install(&self, guard: &Guard<'_>, object: &Shared) -> u64 {
        let mut reach = object.range().start();
        let decided = self.walk(guard, object.range(), |at| {
            self.counted(1);
            reach = at.end;
            self.take(guard, object, at)
        });
        let fate = match decided {
            Ok(()) => State::Live,
            Err(Taken::Decided) => return reach,
            Err(Taken::Failed(MapError::Overlap { .. })) => State::Overlapped,
            Err(Taken::Failed(MapError::OutOfMemory)) => State::Starved,
        };
        object.advance(State::Pending, fate);
        reach
    }

    fn take<'g>(&self, guard: &'g Guard<'_>, object: &Shared, at: &At<'g>) -> Result<Step, Taken> {
        let range = object.range();
        let past = Step::Past(at.end.min(range.end()));
        match at.word.entry(guard) {
            Entry::Shared(other) if std::ptr::eq(other, object) => Ok(past),
            Entry::Shared(other) => self.displace(guard, at, other, range).map_err(Taken::Failed),
            Entry::Leaf { .. } => Err(Taken::Failed(MapError::Overlap { range })),
            Entry::Table(child) if at.within(range) && child.looks_empty() => {
                Ok(self.drop_empty(guard, at, child))
            }
            Entry::Table(_) => Ok(Step::Descend),
            Entry::Empty if at.word.is_frozen() => Ok(Step::Thaw),
            Entry::Empty if object.state() != State::Pending => Err(Taken::Decided),
            Entry::Empty if at.within(range) => {
                Ok(if at.slot.replace(at.word, Word::shared(object)) { past } else { Step::Again })
            }
            Entry::Empty => {
                let subtree = self.subtree(guard, object, at.level - 1, at.start).map_err(Taken::Failed)?;
                Ok(if self.link(at, subtree) { past } else { Step::Again })
            }
        }
    }

    /// A table of `level` that starts at `start`, already filled with the object wherever its range reaches: so the
    /// slots under one empty slot are taken in one step, and in ascending order with all others.
    fn subtree(
        &self,
        guard: &Guard<'_>,
        object: &Shared,
        level: u32,
        start: u64,
    ) -> Result<Box<Node>, MapError> {
        let range = object.range();
        let mut node = self.new_node(guard)?;
        let slot_bytes = 1u64 << self.geometry.shift(level);
        let first = range.start().saturating_sub(start) >> self.geometry.shift(level);
        for index in first as usize..FAN_OUT {
            let slot_start = start + index as u64 * slot_bytes;
            if slot_start > range.end() {
                break;
            }
            let whole = range.start() <= slot_start && slot_start + (slot_bytes - 1) <= range.end();
            let word = if whole {
                Word::shared(object)
            } else {
                match self.subtree(guard, object, level - 1, slot_start) {
                    Ok(child) => Word::table(Box::into_raw(child)),
                    Err(error) => {
                        self.free_private(node);
                        return Err(error);
                    }
                }
            };
            node.fill(index, word);
        }
        Ok(node)
    }
}

/// Why slots were not taken to the end.
enum Taken {
    Failed(MapError),
    /// Somebody else has decided meanwhile.
    Decided,
}
