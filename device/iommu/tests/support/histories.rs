//! Concurrent histories checked for linearizability against an ordered map.
//!
//! A few threads run a few operations each on a small space; every operation notes a global ticket before and after.
//! The history is accepted if the operations can be put into an order that agrees with the tickets and in which the
//! oracle gives the same answers (Wing and Gong's search, with memory). A MAP, a look-up and the removal of one
//! mapping are atomic; an UNMAP is a look at its start, one at its end, and a visit of each page in ascending order,
//! each atomic, as the mapping table promises.
//!
//! Shared by the mapping table's own tests and those of the whole device.

#![allow(dead_code, unreachable_pub, reason = "each user needs a part of it")]

use std::collections::{BTreeMap, HashSet};

/// Pages of the space; with two entries a table (shuttle) these are three levels.
pub const PAGES: u64 = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Map { first: u64, last: u64, gpa: u64 },
    Unmap { first: u64, last: u64 },
    Translate { page: u64 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Mapped(bool),
    /// Number of mappings removed.
    Removed(u64),
    /// Whatever could be was removed; the device does not say how many.
    Unmapped,
    /// Nothing was removed: a mapping would have been split.
    Split,
    Found(Option<u64>),
}

#[derive(Clone, Copy, Debug)]
pub struct Event {
    pub op: Op,
    pub answer: Answer,
    pub called: u64,
    pub returned: u64,
}

/// First page to last page and the guest-physical page of the first.
type Oracle = BTreeMap<u64, (u64, u64)>;

fn holding(oracle: &Oracle, page: u64) -> Option<(u64, u64, u64)> {
    let (&first, &(last, gpa)) = oracle.range(..=page).next_back()?;
    (last >= page).then_some((first, last, gpa))
}

/// How far an operation has got: `None` not begun; an UNMAP has looked at its start, or visits pages.
type Progress = Option<Under>;

#[derive(Clone, Copy, Debug)]
enum Under {
    StartClear,
    Visiting { page: u64, removed: u64 },
}

enum Next {
    Done,
    More(Progress),
    /// The oracle would have answered otherwise.
    Impossible,
}

fn step(oracle: &mut Oracle, event: &Event, progress: Progress) -> Next {
    match (event.op, event.answer) {
        (Op::Map { first, last, gpa }, Answer::Mapped(ok)) => {
            let free = (first..=last).all(|page| holding(oracle, page).is_none());
            if free != ok {
                return Next::Impossible;
            }
            if ok {
                oracle.insert(first, (last, gpa));
            }
            Next::Done
        }
        (Op::Translate { page }, Answer::Found(found)) => {
            let expected = holding(oracle, page).map(|(first, _, gpa)| gpa + (page - first));
            if expected == found { Next::Done } else { Next::Impossible }
        }
        (Op::Unmap { first, last }, answer) => {
            let (crossed, then) = match progress {
                None => (holding(oracle, first).is_some_and(|m| m.0 < first), Under::StartClear),
                Some(Under::StartClear) => {
                    let visiting = Under::Visiting { page: first, removed: 0 };
                    (holding(oracle, last).is_some_and(|m| m.1 > last), visiting)
                }
                Some(Under::Visiting { page, removed }) => {
                    let expected = match answer {
                        Answer::Removed(expected) => Some(expected),
                        Answer::Unmapped => None,
                        _ => return Next::Impossible,
                    };
                    return visit(oracle, (first, last), page, removed, expected);
                }
            };
            match (crossed, answer == Answer::Split) {
                (true, true) => Next::Done,
                (true, false) => Next::Impossible,
                (false, _) => Next::More(Some(then)),
            }
        }
        _ => unreachable!("answers match their operations"),
    }
}

/// Removes the mapping at `page`, if the UNMAP of `first..=last` covers it whole.
fn visit(
    oracle: &mut Oracle,
    (first, last): (u64, u64),
    page: u64,
    mut removed: u64,
    expected: Option<u64>,
) -> Next {
    if let Some((start, ..)) = holding(oracle, page).filter(|m| m.0 >= first && m.1 <= last) {
        oracle.remove(&start);
        removed += 1;
    }
    let wrong = expected.is_some_and(|expected| removed > expected || page == last && removed < expected);
    match (wrong, page == last) {
        (true, _) => Next::Impossible,
        (false, true) => Next::Done,
        (false, false) => Next::More(Some(Under::Visiting { page: page + 1, removed })),
    }
}

type Position = (Vec<(usize, Progress)>, Oracle);

/// Whether some order of the threads' events explains every answer.
fn linearizable(threads: &[Vec<Event>], at: Position, seen: &mut HashSet<String>) -> bool {
    let (places, oracle) = &at;
    if places.iter().zip(threads).all(|(place, events)| place.0 == events.len()) {
        return true;
    }
    if !seen.insert(format!("{at:?}")) {
        return false;
    }
    // An event may go next unless another one returned before it was called.
    let pending = || places.iter().zip(threads).filter_map(|(place, events)| events.get(place.0));
    let first_return = pending().map(|event| event.returned).min().unwrap_or(u64::MAX);
    for (thread, events) in threads.iter().enumerate() {
        let (index, progress) = places[thread];
        let Some(event) = events.get(index).filter(|event| event.called < first_return) else { continue };
        let (mut places, mut oracle) = (places.clone(), oracle.clone());
        match step(&mut oracle, event, progress) {
            Next::Impossible => continue,
            Next::Done => places[thread] = (index + 1, None),
            Next::More(progress) => places[thread] = (index, progress),
        }
        if linearizable(threads, (places, oracle), seen) {
            return true;
        }
    }
    false
}

pub fn check(threads: &[Vec<Event>]) {
    let start = (vec![(0, None); threads.len()], Oracle::new());
    assert!(linearizable(threads, start, &mut HashSet::new()), "not linearizable: {threads:#?}");
}

/// A small generator of its own, so that a schedule depends on nothing but its seed.
pub struct Seed(pub u64);

impl Seed {
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }

    pub fn op(&mut self) -> Op {
        let first = self.below(PAGES);
        let last = (first + [0, 0, 1, 2, 3, 7][self.below(6) as usize]).min(PAGES - 1);
        match self.below(5) {
            0 | 1 => Op::Map { first, last, gpa: 100 + self.below(900) },
            2 => Op::Unmap { first, last },
            3 => Op::Unmap { first: 0, last: PAGES - 1 },
            _ => Op::Translate { page: first },
        }
    }
}

#[test]
fn the_checker_refuses_what_no_order_explains() {
    let event = |op, answer, called, returned| Event { op, answer, called, returned };
    let map = event(Op::Map { first: 0, last: 1, gpa: 5 }, Answer::Mapped(true), 0, 1);
    let half = [
        event(Op::Translate { page: 0 }, Answer::Found(Some(5)), 2, 3),
        event(Op::Translate { page: 1 }, Answer::Found(None), 4, 5),
    ];
    let start = || (vec![(0, None); 2], Oracle::new());
    assert!(!linearizable(&[vec![map], half.to_vec()], start(), &mut HashSet::new()));
    let whole = [half[0], event(half[1].op, Answer::Found(Some(6)), 4, 5)];
    assert!(linearizable(&[vec![map], whole.to_vec()], start(), &mut HashSet::new()));
    let both = event(Op::Map { first: 1, last: 2, gpa: 7 }, Answer::Mapped(false), 0, 1);
    let neither = event(map.op, Answer::Mapped(false), 0, 1);
    assert!(!linearizable(&[vec![both], vec![neither]], start(), &mut HashSet::new()));
}
