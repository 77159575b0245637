//! Plots as SVG for inlining into a page.
//!
//! Colours are CSS variables with a fallback for a light page, so one plot serves a light and a dark one; the modes also
//! differ in their dashes, for whoever cannot tell the colours. Nothing is loaded: text stays text in a generic font.

mod bars;
mod canvas;
mod curves;
mod ratios;

pub use bars::{Bar, Section, bars};
pub(crate) use canvas::escape;
pub use canvas::{PlotError, THEME};
pub use curves::{Curve, latency};
pub use ratios::ratios;
