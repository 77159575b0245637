//! Busy-waiting that neither starves the device's thread nor lasts forever.

use std::{
    hint, thread,
    time::{Duration, Instant},
};

/// Spins before the first yield: a device thread on another core answers within this.
const SPINS: u32 = 256;
/// Yields between two looks at the watchdog's clock.
const YIELDS_PER_LOOK: u32 = 64;

/// What a waiter does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pause {
    /// Look at the ring again.
    Again,
    /// Look whether the device is still alive, then at the ring.
    CheckDevice,
    /// Give up: the limit has passed without progress.
    Expired,
}

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

    /// Lets others run for a moment.
    #[inline]
    pub(crate) fn pause(&mut self) -> Pause {
        self.rounds = self.rounds.wrapping_add(1);
        if self.rounds <= SPINS {
            hint::spin_loop();
            return Pause::Again;
        }
        self.give_way()
    }

    #[cold]
    fn give_way(&mut self) -> Pause {
        thread::yield_now();
        if !self.rounds.is_multiple_of(YIELDS_PER_LOOK) {
            return Pause::Again;
        }
        let since = *self.since.get_or_insert_with(Instant::now);
        if since.elapsed() < self.limit { Pause::CheckDevice } else { Pause::Expired }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_without_progress_and_goes_on_with_it() {
        let mut wait = Wait::new(Duration::ZERO);
        let mut pauses = 0;
        while wait.pause() != Pause::Expired {
            pauses += 1;
        }
        assert!(pauses >= SPINS);
        wait.progress();
        assert_eq!(wait.pause(), Pause::Again);
    }

    #[test]
    fn the_device_is_looked_at_while_there_is_time() {
        let mut wait = Wait::new(Duration::from_secs(3600));
        assert!((0..10_000).any(|_| wait.pause() == Pause::CheckDevice));
    }
}
