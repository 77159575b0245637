//! Tables go while the tree is in use: every entry of a table is frozen, then whoever gets there first puts what was
//! left (nothing, or a copy) in the table's place. Anybody who meets a frozen entry can finish the job, so nobody
//! waits for anybody.

use std::ops::ControlFlow;

use arrayvec::ArrayVec;
use virtio_iommu_spec::IovaRange;

use super::{
    RadixTable,
    entry::{Entry, Word},
    node::{FAN_OUT, NODE_BYTES, Node, Slot},
    walk::{At, MAX_LEVELS, Step},
};
use crate::{epoch::Guard, sync::Ordering, table::MapError};

/// Tables a tree may hold before it looks for empty ones: enough for 1 GiB of granules of 4 KiB, in 2 MiB.
pub(super) const SWEEP_FLOOR: u64 = 512;

impl RadixTable {
    /// A table to be linked, within the budget; sweeps up empty ones when their number has doubled, or when there is no
    /// memory for more.
    pub(super) fn new_node(&self, guard: &Guard<'_>) -> Result<Box<Node>, MapError> {
        if self.nodes.load(Ordering::Relaxed) >= self.sweep_at.load(Ordering::Relaxed) {
            self.sweep(guard);
        }
        let charged = self.budget.take(NODE_BYTES) || self.reclaim(guard) && self.budget.take(NODE_BYTES);
        if !charged {
            return Err(MapError::OutOfMemory);
        }
        self.nodes.fetch_add(1, Ordering::Relaxed);
        Ok(Node::new())
    }

    /// Unlinks empty tables if an operation may have left some since the last time; says whether it looked. Beside a
    /// sweep by another thread it looks, too: that thread may be behind what this one needs.
    #[cold]
    pub(crate) fn reclaim(&self, guard: &Guard<'_>) -> bool {
        // Relaxed, as all accesses to both: hints, they order nothing.
        let look = self.emptied.swap(false, Ordering::Relaxed) || self.sweeping.load(Ordering::Relaxed);
        if look {
            self.sweep_below(guard, &self.root, self.geometry.top(), IovaRange::ALL);
        }
        look
    }

    /// Counts slots looked at, for the tests that bound the work of an operation.
    #[inline(always)]
    pub(super) fn counted(&self, slots: u64) {
        #[cfg(all(test, not(any(loom, shuttle))))]
        self.visits.fetch_add(slots, Ordering::Relaxed);
        #[cfg(not(all(test, not(any(loom, shuttle)))))]
        let _ = slots;
    }

    /// A table is gone.
    fn uncount(&self) {
        self.nodes.fetch_sub(1, Ordering::Relaxed);
        self.budget.give(NODE_BYTES);
    }

    /// Called after a mapping at `va` is gone. Tables are kept for the next MAP, as strict mode wants it, unless the
    /// budget is more than half used: then those that became empty go at once.
    #[inline]
    pub(super) fn tidy(&self, guard: &Guard<'_>, va: u64) {
        if self.budget.is_tight() {
            self.prune(guard, va);
        } else if !self.emptied.load(Ordering::Relaxed) {
            self.emptied.store(true, Ordering::Relaxed);
        }
    }

    /// As [`tidy`](Self::tidy), for tables between the ends of a mapping of several slots.
    #[inline]
    pub(super) fn tidy_between(&self, guard: &Guard<'_>, range: IovaRange) {
        if range.end() - range.start() >= self.geometry.table_bytes() && self.budget.is_tight() {
            self.sweep_below(guard, &self.root, self.geometry.top(), range);
        }
    }

    #[cfg(all(test, loom))]
    pub(super) fn prune_for_model(&self, guard: &Guard<'_>) {
        self.prune(guard, 0);
    }

    /// Unlinks the tables on the way to `va` that look empty, from the lowest up.
    #[cold]
    pub(super) fn prune(&self, guard: &Guard<'_>, va: u64) {
        let mut path: ArrayVec<(&Slot, Word, &Node), { MAX_LEVELS as usize }> = ArrayVec::new();
        let (mut node, mut level) = (&*self.root, self.geometry.top());
        loop {
            let slot = node.slot(self.geometry.index(va, level));
            let word = slot.load();
            let Entry::Table(child) = word.entry(guard) else { break };
            path.push((slot, word, child));
            node = child;
            level -= 1;
        }
        while let Some((slot, word, child)) = path.pop() {
            if !child.looks_empty() {
                break;
            }
            if word.is_frozen() || !self.replace_node(guard, slot, word, child) {
                // The table above is being replaced; its copy still points to this one.
                self.emptied.store(true, Ordering::Relaxed);
                break;
            }
        }
    }

    /// Frees a table that was never linked, and the tables below it.
    pub(super) fn free_private(&self, node: Box<Node>) {
        for slot in node.slots() {
            let word = slot.load();
            if word.is_table() {
                // SAFETY: nobody else has seen this tree; its table words come from `Box::into_raw` in `subtree`.
                self.free_private(unsafe { Box::from_raw(word.node_ptr().cast_mut()) });
            }
        }
        self.uncount();
    }

    /// Unlinks a table in which nothing was seen, so that a larger mapping can take its slot.
    pub(super) fn drop_empty(&self, guard: &Guard<'_>, at: &At<'_>, child: &Node) -> Step {
        if at.word.is_frozen() {
            return Step::Thaw;
        }
        self.replace_node(guard, at.slot, at.word, child);
        Step::Again
    }

    /// Freezes `node`, which `word` in `slot` points to, and puts what it holds in its place: nothing if it is empty,
    /// a copy otherwise. No effect, and `false`, when `slot` has changed. The word must not be frozen: then another table,
    /// that of `slot`, has to be replaced first.
    pub(super) fn replace_node(&self, guard: &Guard<'_>, slot: &Slot, word: Word, node: &Node) -> bool {
        assert!(!word.is_frozen(), "a frozen entry was about to be changed");
        let mut copy: Option<Box<Node>> = None;
        for index in 0..FAN_OUT {
            let entry = node.slot(index).freeze().thawed();
            if !entry.is_empty() {
                copy.get_or_insert_with(Node::new).fill(index, entry);
            }
        }
        let copied = copy.is_some();
        let copy = copy.map(Box::into_raw);
        let new = copy.map_or(Word::EMPTY, |copy| Word::table(copy));
        let replaced = slot.replace(word, new);
        if replaced {
            if !copied {
                self.uncount();
            }
            let node = std::ptr::from_ref(node).cast_mut();
            // SAFETY: nodes come from `Box::into_raw`; this one was linked at `slot` alone and has just been unlinked
            // by this thread, so only guards live now can still reach it. What it points to lives on in the copy.
            guard.retire(unsafe { Box::from_raw(node) });
        } else if let Some(copy) = copy {
            // SAFETY: made above, never published. What it points to is not its own, so it is dropped alone.
            drop(unsafe { Box::from_raw(copy) });
        }
        replaced
    }

    /// Finishes the replacement of the topmost frozen table on the way to `va`.
    #[cold]
    pub(super) fn thaw(&self, guard: &Guard<'_>, va: u64) {
        let mut node = &*self.root;
        let mut level = self.geometry.top();
        loop {
            let slot = node.slot(self.geometry.index(va, level));
            let word = slot.load();
            let Entry::Table(child) = word.entry(guard) else { return };
            // Entries of the root are never frozen; one below that was frozen since its table was looked at makes that
            // table the topmost one, which the caller's next attempt finds.
            if word.is_frozen() {
                return;
            }
            level -= 1;
            if child.slot(self.geometry.index(va, level)).load().is_frozen() {
                self.replace_node(guard, slot, word, child);
                return;
            }
            node = child;
        }
    }

    /// Unlinks tables that look empty; one thread at a time, the others go on without.
    #[cold]
    fn sweep(&self, guard: &Guard<'_>) {
        if self.sweeping.swap(true, Ordering::Acquire) {
            return;
        }
        self.emptied.store(false, Ordering::Relaxed);
        self.sweep_below(guard, &self.root, self.geometry.top(), IovaRange::ALL);
        let next = self.nodes.load(Ordering::Relaxed).saturating_mul(2).max(SWEEP_FLOOR);
        self.sweep_at.store(next, Ordering::Relaxed);
        // Release pairs with the Acquire above: sweeps follow one another.
        self.sweeping.store(false, Ordering::Release);
    }

    /// Unlinks the tables below `node` that hold addresses of `range` and look empty, from the lowest up.
    pub(super) fn sweep_below(&self, guard: &Guard<'_>, node: &Node, level: u32, range: IovaRange) {
        if level == 0 {
            return;
        }
        let first = self.geometry.index(range.start(), level);
        let last = self.geometry.index(range.end(), level);
        for index in first..=last {
            let slot = node.slot(index);
            let word = slot.load();
            self.counted(1);
            if let Entry::Table(child) = word.entry(guard) {
                if self.budget.is_stopped() {
                    return;
                }
                // The part of the range below this slot: whole, but for the first and the last one.
                let start = if index == first { range.start() } else { 0 };
                let end = if index == last { range.end() } else { u64::MAX };
                if let Some(part) = self.geometry.below(start, end, level) {
                    self.sweep_below(guard, child, level - 1, part);
                }
                if !word.is_frozen() && child.looks_empty() {
                    self.counted(FAN_OUT as u64);
                    self.replace_node(guard, slot, word, child);
                }
            }
        }
    }

    /// Unlinks the empty tables in `range`, up to its first mapping: a mapping of the whole range then takes few slots, or
    /// fails early. The tables it looks at in vain are those on the way to that mapping.
    pub(super) fn vacate(
        &self,
        guard: &Guard<'_>,
        node: &Node,
        level: u32,
        range: IovaRange,
    ) -> ControlFlow<()> {
        let (first, last) =
            (self.geometry.index(range.start(), level), self.geometry.index(range.end(), level));
        for index in first..=last {
            let slot = node.slot(index);
            let word = slot.load();
            self.counted(1);
            if word.is_empty() {
                continue;
            }
            let Entry::Table(child) = word.entry(guard) else { return ControlFlow::Break(()) };
            if self.budget.is_stopped() {
                return ControlFlow::Break(());
            }
            let start = if index == first { range.start() } else { 0 };
            let end = if index == last { range.end() } else { u64::MAX };
            if let Some(part) = self.geometry.below(start, end, level) {
                self.vacate(guard, child, level - 1, part)?;
            }
            if !word.is_frozen() && child.looks_empty() {
                self.counted(FAN_OUT as u64);
                self.replace_node(guard, slot, word, child);
            }
        }
        ControlFlow::Continue(())
    }

    /// Unlinks all tables but the root and gives back their charge and the root's. To be called when nothing is mapped any
    /// more and nothing will be. The root itself, one table, goes with the tree.
    pub(crate) fn give_up(&self, guard: &Guard<'_>) {
        self.sweep_below(guard, &self.root, self.geometry.top(), IovaRange::ALL);
        // Relaxed: a flag that only says who uncounts; it orders nothing.
        if self.root_charged.swap(false, Ordering::Relaxed) {
            self.uncount();
        }
    }

    /// Bytes of memory the tree holds.
    pub(super) fn bytes(&self) -> u64 {
        let nodes = self.nodes.load(Ordering::Relaxed);
        let objects = self.objects.load(Ordering::Relaxed);
        nodes * NODE_BYTES + objects * super::shared::SHARED_BYTES
    }
}
