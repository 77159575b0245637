//! Lines over two axes, one a mode and endpoint, with intervals.

use iommu_results::Mode;

use super::axis::Axis;
use super::canvas::{Align, Canvas, Ink, PlotError, draw};

/// One point of a line.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Where on the horizontal axis.
    pub x: f64,
    /// The value.
    pub y: f64,
    /// Its interval, where it has one.
    pub ci: Option<[f64; 2]>,
}

/// One line.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// Its colour and dashes.
    pub mode: Mode,
    /// Its name in the legend.
    pub name: String,
    /// Its points, from left to right.
    pub points: Vec<Point>,
    /// How the points are joined.
    pub join: Join,
}

/// How points are joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Join {
    /// By straight lines, with a dot at each point.
    Dots,
    /// A value holds until the next point.
    Steps,
}

/// A plot of lines.
#[derive(Clone, Debug, PartialEq)]
pub struct Lines {
    /// The horizontal axis.
    pub x: Axis,
    /// The vertical axis.
    pub y: Axis,
    /// The lines.
    pub lines: Vec<Line>,
    /// A marked place of the horizontal axis, and what it is.
    pub mark: Option<(f64, String)>,
}

const SIZE: (f64, f64) = (760.0, 330.0);
const LEFT: f64 = 92.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 58.0;
const BOTTOM: f64 = 54.0;
const LEGEND_STEP: f64 = 150.0;

/// Draws lines.
///
/// # Errors
/// [`PlotError`] when the backend fails.
pub fn lines(label: &str, plot: &Lines) -> Result<String, PlotError> {
    draw(SIZE, label, |canvas| {
        plot.frame(canvas)?;
        // The solid line first: dashed ones show on it where they meet.
        let (solid, dashed): (Vec<_>, Vec<_>) = plot.lines.iter().partition(|line| line.mode == Mode::Strict);
        for line in solid.into_iter().chain(dashed) {
            plot.paint(canvas, line)?;
        }
        plot.legend(canvas)
    })
}

impl Lines {
    fn x(&self, value: f64) -> f64 {
        LEFT + self.x.part(value) * (SIZE.0 - LEFT - RIGHT)
    }

    fn y(&self, value: f64) -> f64 {
        SIZE.1 - BOTTOM - self.y.part(value) * (SIZE.1 - BOTTOM - TOP)
    }

    fn frame(&self, canvas: &mut Canvas<'_>) -> Result<(), PlotError> {
        let (right, bottom) = (SIZE.0 - RIGHT, SIZE.1 - BOTTOM);
        for (value, label) in self.y.ticks(6) {
            let y = self.y(value);
            canvas.line(&[(LEFT, y), (right, y)], Ink::Grid, 1.0)?;
            canvas.small(&label, (LEFT - 8.0, y), Align::Right)?;
        }
        for (value, label) in self.x.ticks(10) {
            let x = self.x(value);
            canvas.line(&[(x, TOP), (x, bottom)], Ink::Grid, 1.0)?;
            canvas.small(&label, (x, bottom + 15.0), Align::Centre)?;
        }
        canvas.small(&self.x.title, ((LEFT + right) / 2.0, SIZE.1 - 12.0), Align::Centre)?;
        canvas.small(&self.y.title, (0.0, TOP - 18.0), Align::Left)?;
        if let Some((value, what)) = &self.mark {
            let x = self.x(*value);
            canvas.line(&[(x, TOP - 6.0), (x, bottom)], Ink::Muted, 1.5)?;
            let (at, align) =
                if self.x.part(*value) > 0.7 { (x - 6.0, Align::Right) } else { (x + 6.0, Align::Left) };
            canvas.small(what, (at, TOP - 8.0), align)?;
        }
        Ok(())
    }

    fn paint(&self, canvas: &mut Canvas<'_>, line: &Line) -> Result<(), PlotError> {
        let ink = Ink::Mode(line.mode);
        let mut path: Vec<(f64, f64)> = Vec::with_capacity(2 * line.points.len());
        for point in &line.points {
            let (x, y) = (self.x(point.x), self.y(point.y));
            if let (Join::Steps, Some(&(_, before))) = (line.join, path.last()) {
                path.push((x, before));
            }
            path.push((x, y));
            if let Some([lo, hi]) = point.ci {
                let (lo, hi) = (self.y(lo), self.y(hi));
                canvas.solid(&[(x, lo), (x, hi)], ink, 1.5)?;
                for end in [lo, hi] {
                    canvas.solid(&[(x - 4.0, end), (x + 4.0, end)], ink, 1.5)?;
                }
            }
        }
        if line.join == Join::Steps
            && let Some(&(_, last)) = path.last()
        {
            path.push((SIZE.0 - RIGHT, last));
        }
        canvas.line(&path, ink, 2.0)?;
        if line.join == Join::Dots {
            for &(x, y) in &path {
                canvas.dot((x, y), 3.0, ink)?;
            }
        }
        Ok(())
    }

    fn legend(&self, canvas: &mut Canvas<'_>) -> Result<(), PlotError> {
        let mut x = LEFT;
        for line in &self.lines {
            canvas.line(&[(x, 14.0), (x + 36.0, 14.0)], Ink::Mode(line.mode), 2.5)?;
            canvas.text(&line.name, (x + 43.0, 14.0), Align::Left, Ink::Text)?;
            x += LEGEND_STEP;
        }
        Ok(())
    }
}
