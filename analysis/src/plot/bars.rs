//! Horizontal bars in sections, one row a mode.

use iommu_results::Mode;

use super::canvas::{Align, Canvas, Ink, PlotError, draw};

/// One bar.
#[derive(Clone, Debug)]
pub struct Bar {
    /// Which mode it belongs to.
    pub mode: Mode,
    /// Length and, where there is one, the interval; or why there is no bar.
    pub value: Result<(f64, Option<[f64; 2]>), String>,
    /// The figure in words, beside the bar.
    pub text: String,
}

/// Bars below one heading.
#[derive(Clone, Debug)]
pub struct Section {
    /// The heading.
    pub title: String,
    /// Its bars.
    pub bars: Vec<Bar>,
}

const WIDTH: f64 = 760.0;
const LEFT: f64 = 84.0;
/// Room for the figure right of the longest bar.
const FIGURE: f64 = 230.0;
const ROW: f64 = 24.0;
const BAR: f64 = 15.0;
const HEADING: f64 = 26.0;
const GAP: f64 = 12.0;

/// Bars from zero. With `shared_scale` all sections have one scale, otherwise each has its own.
///
/// # Errors
/// [`PlotError`] when the backend fails.
pub fn bars(label: &str, sections: &[Section], shared_scale: bool) -> Result<String, PlotError> {
    let height: f64 = sections.iter().map(|section| HEADING + GAP + ROW * section.bars.len() as f64).sum();
    let longest = sections.iter().map(longest).fold(0.0, f64::max);
    draw((WIDTH, height.max(ROW)), label, |canvas| {
        let mut y = 0.0;
        for section in sections {
            canvas.bold(&section.title, (0.0, y + HEADING / 2.0), Align::Left)?;
            y += HEADING;
            let scale = if shared_scale { longest } else { self::longest(section) };
            let bottom = y + ROW * section.bars.len() as f64;
            canvas.line(&[(LEFT, y), (LEFT, bottom)], Ink::Grid, 1.0)?;
            for bar in &section.bars {
                paint(canvas, bar, y + ROW / 2.0, scale)?;
                y += ROW;
            }
            y += GAP;
        }
        Ok(())
    })
}

fn paint(canvas: &mut Canvas<'_>, bar: &Bar, y: f64, longest: f64) -> Result<(), PlotError> {
    canvas.text(bar.mode.as_str(), (LEFT - 10.0, y), Align::Right, Ink::Text)?;
    let Ok((value, ci)) = &bar.value else {
        return canvas.small(&bar.text, (LEFT + 8.0, y), Align::Left);
    };
    let x = |value: f64| {
        let part = if longest > 0.0 { (value / longest).clamp(0.0, 1.0) } else { 0.0 };
        LEFT + part * (WIDTH - LEFT - FIGURE)
    };
    let mut end = x(*value);
    if end > LEFT {
        canvas.bar((LEFT, y - BAR / 2.0), (end, y + BAR / 2.0), Ink::Mode(bar.mode))?;
    }
    if let Some([lo, hi]) = ci {
        canvas.whisker(x(*lo), x(*hi), y, 4.0, Ink::Text)?;
        end = end.max(x(*hi));
    }
    canvas.text(&bar.text, (end + 9.0, y), Align::Left, Ink::Text)
}

/// The furthest that a bar or an interval of the section reaches.
fn longest(section: &Section) -> f64 {
    let reach = |bar: &Bar| match &bar.value {
        Ok((value, ci)) => value.max(ci.map_or(0.0, |ci| ci[1])),
        Err(_) => 0.0,
    };
    section.bars.iter().map(reach).fold(0.0, f64::max)
}
