//! Guards, grace periods, and what becomes of retired objects.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use super::*;

const SHORT: Patience = Patience { spins: 1, yields: 1, naps: 0 };

/// Counts itself while it lives.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(live: &Arc<AtomicUsize>) -> Box<Self> {
        live.fetch_add(1, Ordering::Relaxed);
        Box::new(Self(live.clone()))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Retire for Counted {}

#[test]
fn a_grace_period_waits_for_guards_that_were_live_and_no_others() {
    for fences in [Fences::Symmetric, Fences::best()] {
        let epoch = Epoch::new(fences);
        let (reader, unmapper) = (epoch.register().unwrap(), epoch.register().unwrap());
        assert_eq!(unmapper.synchronize(SHORT), Ok(()));
        let outer = reader.pin();
        let inner = reader.pin();
        drop(outer);
        assert_eq!(unmapper.synchronize(SHORT), Err(Stuck { participant: reader.number() }));
        drop(inner);
        assert_eq!(unmapper.synchronize(SHORT), Ok(()));
        let _own = reader.pin();
        assert_eq!(unmapper.synchronize(SHORT), Err(Stuck { participant: reader.number() }));
    }
}

#[test]
#[should_panic(expected = "must not hold a guard")]
fn nobody_waits_for_himself() {
    let epoch = Epoch::new(Fences::Symmetric);
    let me = epoch.register().unwrap();
    let _guard = me.pin();
    let _ = me.synchronize(SHORT);
}

#[test]
fn retired_objects_outlive_guards_and_nothing_else() {
    let live = Arc::new(AtomicUsize::new(0));
    let epoch = Epoch::new(Fences::Symmetric);
    let (reader, writer) = (epoch.register().unwrap(), epoch.register().unwrap());
    let guard = reader.pin();
    for _ in 0..1_000 {
        writer.pin().retire(Counted::new(&live));
    }
    assert_eq!(live.load(Ordering::Relaxed), 1_000, "a guard is live");
    drop(guard);
    for _ in 0..1_000 {
        writer.pin().retire(Counted::new(&live));
        assert!(live.load(Ordering::Relaxed) <= 1_200, "collected without anybody waiting");
    }
    writer.synchronize(SHORT).unwrap();
    assert_eq!(live.load(Ordering::Relaxed), 0);
}

#[test]
fn what_a_participant_leaves_behind_is_freed_by_the_next() {
    let live = Arc::new(AtomicUsize::new(0));
    let epoch = Epoch::new(Fences::Symmetric);
    let reader = epoch.register().unwrap();
    for _ in 0..10_000 {
        let worker = epoch.register().unwrap();
        worker.pin().retire(Counted::new(&live));
    }
    assert_eq!(live.load(Ordering::Relaxed), 0, "nobody was pinned when they left");
    let guard = reader.pin();
    for _ in 0..100 {
        let worker = epoch.register().unwrap();
        worker.pin().retire(Counted::new(&live));
    }
    assert_eq!(live.load(Ordering::Relaxed), 100);
    drop(guard);
    reader.synchronize(SHORT).unwrap();
    assert_eq!(live.load(Ordering::Relaxed), 0);
}

#[test]
fn slots_are_given_back() {
    let epoch = Epoch::new(Fences::Symmetric);
    let all: Vec<_> = (0..256).map(|_| epoch.register().unwrap()).collect();
    assert_eq!(epoch.register().err(), Some(TooManyParticipants));
    drop(all);
    assert!(epoch.register().is_ok());
}

#[test]
#[should_panic(expected = "too many live guards")]
fn the_number_of_live_guards_is_checked() {
    let epoch = Epoch::new(Fences::Symmetric);
    let me = epoch.register().unwrap();
    let _guard = std::mem::ManuallyDrop::new(me.pin());
    // As if all others had been forgotten.
    me.depth.set(u32::MAX - 1);
    let _last = std::mem::ManuallyDrop::new(me.pin());
    let _ = std::mem::ManuallyDrop::new(me.pin());
}

#[test]
fn guards_nest_to_any_depth_below_the_limit() {
    let epoch = Epoch::new(Fences::best());
    let (me, unmapper) = (epoch.register().unwrap(), epoch.register().unwrap());
    for depth in [1, 2, 3, 1000] {
        let mut guards: Vec<_> = (0..depth).map(|_| me.pin()).collect();
        while guards.len() > 1 {
            guards.swap_remove(0);
            assert!(me.is_pinned(), "{} of {depth} are live", guards.len());
            assert!(unmapper.synchronize(SHORT).is_err(), "{} of {depth} are live", guards.len());
        }
        drop(guards);
        assert!(!me.is_pinned());
        assert_eq!(unmapper.synchronize(SHORT), Ok(()), "{depth} guards have gone");
    }
}

/// A guard that is forgotten holds grace periods up for as long as its participant lives, and no longer.
#[test]
fn a_forgotten_guard_goes_with_its_participant() {
    let epoch = Epoch::new(Fences::Symmetric);
    let (unmapper, _other) = (epoch.register().unwrap(), epoch.register().unwrap());
    for forgotten in 1..=3 {
        let reader = epoch.register().unwrap();
        (0..forgotten).for_each(|_| std::mem::forget(reader.pin()));
        drop(reader.pin());
        assert_eq!(unmapper.synchronize(SHORT), Err(Stuck { participant: reader.number() }));
        drop(reader);
        assert_eq!(unmapper.synchronize(SHORT), Ok(()), "{forgotten} forgotten guards");
    }
}

/// The kernel's barrier itself, which the models replace by a stand-in.
#[cfg(all(target_os = "linux", not(miri)))]
#[test]
fn each_asymmetric_grace_period_and_each_batch_of_retired_objects_has_a_barrier() {
    let barriers = || super::fences::BARRIERS.get();
    let epoch = Epoch::new(Fences::Asymmetric);
    if epoch.fences() == Fences::Symmetric {
        iommu_equipment::missing(
            iommu_equipment::Equipment::Optional,
            "the kernel offers no private expedited membarrier(2)",
        );
        return;
    }
    let (me, _other) = (epoch.register().unwrap(), epoch.register().unwrap());
    for count in 1..=3 {
        me.synchronize(SHORT).unwrap();
        assert_eq!(barriers(), count);
    }
    let live = Arc::new(AtomicUsize::new(0));
    for _ in 0..64 {
        me.pin().retire(Counted::new(&live));
    }
    assert_eq!((barriers(), live.load(Ordering::Relaxed)), (4, 0), "collected without a wait");
}
