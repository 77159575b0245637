//! How often a probe's programs ran, and what they lost.

/// Counted by each processor for itself; the loader adds them up.
///
/// Every opening ends in exactly one way, so with everything at rest
///
/// `opened = seen + reopened + still open + starts_full + keys_full`
///
/// and every closing too: `closed = seen + keys_full + unopened`. With the ring buffer, `seen = ring_sent + ring_full`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Events that a filter refused.
    pub filtered: u64,
    /// Events, of a pair the opening ones: the total.
    pub opened: u64,
    /// Closing events of a pair.
    pub closed: u64,
    /// Events or pairs that were recorded.
    pub seen: u64,
    /// Openings whose thread opened again before it closed.
    pub reopened: u64,
    /// Closings without an opening: it was before the probe was attached, or was lost.
    pub unopened: u64,
    /// Openings lost because the map of open pairs was full.
    pub starts_full: u64,
    /// Events or pairs lost because the map of keys was full.
    pub keys_full: u64,
    /// Raw events lost because the ring buffer was full.
    pub ring_full: u64,
    /// Raw events put into the ring buffer.
    pub ring_sent: u64,
}

impl Tally {
    /// The sum of two.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            filtered: self.filtered.wrapping_add(other.filtered),
            opened: self.opened.wrapping_add(other.opened),
            closed: self.closed.wrapping_add(other.closed),
            seen: self.seen.wrapping_add(other.seen),
            reopened: self.reopened.wrapping_add(other.reopened),
            unopened: self.unopened.wrapping_add(other.unopened),
            starts_full: self.starts_full.wrapping_add(other.starts_full),
            keys_full: self.keys_full.wrapping_add(other.keys_full),
            ring_full: self.ring_full.wrapping_add(other.ring_full),
            ring_sent: self.ring_sent.wrapping_add(other.ring_sent),
        }
    }

    /// What was counted since `earlier`.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Self {
        Self {
            filtered: self.filtered.wrapping_sub(earlier.filtered),
            opened: self.opened.wrapping_sub(earlier.opened),
            closed: self.closed.wrapping_sub(earlier.closed),
            seen: self.seen.wrapping_sub(earlier.seen),
            reopened: self.reopened.wrapping_sub(earlier.reopened),
            unopened: self.unopened.wrapping_sub(earlier.unopened),
            starts_full: self.starts_full.wrapping_sub(earlier.starts_full),
            keys_full: self.keys_full.wrapping_sub(earlier.keys_full),
            ring_full: self.ring_full.wrapping_sub(earlier.ring_full),
            ring_sent: self.ring_sent.wrapping_sub(earlier.ring_sent),
        }
    }

    /// Lost because a map was full. Raw events that the ring buffer had no room for are in `ring_full`.
    #[must_use]
    pub const fn lost(&self) -> u64 {
        self.starts_full.wrapping_add(self.keys_full)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_undoes_plus() {
        let a = Tally { filtered: 1, opened: 2, closed: 3, seen: 4, reopened: 5, ..Tally::default() };
        let b = Tally { unopened: 6, starts_full: 7, keys_full: 8, ring_full: 9, ring_sent: 10, ..a };
        assert_eq!(a.plus(b).since(a), b);
        assert_eq!(b.lost(), 15);
    }
}
