//! Statistics, tables, plots and reports over runs.
//!
//! Everything here is a pure function of its arguments: no files, no clock, no device, and resampling is seeded, so the
//! same run gives the same interval and the same report.
//!
//! - [`changepoint`]: where a history moved (E-divisive).
//! - [`stats`]: means and paired ratios with bootstrap intervals.
//! - [`terminal`]: a run as text for a terminal.
//! - [`plot`]: plots as SVG that follow a light or a dark page.
//! - [`report`]: one self-contained HTML page.

pub mod changepoint;
pub mod format;
pub mod plot;
pub mod report;
pub mod stats;
pub mod terminal;
pub mod view;

pub use stats::{Estimate, StatsError, mean, paired_ratio};
