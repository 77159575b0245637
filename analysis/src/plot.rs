//! Plots as SVG for inlining into a page.
//!
//! Colours are CSS variables with a fallback for a light page, so one plot serves a light and a dark one; the modes also
//! differ in their dashes, for whoever cannot tell the colours. Nothing is loaded: text stays text in a generic font.

mod axis;
mod bars;
mod canvas;
mod curves;
mod heat;
mod lines;
mod ratios;

pub use axis::{Axis, Scale, Unit};
pub use bars::{Bar, Section, bars};
pub(crate) use canvas::escape;
pub use canvas::{PlotError, THEME};
pub use curves::{Curve, latency};
pub use heat::{Column, HeatMap, heat};
pub use lines::{Join, Line, Lines, Point, lines};
pub use ratios::ratios;
