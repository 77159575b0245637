//! Unmaps held back in lazy mode.

/// Addresses that become allocatable at the next flush.
#[derive(Debug)]
pub(super) struct FlushQueue {
    held: Vec<(u64, u64)>,
    capacity: usize,
    hold_ns: u64,
    /// The time of the last tick.
    now_ns: u64,
    /// When the timer fires; it starts with the first unmap held back.
    deadline_ns: Option<u64>,
}

impl FlushQueue {
    pub(super) fn new(capacity: u32, hold_ns: u64) -> Self {
        let capacity = capacity.max(1) as usize;
        Self { held: Vec::with_capacity(capacity), capacity, hold_ns, now_ns: 0, deadline_ns: None }
    }

    #[inline]
    pub(super) fn is_full(&self) -> bool {
        self.held.len() == self.capacity
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    #[inline]
    pub(super) fn push(&mut self, iova: u64, size: u64) {
        self.held.push((iova, size));
        self.deadline_ns.get_or_insert(self.now_ns.saturating_add(self.hold_ns));
    }

    /// Notes the time; whether the timer fires.
    #[inline]
    pub(super) fn expired(&mut self, now_ns: u64) -> bool {
        self.now_ns = now_ns;
        self.deadline_ns.is_some_and(|deadline_ns| now_ns >= deadline_ns)
    }

    pub(super) fn drain(&mut self) -> impl Iterator<Item = (u64, u64)> {
        self.deadline_ns = None;
        self.held.drain(..)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_timer_starts_with_the_first_entry_and_stops_with_the_flush() {
        let mut queue = FlushQueue::new(4, 100);
        assert!(!queue.expired(1000));
        queue.push(0x1000, 0x1000);
        assert!(!queue.expired(1050));
        queue.push(0x2000, 0x1000);
        assert!(!queue.expired(1099));
        assert!(queue.expired(1100));
        assert_eq!(queue.drain().count(), 2);
        assert!(!queue.expired(5000));
        assert!(queue.is_empty());
    }

    #[test]
    fn it_is_full_at_its_capacity() {
        let mut queue = FlushQueue::new(2, 100);
        queue.push(0x1000, 0x1000);
        assert!(!queue.is_full());
        queue.push(0x2000, 0x1000);
        assert!(queue.is_full());
    }
}
