//! Models of guards and grace periods around an object whose accesses loom tracks: an access that is not ordered with
//! another thread's by happens-before fails the model, even where its value would be right.

use std::sync::Arc;

use ::loom::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use super::*;
use crate::loom_model::{Tracked, model};

const PATIENCE: Patience = Patience { spins: 0, yields: 1_000, naps: 0 };
const BOTH: [Fences; 2] = [Fences::Symmetric, Fences::Asymmetric];

/// An object, and whether it can be found.
struct World {
    linked: AtomicBool,
    object: Tracked,
}

impl World {
    fn new() -> Arc<Self> {
        Arc::new(Self { linked: AtomicBool::new(true), object: Tracked::new(1) })
    }

    /// One access under a guard, if the object is found. Relaxed: nothing but the guard orders it.
    fn access(&self, me: &Participant) {
        let _guard = me.pin();
        if self.linked.load(Ordering::Relaxed) {
            assert_eq!(self.object.read(), 1, "used after its grace period");
        }
    }

    fn unlink(&self) {
        self.linked.store(false, Ordering::Relaxed);
    }

    fn reuse(&self) {
        self.object.write(2);
    }
}

/// A reader of `guards` guards and an unmapper that reuses the object after a grace period.
fn reuse_after_grace(fences: Fences, guards: usize) {
    model(move || {
        let epoch = Epoch::new(fences);
        let (me, other) = (epoch.register().unwrap(), epoch.register().unwrap());
        let world = World::new();
        let reader = {
            let world = world.clone();
            thread::spawn(move || (0..guards).for_each(|_| world.access(&other)))
        };
        world.unlink();
        me.synchronize(PATIENCE).unwrap();
        world.reuse();
        reader.join().unwrap();
    });
}

/// The grace period ends by the end of the guard, because there is none, or because the reader has gone, and with it the
/// last other participant.
#[test]
fn a_guards_accesses_happen_before_the_end_of_the_grace_period() {
    BOTH.into_iter().for_each(|fences| reuse_after_grace(fences, 1));
}

/// The grace period may end by a later pin of the reader, which has replaced the end of the guard that read.
#[test]
fn a_later_pin_carries_what_earlier_guards_accessed() {
    BOTH.into_iter().for_each(|fences| reuse_after_grace(fences, 2));
}

/// The grace period may be skipped: a reader that registers now sees what was removed.
#[test]
fn a_participant_that_comes_sees_what_was_removed_before() {
    for fences in BOTH {
        model(move || {
            let epoch = Epoch::new(fences);
            let me = epoch.register().unwrap();
            let world = World::new();
            let reader = {
                let (world, epoch) = (world.clone(), epoch.clone());
                thread::spawn(move || world.access(&epoch.register().unwrap()))
            };
            world.unlink();
            me.synchronize(PATIENCE).unwrap();
            world.reuse();
            reader.join().unwrap();
        });
    }
}

/// Writes to the object when it is reclaimed, as an allocator does with freed memory.
struct Freed(Arc<World>);

impl Retire for Freed {
    fn reclaim(self: Box<Self>) {
        self.0.reuse();
    }
}

/// The same without a wait: what was retired is reclaimed once a scan finds no guard that may hold it.
#[test]
fn what_is_reclaimed_without_waiting_is_no_longer_accessed() {
    for fences in BOTH {
        model(move || {
            let epoch = Epoch::new(fences);
            let (me, other) = (epoch.register().unwrap(), epoch.register().unwrap());
            let world = World::new();
            let reader = {
                let world = world.clone();
                thread::spawn(move || (0..2).for_each(|_| world.access(&other)))
            };
            let guard = me.pin();
            world.unlink();
            guard.retire(Box::new(Freed(world.clone())));
            drop(guard);
            me.collect_for_model();
            // A second scan, of what the first one may have left, with no fence of its own.
            me.collect_for_model();
            reader.join().unwrap();
        });
    }
}

/// What a participant that goes has retired is reclaimed by another one.
#[test]
fn what_is_left_behind_is_reclaimed_after_the_guards_of_all_others() {
    for fences in BOTH {
        model(move || {
            let epoch = Epoch::new(fences);
            let (me, other) = (epoch.register().unwrap(), epoch.register().unwrap());
            let world = World::new();
            let leaver = {
                let world = world.clone();
                thread::spawn(move || {
                    world.access(&other);
                    world.unlink();
                    other.pin().retire(Box::new(Freed(world.clone())));
                    drop(other);
                })
            };
            world.access(&me);
            me.synchronize(PATIENCE).unwrap();
            leaver.join().unwrap();
        });
    }
}
