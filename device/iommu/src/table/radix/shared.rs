//! A mapping of several slots: every slot points to one object, whose state makes all of them appear or disappear at
//! once.

use virtio_iommu_spec::{Gpa, IovaRange};

use crate::{
    epoch::Retire,
    sync::{AtomicU64, Ordering},
    table::Perms,
};

/// Memory of one object, in bytes.
pub(super) const SHARED_BYTES: u64 = 64;

/// Where a mapping is in its life. It only moves down this list: `Pending` to any other, `Live` to `Dead`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub(super) enum State {
    /// Slots are being taken; not mapped yet.
    Pending = 0,
    /// All slots are taken; mapped.
    Live = 1,
    /// Unmapped; slots are being given back.
    Dead = 2,
    /// Never mapped: something was in the way.
    Overlapped = 3,
    /// Never mapped: no memory for tables.
    Starved = 4,
}

/// The object.
#[repr(C, align(64))]
pub(super) struct Shared {
    state: AtomicU64,
    /// One for the slots, one for each thread that may still put the object into a slot. The last one retires it.
    holders: AtomicU64,
    range: IovaRange,
    gpa: Gpa,
    perms: Perms,
    /// Read with the mapping and written when the object is reclaimed, so that loom sees a use after that.
    #[cfg(all(test, loom))]
    reclaimed: crate::loom_model::Tracked,
}

impl Retire for Shared {
    fn reclaim(self: Box<Self>) {
        spare::keep(self);
    }
}

/// Objects kept for the next MAP, so that a steady load allocates none. One list for the process: objects belong to no
/// table until they are used.
#[cfg(not(any(loom, shuttle)))]
mod spare {
    use std::sync::LazyLock;

    use crossbeam_queue::ArrayQueue;

    use super::Shared;

    /// At most 64 KiB are kept.
    static SPARE: LazyLock<ArrayQueue<Box<Shared>>> = LazyLock::new(|| ArrayQueue::new(1024));

    pub(super) fn take() -> Option<Box<Shared>> {
        SPARE.pop()
    }

    pub(super) fn keep(object: Box<Shared>) {
        // Full: the object is freed.
        let _ = SPARE.push(object);
    }
}

/// Models use no object twice: a use after it was reclaimed must not find another mapping.
#[cfg(any(loom, shuttle))]
mod spare {
    use super::Shared;

    pub(super) fn take() -> Option<Box<Shared>> {
        None
    }

    #[cfg(not(all(test, loom)))]
    pub(super) fn keep(object: Box<Shared>) {
        drop(object);
    }

    /// The memory stays, so that loom can say of a later use what is wrong with it.
    #[cfg(all(test, loom))]
    pub(super) fn keep(object: Box<Shared>) {
        Box::leak(object).reclaimed.write(1);
    }
}

impl Shared {
    /// A pending mapping with two holders: the slots and its creator.
    pub(super) fn new(range: IovaRange, gpa: Gpa, perms: Perms) -> Box<Self> {
        let state = AtomicU64::new(State::Pending as u64);
        let object = Self {
            state,
            holders: AtomicU64::new(2),
            range,
            gpa,
            perms,
            #[cfg(all(test, loom))]
            reclaimed: crate::loom_model::Tracked::new(0),
        };
        match spare::take() {
            Some(mut spare) => {
                *spare = object;
                spare
            }
            None => Box::new(object),
        }
    }

    #[inline(always)]
    pub(super) fn range(&self) -> IovaRange {
        #[cfg(all(test, loom))]
        assert_eq!(self.reclaimed.read(), 0, "used after it was reclaimed");
        self.range
    }

    #[inline(always)]
    pub(super) fn gpa(&self) -> Gpa {
        self.gpa
    }

    #[inline(always)]
    pub(super) fn perms(&self) -> Perms {
        self.perms
    }

    /// Acquire pairs with the AcqRel of [`advance`](Self::advance): who sees the mapping live sees its slots taken.
    #[inline(always)]
    pub(super) fn state(&self) -> State {
        match self.state.load(Ordering::Acquire) {
            0 => State::Pending,
            1 => State::Live,
            2 => State::Dead,
            3 => State::Overlapped,
            _ => State::Starved,
        }
    }

    /// Moves the state on; says whether it still was `from`. This is where a MAP or an UNMAP takes effect.
    pub(super) fn advance(&self, from: State, to: State) -> bool {
        self.state.compare_exchange(from as u64, to as u64, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Becomes a holder, unless the last one has left (then the mapping is dead, or never lived).
    pub(super) fn hold(&self) -> bool {
        let more = |holders: u64| (holders != 0).then(|| holders + 1);
        // Acquire on success pairs with the AcqRel in `leave`.
        self.holders.fetch_update(Ordering::Acquire, Ordering::Relaxed, more).is_ok()
    }

    /// Stops being a holder; `true` for the last one, who retires the object.
    ///
    /// AcqRel: what other holders did to slots happens before the last one retires.
    #[must_use]
    pub(super) fn leave(&self) -> bool {
        self.holders.fetch_sub(1, Ordering::AcqRel) == 1
    }
}
