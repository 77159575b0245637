//! UNMAP: each mapping disappears at one instant, a leaf by one compare-and-swap, a larger one by its object's state.

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
    table::{Removed, UnmapError},
};

/// What the first look at a range found.
enum First {
    /// One mapping, or nothing: done.
    Done(Removed),
    /// More than that.
    Many,
}

/// Slots an UNMAP may find empty before it unlinks their tables, so that a small one leaves the tables to the next MAP.
const SPARE_VISITS: u64 = 4 * FAN_OUT as u64;
/// The same, for each mapping removed.
const VISITS_EACH: u64 = 8;

/// A reset waits; what is left goes with the domain.
struct Stopped;

impl RadixTable {
    #[inline]
    pub(super) fn unmap_range(&self, guard: &Guard<'_>, range: IovaRange) -> Result<Removed, UnmapError> {
        if range.end() <= self.geometry.last()
            && self.geometry.is_granule(range)
            && let Some(slot) = self.granule_slot(guard, range.start())
        {
            let word = slot.load();
            if word.is_leaf() && !word.is_frozen() && slot.replace(word, Word::EMPTY) {
                self.tidy(guard, range.start());
                return Ok(Removed { mappings: 1, bytes: range.end() - range.start() + 1 });
            }
        }
        self.unmap_slowly(guard, range)
    }

    /// Whatever is not the leaf of one granule.
    #[inline(never)]
    fn unmap_slowly(&self, guard: &Guard<'_>, range: IovaRange) -> Result<Removed, UnmapError> {
        let Some(reach) = IovaRange::new(range.start(), range.end().min(self.geometry.last())) else {
            return Ok(Removed::default());
        };
        match self.unmap_one(guard, reach) {
            First::Done(removed) => Ok(removed),
            First::Many if self.splits(guard, reach) => Err(UnmapError::Split { range }),
            First::Many => Ok(self.unmap_many(guard, reach)),
        }
    }

    /// The common case: the range is one mapping, or lies in one empty slot.
    #[inline]
    fn unmap_one(&self, guard: &Guard<'_>, range: IovaRange) -> First {
        let found = self.walk(guard, range, |at| match at.word.entry(guard) {
            Entry::Table(_) => Ok(Step::Descend),
            Entry::Leaf { .. } if at.start == range.start() && at.end == range.end() => {
                if at.word.is_frozen() {
                    Ok(Step::Thaw)
                } else if at.slot.replace(at.word, Word::EMPTY) {
                    self.tidy(guard, at.start);
                    Err(First::Done(removed(range)))
                } else {
                    Ok(Step::Again)
                }
            }
            Entry::Shared(object) if object.range() == range => {
                Err(if self.kill(guard, object) { First::Done(removed(range)) } else { First::Many })
            }
            Entry::Empty if at.end >= range.end() => Err(First::Done(Removed::default())),
            _ => Err(First::Many),
        });
        match found {
            Err(first) => first,
            Ok(()) => First::Many,
        }
    }

    /// Removes what the range covers. Tables found empty are unlinked on the way, and those emptied afterwards if there
    /// are many: so the work is bounded by what is removed plus [`SPARE_VISITS`], and what a MAP linked pays for what an
    /// UNMAP unlinks.
    fn unmap_many(&self, guard: &Guard<'_>, range: IovaRange) -> Removed {
        let (mut total, mut visits) = (Removed::default(), 0u64);
        let mut add = |more: Removed| {
            total.mappings += more.mappings;
            total.bytes = total.bytes.saturating_add(more.bytes);
        };
        let walked = self.walk(guard, range, |at| {
            visits += 1;
            self.counted(1);
            Ok(match at.word.entry(guard) {
                Entry::Table(_) if self.budget.is_stopped() => return Err(Stopped),
                Entry::Table(child) if at.entered_whole(range) && child.looks_empty() => {
                    self.counted(FAN_OUT as u64);
                    self.drop_empty(guard, at, child)
                }
                // A table entered in its middle has been visited up to there.
                Entry::Table(child)
                    if at.level == 1
                        && at.entered_whole(range)
                        && !at.word.is_frozen()
                        && only_leaves(child) =>
                {
                    self.counted(FAN_OUT as u64);
                    let (mappings, visited) = self.dismantle(guard, at, child);
                    add(Removed { mappings, bytes: mappings * self.geometry.granule_bytes() });
                    visited.map_or(Step::Again, Step::Past)
                }
                Entry::Table(_) => Step::Descend,
                Entry::Empty => Step::Past(at.end),
                // Mapped since the ends were looked at: this UNMAP came first.
                Entry::Leaf { .. } if !at.within(range) => Step::Past(at.end),
                Entry::Leaf { .. } if at.word.is_frozen() => Step::Thaw,
                Entry::Leaf { .. } => {
                    if at.slot.replace(at.word, Word::EMPTY) {
                        add(removed_slot(at));
                        Step::Past(at.end)
                    } else {
                        Step::Again
                    }
                }
                Entry::Shared(object) if range.covers(&object.range()) => {
                    if self.kill(guard, object) {
                        add(removed(object.range()));
                    }
                    Step::Past(at.end)
                }
                Entry::Shared(_) => Step::Past(at.end),
            })
        });
        let vain = visits > SPARE_VISITS + VISITS_EACH * total.mappings;
        if walked.is_ok() && (vain || self.budget.is_tight()) {
            self.sweep_below(guard, &self.root, self.geometry.top(), range);
        } else {
            self.emptied.store(true, Ordering::Relaxed);
        }
        total
    }

    /// Whether a mapping crosses the start of the range or, looked at after that, its end.
    fn splits(&self, guard: &Guard<'_>, range: IovaRange) -> bool {
        self.extent(guard, range.start()).is_some_and(|mapping| mapping.start() < range.start())
            || self.extent(guard, range.end()).is_some_and(|mapping| mapping.end() > range.end())
    }

    /// The mapping that holds an address, if one does.
    fn extent(&self, guard: &Guard<'_>, va: u64) -> Option<IovaRange> {
        let point = IovaRange::new(va, va)?;
        let found = self.walk(guard, point, |at| match at.word.entry(guard) {
            Entry::Table(_) => Ok(Step::Descend),
            Entry::Leaf { .. } => Err(IovaRange::new(at.start, at.end)),
            Entry::Shared(object) if object.state() == State::Live => Err(Some(object.range())),
            Entry::Shared(_) | Entry::Empty => Err(None),
        });
        found.err().flatten()
    }

    /// Unmaps a live mapping of several slots and gives its slots back; `false` when it was not live (any more).
    fn kill(&self, guard: &Guard<'_>, object: &Shared) -> bool {
        if !object.advance(State::Live, State::Dead) {
            return false;
        }
        self.clear(guard, object, object.range().end());
        self.tidy(guard, object.range().start());
        self.tidy(guard, object.range().end());
        self.tidy_between(guard, object.range());
        self.leave(guard, object);
        true
    }

    /// Empties the slots up to `last` that hold the object, which is not live any more.
    pub(super) fn clear(&self, guard: &Guard<'_>, object: &Shared, last: u64) {
        let range = object.range();
        let Some(part) = IovaRange::new(range.start(), last.min(range.end())) else { return };
        let Ok(()) = self.walk::<std::convert::Infallible>(guard, part, |at| {
            self.counted(1);
            Ok(match at.word.entry(guard) {
                Entry::Table(_) => Step::Descend,
                Entry::Shared(other) if std::ptr::eq(other, object) => {
                    if at.word.is_frozen() {
                        Step::Thaw
                    } else if at.slot.replace(at.word, Word::EMPTY) {
                        Step::Past(at.end)
                    } else {
                        Step::Again
                    }
                }
                _ => Step::Past(at.end),
            })
        });
    }

    /// Gives up a holder's share of an object; the last one retires it.
    pub(super) fn leave(&self, guard: &Guard<'_>, object: &Shared) {
        if object.leave() {
            self.objects.fetch_sub(1, Ordering::Relaxed);
            let object = std::ptr::from_ref(object).cast_mut();
            // SAFETY: objects come from `Box::into_raw` in `map_shared`; the last holder has left, every slot that
            // held it has been emptied by then, so only guards that are live now can still reach it, and those are
            // waited for.
            guard.retire(unsafe { Box::from_raw(object) });
        }
    }

    /// Empties a table of leaves that the range covers wholly, one atomic step per entry, and unlinks it. Says how many
    /// leaves there were and the last address visited: not the table's last one if somebody else froze or filled an
    /// entry in between, `None` if that was the first.
    fn dismantle(&self, guard: &Guard<'_>, at: &At<'_>, child: &Node) -> (u64, Option<u64>) {
        let mut mappings = 0;
        let mut visited = FAN_OUT as u64;
        'slots: for (index, slot) in child.slots().iter().enumerate() {
            loop {
                let word = slot.load();
                if word.is_frozen() || !(word.is_leaf() || word.is_empty()) {
                    visited = index as u64;
                    break 'slots;
                }
                if slot.replace(word, Word::EMPTY.frozen()) {
                    mappings += u64::from(word.is_leaf());
                    break;
                }
            }
        }
        self.replace_node(guard, at.slot, at.word, child);
        let bytes = visited * self.geometry.granule_bytes();
        (mappings, (bytes != 0).then(|| at.start + (bytes - 1)))
    }
}

fn only_leaves(node: &Node) -> bool {
    node.slots().iter().all(|slot| {
        let word = slot.load();
        !word.is_frozen() && (word.is_leaf() || word.is_empty())
    })
}

fn removed(range: IovaRange) -> Removed {
    Removed { mappings: 1, bytes: range.len().unwrap_or(u64::MAX) }
}

fn removed_slot(at: &At<'_>) -> Removed {
    Removed { mappings: 1, bytes: at.end - at.start + 1 }
}
