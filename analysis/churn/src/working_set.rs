//! Unique pages of each window.

use std::collections::HashSet;

use serde::Serialize;

use crate::Event;

/// What was counted in one window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Window {
    /// Accesses in the window.
    pub accesses: u64,
    /// Pages that were accessed: the working set.
    pub unique_pages: u64,
    /// Pages invalidated.
    pub invalidations: u64,
    /// Times everything was invalidated.
    pub flushes: u64,
}

/// Counts pages in windows that follow one another, each of a fixed number of accesses.
#[derive(Clone, Debug)]
pub struct WorkingSet {
    accesses: u64,
    pages: HashSet<u64>,
    current: Window,
}

impl WorkingSet {
    /// Windows of `accesses` accesses (at least one).
    pub fn new(accesses: u64) -> Self {
        Self { accesses: accesses.max(1), pages: HashSet::new(), current: Window::default() }
    }

    /// Takes an event; returns the window that it completes.
    pub fn event(&mut self, event: Event) -> Option<Window> {
        match event {
            Event::Access(page) => {
                self.current.accesses += 1;
                self.current.unique_pages += u64::from(self.pages.insert(page));
            }
            Event::Invalidate(_) => self.current.invalidations += 1,
            Event::Flush => self.current.flushes += 1,
        }
        (self.current.accesses == self.accesses).then(|| self.close())
    }

    /// Ends the current window early: at a moment that the caller's clock says, or at the end of the stream.
    pub fn close(&mut self) -> Window {
        self.pages.clear();
        std::mem::take(&mut self.current)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_count_their_own_pages() {
        let mut set = WorkingSet::new(4);
        let pages = [1, 1, 2, 3, 3, 3, 3, 3, 9];
        let windows: Vec<_> = pages.into_iter().filter_map(|page| set.event(Event::Access(page))).collect();
        let unique: Vec<_> = windows.iter().map(|window| window.unique_pages).collect();
        assert_eq!(unique, [3, 1]);
        assert_eq!(set.event(Event::Invalidate(9)), None);
        let rest = Window { accesses: 1, unique_pages: 1, invalidations: 1, flushes: 0 };
        assert_eq!(set.close(), rest);
        assert_eq!(set.close(), Window::default());
    }
}
