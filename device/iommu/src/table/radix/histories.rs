//! The table under real threads, or under shuttle's schedules: histories, and the checker of them.

use virtio_iommu_spec::{Gpa, Iova, IovaRange};

#[path = "../../../tests/support/histories.rs"]
mod checker;

use super::*;
use crate::{
    epoch::{Fences, Participant},
    table::Perms,
};
use checker::{Answer, Event, Op, Seed, check};

const PAGE: u64 = 4096;

fn range(first: u64, last: u64) -> IovaRange {
    IovaRange::new(first * PAGE, last * PAGE + PAGE - 1).unwrap()
}

fn run_op(table: &RadixTable, me: &Participant, op: Op) -> Answer {
    let guard = me.pin();
    match op {
        Op::Map { first, last, gpa } => {
            let mapping = Mapping { range: range(first, last), gpa: Gpa(gpa * PAGE), perms: Perms::RW };
            Answer::Mapped(table.map(&guard, &mapping).is_ok())
        }
        Op::Unmap { first, last } => {
            let removed = table.unmap(&guard, range(first, last));
            removed.map_or(Answer::Split, |removed| Answer::Removed(removed.mappings))
        }
        Op::Translate { page } => {
            Answer::Found(table.translate(&guard, Iova(page * PAGE)).map(|found| found.gpa.0 / PAGE))
        }
    }
}

#[cfg(not(shuttle))]
use std::{
    sync::atomic::{AtomicU64 as Ticket, Ordering},
    thread,
};

#[cfg(shuttle)]
use shuttle::{
    sync::atomic::{AtomicU64 as Ticket, Ordering},
    thread,
};

fn history(seed: u64, threads: usize, ops: usize) -> Vec<Vec<Event>> {
    let epoch = Epoch::new(Fences::Symmetric);
    let bits = if cfg!(shuttle) { 15 } else { 48 };
    let table = std::sync::Arc::new(RadixTable::new(&epoch, 12, bits, &Budget::new(1 << 20)).unwrap());
    let ticket = std::sync::Arc::new(Ticket::new(0));
    let mut seed = Seed(seed);
    let handles: Vec<_> = (0..threads)
        .map(|_| {
            let (table, ticket) = (table.clone(), ticket.clone());
            let me = epoch.register().unwrap();
            let script: Vec<Op> = (0..ops).map(|_| seed.op()).collect();
            thread::spawn(move || {
                script
                    .into_iter()
                    .map(|op| {
                        let called = ticket.fetch_add(1, Ordering::SeqCst);
                        let answer = run_op(&table, &me, op);
                        Event { op, answer, called, returned: ticket.fetch_add(1, Ordering::SeqCst) }
                    })
                    .collect::<Vec<_>>()
            })
        })
        .collect();
    handles.into_iter().map(|handle| handle.join().unwrap()).collect()
}

#[cfg(not(shuttle))]
#[test]
fn histories_of_real_threads_are_linearizable() {
    for seed in 0..10_000 {
        check(&history(seed, 3, 6));
    }
}

#[cfg(shuttle)]
#[test]
fn histories_under_random_schedules_are_linearizable() {
    let schedules = std::env::var("SHUTTLE_SCHEDULES").ok().and_then(|n| n.parse().ok()).unwrap_or(20_000);
    let next = std::sync::atomic::AtomicU64::new(0);
    let body = move || {
        let seed = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        check(&history(seed, 3, 4));
    };
    shuttle::check_random(body, schedules);
}
