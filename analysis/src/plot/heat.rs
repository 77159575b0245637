//! Latency over time: a column a slice, a row a bucket of latencies, the darker the more operations.

use iommu_results::Mode;

use super::axis::{Axis, Scale, Unit};
use super::canvas::{Align, Canvas, Ink, PlotError, draw};

/// One slice of one mode.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    /// When it began, in seconds.
    pub from_s: f64,
    /// Smallest latency of a bucket in nanoseconds, and operations in it.
    pub buckets: Vec<(u64, u64)>,
}

/// The slices of one mode.
#[derive(Clone, Debug, PartialEq)]
pub struct HeatMap {
    /// The mode.
    pub mode: Mode,
    /// Its slices.
    pub columns: Vec<Column>,
}

/// Factor from a bucket's smallest latency to the next bucket's.
const BUCKET: f64 = 1.189_207_115_002_721;
/// Shares of a slice's operations from which a cell is so dark, darkest first.
const SHADES: [(f64, f64, &str); 6] = [
    (0.3, 1.0, "30 % or more"),
    (0.1, 0.78, "10"),
    (0.03, 0.58, "3"),
    (0.01, 0.4, "1"),
    (0.001, 0.24, "0.1"),
    (0.0, 0.12, "less"),
];

const WIDTH: f64 = 760.0;
const LEFT: f64 = 92.0;
const RIGHT: f64 = 24.0;
const LEGEND: f64 = 34.0;
const PANEL: f64 = 150.0;
const GAP: f64 = 46.0;
const BOTTOM: f64 = 26.0;
/// Most times below a panel.
const LABELS: usize = 16;

/// Heat maps below one another, on one pair of axes.
///
/// # Errors
/// [`PlotError`] when the backend fails.
pub fn heat(label: &str, maps: &[HeatMap]) -> Result<String, PlotError> {
    let bounds = maps.iter().flat_map(|map| &map.columns).flat_map(|column| &column.buckets);
    let bounds = bounds.flat_map(|(from, _)| [*from as f64, *from as f64 * BUCKET]);
    let y = Axis::around("latency", Scale::Decades, Unit::Nanoseconds, bounds, false);
    let height = LEGEND + (PANEL + GAP) * maps.len() as f64 + BOTTOM;
    draw((WIDTH, height), label, |canvas| {
        legend(canvas)?;
        let mut top = LEGEND + GAP;
        for map in maps {
            panel(canvas, map, &y, top)?;
            top += PANEL + GAP;
        }
        let middle = LEFT + (WIDTH - LEFT - RIGHT) / 2.0;
        canvas.small(
            "slices, marked with the time from the start of measuring, s",
            (middle, top + 12.0),
            Align::Centre,
        )
    })
}

fn panel(canvas: &mut Canvas<'_>, map: &HeatMap, y: &Axis, top: f64) -> Result<(), PlotError> {
    let at = |latency: f64| top + PANEL - y.part(latency) * PANEL;
    canvas.bold(map.mode.as_str(), (LEFT, top - 11.0), Align::Left)?;
    for (value, label) in y.ticks(6) {
        canvas.line(&[(LEFT, at(value)), (WIDTH - RIGHT, at(value))], Ink::Grid, 1.0)?;
        canvas.small(&label, (LEFT - 8.0, at(value)), Align::Right)?;
    }
    let width = (WIDTH - LEFT - RIGHT) / map.columns.len().max(1) as f64;
    let every = map.columns.len().div_ceil(LABELS).max(1);
    for (index, column) in map.columns.iter().enumerate() {
        let left = LEFT + width * index as f64;
        if index.is_multiple_of(every) {
            let text = format!("{:.1}", column.from_s);
            canvas.small(&text, (left + width / 2.0, top + PANEL + 11.0), Align::Centre)?;
        }
        let all: u64 = column.buckets.iter().map(|(_, count)| count).sum();
        for &(from, count) in &column.buckets {
            let (low, high) = (at(from as f64), at(from as f64 * BUCKET));
            let share = count as f64 / all.max(1) as f64;
            canvas.cell((left, high), (left + width - 1.0, low), Ink::Mode(map.mode), shade(share))?;
        }
    }
    Ok(())
}

fn shade(share: f64) -> f64 {
    SHADES.iter().find(|(from, ..)| share >= *from).map_or(0.0, |(_, alpha, _)| *alpha)
}

fn legend(canvas: &mut Canvas<'_>) -> Result<(), PlotError> {
    canvas.small("share of a slice's operations:", (0.0, 14.0), Align::Left)?;
    let mut x = 190.0;
    for (_, alpha, name) in SHADES {
        canvas.cell((x, 7.0), (x + 18.0, 21.0), Ink::Text, alpha)?;
        canvas.small(name, (x + 24.0, 14.0), Align::Left)?;
        x += 44.0 + 6.5 * name.len() as f64;
    }
    Ok(())
}
