//! Busy-waiting that neither starves the device's thread nor lasts forever.

use std::{
    hint, thread,
    time::{Duration, Instant},
};

/// Spins before the first yield: a device thread on another core answers within this.
const SPINS: u32 = 256;
/// Yields between two looks at the watchdog's clock.
const YIELDS_PER_LOOK: u32 = 64;

/// One wait. Real time, even under a virtual clock: it can only turn a hang into an error, never change a count.
#[derive(Debug)]
pub(crate) struct Wait {
    rounds: u32,
    limit: Duration,
    since: Option<Instant>,
}

impl Wait {
    pub(crate) fn new(limit: Duration) -> Self {
        Self { rounds: 0, limit, since: None }
    }

    /// Starts over: there was progress.
    #[inline]
    pub(crate) fn progress(&mut self) {
        self.rounds = 0;
        self.since = None;
    }

    /// Lets others run for a moment; `false` when the limit has passed without progress.
    #[inline]
    pub(crate) fn pause(&mut self) -> bool {
        self.rounds = self.rounds.wrapping_add(1);
        if self.rounds <= SPINS {
            hint::spin_loop();
            return true;
        }
        self.give_way()
    }

    #[cold]
    fn give_way(&mut self) -> bool {
        thread::yield_now();
        if self.rounds.is_multiple_of(YIELDS_PER_LOOK) {
            let since = *self.since.get_or_insert_with(Instant::now);
            return since.elapsed() < self.limit;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_without_progress_and_goes_on_with_it() {
        let mut wait = Wait::new(Duration::ZERO);
        let mut pauses = 0;
        while wait.pause() {
            pauses += 1;
        }
        assert!(pauses >= SPINS);
        wait.progress();
        assert!(wait.pause());
    }
}
