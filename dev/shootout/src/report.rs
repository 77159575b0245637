//! Figures, and the JSON that scripts rely on.

use iommu_analysis::stats::Estimate;
use serde::Serialize;

/// Name and version of the schema.
pub const SCHEMA: &str = "iommu-bench/tables/1";

/// What a figure is held against.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound {
    /// It should not be above.
    AtMost(f64),
    /// It should not be below.
    AtLeast(f64),
    /// It is published as it is.
    None,
}

impl Bound {
    /// The number.
    pub fn value(self) -> Option<f64> {
        match self {
            Self::AtMost(bound) | Self::AtLeast(bound) => Some(bound),
            Self::None => None,
        }
    }

    /// Whether `value` keeps it; `None` when there is nothing to keep.
    pub fn holds(self, value: f64) -> Option<bool> {
        match self {
            Self::AtMost(bound) => Some(value <= bound),
            Self::AtLeast(bound) => Some(value >= bound),
            Self::None => None,
        }
    }
}

/// One measured number.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// Its name.
    pub name: &'static str,
    /// Its value.
    pub value: f64,
    /// `ratio`, `us`, `ns` or `bytes`.
    pub unit: &'static str,
    /// The 99 % interval.
    pub ci: [f64; 2],
    /// What it is held against.
    #[serde(serialize_with = "number")]
    pub bound: Bound,
}

fn number<S: serde::Serializer>(bound: &Bound, to: S) -> Result<S::Ok, S::Error> {
    bound.value().serialize(to)
}

impl Figure {
    /// A measured figure.
    pub fn new(name: &'static str, unit: &'static str, estimate: Estimate, bound: Bound) -> Self {
        Self { name, value: estimate.value, unit, ci: [estimate.lo, estimate.hi], bound }
    }

    /// A counted figure: no doubt about it.
    pub fn exact(name: &'static str, unit: &'static str, value: f64, bound: Bound) -> Self {
        Self { name, value, unit, ci: [value, value], bound }
    }
}

/// The JSON document.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// The figures, in the order in which they were measured.
    pub figures: Vec<Figure>,
}

impl Report {
    /// A document of these figures.
    pub fn new(figures: Vec<Figure>) -> Self {
        Self { schema: SCHEMA, figures }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_what_scripts_rely_on() {
        let figures = vec![
            Figure::exact("a", "bytes", 3.0, Bound::AtMost(4.0)),
            Figure::exact("b", "ratio", 0.5, Bound::None),
        ];
        let json = serde_json::to_value(Report::new(figures)).unwrap();
        let expected = serde_json::json!({
            "schema": "iommu-bench/tables/1",
            "figures": [
                { "name": "a", "value": 3.0, "unit": "bytes", "ci": [3.0, 3.0], "bound": 4.0 },
                { "name": "b", "value": 0.5, "unit": "ratio", "ci": [0.5, 0.5], "bound": null },
            ],
        });
        assert_eq!(json, expected);
    }

    #[test]
    fn bounds_look_in_their_direction() {
        assert_eq!(Bound::AtMost(2.0).holds(2.0), Some(true));
        assert_eq!(Bound::AtMost(2.0).holds(2.1), Some(false));
        assert_eq!(Bound::AtLeast(0.9).holds(0.95), Some(true));
        assert_eq!(Bound::AtLeast(0.9).holds(0.8), Some(false));
        assert_eq!(Bound::None.holds(9.0), None);
    }
}
