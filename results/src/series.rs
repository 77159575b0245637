//! What each slice of a run measured, before it became means and ratios: `series.json`, schema
//! `iommu-bench/series/1`.
//!
//! A verdict between two runs, an interval at another level or a plot over time needs the slices themselves, which
//! `run.json` does not carry. `docs/results-schema.md` describes the file to users.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The schema that this version reads and writes.
pub const SERIES_SCHEMA: &str = "iommu-bench/series/1";

/// The slices of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Series {
    /// Always [`SERIES_SCHEMA`].
    pub schema: String,
    /// The run that the slices belong to.
    pub run_id: String,
    /// By case, in the run's order.
    pub cases: Vec<CaseSeries>,
}

/// The slices of one case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaseSeries {
    /// Id of the case in `run.json`.
    pub id: String,
    /// By name of the metric, or of the histogram whose mean over the slice it is. Empty where nothing was timed.
    pub metrics: BTreeMap<String, MetricSeries>,
}

/// One metric of one case, slice by slice.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetricSeries {
    /// Unit of the values, from [`crate::metric`].
    pub unit: String,
    /// In the order of the rounds.
    pub slices: Vec<SliceValue>,
}

/// What one slice measured.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SliceValue {
    /// The round: every case has one slice in each, and those were measured close together.
    pub round: u32,
    /// From the start of measuring until the slice began, ns.
    pub at_ns: u64,
    /// The value, in the metric's unit.
    pub value: f64,
}

impl MetricSeries {
    /// The values in the order of the rounds.
    pub fn values(&self) -> Vec<f64> {
        self.slices.iter().map(|slice| slice.value).collect()
    }
}

/// Why text is no series.
#[derive(Debug, thiserror::Error)]
pub enum SeriesError {
    /// Not JSON, or a field has the wrong type or is absent.
    #[error("at `{field}`: {message}")]
    Json {
        /// Path of the field; `.` is the whole document.
        field: String,
        /// What is wrong, with line and column.
        message: String,
    },
    /// Another schema; a newer version of the tool may have written it.
    #[error("schema is `{found}`, this version reads `{SERIES_SCHEMA}`")]
    Schema {
        /// The schema that the file names.
        found: String,
    },
    /// The slices of another run.
    #[error("the slices belong to run `{found}`, not to `{expected}`")]
    Run {
        /// The run that the file names.
        found: String,
        /// The run beside it.
        expected: String,
    },
    /// NaN, infinite or negative.
    #[error("case `{case}`, `{metric}`, round {round}: {value} is not a finite number of at least 0")]
    Value {
        /// Id of the case.
        case: String,
        /// Name of the metric.
        metric: String,
        /// The round.
        round: u32,
        /// The value.
        value: f64,
    },
    /// A round twice, or out of order.
    #[error("case `{case}`, `{metric}`: round {round} does not come after the one before it")]
    Order {
        /// Id of the case.
        case: String,
        /// Name of the metric.
        metric: String,
        /// The round.
        round: u32,
    },
}

impl Series {
    /// The slices of a metric or histogram of a case, if there are any.
    pub fn of(&self, case: &str, metric: &str) -> Option<&MetricSeries> {
        self.cases.iter().find(|series| series.id == case)?.metrics.get(metric)
    }

    /// Reads and checks `series.json`, which must belong to the run `run_id`.
    ///
    /// # Errors
    /// [`SeriesError`] naming the field, or the case, metric and round.
    pub fn from_json(text: &str, run_id: &str) -> Result<Self, SeriesError> {
        let mut json = serde_json::Deserializer::from_str(text);
        let series: Self = serde_path_to_error::deserialize(&mut json).map_err(|error| {
            SeriesError::Json { field: error.path().to_string(), message: error.into_inner().to_string() }
        })?;
        json.end()
            .map_err(|error| SeriesError::Json { field: ".".to_owned(), message: error.to_string() })?;
        series.check(run_id)?;
        Ok(series)
    }

    /// The text of `series.json`.
    ///
    /// # Errors
    /// [`SeriesError`] when the series would not be read back.
    pub fn to_json(&self) -> Result<String, SeriesError> {
        self.check(&self.run_id)?;
        // Without line breaks: there are thousands of slices.
        serde_json::to_string(self)
            .map(|text| text + "\n")
            .map_err(|error| SeriesError::Json { field: ".".to_owned(), message: error.to_string() })
    }

    fn check(&self, run_id: &str) -> Result<(), SeriesError> {
        if self.schema != SERIES_SCHEMA {
            return Err(SeriesError::Schema { found: self.schema.clone() });
        }
        if self.run_id != run_id {
            return Err(SeriesError::Run { found: self.run_id.clone(), expected: run_id.to_owned() });
        }
        for case in &self.cases {
            for (metric, series) in &case.metrics {
                series.check(&case.id, metric)?;
            }
        }
        Ok(())
    }
}

impl MetricSeries {
    fn check(&self, case: &str, metric: &str) -> Result<(), SeriesError> {
        let (case, metric) = (|| case.to_owned(), || metric.to_owned());
        let mut before = None;
        for &SliceValue { round, value, .. } in &self.slices {
            if !(value.is_finite() && value >= 0.0) {
                return Err(SeriesError::Value { case: case(), metric: metric(), round, value });
            }
            if before.is_some_and(|before| round <= before) {
                return Err(SeriesError::Order { case: case(), metric: metric(), round });
            }
            before = Some(round);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Series {
        let slices =
            [(0, 5, 1.5), (1, 9, 2.5)].map(|(round, at_ns, value)| SliceValue { round, at_ns, value });
        let metric = MetricSeries { unit: "ns".to_owned(), slices: slices.to_vec() };
        let metrics = BTreeMap::from([("request_service".to_owned(), metric)]);
        let cases = vec![CaseSeries { id: "a/strict".to_owned(), metrics }];
        Series { schema: SERIES_SCHEMA.to_owned(), run_id: "r".to_owned(), cases }
    }

    #[test]
    fn what_was_written_is_read() {
        let text = sample().to_json().unwrap();
        let read = Series::from_json(&text, "r").unwrap();
        assert_eq!(read, sample());
        assert_eq!(read.of("a/strict", "request_service").unwrap().values(), [1.5, 2.5]);
        assert_eq!(read.of("a/strict", "throughput"), None);
        for length in 0..text.trim_end().len() {
            assert!(Series::from_json(&text[..length], "r").is_err(), "accepted {length} bytes");
        }
    }

    #[test]
    fn damage_is_refused_and_named() {
        let text = sample().to_json().unwrap();
        for (old, new, expected) in [
            ("series/1", "series/2", "iommu-bench/series/2"),
            (r#""run_id":"r""#, r#""run_id":"s""#, "run `s`"),
            ("2.5", "-2.5", "round 1: -2.5"),
            ("2.5", "NaN", "cases[0].metrics.request_service.slices[1].value"),
            ("2.5", "1e999", "cases[0].metrics.request_service.slices[1].value"),
            (r#""round":1"#, r#""round":0"#, "round 0 does not come after"),
            (r#""unit""#, r#""units""#, "units"),
        ] {
            assert!(text.contains(old));
            let message = Series::from_json(&text.replacen(old, new, 1), "r").unwrap_err().to_string();
            assert!(message.contains(expected), "`{new}`: {message}");
        }
    }
}
