//! Exact reuse distances: Mattson's LRU stack in a Fenwick tree (Olken's algorithm), with holes for what is invalidated.
//!
//! The stack lists pages by their last use, the most recent on top; an LRU cache of capacity C holds the pages in its
//! upper C places. An invalidation leaves a *hole* in the page's place: a free entry in every cache that is large enough
//! to have held the page. A page that is used moves to the top, and what lies above its old place moves down by one, but
//! only as far as the topmost hole, which is filled: caches that reach down to the hole have room and evict nothing. In
//! that case the page's old place becomes the hole, because the caches that held the page still have their free entry.
//! So the upper C places are the contents of an LRU cache with invalidations, for all C at once, exactly.
//!
//! Places are kept by time of last use; each access costs O(log n) for n pages in the stack.

use std::collections::{BinaryHeap, HashMap};

use crate::{Event, ReuseHistogram, fenwick::Fenwick};

/// Smallest number of times between two renumberings.
const MIN_TIMES: usize = 1 << 10;

/// What one access was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reuse {
    /// The first use of the page: a miss at every capacity.
    First,
    /// The first use since the page was invalidated: a miss at every capacity.
    Invalidated,
    /// The first use since everything was invalidated: a miss at every capacity.
    Flushed,
    /// Number of places above the page: other pages used since, and entries left free by invalidations. A hit where the
    /// capacity is larger.
    Distance(u64),
}

#[derive(Clone, Copy, Debug)]
enum Place {
    /// In the stack, last used at this time.
    At(u32),
    /// Invalidated since its last use.
    Gone,
    /// In the stack until everything was invalidated.
    Flushed,
}

/// Reuse distances of a stream; see the [module](self).
#[derive(Clone, Debug)]
pub struct ReuseDistances {
    places: HashMap<u64, Place>,
    /// A one for each time that is the last use of a page, or a hole.
    times: Fenwick,
    holes: BinaryHeap<u32>,
    now: usize,
    histogram: ReuseHistogram,
}

impl Default for ReuseDistances {
    fn default() -> Self {
        Self::new()
    }
}

impl ReuseDistances {
    /// Nothing seen yet.
    pub fn new() -> Self {
        Self {
            places: HashMap::new(),
            times: Fenwick::with_ones(0, MIN_TIMES),
            holes: BinaryHeap::new(),
            now: 0,
            histogram: ReuseHistogram::default(),
        }
    }

    /// Takes an event of any kind; says what it was if it was an access.
    pub fn event(&mut self, event: Event) -> Option<Reuse> {
        match event {
            Event::Access(page) => return Some(self.access(page)),
            Event::Invalidate(page) => _ = self.invalidate(page),
            Event::Flush => self.flush(),
        }
        None
    }

    /// A page is used.
    pub fn access(&mut self, page: u64) -> Reuse {
        if self.now == self.times.len() {
            self.renumber();
        }
        let now = self.now as u32;
        let old = self.places.insert(page, Place::At(now));
        let reuse = match old {
            None => Reuse::First,
            Some(Place::Gone) => Reuse::Invalidated,
            Some(Place::Flushed) => Reuse::Flushed,
            Some(Place::At(then)) => Reuse::Distance(u64::from(self.times.after(then as usize))),
        };
        let then = match old {
            Some(Place::At(then)) => Some(then),
            _ => None,
        };
        match (self.holes.peek().copied(), then) {
            // A hole above: it is filled, and the page leaves one in its old place.
            (Some(hole), then) if then.is_none_or(|then| hole > then) => {
                self.holes.pop();
                self.times.clear(hole as usize);
                self.holes.extend(then);
            }
            (_, Some(then)) => self.times.clear(then as usize),
            (_, None) => {}
        }
        self.times.set(self.now);
        self.now += 1;
        self.histogram.add(reuse);
        reuse
    }

    /// A page's translation is invalidated; `false` when there was none to invalidate.
    pub fn invalidate(&mut self, page: u64) -> bool {
        match self.places.get_mut(&page) {
            Some(place @ Place::At(_)) => {
                if let Place::At(then) = std::mem::replace(place, Place::Gone) {
                    self.holes.push(then);
                }
                true
            }
            _ => false,
        }
    }

    /// All translations are invalidated: nothing but free entries, which is an empty stack.
    pub fn flush(&mut self) {
        let in_stack = self.places.values_mut().filter(|place| matches!(place, Place::At(_)));
        in_stack.for_each(|place| *place = Place::Flushed);
        self.holes.clear();
        self.times = Fenwick::with_ones(0, MIN_TIMES);
        self.now = 0;
    }

    /// Leaves a page out from now on, as if it had never been in the stream: for sampling. What has been counted stays.
    pub(crate) fn forget(&mut self, page: u64) {
        if let Some(Place::At(then)) = self.places.remove(&page) {
            self.times.clear(then as usize);
        }
    }

    /// Pages that are, or were, in the stack.
    pub fn pages(&self) -> usize {
        self.places.len()
    }

    /// Places of the stack: pages, and entries left free.
    pub fn depth(&self) -> u64 {
        u64::from(self.times.total())
    }

    /// What the accesses were, so far.
    pub fn histogram(&self) -> &ReuseHistogram {
        &self.histogram
    }

    /// Takes the counts out and begins new ones; the stack stays as it is.
    pub fn take_histogram(&mut self) -> ReuseHistogram {
        std::mem::take(&mut self.histogram)
    }

    /// Gives the times in use the numbers from 0.
    fn renumber(&mut self) {
        let mut in_use: Vec<u32> = self
            .places
            .values()
            .filter_map(|place| if let Place::At(then) = place { Some(*then) } else { None })
            .chain(self.holes.iter().copied())
            .collect();
        in_use.sort_unstable();
        // Every time in use is in the list.
        let number = |then: u32| in_use.partition_point(|other| *other < then) as u32;
        for place in self.places.values_mut() {
            if let Place::At(then) = place {
                *then = number(*then);
            }
        }
        self.holes = self.holes.drain().map(number).collect();
        self.now = in_use.len();
        self.times = Fenwick::with_ones(self.now, (4 * self.now).max(MIN_TIMES));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reuses(events: impl IntoIterator<Item = Event>) -> Vec<Reuse> {
        let mut distances = ReuseDistances::new();
        events.into_iter().filter_map(|event| distances.event(event)).collect()
    }

    #[test]
    fn distances_count_the_other_pages_in_between() {
        use Event::Access as A;
        let found = reuses([A(1), A(1), A(2), A(3), A(2), A(2), A(1), A(3)]);
        let d = Reuse::Distance;
        assert_eq!(found, [Reuse::First, d(0), Reuse::First, Reuse::First, d(1), d(0), d(2), d(2)]);
    }

    #[test]
    fn an_invalidated_page_misses_and_its_entry_is_filled_next() {
        use Event::{Access as A, Invalidate as I};
        // 3 2 1; 3 goes: hole 2 1; 4 fills it: 4 2 1, so 1 is still at distance 2.
        let found = reuses([A(1), A(2), A(3), I(3), A(4), A(1), A(3)]);
        assert_eq!(found[3..], [Reuse::First, Reuse::Distance(2), Reuse::Invalidated]);
        // Unfilled, the free entry counts: no cache of two entries could have kept 1 beside 2 and 3.
        assert_eq!(reuses([A(1), A(2), A(3), I(3), A(1)])[3], Reuse::Distance(2));
    }

    #[test]
    fn a_sequence_round_and_round_has_one_distance() {
        let pages = 3_000;
        let found = reuses((0..5 * pages).map(|i| Event::Access(i % pages)));
        assert!(found[..pages as usize].iter().all(|reuse| *reuse == Reuse::First));
        assert!(found[pages as usize..].iter().all(|reuse| *reuse == Reuse::Distance(pages - 1)));
    }

    #[test]
    fn after_a_flush_every_page_comes_back_once() {
        use Event::{Access as A, Flush};
        let found = reuses([A(1), A(2), Flush, A(2), A(2), A(1), A(5)]);
        assert_eq!(found[2..], [Reuse::Flushed, Reuse::Distance(0), Reuse::Flushed, Reuse::First]);
    }
}
