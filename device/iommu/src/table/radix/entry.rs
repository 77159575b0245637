//! One 64-bit table entry: nothing, a table one level down, a mapping of exactly this slot, or a part of a larger one.
//!
//! ```text
//!  63                                    12 11  8   7    6   5   4       3       2     1     0
//! +----------------------------------------+------+----+---+---+-----+--------+------+----+-----+
//! | leaf: GPA - IOVA, in 4 KiB units        |  0   |MMIO| W | R |  0  | FROZEN |  0   |  1 |  0  |
//! | table: address (64-byte aligned)                |    0   |  0  |   0    |  0   |  0 |  1  |
//! | frozen table: address                           |    0   |  1  |   1    |  0   |  0 |  0  |
//! | shared: address (64-byte aligned)               |    0   |  0  | FROZEN |  1   |  0 |  0  |
//! +-------------------------------------------------+--------+-----+--------+------+----+-----+
//! ```
//!
//! A bit for each kind, so that a walk tests one bit a level; a table has another one once it is frozen, so that the
//! bit alone says what there is to take off the address.
//!
//! The leaf holds an offset, not an address, so any physical alignment fits a leaf at any level.

use super::{node::Node, shared::Shared};
use crate::{epoch::Guard, table::Perms};

const TABLE: u64 = 1 << 0;
const LEAF: u64 = 1 << 1;
const SHARED: u64 = 1 << 2;
const FROZEN_TABLE: u64 = 1 << 4;
const TAG: u64 = TABLE | LEAF | SHARED | FROZEN_TABLE;
/// The table that holds the entry is being replaced; nobody may change the entry any more.
const FROZEN: u64 = 1 << 3;
const READ: u64 = 1 << 5;
const WRITE: u64 = 1 << 6;
const MMIO: u64 = 1 << 7;
const POINTER: u64 = !0x3f;
/// Low bits of an address that a leaf cannot hold: the smallest granule is 4 KiB.
const OFFSET: u64 = !0xfff;

/// The raw entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub(super) struct Word(pub(super) u64);

/// The entry, understood.
pub(super) enum Entry<'g> {
    /// Nothing is mapped here.
    Empty,
    /// A table one level down.
    Table(&'g Node),
    /// A mapping of exactly this slot.
    Leaf { offset: u64, perms: Perms },
    /// A part of a mapping of several slots.
    Shared(&'g Shared),
}

impl Word {
    pub(super) const EMPTY: Self = Self(0);

    pub(super) fn leaf(iova: u64, gpa: u64, perms: Perms) -> Self {
        let offset = gpa.wrapping_sub(iova) & OFFSET;
        let bit = |on: bool, mask: u64| if on { mask } else { 0 };
        Self(offset | LEAF | bit(perms.read, READ) | bit(perms.write, WRITE) | bit(perms.mmio, MMIO))
    }

    pub(super) fn table(node: *const Node) -> Self {
        Self(node.expose_provenance() as u64 | TABLE)
    }

    pub(super) fn shared(mapping: *const Shared) -> Self {
        Self(mapping.expose_provenance() as u64 | SHARED)
    }

    #[inline(always)]
    pub(super) fn is_empty(self) -> bool {
        self.0 & TAG == 0
    }

    #[inline(always)]
    pub(super) fn is_leaf(self) -> bool {
        self.0 & LEAF != 0
    }

    #[inline(always)]
    pub(super) fn is_table(self) -> bool {
        self.0 & (TABLE | FROZEN_TABLE) != 0
    }

    #[inline(always)]
    pub(super) fn is_shared(self) -> bool {
        self.0 & SHARED != 0
    }

    #[inline(always)]
    pub(super) fn is_frozen(self) -> bool {
        self.0 & FROZEN != 0
    }

    pub(super) fn frozen(self) -> Self {
        let word = self.0 | FROZEN;
        Self(if word & TABLE == 0 { word } else { word ^ (TABLE | FROZEN_TABLE) })
    }

    pub(super) fn thawed(self) -> Self {
        let word = self.0 & !FROZEN;
        Self(if word & FROZEN_TABLE == 0 { word } else { word ^ (TABLE | FROZEN_TABLE) })
    }

    #[inline(always)]
    pub(super) fn node_ptr(self) -> *const Node {
        std::ptr::with_exposed_provenance((self.0 & POINTER) as usize)
    }

    #[inline(always)]
    pub(super) fn shared_ptr(self) -> *const Shared {
        std::ptr::with_exposed_provenance((self.0 & POINTER) as usize)
    }

    /// The table one level down, if the word is that of a table which is not frozen: the way all walks take.
    #[inline(always)]
    pub(super) fn plain_table<'g>(self, _guard: &'g Guard<'_>) -> Option<&'g Node> {
        if self.0 & TABLE == 0 {
            return None;
        }
        // No mask: the subtraction becomes part of the address of the next load.
        let node = std::ptr::with_exposed_provenance::<Node>((self.0 - TABLE) as usize);
        // SAFETY: as in `entry`.
        Some(unsafe { &*node })
    }

    /// What the entry says. The guard must have been live when the word was loaded.
    #[inline(always)]
    pub(super) fn entry<'g>(self, _guard: &'g Guard<'_>) -> Entry<'g> {
        // Leaves first: they are what look-ups end at.
        if self.is_leaf() {
            Entry::Leaf { offset: self.0 & OFFSET, perms: self.perms() }
        } else if self.is_table() {
            // SAFETY: a table word is the address of a node that was linked when the word was loaded; unlinked nodes
            // are retired through a guard, so this one lives at least as long as the guard.
            Entry::Table(unsafe { &*self.node_ptr() })
        } else if self.is_shared() {
            // SAFETY: as for tables: shared mappings are retired after their last entry is cleared.
            Entry::Shared(unsafe { &*self.shared_ptr() })
        } else {
            Entry::Empty
        }
    }

    #[inline(always)]
    fn perms(self) -> Perms {
        Perms { read: self.0 & READ != 0, write: self.0 & WRITE != 0, mmio: self.0 & MMIO != 0 }
    }
}
