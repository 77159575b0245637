//! A drawing surface in CSS pixels over plotters' SVG backend, with named inks instead of colours.

use std::fmt::Write as _;

use iommu_results::Mode;
use plotters::backend::{DrawingBackend, SVGBackend};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{FontStyle, IntoFont, RGBColor, TextStyle};
use plotters_backend::{BackendColor, BackendStyle};

/// A plot that could not be drawn.
#[derive(Debug, thiserror::Error)]
#[error("the plot could not be drawn: {0}")]
pub struct PlotError(String);

impl<E: std::error::Error + Send + Sync> From<plotters_backend::DrawingErrorKind<E>> for PlotError {
    fn from(error: plotters_backend::DrawingErrorKind<E>) -> Self {
        Self(error.to_string())
    }
}

/// What a stroke or text means; the page's style says which colour that is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ink {
    Text,
    Muted,
    Grid,
    Mode(Mode),
}

/// CSS variable and the values for a light and a dark page of every ink.
pub const THEME: [(&str, &str, &str); 7] = [
    ("ink", "#1b1f24", "#e8eaed"),
    ("muted", "#57606a", "#a3abb5"),
    ("grid", "#d8dde3", "#3a414a"),
    ("mode-off", "#6b7480", "#9aa5b3"),
    ("mode-identity", "#0b8065", "#38c9a3"),
    ("mode-lazy", "#b75d00", "#f2a24c"),
    ("mode-strict", "#2a5bd7", "#82aaff"),
];

impl Ink {
    fn index(self) -> u8 {
        match self {
            Self::Text => 0,
            Self::Muted => 1,
            Self::Grid => 2,
            Self::Mode(Mode::Off) => 3,
            Self::Mode(Mode::Identity) => 4,
            Self::Mode(Mode::Lazy) => 5,
            Self::Mode(Mode::Strict) => 6,
        }
    }

    /// The colour that stands for this ink until the drawing is finished.
    fn placeholder(self) -> RGBColor {
        RGBColor(1, 0, self.index())
    }
}

/// Dashes of a mode's line.
fn dashes(mode: Mode) -> Option<&'static str> {
    match mode {
        Mode::Off => Some("3 7"),
        Mode::Identity => Some("14 7"),
        Mode::Lazy => Some("24 6 4 6"),
        Mode::Strict => None,
    }
}

/// Where a text lies relative to its point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    Right,
    Centre,
}

/// Whole units of the backend for one CSS pixel, so that curves are smooth.
const SCALE: f64 = 2.0;
/// The backend divides font sizes by this.
const FONT_UNIT: f64 = 1.24;

pub(super) struct Canvas<'s> {
    backend: SVGBackend<'s>,
}

/// Ink, width, and how opaque.
struct Stroke(Ink, f64, f64);

impl BackendStyle for Stroke {
    fn color(&self) -> BackendColor {
        let RGBColor(r, g, b) = self.0.placeholder();
        BackendColor { alpha: self.2, rgb: (r, g, b) }
    }

    fn stroke_width(&self) -> u32 {
        (self.1 * SCALE).round() as u32
    }
}

/// Draws a plot of the given size in CSS pixels; `label` says to who cannot see it what it shows.
pub(super) fn draw(
    size: (f64, f64),
    label: &str,
    paint: impl FnOnce(&mut Canvas<'_>) -> Result<(), PlotError>,
) -> Result<String, PlotError> {
    let mut svg = String::new();
    {
        let (width, height) = unit(size.0, size.1);
        let mut canvas = Canvas {
            backend: SVGBackend::with_string(&mut svg, (width.unsigned_abs(), height.unsigned_abs())),
        };
        paint(&mut canvas)?;
        canvas.backend.present()?;
    }
    Ok(themed(&svg, size, label))
}

impl Canvas<'_> {
    pub(super) fn text(
        &mut self,
        text: &str,
        at: (f64, f64),
        align: Align,
        ink: Ink,
    ) -> Result<(), PlotError> {
        self.write(text, at, align, ink, 13.0, FontStyle::Normal)
    }

    pub(super) fn bold(&mut self, text: &str, at: (f64, f64), align: Align) -> Result<(), PlotError> {
        self.write(text, at, align, Ink::Text, 13.0, FontStyle::Bold)
    }

    pub(super) fn small(&mut self, text: &str, at: (f64, f64), align: Align) -> Result<(), PlotError> {
        self.write(text, at, align, Ink::Muted, 12.0, FontStyle::Normal)
    }

    fn write(
        &mut self,
        text: &str,
        at: (f64, f64),
        align: Align,
        ink: Ink,
        size: f64,
        weight: FontStyle,
    ) -> Result<(), PlotError> {
        let horizontal = match align {
            Align::Left => HPos::Left,
            Align::Right => HPos::Right,
            Align::Centre => HPos::Center,
        };
        let font = ("sans-serif", size * SCALE * FONT_UNIT).into_font().style(weight);
        let colour = ink.placeholder();
        let style = TextStyle::from(font).color(&colour).pos(Pos::new(horizontal, VPos::Center));
        // The backend escapes markup, but passes on what no XML may carry.
        let text = text.replace(char::is_control, "\u{fffd}");
        Ok(self.backend.draw_text(&text, &style, unit(at.0, at.1))?)
    }

    pub(super) fn line(&mut self, points: &[(f64, f64)], ink: Ink, width: f64) -> Result<(), PlotError> {
        let points: Vec<_> = points.iter().map(|(x, y)| unit(*x, *y)).collect();
        Ok(self.backend.draw_path(points, &Stroke(ink, width, 1.0))?)
    }

    pub(super) fn bar(&mut self, from: (f64, f64), to: (f64, f64), ink: Ink) -> Result<(), PlotError> {
        Ok(self.backend.draw_rect(unit(from.0, from.1), unit(to.0, to.1), &Stroke(ink, 1.0, 1.0), true)?)
    }

    pub(super) fn dot(&mut self, at: (f64, f64), radius: f64, ink: Ink) -> Result<(), PlotError> {
        let radius = (radius * SCALE).round() as u32;
        Ok(self.backend.draw_circle(unit(at.0, at.1), radius, &Stroke(ink, 1.0, 1.0), true)?)
    }

    /// A line without the dashes of its mode: for marks that are too short for them.
    pub(super) fn solid(&mut self, points: &[(f64, f64)], ink: Ink, width: f64) -> Result<(), PlotError> {
        for pair in points.windows(2) {
            let half = width / 2.0;
            let (low, high) = (
                (pair[0].0.min(pair[1].0), pair[0].1.min(pair[1].1)),
                (pair[0].0.max(pair[1].0), pair[0].1.max(pair[1].1)),
            );
            let (dx, dy) = if low.0 == high.0 { (half, 0.0) } else { (0.0, half) };
            self.bar((low.0 - dx, low.1 - dy), (high.0 + dx, high.1 + dy), ink)?;
        }
        Ok(())
    }

    /// A filled rectangle that lets so much through of what is below.
    pub(super) fn cell(
        &mut self,
        from: (f64, f64),
        to: (f64, f64),
        ink: Ink,
        alpha: f64,
    ) -> Result<(), PlotError> {
        Ok(self.backend.draw_rect(unit(from.0, from.1), unit(to.0, to.1), &Stroke(ink, 1.0, alpha), true)?)
    }

    /// A horizontal interval with end marks that reach `mark` up and down.
    pub(super) fn whisker(
        &mut self,
        from: f64,
        to: f64,
        y: f64,
        mark: f64,
        ink: Ink,
    ) -> Result<(), PlotError> {
        self.line(&[(from, y), (to, y)], ink, 1.5)?;
        for x in [from, to] {
            self.line(&[(x, y - mark), (x, y + mark)], ink, 1.5)?;
        }
        Ok(())
    }
}

fn unit(x: f64, y: f64) -> (i32, i32) {
    ((x * SCALE).round() as i32, (y * SCALE).round() as i32)
}

/// Replaces the placeholders by the page's colours, lets the page decide the size, and names the plot.
fn themed(svg: &str, (width, height): (f64, f64), label: &str) -> String {
    let mut text = svg.to_owned();
    if let Some(end) = text.find('>') {
        let (width, height) = unit(width, height);
        let mut open = String::from("<svg class=\"plot\"");
        // Writing to a String cannot fail.
        let _ =
            write!(open, " viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{}\"", escape(label));
        open.push_str(" xmlns=\"http://www.w3.org/2000/svg\"");
        text.replace_range(..end, &open);
    }
    for mode in Mode::ALL {
        if let Some(dashes) = dashes(*mode) {
            let RGBColor(r, g, b) = Ink::Mode(*mode).placeholder();
            let stroke = format!("stroke=\"#{r:02X}{g:02X}{b:02X}\"");
            text = text.replace(&stroke, &format!("{stroke} stroke-dasharray=\"{dashes}\""));
        }
    }
    for (index, (name, light, _)) in THEME.iter().enumerate() {
        text = text.replace(&format!("\"#0100{index:02X}\""), &format!("\"var(--{name}, {light})\""));
    }
    text
}

/// Text as HTML or as an attribute's value.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            // Neither HTML nor XML may carry these.
            c if c.is_control() && !matches!(c, '\n' | '\t') => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}
