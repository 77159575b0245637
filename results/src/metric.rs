//! Lookup in the metric table, whose rows stand in [`names`](crate::names).
//!
//! Assembling, verdicts, dashboard, reports and docs read units, directions and labels here and nowhere else. A name
//! without a row has neither: it is an error when a run is assembled, and gets no verdict in a stored run.

use serde::Serialize;
use thiserror::Error;

/// Schema of [`Document`].
pub const SCHEMA: &str = "iommu-bench/metrics/1";

/// Every metric, histogram and count.
pub const TABLE: &[Row] = crate::names::ROWS;

/// Reason for which a figure of a stored run gets no verdict.
pub const UNKNOWN: &str =
    "the metric table of this version (iommu-bench metrics) lacks it, so no unit and no direction are known";

/// Which way a figure should go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// More is better.
    Higher,
    /// Less is better.
    Lower,
    /// The figure describes the load: a change means that something else was measured.
    Neither,
}

/// Where a figure comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A clock or a hardware counter; timings are judged with intervals.
    Measured,
    /// A counter of events.
    Counted,
    /// A model's output; no comparison judges it.
    Modelled,
}

/// Place of a figure in a case of `run.json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Of {
    /// In `metrics`.
    Metric,
    /// In `histograms`; comparisons judge its mean.
    Histogram,
    /// In `counts`.
    Count,
}

impl std::fmt::Display for Of {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Metric => "metric",
            Self::Histogram => "histogram",
            Self::Count => "count",
        })
    }
}

/// One row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Row {
    /// Name in `run.json`, unique among metrics and histograms, and among counts.
    pub name: &'static str,
    /// Unit of the values.
    pub unit: &'static str,
    /// Which way is better.
    pub direction: Direction,
    /// Where the values come from.
    pub kind: Kind,
    /// Where the values stand.
    pub of: Of,
    /// Short name for readers.
    pub label: &'static str,
    /// Meaning, in one sentence.
    pub description: &'static str,
}

/// The table as `iommu-bench metrics --json` prints it.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Document {
    schema: &'static str,
    metrics: &'static [Row],
}

impl Default for Document {
    fn default() -> Self {
        Self { schema: SCHEMA, metrics: TABLE }
    }
}

/// A name that has no row.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "the {of} `{name}` has no row in the metric table (results/src/names.rs), so it has neither unit nor direction"
)]
pub struct UnknownName {
    /// The name.
    pub name: String,
    /// The place in which it was found.
    pub of: Of,
}

/// The row of a name in one place.
///
/// # Errors
/// [`UnknownName`] where there is none.
pub fn find(name: &str, of: Of) -> Result<&'static Row, UnknownName> {
    let row = TABLE.iter().find(|row| row.of == of && row.name == name);
    row.ok_or_else(|| UnknownName { name: name.to_owned(), of })
}

/// The row of a series: a metric, or a histogram whose mean is followed.
///
/// # Errors
/// [`UnknownName`] where there is none.
pub fn series(name: &str) -> Result<&'static Row, UnknownName> {
    find(name, Of::Metric).or_else(|unknown| find(name, Of::Histogram).map_err(|_| unknown))
}

impl Row {
    /// Comparisons of timings judge what was measured; what is modelled or only recorded describes the load.
    pub fn is_timing(&self) -> bool {
        self.kind == Kind::Measured
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::names;

    #[test]
    fn every_row_is_complete_and_found_by_its_name() {
        for row in TABLE {
            assert_eq!(find(row.name, row.of), Ok(row), "{} is in the table once", row.name);
            assert!(!row.unit.is_empty() && !row.label.is_empty(), "{row:?}");
            let sentence = row.description;
            assert!(sentence.ends_with('.') && !sentence.contains(". "), "one sentence: {sentence}");
            if row.of == Of::Histogram {
                assert_eq!((row.unit, row.kind), (names::NANOSECONDS, Kind::Measured), "{}", row.name);
            }
        }
        let series: Vec<_> = TABLE.iter().filter(|row| row.of != Of::Count).map(|row| row.name).collect();
        assert_eq!(series.iter().collect::<BTreeSet<_>>().len(), series.len(), "{series:?}");
    }

    #[test]
    fn names_without_a_row_have_nothing() {
        for (name, of) in
            [("x", Of::Metric), ("throughput", Of::Count), ("packets", Of::Metric), ("", Of::Count)]
        {
            assert_eq!(find(name, of), Err(UnknownName { name: name.to_owned(), of }));
        }
        assert!(series("map_latency").is_ok() && series("transactions").is_ok());
        assert_eq!(series("packets").unwrap_err().of, Of::Metric);
    }

    #[test]
    fn groups_of_metrics_are_in_the_table() {
        let hardware = names::HARDWARE.map(|(_, metric)| metric);
        for name in names::PINNING.into_iter().chain(names::CHURN).chain(hardware) {
            assert_eq!(series(name).map(|row| row.of), Ok(Of::Metric), "{name}");
        }
        for rate in names::IOTLB_RATES {
            assert_eq!(find(rate.per_packet, Of::Metric).unwrap().unit, names::PER_PACKET);
            assert_eq!(find(rate.per_second, Of::Metric).unwrap().unit, names::PER_SECOND);
            let direction = find(rate.count, Of::Count).unwrap().direction;
            for metric in [rate.per_packet, rate.per_second] {
                assert_eq!(find(metric, Of::Metric).unwrap().direction, direction, "{metric}");
            }
        }
    }

    #[test]
    fn json_is_what_scripts_rely_on() {
        let json = serde_json::to_value(Document::default()).unwrap();
        assert_eq!(json["schema"], SCHEMA);
        assert_eq!(json["metrics"].as_array().unwrap().len(), TABLE.len());
        assert_eq!(
            serde_json::to_string(&json["metrics"][0]).unwrap(),
            r#"{"description":"Payload bytes moved per second.","direction":"higher","kind":"measured","label":"throughput","name":"throughput","of":"metric","unit":"bytes/s"}"#
        );
    }
}
