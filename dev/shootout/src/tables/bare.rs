//! The bound: a radix tree that does nothing but walk and swap.
//!
//! Four levels of nine bits, one compare-and-swap from empty to map, one swap to empty to unmap. No ranges, no grace
//! period, no check that a guard is the right one, and tables are freed only with the whole tree.

#![allow(
    unsafe_code,
    reason = "entries above the leaves are pointers to tables, which live as long as the tree"
)]

use std::sync::atomic::{AtomicU64, Ordering};

use super::PageMap;

const BITS: u32 = 9;
const FAN_OUT: usize = 1 << BITS;
const LEVELS: u32 = 4;

#[repr(C, align(64))]
struct Node([AtomicU64; FAN_OUT]);

impl Node {
    fn new() -> Box<Self> {
        // SAFETY: an array of `AtomicU64`, for which all-zero bytes are valid.
        unsafe { Box::<Self>::new_zeroed().assume_init() }
    }

    #[inline(always)]
    fn slot(&self, page: u64, level: u32) -> &AtomicU64 {
        &self.0[(page >> (BITS * level)) as usize & (FAN_OUT - 1)]
    }
}

/// Pages in a bare radix tree: one compare-and-swap to map, one swap to unmap, nothing else.
pub struct BarePages {
    root: Box<Node>,
    nodes: AtomicU64,
}

impl Default for BarePages {
    fn default() -> Self {
        Self { root: Node::new(), nodes: AtomicU64::new(1) }
    }
}

/// The table that an entry above the leaves points to.
#[inline(always)]
fn child(_tree: &BarePages, word: u64) -> Option<&Node> {
    let node = std::ptr::with_exposed_provenance::<Node>(word as usize);
    // SAFETY: null, or the address of a node that was linked by `grow` (Release, Acquire here) and is freed with the
    // tree, which the caller borrows.
    unsafe { node.as_ref() }
}

impl BarePages {
    /// The slot of a page, where tables lead down to it.
    #[inline(always)]
    fn leaf(&self, page: u64) -> Option<&AtomicU64> {
        let mut node = &*self.root;
        for level in (1..LEVELS).rev() {
            // Acquire pairs with the Release in `grow`.
            node = child(self, node.slot(page, level).load(Ordering::Acquire))?;
        }
        Some(node.slot(page, 0))
    }

    /// The slot of a page, with tables added where they are missing.
    #[cold]
    fn grow(&self, page: u64) -> &AtomicU64 {
        let mut node = &*self.root;
        for level in (1..LEVELS).rev() {
            let slot = node.slot(page, level);
            node = loop {
                if let Some(next) = child(self, slot.load(Ordering::Acquire)) {
                    break next;
                }
                let new = Box::into_raw(Node::new());
                let word = new.expose_provenance() as u64;
                // Release: the node's zeroes come before its address.
                if slot.compare_exchange(0, word, Ordering::Release, Ordering::Relaxed).is_ok() {
                    self.nodes.fetch_add(1, Ordering::Relaxed);
                } else {
                    // SAFETY: from `Box::into_raw` above, and not published.
                    drop(unsafe { Box::from_raw(new) });
                }
            };
        }
        node.slot(page, 0)
    }
}

impl PageMap for BarePages {
    const NAME: &'static str = "bare radix (bound)";

    #[inline]
    fn insert(&self, page: u64, word: u64) -> bool {
        let slot = self.leaf(page).unwrap_or_else(|| self.grow(page));
        slot.compare_exchange(0, word, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    #[inline]
    fn remove(&self, page: u64) -> bool {
        self.leaf(page).is_some_and(|slot| slot.swap(0, Ordering::AcqRel) != 0)
    }

    #[inline]
    fn get(&self, page: u64) -> Option<u64> {
        let word = self.leaf(page)?.load(Ordering::Acquire);
        (word != 0).then_some(word)
    }

    fn pages(&self) -> Vec<(u64, u64)> {
        let mut found = Vec::new();
        collect(self, &self.root, LEVELS - 1, 0, &mut found);
        found
    }

    fn bytes(&self) -> u64 {
        self.nodes.load(Ordering::Relaxed) * size_of::<Node>() as u64
    }
}

fn collect(tree: &BarePages, node: &Node, level: u32, base: u64, found: &mut Vec<(u64, u64)>) {
    for (index, slot) in node.0.iter().enumerate() {
        let (word, page) = (slot.load(Ordering::Acquire), base | (index as u64) << (BITS * level));
        if level == 0 && word != 0 {
            found.push((page, word));
        } else if level != 0
            && let Some(below) = child(tree, word)
        {
            collect(tree, below, level - 1, page, found);
        }
    }
}

impl Drop for BarePages {
    fn drop(&mut self) {
        free_below(&self.root, LEVELS - 1);
    }
}

fn free_below(node: &Node, level: u32) {
    for slot in node.0.iter().filter(|_| level != 0) {
        let below = std::ptr::with_exposed_provenance_mut::<Node>(slot.load(Ordering::Relaxed) as usize);
        if !below.is_null() {
            // SAFETY: the tree is being dropped, nobody else has it; linked nodes come from `Box::into_raw` and are
            // linked once.
            let below = unsafe { Box::from_raw(below) };
            free_below(&below, level - 1);
        }
    }
}
