//! A progress bar on standard error, for people who watch.

use std::{
    io::{IsTerminal, Write as _},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Environment variable that asks for lines instead of a bar: for the program that runs this one.
pub(crate) const AS_LINES: &str = "IOMMU_BENCH_PROGRESS_LINES";
/// What such a line begins with (ASCII "record separator"), and how its fields are kept apart ("unit separator").
const RECORD: char = '\x1e';
const UNIT: char = '\x1f';

/// Shows how far the run is and how long it will still take. Draws nothing unless standard error is a terminal.
pub(crate) struct Progress {
    bar: ProgressBar,
    lines: bool,
    total: Duration,
    done: Duration,
    since: Instant,
}

impl Progress {
    /// A bar for `total` of measuring.
    pub(crate) fn new(total: Duration, quiet: bool) -> Self {
        let shown = !quiet && std::io::stderr().is_terminal();
        let target =
            if shown { ProgressDrawTarget::stderr_with_hz(10) } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(total.as_millis() as u64), target);
        bar.set_style(style());
        if shown {
            bar.enable_steady_tick(Duration::from_millis(250));
        }
        let lines = std::env::var_os(AS_LINES).is_some();
        Self { bar, lines, total, done: Duration::ZERO, since: Instant::now() }
    }

    /// A bar for work that is counted in things of this name; [`Progress::item`] moves it.
    pub(crate) fn of_items(things: &'static str) -> Self {
        let progress = Self::new(Duration::ZERO, false);
        progress.bar.set_message(things);
        let style = ProgressStyle::with_template("[{bar:24}] {pos}/{len} {msg}");
        progress.bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
        progress
    }

    /// `done` of `total` things of this name are done.
    pub(crate) fn item(&self, things: &'static str, done: usize, total: usize) {
        self.bar.set_message(things);
        self.bar.set_length(total as u64);
        self.bar.set_position(done as u64);
    }

    /// Says what is being done now.
    pub(crate) fn now(&self, what: &str) {
        if self.lines {
            let (done, total) = (self.done.as_millis(), self.total.as_millis());
            // Whoever asked for the line has gone if it cannot be written.
            let _ = writeln!(std::io::stderr(), "{RECORD}{done}{UNIT}{total}{UNIT}{what}");
        }
        self.bar.set_message(what.to_owned());
        let left = time_left(self.total, self.done, self.since.elapsed());
        self.bar.set_prefix(format!("{} left", whole_seconds(left)));
    }

    /// Shows what another process said with such a line; whether it was one.
    pub(crate) fn relay(&mut self, line: &str) -> bool {
        let Some(fields) = line.strip_prefix(RECORD) else { return false };
        let mut fields = fields.splitn(3, UNIT);
        let mut number = || fields.next()?.parse().ok().map(Duration::from_millis);
        if let (Some(done), Some(total)) = (number(), number()) {
            (self.done, self.total) = (done, total);
            self.bar.set_length(total.as_millis() as u64);
            self.bar.set_position(done.as_millis() as u64);
            self.now(fields.next().unwrap_or_default());
        }
        true
    }

    /// Prints `text` so that the bar does not run into it.
    pub(crate) fn aside(&self, print: impl FnOnce()) {
        self.bar.suspend(print);
    }

    /// Another `step` is done.
    pub(crate) fn advance(&mut self, step: Duration) {
        self.done += step;
        self.bar.set_position(self.done.as_millis() as u64);
    }

    /// Takes the bar away.
    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template("[{bar:24}] {prefix:>9}  {wide_msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}

/// What is left of `total`, at the pace so far.
fn time_left(total: Duration, done: Duration, elapsed: Duration) -> Duration {
    let left = total.saturating_sub(done);
    let pace = if done.is_zero() { 1.0 } else { elapsed.as_secs_f64() / done.as_secs_f64() };
    Duration::try_from_secs_f64(left.as_secs_f64() * pace).unwrap_or(Duration::MAX)
}

fn whole_seconds(left: Duration) -> String {
    let seconds = left.as_millis().div_ceil(1000);
    match seconds {
        0..=59 => format!("{seconds}s"),
        _ => format!("{}m{:02}s", seconds / 60, seconds % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_another_process_move_the_bar() {
        let mut progress = Progress::new(Duration::ZERO, true);
        assert!(progress.relay("\x1e1500\x1f4000\x1fTCP_RR, slice 3"));
        assert_eq!((progress.done.as_millis(), progress.total.as_millis()), (1500, 4000));
        assert!(progress.relay("\x1enonsense"), "ours, though broken: nobody shall see it");
        assert!(!progress.relay("warning: something else"));
    }

    #[test]
    fn pace_scales_what_is_left() {
        let seconds = Duration::from_secs;
        assert_eq!(time_left(seconds(10), seconds(0), seconds(0)), seconds(10));
        assert_eq!(time_left(seconds(10), seconds(4), seconds(8)), seconds(12));
        assert_eq!(time_left(seconds(10), seconds(11), seconds(8)), seconds(0));
    }

    #[test]
    fn time_left_is_rounded_up() {
        assert_eq!(whole_seconds(Duration::ZERO), "0s");
        assert_eq!(whole_seconds(Duration::from_millis(1)), "1s");
        assert_eq!(whole_seconds(Duration::from_millis(59_001)), "1m00s");
        assert_eq!(whole_seconds(Duration::from_secs(125)), "2m05s");
    }
}
