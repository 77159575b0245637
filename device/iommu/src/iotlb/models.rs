//! Models of the races between a port's fills and an unmapper, on the shipped IOTLB, log, table and guards.

use std::sync::Arc;

use ::loom::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
};
use virtio_iommu_spec::{Gpa, Iova, IovaRange};

use super::*;
use crate::{
    epoch::{Epoch, Fences, Guard, Participant, Patience},
    loom_model::{Tracked, model},
    table::{Budget, MappingTable, RadixTable},
};

const PAGE: u64 = 4096;
const PATIENCE: Patience = Patience { spins: 0, yields: 1_000, naps: 0 };

fn page(number: u64) -> IovaRange {
    IovaRange::with_len(number * PAGE, PAGE).unwrap()
}

/// A table of two pages, its log, whether page `n` has another owner, and the pages' memory.
struct World {
    table: RadixTable,
    log: InvalidationLog,
    reused: [AtomicBool; 2],
    memory: [Tracked; 2],
}

impl World {
    fn new(epoch: &Epoch, me: &Participant) -> Arc<Self> {
        let table = RadixTable::new(epoch, 12, 13, &Budget::new(1 << 20)).unwrap();
        for number in 0..2 {
            let mapping = Mapping { range: page(number), gpa: Gpa((10 + number) * PAGE), perms: Perms::RW };
            table.map(&me.pin(), &mapping).unwrap();
        }
        let reused = [AtomicBool::new(false), AtomicBool::new(false)];
        let memory = [Tracked::new(0), Tracked::new(0)];
        Arc::new(Self { table, log: InvalidationLog::new(), reused, memory })
    }

    /// What a port does for one access; says whether it went to a page that was no longer its own.
    fn access(&self, guard: &Guard<'_>, iotlb: &Iotlb, number: u64) -> bool {
        let iova = number * PAGE;
        let found = iotlb.find(iova).is_some() || {
            iotlb.enter(Some(&self.log));
            match self.table.run_at(guard, Iova(iova)) {
                Some(found) => {
                    iotlb.fill(iova, &found);
                    true
                }
                None => false,
            }
        };
        if found {
            self.memory[number as usize].read();
        }
        found && self.reused[number as usize].load(Ordering::Relaxed)
    }

    /// Two guards of a port, a few accesses each.
    fn port(&self, me: &Participant, accesses: &[u64]) -> u64 {
        let shape = IotlbOptions { entries: 2, ways: 2, page_sizes: PageSizes::SMALL };
        let iotlb = Iotlb::new(&shape).unwrap();
        let mut late = 0;
        for _ in 0..2 {
            let guard = me.pin();
            iotlb.enter(Some(&self.log));
            late += accesses.iter().filter(|number| self.access(&guard, &iotlb, **number)).count() as u64;
        }
        late
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Append {
    BeforeRemoval,
    AfterRemoval,
    Never,
}

/// An owner unmaps its page and gives it away while a port goes on with it; counts accesses that came too late.
fn late_accesses(append: Append, wait: bool) -> u64 {
    let late = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let count = late.clone();
    model(move || {
        let epoch = Epoch::new(Fences::Symmetric);
        let (me, other) = (epoch.register().unwrap(), epoch.register().unwrap());
        let world = World::new(&epoch, &me);
        let port = {
            let (world, late) = (world.clone(), late.clone());
            thread::spawn(move || {
                late.fetch_add(world.port(&other, &[1]), std::sync::atomic::Ordering::Relaxed);
            })
        };
        if append == Append::BeforeRemoval {
            world.log.append(page(1));
        }
        world.table.unmap(&me.pin(), page(1)).unwrap();
        if append == Append::AfterRemoval {
            world.log.append(page(1));
        }
        if wait {
            me.synchronize(PATIENCE).unwrap();
        }
        if append == Append::AfterRemoval && wait {
            // The new owner writes; loom checks that the port's accesses have happened before.
            world.memory[1].write(1);
        }
        world.reused[1].store(true, Ordering::Relaxed);
        port.join().unwrap();
    });
    count.load(std::sync::atomic::Ordering::Relaxed)
}

#[test]
fn no_entry_outlives_the_grace_period_of_its_removal() {
    assert_eq!(late_accesses(Append::AfterRemoval, true), 0);
}

#[test]
fn without_the_append_the_model_above_finds_late_accesses() {
    assert_ne!(late_accesses(Append::Never, true), 0);
}

#[test]
fn with_the_append_before_the_removal_the_model_above_finds_late_accesses() {
    assert_ne!(late_accesses(Append::BeforeRemoval, true), 0);
}

#[test]
fn without_the_grace_period_the_model_above_finds_late_accesses() {
    assert_ne!(late_accesses(Append::AfterRemoval, false), 0);
}

/// Three removals by two unmappers through a log of two records: laps, records left out and torn reads. A port that
/// follows the log never keeps what was removed before it looked.
#[test]
fn a_reader_of_the_log_gets_every_finished_record_or_knows_that_it_did_not() {
    model(|| {
        let log = Arc::new(InvalidationLog::new());
        let finished: Arc<[AtomicBool; 3]> = Arc::new(std::array::from_fn(|_| AtomicBool::new(false)));
        let append = |log: &InvalidationLog, finished: &[AtomicBool; 3], number: usize| {
            log.append(page(number as u64));
            finished[number].store(true, Ordering::Release);
        };
        let unmapper = {
            let (log, finished) = (log.clone(), finished.clone());
            thread::spawn(move || append(&log, &finished, 0))
        };
        let second = {
            let (log, finished) = (log.clone(), finished.clone());
            thread::spawn(move || {
                append(&log, &finished, 1);
                append(&log, &finished, 2);
            })
        };
        let done: Vec<usize> = (0..3).filter(|n| finished[*n].load(Ordering::Acquire)).collect();
        let head = log.head();
        let mut found = Vec::new();
        let read = log.read(0, head, |range| {
            assert_eq!(range.end() - range.start(), PAGE - 1, "halves of two ranges");
            found.push((range.start() / PAGE) as usize);
        });
        if read.is_ok() {
            assert!(done.iter().all(|number| found.contains(number)), "{done:?} but {found:?}");
        }
        unmapper.join().unwrap();
        second.join().unwrap();
    });
}

/// A port that sees neither domain's log change its domain under its feet.
#[test]
fn a_port_that_changes_its_domain_forgets_the_old_one() {
    model(|| {
        let epoch = Epoch::new(Fences::Symmetric);
        let (me, other) = (epoch.register().unwrap(), epoch.register().unwrap());
        let (old, new) = (World::new(&epoch, &me), World::new(&epoch, &me));
        let moved = Arc::new(AtomicBool::new(false));
        let port = {
            let (old, new, moved) = (old.clone(), new.clone(), moved.clone());
            thread::spawn(move || {
                let shape = IotlbOptions { entries: 2, ways: 2, page_sizes: PageSizes::SMALL };
                let iotlb = Iotlb::new(&shape).unwrap();
                for _ in 0..2 {
                    let guard = other.pin();
                    // As an attachment is loaded.
                    let now = if moved.load(Ordering::Acquire) { &new } else { &old };
                    iotlb.enter(Some(&now.log));
                    assert!(!now.access(&guard, &iotlb, 1), "went to a page of the domain it has left");
                }
            })
        };
        moved.store(true, Ordering::Release);
        me.synchronize(PATIENCE).unwrap();
        old.reused[1].store(true, Ordering::Relaxed);
        port.join().unwrap();
    });
}

/// One queue unmaps a page and another one maps it anew; counts accesses after the answer to that MAP that went to the
/// old page. The port's entry was made before. `announce` is what the shipped code does.
fn old_translations_after_a_map(announce: bool) -> u64 {
    let old = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let count = old.clone();
    model(move || {
        let epoch = Epoch::new(Fences::Symmetric);
        let (me, other, port) =
            (epoch.register().unwrap(), epoch.register().unwrap(), epoch.register().unwrap());
        let world = World::new(&epoch, &me);
        let queue = Arc::new(Unfinished::default());
        let shape = IotlbOptions { entries: 2, ways: 2, page_sizes: PageSizes::SMALL };
        let iotlb = Iotlb::new(&shape).unwrap();
        world.access(&port.pin(), &iotlb, 1);
        let unmapper = {
            let (world, queue) = (world.clone(), queue.clone());
            thread::spawn(move || {
                if announce {
                    queue.announce(&world.log, page(1));
                }
                world.table.unmap(&other.pin(), page(1)).unwrap();
                world.log.append(page(1));
                other.synchronize(PATIENCE).unwrap();
                queue.clear();
            })
        };
        let new = Mapping { range: page(1), gpa: Gpa(20 * PAGE), perms: Perms::RW };
        let mapped = world.table.map(&me.pin(), &new).is_ok();
        if mapped {
            if overtakes(&world.log, page(1), [&*queue].into_iter()) {
                me.synchronize(PATIENCE).unwrap();
            }
            let _guard = port.pin();
            iotlb.enter(Some(&world.log));
            if iotlb.find(PAGE).is_some_and(|found| found.gpa == Gpa(11 * PAGE)) {
                old.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
        }
        unmapper.join().unwrap();
    });
    count.load(std::sync::atomic::Ordering::Relaxed)
}

#[test]
fn no_entry_outlives_the_answer_to_a_map_in_its_place() {
    assert_eq!(old_translations_after_a_map(true), 0);
}

#[test]
fn without_the_announcement_the_model_above_finds_old_translations() {
    assert_ne!(old_translations_after_a_map(false), 0);
}

/// A queue's batches follow one another, each with an announcement of its own: a MAP that takes the place of what the
/// first batch removed reads the announcement of that one, or finds it finished.
#[test]
fn a_map_in_the_place_of_an_earlier_batch_finds_it_announced_or_finished() {
    model(|| {
        let log = Arc::new(InvalidationLog::new());
        let queue = Arc::new(Unfinished::default());
        // Which of the pages is free, as a table's slot says it, and whether its grace period is over.
        let gone = Arc::new(AtomicBool::new(false));
        let finished = Arc::new(AtomicBool::new(false));
        let unmapper = {
            let (log, queue, gone, finished) = (log.clone(), queue.clone(), gone.clone(), finished.clone());
            thread::spawn(move || {
                queue.announce(&log, page(1));
                gone.store(true, Ordering::Release);
                finished.store(true, Ordering::Relaxed);
                queue.clear();
                queue.announce(&log, page(5));
            })
        };
        if gone.load(Ordering::Acquire) && !overtakes(&log, page(1), [&*queue].into_iter()) {
            assert!(finished.load(Ordering::Relaxed), "answered before the grace period was over");
        }
        unmapper.join().unwrap();
    });
}
