//! The lock-free table: a radix tree of atomic 64-bit entries, nine address bits a level.
//!
//! - Translation is wait-free: at most one load a level, plus the object of a mapping of several slots.
//! - A mapping that is exactly one slot (a granule, or an aligned 2 MiB, 1 GiB … of 4 KiB granules) is one leaf:
//!   MAP is one compare-and-swap from empty, UNMAP one to empty. Two racing overlapping MAPs meet at that slot.
//! - Any other mapping is one object of 64 bytes that every slot points to. Slots are taken in ascending
//!   order while the object is pending; one change of its state maps them all, another unmaps them all. Whoever finds
//!   a pending object in its way helps it to a decision, so a stalled writer stops nobody, and of two overlapping MAPs
//!   the one that fails does so because the other is mapped.
//! - An UNMAP looks at its start, then at its end, and removes nothing if a mapping crosses either; then it visits the
//!   range in ascending order and removes each mapping it covers at one instant. Alone it is atomic; beside other
//!   writers it is the sequence of these steps (`histories` checks just that).
//! - Tables are replaced by freezing (`reclaim`), so they are freed while the tree is in use.
//!
//! What was unlinked is retired through the [`Guard`](crate::epoch::Guard); all references into the tree live no
//! longer than one.

#![allow(unsafe_code, reason = "entries are tagged pointers to tables and mappings that guards keep alive")]

#[cfg(all(test, not(any(loom, shuttle))))]
mod bounds;
mod entry;
#[cfg(all(test, not(loom)))]
mod histories;
mod map;
#[cfg(all(test, loom))]
mod models;
mod node;
mod reclaim;
mod shared;
#[cfg(all(test, not(any(loom, shuttle))))]
mod tests;
mod unmap;
mod walk;

use crossbeam_utils::CachePadded;
use thiserror::Error;
use virtio_iommu_spec::{Gpa, Iova, IovaRange};

use self::{
    entry::{Entry, Word},
    node::{NODE_BYTES, Node},
    shared::{Shared, State},
    walk::{Geometry, Step},
};
use super::{Budget, MapError, Mapping, MappingTable, Removed, Translation, UnmapError};
use crate::{
    epoch::{Epoch, Guard},
    sync::{AtomicBool, AtomicU64, Ordering},
};

/// The smallest granule a leaf can hold, as a power of two.
pub const MIN_GRANULE_SHIFT: u32 = 12;
/// The largest granule supported, as a power of two.
pub const MAX_GRANULE_SHIFT: u32 = 30;

/// The granule does not fit the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "a radix table needs a granule of 2^{MIN_GRANULE_SHIFT} to 2^{MAX_GRANULE_SHIFT} bytes, not 2^{shift}"
)]
pub struct BadGranule {
    /// The granule asked for, as a power of two.
    pub shift: u32,
}

/// The lock-free mapping table: a radix tree of atomic 64-bit entries.
///
/// Look-ups are wait-free; MAP and UNMAP of a granule are one compare-and-swap; a mapping of any size appears and disappears
/// at one instant, whatever its alignment. ARCHITECTURE.md says how.
pub struct RadixTable {
    root: Box<Node>,
    geometry: Geometry,
    /// Whose guards keep this table's memory alive.
    epoch: Epoch,
    budget: Budget,
    nodes: CachePadded<AtomicU64>,
    objects: CachePadded<AtomicU64>,
    sweep_at: AtomicU64,
    sweeping: AtomicBool,
    /// An UNMAP may have left empty tables since the last sweep.
    emptied: AtomicBool,
    /// The root is charged to the budget.
    root_charged: AtomicBool,
    /// Slots that long operations looked at.
    #[cfg(all(test, not(any(loom, shuttle))))]
    visits: AtomicU64,
}

impl RadixTable {
    /// An empty tree for `address_bits`-bit addresses in granules of `1 << granule_shift` bytes, whose tables below the
    /// root take their memory from `budget`.
    ///
    /// All methods must be called with guards of `epoch`; they panic otherwise.
    ///
    /// # Errors
    /// When the granule is smaller than 4 KiB or larger than 1 GiB.
    pub fn new(
        epoch: &Epoch,
        granule_shift: u32,
        address_bits: u32,
        budget: &Budget,
    ) -> Result<Self, BadGranule> {
        if !(MIN_GRANULE_SHIFT..=MAX_GRANULE_SHIFT).contains(&granule_shift) {
            return Err(BadGranule { shift: granule_shift });
        }
        let geometry = Geometry::new(granule_shift, address_bits);
        budget.take_regardless(NODE_BYTES);
        Ok(Self {
            root: Node::new(),
            geometry,
            epoch: epoch.clone(),
            budget: budget.clone(),
            nodes: CachePadded::new(AtomicU64::new(1)),
            objects: CachePadded::new(AtomicU64::new(0)),
            sweep_at: AtomicU64::new(reclaim::SWEEP_FLOOR),
            sweeping: AtomicBool::new(false),
            emptied: AtomicBool::new(false),
            root_charged: AtomicBool::new(true),
            #[cfg(all(test, not(any(loom, shuttle))))]
            visits: AtomicU64::new(0),
        })
    }

    #[inline(always)]
    fn check(&self, guard: &Guard<'_>) {
        assert!(
            guard.belongs_to(&self.epoch),
            "a guard of another device's participants protects nothing here"
        );
    }
}

impl MappingTable for RadixTable {
    fn map(&self, guard: &Guard<'_>, mapping: &Mapping) -> Result<(), MapError> {
        self.check(guard);
        self.map_range(guard, mapping)
    }

    fn unmap(&self, guard: &Guard<'_>, range: IovaRange) -> Result<Removed, UnmapError> {
        self.check(guard);
        self.unmap_range(guard, range)
    }

    #[inline(always)]
    fn translate(&self, guard: &Guard<'_>, iova: Iova) -> Option<Translation> {
        self.check(guard);
        let va = iova.0;
        let (_, word, level) = self.descend(guard, va)?;
        match word.entry(guard) {
            Entry::Leaf { offset, perms } => {
                let run_end = self.geometry.slot_end(va, level);
                Some(Translation { gpa: Gpa(va.wrapping_add(offset)), run_end, perms })
            }
            Entry::Shared(object) if object.state() == State::Live => {
                let range = object.range();
                let gpa = Gpa(object.gpa().0.wrapping_add(va - range.start()));
                Some(Translation { gpa, run_end: range.end(), perms: object.perms() })
            }
            Entry::Table(_) | Entry::Shared(_) | Entry::Empty => None,
        }
    }

    #[inline]
    fn prefetch(&self, guard: &Guard<'_>, iova: Iova) {
        self.check(guard);
        self.ask_for(guard, iova.0);
    }

    fn run_at(&self, guard: &Guard<'_>, iova: Iova) -> Option<Mapping> {
        self.check(guard);
        let va = iova.0;
        let (_, word, level) = self.descend(guard, va)?;
        match word.entry(guard) {
            Entry::Leaf { offset, perms } => {
                let start = self.geometry.slot_start(va, level);
                let range = IovaRange::new(start, self.geometry.slot_end(va, level))?;
                Some(Mapping { range, gpa: Gpa(start.wrapping_add(offset)), perms })
            }
            Entry::Shared(object) if object.state() == State::Live => {
                Some(Mapping { range: object.range(), gpa: object.gpa(), perms: object.perms() })
            }
            Entry::Table(_) | Entry::Shared(_) | Entry::Empty => None,
        }
    }

    fn for_each(&self, guard: &Guard<'_>, f: &mut dyn FnMut(Mapping)) {
        self.check(guard);
        let all = IovaRange::new(0, self.geometry.last()).unwrap_or(IovaRange::ALL);
        let mut reported_to = None;
        let Ok(()) = self.walk::<std::convert::Infallible>(guard, all, |at| {
            match at.word.entry(guard) {
                Entry::Table(child) if child.looks_empty() => {}
                Entry::Table(_) => return Ok(Step::Descend),
                Entry::Leaf { offset, perms } => {
                    if let Some(range) = IovaRange::new(at.start, at.end) {
                        f(Mapping { range, gpa: Gpa(at.start.wrapping_add(offset)), perms });
                    }
                }
                Entry::Shared(object) => {
                    let range = object.range();
                    let new = reported_to.is_none_or(|end| range.start() > end);
                    if new && object.state() == State::Live {
                        f(Mapping { range, gpa: object.gpa(), perms: object.perms() });
                        reported_to = Some(range.end());
                    }
                }
                Entry::Empty => {}
            }
            Ok(Step::Past(at.end))
        });
    }

    fn table_bytes(&self) -> u64 {
        self.bytes()
    }
}

impl Drop for RadixTable {
    fn drop(&mut self) {
        drop_below(&self.root, &mut std::ptr::null());
        self.budget.give(self.nodes.load(Ordering::Relaxed) * NODE_BYTES);
    }
}

/// Frees what `node` points to. The slots of one object follow one another, so an object is freed at the first of them
/// and only its address is looked at after that.
fn drop_below(node: &Node, freed: &mut *const Shared) {
    for slot in node.slots() {
        let word: Word = slot.load();
        if word.is_table() {
            // SAFETY: `&mut` on the table: no operation runs. Linked nodes come from `Box::into_raw` and are linked
            // once; unlinked ones belong to the participants' bags.
            let child = unsafe { Box::from_raw(word.node_ptr().cast_mut()) };
            drop_below(&child, freed);
        } else if word.is_shared() && word.shared_ptr() != *freed {
            *freed = word.shared_ptr();
            // SAFETY: no operation runs, so only live objects are left in slots, and mappings do not overlap: this is
            // the first slot of an object that came from `Box::into_raw`.
            drop(unsafe { Box::from_raw(freed.cast_mut()) });
        }
    }
}
