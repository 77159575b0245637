//! Statistics, tables, plots and reports over runs.
//!
//! Everything here is a pure function of its arguments: no files, no clock, no device, and resampling is seeded, so the
//! same run gives the same interval and the same report.
//!
//! - [`calibrate`]: how often verdicts are wrong, by simulation from recorded noise.
//! - [`callgrind`]: exact instruction counts by call path.
//! - [`changepoint`]: where a history moved (E-divisive).
//! - [`distance`]: how far whole latency distributions lie apart.
//! - [`compare`]: two runs or builds, exact counts, differences for readers.
//! - [`discovery`]: which of many metrics may be believed.
//! - [`noise`]: what one build showed in process after process.
//! - [`paired`]: two builds measured in turn, with interval and noise floor.
//! - [`rank`]: Wilcoxon's signed-rank test with its interval, and Mann and Whitney's.
//! - [`sequential`]: when to look at growing data, and what each look costs.
//! - [`stats`]: means and paired ratios with bootstrap intervals.
//! - [`terminal`]: a run as text for a terminal.
//! - [`plot`]: plots as SVG that follow a light or a dark page.
//! - [`report`]: one self-contained HTML page.
//! - [`verdict`]: better, worse, same or inconclusive.

pub mod calibrate;
pub mod callgrind;
pub mod changepoint;
pub mod compare;
pub mod discovery;
pub mod distance;
pub mod format;
pub mod noise;
pub mod paired;
pub mod plot;
pub mod rank;
pub mod report;
pub mod sequential;
pub mod stats;
pub mod terminal;
pub mod verdict;
pub mod vfio;
pub mod view;

pub use stats::{Estimate, StatsError, mean, paired_ratio};
