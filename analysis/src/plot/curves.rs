//! Latency by percentile, the modes of a group overlaid.
//!
//! The horizontal axis counts nines: 90 %, 99 %, 99.9 % lie equally far apart, so that the tail is not squeezed into the
//! last pixel. Each curve ends where its histogram has no further value to show.

use iommu_results::{Histogram, Mode};

use super::canvas::{Align, Canvas, Ink, PlotError, draw};
use crate::format::duration_ns;

/// The latencies of one mode, or of one side of a comparison.
#[derive(Clone, Copy, Debug)]
pub struct Curve<'h> {
    /// The mode whose ink and dashes it has.
    pub mode: Mode,
    /// Its name in the legend.
    pub label: &'h str,
    /// Its latencies in nanoseconds.
    pub histogram: &'h Histogram,
}

const SIZE: (f64, f64) = (760.0, 330.0);
const LEFT: f64 = 76.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 38.0;
const BOTTOM: f64 = 54.0;

/// Marked percentiles: how many nines, and the label.
const MARKS: [(f64, &str); 8] = [
    (0.0, "0"),
    (std::f64::consts::LOG10_2, "50"),
    (1.0, "90"),
    (2.0, "99"),
    (3.0, "99.9"),
    (4.0, "99.99"),
    (5.0, "99.999"),
    (6.0, "99.9999"),
];

/// Where the axes begin and end.
struct Axes {
    nines: f64,
    low_log: f64,
    high_log: f64,
}

/// Latency percentile curves on logarithmic axes.
///
/// # Errors
/// [`PlotError`] when the backend fails.
pub fn latency(label: &str, curves: &[Curve<'_>]) -> Result<String, PlotError> {
    let axes = Axes::around(curves);
    draw(SIZE, label, |canvas| {
        axes.paint(canvas)?;
        for curve in curves {
            canvas.line(&axes.points(curve.histogram), Ink::Mode(curve.mode), 2.5)?;
        }
        legend(canvas, curves)
    })
}

impl Axes {
    fn around(curves: &[Curve<'_>]) -> Self {
        let ends = |quantile: f64| curves.iter().filter_map(move |curve| curve.histogram.quantile(quantile));
        let low = ends(0.0).min().unwrap_or(1).max(1) as f64;
        let high = ends(1.0).max().unwrap_or(10).max(2) as f64;
        let nines = curves.iter().map(|curve| nines(curve.histogram)).fold(1.0, f64::max);
        // Whole steps of 1, 2, 5 at both ends.
        let (low_log, high_log) = (step_below(low).log10(), step_above(high).log10());
        Self { nines: nines.min(6.0), low_log, high_log: high_log.max(low_log + 0.3) }
    }

    fn x(&self, nines: f64) -> f64 {
        LEFT + nines / self.nines * (SIZE.0 - LEFT - RIGHT)
    }

    fn y(&self, value_ns: f64) -> f64 {
        let part = (value_ns.max(1.0).log10() - self.low_log) / (self.high_log - self.low_log);
        SIZE.1 - BOTTOM - part.clamp(0.0, 1.0) * (SIZE.1 - BOTTOM - TOP)
    }

    fn paint(&self, canvas: &mut Canvas<'_>) -> Result<(), PlotError> {
        let (right, bottom) = (SIZE.0 - RIGHT, SIZE.1 - BOTTOM);
        for value in self.ticks() {
            let y = self.y(value);
            canvas.line(&[(LEFT, y), (right, y)], Ink::Grid, 1.0)?;
            canvas.small(&tick(value), (LEFT - 8.0, y), Align::Right)?;
        }
        for (nines, name) in MARKS.into_iter().filter(|(nines, _)| *nines <= self.nines + 1e-6) {
            let x = self.x(nines);
            canvas.line(&[(x, TOP), (x, bottom)], Ink::Grid, 1.0)?;
            canvas.small(name, (x, bottom + 15.0), Align::Centre)?;
        }
        canvas.small("percentile of operations, %", ((LEFT + right) / 2.0, SIZE.1 - 12.0), Align::Centre)
    }

    /// Powers of ten, with 2 and 5 between them where there is room.
    fn ticks(&self) -> Vec<f64> {
        let decades = self.high_log - self.low_log;
        let steps: &[f64] = if decades <= 2.2 { &[1.0, 2.0, 5.0] } else { &[1.0] };
        (self.low_log.floor() as i32..=self.high_log.ceil() as i32)
            .flat_map(|power| steps.iter().map(move |step| step * 10_f64.powi(power)))
            .filter(|value| (self.low_log - 1e-9..=self.high_log + 1e-9).contains(&value.log10()))
            .collect()
    }

    fn points(&self, histogram: &Histogram) -> Vec<(f64, f64)> {
        const POINTS: usize = 240;
        let end = nines(histogram).min(self.nines);
        (0..=POINTS)
            .filter_map(|i| {
                let nines = end * i as f64 / POINTS as f64;
                let value = histogram.quantile(1.0 - 10_f64.powf(-nines))?;
                Some((self.x(nines), self.y(value as f64)))
            })
            .collect()
    }
}

/// How many nines of percentile the histogram's count can tell apart.
fn nines(histogram: &Histogram) -> f64 {
    (histogram.count().max(2) as f64).log10()
}

/// Labels in the order of the curves, each with its line.
fn legend(canvas: &mut Canvas<'_>, curves: &[Curve<'_>]) -> Result<(), PlotError> {
    let mut x = LEFT;
    for curve in curves {
        canvas.line(&[(x, 14.0), (x + 36.0, 14.0)], Ink::Mode(curve.mode), 2.5)?;
        canvas.text(curve.label, (x + 43.0, 14.0), Align::Left, Ink::Text)?;
        x += 120.0;
    }
    Ok(())
}

fn tick(value_ns: f64) -> String {
    let text = duration_ns(value_ns);
    // `1.00 µs` is for measured values; a tick is exact.
    match text.split_once(' ') {
        Some((number, unit)) if number.contains('.') => {
            format!("{} {unit}", number.trim_end_matches('0').trim_end_matches('.'))
        }
        _ => text,
    }
}

fn step_below(value: f64) -> f64 {
    let power = 10_f64.powf(value.log10().floor());
    [5.0, 2.0, 1.0]
        .into_iter()
        .map(|step| step * power)
        .find(|step| *step <= value * (1.0 + 1e-9))
        .unwrap_or(power)
}

fn step_above(value: f64) -> f64 {
    let power = 10_f64.powf(value.log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|step| step * power)
        .find(|step| *step >= value * (1.0 - 1e-9))
        .unwrap_or(power * 10.0)
}
