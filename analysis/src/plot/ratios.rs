//! Ratios with their intervals on a logarithmic axis around 1, where nothing changes.

use super::canvas::{Align, Canvas, Ink, PlotError, draw};
use crate::format;
use crate::view::Comparison;

const WIDTH: f64 = 760.0;
const LEFT: f64 = 232.0;
const RIGHT: f64 = 176.0;
const ROW: f64 = 26.0;
const HEADING: f64 = 30.0;
const AXIS: f64 = 44.0;

/// One row a comparison, grouped by what they share.
///
/// # Errors
/// [`PlotError`] when the backend fails.
pub fn ratios(label: &str, comparisons: &[Comparison<'_>]) -> Result<String, PlotError> {
    let groups: Vec<&[Comparison<'_>]> = comparisons.chunk_by(|a, b| a.group == b.group).collect();
    let body = HEADING * groups.len() as f64 + ROW * comparisons.len() as f64;
    let ends = comparisons.iter().flat_map(|comparison| comparison.relative.ci);
    let (low, high) = ends.fold((1.0_f64, 1.0_f64), |(low, high), end| (low.min(end), high.max(end)));
    // An interval of a noisy run may reach to zero or below, which this axis cannot show: it is cut at a hundredth.
    let low_log = (low.max(0.01) / 1.12).ln();
    let high_log = (high.min(1000.0) * 1.12).ln();
    let x = |ratio: f64| {
        let part = (ratio.max(1e-9).ln() - low_log) / (high_log - low_log);
        LEFT + part.clamp(0.0, 1.0) * (WIDTH - LEFT - RIGHT)
    };
    let ticks = apart(ticks(low_log.exp(), high_log.exp()), &x);
    draw((WIDTH, body + AXIS), label, |canvas| {
        for tick in &ticks {
            canvas.small(&format!("×{tick}"), (x(*tick), body + 18.0), Align::Centre)?;
        }
        let caption = ((LEFT + WIDTH - RIGHT) / 2.0, body + 36.0);
        canvas.small("case / baseline; ×1 is no change", caption, Align::Centre)?;
        let mut y = 0.0;
        for group in groups {
            y += HEADING;
            canvas.bold(&group[0].group, (0.0, y - HEADING / 2.0 + 2.0), Align::Left)?;
            for tick in &ticks {
                // The line of no change stands out.
                let (ink, width) = if *tick == 1.0 { (Ink::Muted, 1.5) } else { (Ink::Grid, 1.0) };
                canvas.line(&[(x(*tick), y), (x(*tick), y + ROW * group.len() as f64)], ink, width)?;
            }
            for comparison in group {
                row(canvas, comparison, y + ROW / 2.0, &x)?;
                y += ROW;
            }
        }
        Ok(())
    })
}

fn row(
    canvas: &mut Canvas<'_>,
    comparison: &Comparison<'_>,
    y: f64,
    x: &impl Fn(f64) -> f64,
) -> Result<(), PlotError> {
    let relative = comparison.relative;
    let name = format!("{}  {}", comparison.pair, comparison.metric);
    canvas.text(&name, (LEFT - 14.0, y), Align::Right, Ink::Text)?;
    // Above the dot's edge, so that an interval narrower than the dot still shows.
    canvas.whisker(x(relative.ci[0]), x(relative.ci[1]), y, 7.0, Ink::Text)?;
    canvas.dot((x(relative.ratio), y), 4.0, Ink::Mode(comparison.mode))?;
    let figures = WIDTH - RIGHT + 14.0;
    canvas.bold(&format::ratio(relative.ratio), (figures, y), Align::Left)?;
    let [lo, hi] = relative.ci.map(format::significant);
    canvas.small(&format!("{lo} to {hi}"), (figures + 62.0, y), Align::Left)
}

/// Marks whose labels do not touch; the one at 1 always stays.
fn apart(ticks: Vec<f64>, x: &impl Fn(f64) -> f64) -> Vec<f64> {
    const LABEL: f64 = 40.0;
    let mut kept = vec![1.0];
    for tick in ticks {
        if kept.iter().all(|other: &f64| (x(tick) - x(*other)).abs() >= LABEL) {
            kept.push(tick);
        }
    }
    kept
}

/// Marks between both ends: coarse ones, or finer ones where the range is small.
fn ticks(low: f64, high: f64) -> Vec<f64> {
    const COARSE: [f64; 16] =
        [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0];
    const MIDDLE: [f64; 12] = [0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0];
    const FINE: [f64; 13] = [0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 1.0, 1.02, 1.05, 1.1, 1.15, 1.2, 1.3];
    let scale: &[f64] = match high / low {
        span if span < 1.7 => &FINE,
        span if span < 8.0 => &MIDDLE,
        _ => &COARSE,
    };
    scale.iter().copied().filter(|tick| (low..=high).contains(tick)).collect()
}
