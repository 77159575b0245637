//! Participants, guards and the wait for them.

use std::{
    cell::{Cell, RefCell},
    sync::{Arc, Mutex, PoisonError},
};

use crossbeam_utils::CachePadded;
use thiserror::Error;

use super::Fences;
use crate::sync::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence, spin_loop, yield_now};

/// Most participants one device can have; a scan of all of them is part of every grace period.
const MAX_PARTICIPANTS: usize = if cfg!(any(loom, shuttle)) { 4 } else { 256 };
/// Retired objects that make a participant look whether it can free some.
const COLLECT_AT: usize = 64;
/// What an unpinned slot holds; pinned ones hold `epoch << 1 | 1`.
const QUIESCENT: u64 = 0;

/// An object that was unlinked and must outlive every guard that may have found it.
pub trait Retire: Send {
    /// Called once no guard can reach the object any more. Frees it, unless it has a better use.
    fn reclaim(self: Box<Self>) {}
}

/// A retired object on its way.
pub type Retired = Box<dyn Retire>;

/// Reclaims all of a list, keeping its memory. The list is not borrowed while an object is reclaimed: that may run any
/// code.
fn reclaim(list: &RefCell<Vec<Retired>>) {
    let mut all = list.take();
    all.drain(..).for_each(Retire::reclaim);
    let mut list = list.borrow_mut();
    if list.is_empty() {
        *list = all;
    }
}

struct Slot {
    pin: AtomicU64,
    claimed: AtomicBool,
}

struct Shared {
    epoch: CachePadded<AtomicU64>,
    /// Slots `0..used` have been claimed at some time.
    used: AtomicUsize,
    registered: AtomicUsize,
    slots: Box<[Arc<CachePadded<Slot>>]>,
    fences: Fences,
    /// What participants that went away had retired and could not free.
    orphans: Mutex<Vec<Retired>>,
    /// Whether there are any.
    orphaned: AtomicBool,
}

/// The participants of one device.
#[derive(Clone)]
pub struct Epoch(Arc<Shared>);

/// No slot is left for another participant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("no more than {MAX_PARTICIPANTS} threads can take part in one device's grace periods")]
pub struct TooManyParticipants;

/// A participant did not leave its guard in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("participant {participant} has not left its guard; the grace period was given up")]
pub struct Stuck {
    /// Number of the participant, as [`Participant::number`] gives it.
    pub participant: usize,
}

/// How long a grace period is waited for before [`Stuck`] is reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// Busy turns first.
    pub spins: u32,
    /// Then turns that yield the CPU.
    pub yields: u32,
    /// Then naps of 100 µs.
    pub naps: u32,
}

impl Default for Patience {
    /// About two seconds.
    fn default() -> Self {
        Self { spins: 200, yields: 2_000, naps: 20_000 }
    }
}

impl Epoch {
    /// An empty set of participants. Asymmetric fences fall back to symmetric where the kernel lacks them.
    pub fn new(fences: Fences) -> Self {
        let slot =
            || CachePadded::new(Slot { pin: AtomicU64::new(QUIESCENT), claimed: AtomicBool::new(false) });
        Self(Arc::new(Shared {
            epoch: CachePadded::new(AtomicU64::new(1)),
            used: AtomicUsize::new(0),
            registered: AtomicUsize::new(0),
            slots: (0..MAX_PARTICIPANTS).map(|_| Arc::new(slot())).collect(),
            fences: fences.checked(),
            orphans: Mutex::new(Vec::new()),
            orphaned: AtomicBool::new(false),
        }))
    }

    /// The kind of fences in use.
    pub fn fences(&self) -> Fences {
        self.0.fences
    }

    /// Adds a participant.
    ///
    /// # Errors
    /// When all slots are taken.
    pub fn register(&self) -> Result<Participant, TooManyParticipants> {
        let shared = &self.0;
        let number = shared
            .slots
            .iter()
            // AcqRel pairs with the Release in `Participant::drop`: the slot's former owner is done with it.
            .position(|slot| {
                slot.claimed.compare_exchange(false, true, Ordering::AcqRel, Ordering::Relaxed).is_ok()
            })
            .ok_or(TooManyParticipants)?;
        shared.used.fetch_max(number + 1, Ordering::AcqRel);
        shared.registered.fetch_add(1, Ordering::AcqRel);
        // Pairs with the fence in `wait`: either that sees us registered, or our first pin sees its removals.
        fence(Ordering::SeqCst);
        Ok(Participant {
            slot: shared.slots[number].clone(),
            fences: shared.fences,
            shared: shared.clone(),
            number,
            depth: Cell::new(0),
            retired: RefCell::new(Vec::new()),
            laden: Cell::new(false),
            sealed: RefCell::new(Vec::new()),
            sealed_at: Cell::new(0),
        })
    }
}

/// One thread's part in grace periods. It may move between threads but is used by one at a time.
pub struct Participant {
    shared: Arc<Shared>,
    /// Its slot and the kind of fences again, so that a pin does not look for them.
    slot: Arc<CachePadded<Slot>>,
    fences: Fences,
    number: usize,
    /// Live guards.
    pub(super) depth: Cell<u32>,
    retired: RefCell<Vec<Retired>>,
    /// Whether enough has been retired to look if it can be freed: all that a guard's end has to look at.
    laden: Cell<bool>,
    /// What was retired before the epoch named became current.
    sealed: RefCell<Vec<Retired>>,
    sealed_at: Cell<u64>,
}

impl Participant {
    /// Its number, unique among the live participants of a device.
    pub fn number(&self) -> usize {
        self.number
    }

    /// Pins the caller: nothing it finds from here on goes away until the guard is dropped. Guards nest.
    ///
    /// # Panics
    /// When `u32::MAX` guards of this participant are live: guards that were forgotten count for ever.
    #[inline(always)]
    pub fn pin(&self) -> Guard<'_> {
        let depth = self.depth.get();
        if depth == 0 {
            self.depth.set(1);
            // Acquire pairs with the AcqRel increment in `wait`: a guard of the new epoch sees what was removed
            // before the epoch began.
            let epoch = self.shared.epoch.load(Ordering::Acquire);
            // Release pairs with the Acquire in `has_passed`: this store replaces the one of the previous guard's end,
            // and a scan that sees only this one must still have that guard's accesses behind it. The order of the store
            // before this guard's own loads comes from the fence, which pairs with `Fences::heavy` in `wait`.
            self.slot.pin.store(epoch << 1 | 1, Ordering::Release);
            self.fences.light();
        } else {
            // A count that wrapped to 0 would let the next guard replace the pin of those that are live.
            self.depth.set(depth.checked_add(1).expect("too many live guards of one participant"));
        }
        Guard { participant: self }
    }

    /// Whether this participant holds a guard.
    pub fn is_pinned(&self) -> bool {
        self.depth.get() != 0
    }

    /// Waits for a grace period: when it returns `Ok`, every guard of another participant that was live when it was
    /// called has been dropped. Frees what this participant had retired.
    ///
    /// # Errors
    /// [`Stuck`] when a guard outlives `patience`; nothing is freed then.
    ///
    /// # Panics
    /// When this participant is itself pinned, which would be waiting for oneself.
    pub fn synchronize(&self, patience: Patience) -> Result<(), Stuck> {
        assert!(!self.is_pinned(), "a participant that waits for a grace period must not hold a guard");
        self.adopt();
        self.wait(|shared, target| {
            (0..shared.used.load(Ordering::Acquire))
                .filter(|&number| number != self.number)
                .try_for_each(|number| shared.wait_for(number, target, patience))
        })?;
        reclaim(&self.retired);
        reclaim(&self.sealed);
        self.laden.set(false);
        Ok(())
    }

    /// Starts a new epoch and lets `wait` look at who is still in an older one; skipped when nobody else is there.
    fn wait(&self, wait: impl FnOnce(&Shared, u64) -> Result<(), Stuck>) -> Result<(), Stuck> {
        let shared = &*self.shared;
        // Pairs with the fence in `register`.
        fence(Ordering::SeqCst);
        if shared.registered.load(Ordering::Acquire) == 1 {
            return Ok(());
        }
        shared.fences.heavy();
        let target = shared.epoch.fetch_add(1, Ordering::AcqRel) + 1;
        wait(shared, target)
    }

    /// Takes over what participants that went away have left: it was unlinked before this participant's next fence.
    fn adopt(&self) {
        let orphaned = &self.shared.orphaned;
        if orphaned.load(Ordering::Relaxed) && orphaned.swap(false, Ordering::Relaxed) {
            // No atomic operation while the lock is held: under a model checker those switch threads, the lock does not.
            let mut orphans = self.shared.orphans.lock().unwrap_or_else(PoisonError::into_inner);
            self.retired.borrow_mut().append(&mut orphans);
        }
    }

    /// Frees what can be freed without waiting. Called by [`Guard::retire`]'s owner when enough has piled up.
    fn collect(&self) {
        let shared = &*self.shared;
        if self.sealed.borrow().is_empty() {
            self.adopt();
            self.sealed.borrow_mut().append(&mut self.retired.borrow_mut());
            // Pairs with `Fences::light` in `pin`, once for the batch: a guard this scan or a later one does not
            // find in an older epoch has seen that the batch is unlinked.
            shared.fences.heavy();
            self.sealed_at.set(shared.epoch.fetch_add(1, Ordering::AcqRel) + 1);
        }
        let target = self.sealed_at.get();
        let others = (0..shared.used.load(Ordering::Acquire)).filter(|&number| number != self.number);
        if others.into_iter().all(|number| shared.has_passed(number, target)) {
            reclaim(&self.sealed);
        }
        self.laden.set(self.retired.borrow().len() >= COLLECT_AT);
    }

    #[cfg(all(test, loom))]
    pub(crate) fn collect_for_model(&self) {
        self.collect();
    }

    /// Number of objects retired and not yet freed.
    pub fn pending(&self) -> usize {
        self.retired.borrow().len() + self.sealed.borrow().len()
    }
}

impl Shared {
    fn has_passed(&self, number: usize, target: u64) -> bool {
        // Acquire pairs with the Release stores in `Guard::drop` and `Participant::pin`: what earlier guards of this
        // participant accessed happens before what follows.
        let pin = self.slots[number].pin.load(Ordering::Acquire);
        pin == QUIESCENT || pin >> 1 >= target
    }

    fn wait_for(&self, number: usize, target: u64, patience: Patience) -> Result<(), Stuck> {
        for _ in 0..patience.spins {
            if self.has_passed(number, target) {
                return Ok(());
            }
            spin_loop();
        }
        for _ in 0..patience.yields {
            if self.has_passed(number, target) {
                return Ok(());
            }
            yield_now();
        }
        for _ in 0..patience.naps {
            if self.has_passed(number, target) {
                return Ok(());
            }
            std::thread::sleep(std::time::Duration::from_micros(100));
        }
        Err(Stuck { participant: number })
    }
}

impl Drop for Participant {
    fn drop(&mut self) {
        // What was sealed before, then the rest.
        for _ in 0..2 {
            if self.pending() != 0 {
                self.collect();
            }
        }
        let mut left = std::mem::take(self.retired.get_mut());
        left.append(self.sealed.get_mut());
        if !left.is_empty() {
            self.shared.orphans.lock().unwrap_or_else(PoisonError::into_inner).append(&mut left);
            // Relaxed: the list itself is behind the lock; who misses the flag comes back.
            self.shared.orphaned.store(true, Ordering::Relaxed);
        }
        // A guard that was forgotten has left its pin; with the participant goes all that could be used under it. Release as
        // in `Guard::drop`.
        self.slot.pin.store(QUIESCENT, Ordering::Release);
        self.shared.registered.fetch_sub(1, Ordering::AcqRel);
        // Release pairs with the claim in `register`.
        self.slot.claimed.store(false, Ordering::Release);
    }
}

/// Keeps what its holder found valid; see [`Participant::pin`].
pub struct Guard<'p> {
    participant: &'p Participant,
}

impl Guard<'_> {
    /// Whether the guard belongs to a participant of `epoch`.
    #[inline(always)]
    pub fn belongs_to(&self, epoch: &Epoch) -> bool {
        Arc::ptr_eq(&self.participant.shared, &epoch.0)
    }

    /// Hands over an object that has been unlinked from every shared place: it is reclaimed once no guard that could
    /// have found it is live.
    pub fn retire(&self, object: Retired) {
        let mut retired = self.participant.retired.borrow_mut();
        retired.push(object);
        self.participant.laden.set(retired.len() >= COLLECT_AT);
    }
}

impl Drop for Guard<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        let participant = self.participant;
        let depth = participant.depth.get() - 1;
        participant.depth.set(depth);
        if depth == 0 {
            // Release pairs with the Acquire in `has_passed`.
            participant.slot.pin.store(QUIESCENT, Ordering::Release);
            if participant.laden.get() {
                participant.collect();
            }
        }
    }
}
