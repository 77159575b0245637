//! A progress bar on standard error, for people who watch.

use std::{io::IsTerminal, time::Duration};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Shows how far the run is and how long it will still take. Draws nothing unless standard error is a terminal.
pub(crate) struct Progress {
    bar: ProgressBar,
    total: Duration,
    done: Duration,
}

impl Progress {
    /// A bar for `total` of measuring.
    pub(crate) fn new(total: Duration, quiet: bool) -> Self {
        let shown = !quiet && std::io::stderr().is_terminal();
        let target = if shown { ProgressDrawTarget::stderr_with_hz(10) } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(total.as_millis() as u64), target);
        bar.set_style(style());
        if shown {
            bar.enable_steady_tick(Duration::from_millis(250));
        }
        Self { bar, total, done: Duration::ZERO }
    }

    /// Says what is being done now.
    pub(crate) fn now(&self, what: &str) {
        self.bar.set_message(what.to_owned());
        self.bar.set_prefix(format!("{} left", whole_seconds(self.total.saturating_sub(self.done))));
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
    fn time_left_is_rounded_up() {
        assert_eq!(whole_seconds(Duration::ZERO), "0s");
        assert_eq!(whole_seconds(Duration::from_millis(1)), "1s");
        assert_eq!(whole_seconds(Duration::from_millis(59_001)), "1m00s");
        assert_eq!(whole_seconds(Duration::from_secs(125)), "2m05s");
    }
}
