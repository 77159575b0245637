//! What makes a run valid beyond its types, checked on every load and before every save.

use std::collections::BTreeSet;

use crate::schema::{Case, Metric, Relative, Run, SCHEMA};

/// A rule that a run breaks.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Invalid {
    /// Another schema; a newer version of the tool may have written it.
    #[error("schema is `{found}`, this version reads `{SCHEMA}`")]
    Schema {
        /// The schema that the file names.
        found: String,
    },
    /// NaN or infinite.
    #[error("{field}: {value} is not a finite number")]
    NotFinite {
        /// Path of the field.
        field: String,
        /// The value.
        value: f64,
    },
    /// Outside what the field can mean.
    #[error("{field}: {value} is not {expected}")]
    OutOfRange {
        /// Path of the field.
        field: String,
        /// The value.
        value: f64,
        /// What it has to be.
        expected: &'static str,
    },
    /// The lower end is above the upper one, or percentiles decrease.
    #[error("{field}: {values:?} is not in increasing order")]
    Unordered {
        /// Path of the field.
        field: String,
        /// The values.
        values: Vec<f64>,
    },
    /// Not a name, or one that would not be safe as part of a file's name.
    #[error("{field}: `{name}` is not a name of 1 to {MAX_NAME} characters out of {allowed}")]
    Name {
        /// Path of the field.
        field: String,
        /// The name.
        name: String,
        /// The characters that a name may have.
        allowed: &'static str,
    },
    /// Two cases have the same id.
    #[error("cases[{index}].id: `{id}` is already the id of another case")]
    DuplicateCase {
        /// Index of the second one.
        index: usize,
        /// The id.
        id: String,
    },
    /// A comparison names a case that the run does not have.
    #[error("{field}: there is no case `{id}`")]
    UnknownCase {
        /// Path of the field.
        field: String,
        /// The id.
        id: String,
    },
    /// A comparison names a metric that its case lacks.
    #[error("{field}: case `{case}` has no metric `{metric}`")]
    UnknownMetric {
        /// Path of the field.
        field: String,
        /// Id of the case.
        case: String,
        /// Name of the metric.
        metric: String,
    },
}

/// Why text is no run.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Not JSON, or a field has the wrong type or is absent.
    #[error("at `{field}`, line {line} column {column}: {message}")]
    Json {
        /// Path of the field; `.` is the whole document.
        field: String,
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// What is wrong.
        message: String,
    },
    /// Readable, but breaks a rule.
    #[error(transparent)]
    Invalid(#[from] Invalid),
}

/// Longest run id, case id or name.
pub const MAX_NAME: usize = 160;

impl Run {
    /// Reads and validates `run.json`.
    ///
    /// # Errors
    /// [`LoadError`] naming the field.
    pub fn from_json(text: &str) -> Result<Self, LoadError> {
        // The schema comes first: fields of another schema would only give a misleading error about one of them.
        if let Ok(Header { schema: Some(found) }) = serde_json::from_str::<Header>(text)
            && found != SCHEMA
        {
            return Err(Invalid::Schema { found }.into());
        }
        let mut json = serde_json::Deserializer::from_str(text);
        let run: Self = serde_path_to_error::deserialize(&mut json).map_err(|error| {
            let field = error.path().to_string();
            json_error(field, &error.into_inner())
        })?;
        json.end().map_err(|error| json_error(".".to_owned(), &error))?;
        run.validate()?;
        Ok(run)
    }

    /// The bytes of `run.json`: the same run is always the same bytes.
    ///
    /// # Errors
    /// [`Invalid`], since a run that could not be loaded again must not be written.
    pub fn to_json(&self) -> Result<String, LoadError> {
        self.validate()?;
        let mut text =
            serde_json::to_string_pretty(self).map_err(|error| json_error(".".to_owned(), &error))?;
        text.push('\n');
        Ok(text)
    }

    /// Checks every rule that the types do not express.
    ///
    /// # Errors
    /// The first rule broken.
    pub fn validate(&self) -> Result<(), Invalid> {
        if self.schema != SCHEMA {
            return Err(Invalid::Schema { found: self.schema.clone() });
        }
        file_name("run_id", &self.run_id)?;
        name("scenario", &self.scenario)?;
        if let Some(load) = self.environment.load_average.value {
            at_least_zero("environment.load_average", load)?;
        }
        let mut ids = BTreeSet::new();
        for (index, case) in self.cases.iter().enumerate() {
            validate_case(&format!("cases[{index}]"), case)?;
            if !ids.insert(case.id.as_str()) {
                return Err(Invalid::DuplicateCase { index, id: case.id.clone() });
            }
        }
        for (index, relative) in self.relative.iter().enumerate() {
            self.validate_relative(&format!("relative[{index}]"), relative)?;
        }
        if let Some(overhead) = &self.probes.overhead {
            above_zero("probes.overhead.ratio", overhead.ratio)?;
            interval("probes.overhead.ci", overhead.ci)?;
        }
        Ok(())
    }

    /// The case with this id.
    pub fn case(&self, id: &str) -> Option<&Case> {
        self.cases.iter().find(|case| case.id == id)
    }

    fn validate_relative(&self, at: &str, relative: &Relative) -> Result<(), Invalid> {
        let baseline_metric = relative.baseline_metric.as_ref().unwrap_or(&relative.metric);
        for (which, id, metric) in
            [("case", &relative.case, &relative.metric), ("baseline", &relative.baseline, baseline_metric)]
        {
            let field = format!("{at}.{which}");
            let case = self.case(id).ok_or_else(|| Invalid::UnknownCase { field, id: id.clone() })?;
            if !case.metrics.contains_key(metric) {
                return Err(Invalid::UnknownMetric {
                    field: format!("{at}.metric"),
                    case: id.clone(),
                    metric: metric.clone(),
                });
            }
        }
        above_zero(&format!("{at}.ratio"), relative.ratio)?;
        interval(&format!("{at}.ci"), relative.ci)?;
        level(&format!("{at}.level"), relative.level)
    }
}

/// The part of any run's JSON that tells which schema it follows.
#[derive(serde::Deserialize)]
struct Header {
    schema: Option<String>,
}

fn json_error(field: String, error: &serde_json::Error) -> LoadError {
    // serde_json appends the position, which has its own fields here.
    let message = error.to_string();
    let message = message.rsplit_once(" at line ").map_or(message.as_str(), |(head, _)| head).to_owned();
    LoadError::Json { field, line: error.line(), column: error.column(), message }
}

fn validate_case(at: &str, case: &Case) -> Result<(), Invalid> {
    path_name(&format!("{at}.id"), &case.id)?;
    name(&format!("{at}.test"), &case.test)?;
    for (key, metric) in &case.metrics {
        name(&format!("{at}.metrics"), key)?;
        if let Metric::Measured { value, ci, level: confidence, .. } = metric {
            at_least_zero(&format!("{at}.metrics.{key}.value"), *value)?;
            interval(&format!("{at}.metrics.{key}.ci"), *ci)?;
            level(&format!("{at}.metrics.{key}.level"), *confidence)?;
        }
    }
    for (key, summary) in &case.histograms {
        file_name(&format!("{at}.histograms"), key)?;
        at_least_zero(&format!("{at}.histograms.{key}.mean"), summary.mean)?;
        let s = summary;
        let rising = [s.min, s.p50, s.p90, s.p99, s.p999, s.p9999, s.max];
        if !rising.is_sorted() {
            let values = rising.iter().map(|value| *value as f64).collect();
            return Err(Invalid::Unordered { field: format!("{at}.histograms.{key}"), values });
        }
    }
    for (key, param) in &case.params {
        name(&format!("{at}.params"), key)?;
        if let crate::schema::Param::Float(value) = param {
            finite(&format!("{at}.params.{key}"), *value)?;
        }
    }
    case.counts.keys().try_for_each(|key| name(&format!("{at}.counts"), key))
}

fn finite(field: &str, value: f64) -> Result<(), Invalid> {
    if value.is_finite() { Ok(()) } else { Err(Invalid::NotFinite { field: field.to_owned(), value }) }
}

fn at_least_zero(field: &str, value: f64) -> Result<(), Invalid> {
    finite(field, value)?;
    if value >= 0.0 {
        return Ok(());
    }
    Err(Invalid::OutOfRange { field: field.to_owned(), value, expected: "zero or more" })
}

fn above_zero(field: &str, value: f64) -> Result<(), Invalid> {
    finite(field, value)?;
    if value > 0.0 {
        return Ok(());
    }
    Err(Invalid::OutOfRange { field: field.to_owned(), value, expected: "above zero" })
}

fn level(field: &str, value: f64) -> Result<(), Invalid> {
    finite(field, value)?;
    if value > 0.0 && value < 1.0 {
        return Ok(());
    }
    Err(Invalid::OutOfRange { field: field.to_owned(), value, expected: "between 0 and 1" })
}

fn interval(field: &str, ci: [f64; 2]) -> Result<(), Invalid> {
    finite(field, ci[0])?;
    finite(field, ci[1])?;
    if ci[0] <= ci[1] {
        return Ok(());
    }
    Err(Invalid::Unordered { field: field.to_owned(), values: ci.to_vec() })
}

/// A name that a reader sees: printable, no blanks at the ends.
fn name(field: &str, text: &str) -> Result<(), Invalid> {
    check(field, text, "printable characters", |c| !c.is_control())
}

/// A name that becomes part of a file's name once its slashes are replaced.
fn path_name(field: &str, text: &str) -> Result<(), Invalid> {
    let allowed = "letters, digits and ._=+-,:/ (no segment empty or starting with a dot)";
    check(field, text, allowed, |c| c.is_ascii_alphanumeric() || "._=+-,:/".contains(c))?;
    if text.split('/').any(|segment| segment.is_empty() || segment.starts_with('.')) {
        return Err(Invalid::Name { field: field.to_owned(), name: text.to_owned(), allowed });
    }
    Ok(())
}

/// A name that becomes a file's name.
fn file_name(field: &str, text: &str) -> Result<(), Invalid> {
    let allowed = "letters, digits and ._- (not starting with a dot)";
    check(field, text, allowed, |c| c.is_ascii_alphanumeric() || "._-".contains(c))?;
    if text.starts_with('.') {
        return Err(Invalid::Name { field: field.to_owned(), name: text.to_owned(), allowed });
    }
    Ok(())
}

fn check(field: &str, text: &str, allowed: &'static str, ok: impl Fn(char) -> bool) -> Result<(), Invalid> {
    if (1..=MAX_NAME).contains(&text.len()) && text.chars().all(ok) {
        return Ok(());
    }
    Err(Invalid::Name { field: field.to_owned(), name: text.to_owned(), allowed })
}
