//! The shoot-out as a picture: a dot for each structure and question, on a logarithmic axis of nanoseconds.

use plotters::{
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};
use thiserror::Error;

use crate::shootout::{COLUMNS, Row};

/// The picture could not be drawn.
#[derive(Debug, Error)]
#[error("the plot could not be drawn: {0}")]
pub struct PlotError(String);

impl<E: std::error::Error + Send + Sync> From<DrawingAreaErrorKind<E>> for PlotError {
    fn from(error: DrawingAreaErrorKind<E>) -> Self {
        Self(error.to_string())
    }
}

const WIDTH: u32 = 900;
const LEFT: i32 = 170;
const RIGHT: i32 = 30;
const TOP: i32 = 64;
const ROW: i32 = 34;
const BOTTOM: i32 = 44;
const COLOURS: [RGBColor; 4] = [
    RGBColor(0x2a, 0x5b, 0xd7),
    RGBColor(0xb7, 0x5d, 0x00),
    RGBColor(0x0b, 0x80, 0x65),
    RGBColor(0x8a, 0x3f, 0xa0),
];
const INK: RGBColor = RGBColor(0x1b, 0x1f, 0x24);
const GRID: RGBColor = RGBColor(0xd8, 0xdd, 0xe3);

/// The rows as SVG.
///
/// # Errors
/// When the backend fails.
pub fn shootout(rows: &[Row]) -> Result<String, PlotError> {
    let mut svg = String::new();
    let height = TOP + ROW * rows.len() as i32 + BOTTOM;
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, height as u32)).into_drawing_area();
        area.fill(&WHITE)?;
        let text = |size: i32| TextStyle::from(("sans-serif", size).into_font()).color(&INK);
        let centred = |pos| text(14).pos(pos);
        area.draw(&Text::new("Nanoseconds an operation, logarithmic; left is faster", (LEFT, 10), text(16)))?;
        let scale = Scale::of(rows);
        for decade in scale.decades() {
            let x = scale.x(decade);
            area.draw(&PathElement::new(vec![(x, TOP), (x, height - BOTTOM)], GRID))?;
            let label = centred(Pos::new(HPos::Center, VPos::Top));
            area.draw(&Text::new(format!("{decade}"), (x, height - BOTTOM + 8), label))?;
        }
        for (at, row) in rows.iter().enumerate() {
            let y = TOP + ROW * at as i32 + ROW / 2;
            let label = centred(Pos::new(HPos::Right, VPos::Center));
            area.draw(&Text::new(row.name, (LEFT - 14, y), label))?;
            area.draw(&PathElement::new(vec![(LEFT, y), (WIDTH as i32 - RIGHT, y)], GRID))?;
            for (ns, colour) in row.ns.iter().zip(COLOURS).filter(|(ns, _)| **ns > 0.0) {
                area.draw(&Circle::new((scale.x(*ns), y), 6, colour.filled()))?;
            }
        }
        for (at, (name, colour)) in COLUMNS.iter().zip(COLOURS).enumerate() {
            let x = LEFT + at as i32 * 170;
            area.draw(&Circle::new((x, 46), 6, colour.filled()))?;
            area.draw(&Text::new(*name, (x + 12, 46), centred(Pos::new(HPos::Left, VPos::Center))))?;
        }
        area.present()?;
    }
    Ok(svg)
}

/// The axis, in powers of ten.
struct Scale {
    lo: i32,
    hi: i32,
}

impl Scale {
    fn of(rows: &[Row]) -> Self {
        let ns = || rows.iter().flat_map(|row| row.ns).filter(|ns| *ns > 0.0);
        let lo = ns().fold(f64::INFINITY, f64::min).max(0.1).log10().floor();
        let hi = ns().fold(1.0, f64::max).log10().ceil();
        Self { lo: lo.min(hi - 1.0) as i32, hi: hi as i32 }
    }

    fn decades(&self) -> impl Iterator<Item = f64> {
        (self.lo..=self.hi).map(|decade| 10f64.powi(decade))
    }

    fn x(&self, ns: f64) -> i32 {
        let share = (ns.log10() - f64::from(self.lo)) / f64::from(self.hi - self.lo);
        LEFT + (share * f64::from(WIDTH as i32 - LEFT - RIGHT)) as i32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use iommu_shootout::tables::Scope;

    #[test]
    fn every_structure_and_question_is_in_the_picture() {
        let row = |name, ns| Row { name, scope: Scope::Ranges, ns };
        let svg =
            shootout(&[row("fast", [3.0, 4.0, 1.0, 9.0]), row("slow", [50.0, 700.0, 60.0, 400.0])]).unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        // A dot a number, and one for each entry of the legend.
        assert_eq!(svg.matches("<circle").count(), 2 * 4 + 4);
        for text in ["fast", "slow"].iter().chain(&COLUMNS) {
            assert!(svg.contains(text), "{text}");
        }
    }
}
