//! What the tables hold.

use std::path::{Path, PathBuf};

use iommu_results::{Case, Metric, Run};

use crate::ExportError;
use crate::table::{Table, Value};

/// What every row of the tables below belongs to.
const OWNER: &str = "
    REQUIRED BYTE_ARRAY run_id (UTF8);
    REQUIRED INT64 started_at (TIMESTAMP(MICROS,true));
    REQUIRED BYTE_ARRAY scenario (UTF8);
    REQUIRED BYTE_ARRAY machine (UTF8);
    REQUIRED BYTE_ARRAY revision (UTF8);
";

const OWNING_CASE: &str = "
    REQUIRED BYTE_ARRAY case_id (UTF8);
    REQUIRED BYTE_ARRAY endpoint (UTF8);
    REQUIRED BYTE_ARRAY mode (UTF8);
    REQUIRED BYTE_ARRAY test (UTF8);
    REQUIRED BYTE_ARRAY params (UTF8);
";

const RUN: &str = "
    REQUIRED INT64 seed (INTEGER(64,false));
    REQUIRED BOOLEAN partial;
    REQUIRED BYTE_ARRAY environment (UTF8);
    REQUIRED BYTE_ARRAY warnings (UTF8);
";

const METRIC: &str = "
    REQUIRED BYTE_ARRAY name (UTF8);
    OPTIONAL DOUBLE value;
    OPTIONAL BYTE_ARRAY unit (UTF8);
    OPTIONAL DOUBLE ci_low;
    OPTIONAL DOUBLE ci_high;
    OPTIONAL DOUBLE level;
    OPTIONAL INT64 n;
    OPTIONAL BYTE_ARRAY reason (UTF8);
";

const HISTOGRAM: &str = "
    REQUIRED BYTE_ARRAY name (UTF8);
    REQUIRED BYTE_ARRAY unit (UTF8);
    REQUIRED INT64 count;
    REQUIRED INT64 min;
    REQUIRED DOUBLE mean;
    REQUIRED INT64 p50;
    REQUIRED INT64 p90;
    REQUIRED INT64 p99;
    REQUIRED INT64 p999;
    REQUIRED INT64 p9999;
    REQUIRED INT64 max;
";

const COUNT: &str = "
    REQUIRED BYTE_ARRAY name (UTF8);
    REQUIRED INT64 count;
";

const RELATIVE: &str = "
    REQUIRED BYTE_ARRAY metric (UTF8);
    REQUIRED BYTE_ARRAY case_id (UTF8);
    REQUIRED BYTE_ARRAY baseline (UTF8);
    REQUIRED DOUBLE ratio;
    REQUIRED DOUBLE ci_low;
    REQUIRED DOUBLE ci_high;
    REQUIRED DOUBLE level;
";

/// The tables that are being written.
pub(crate) struct Tables {
    runs: Table,
    metrics: Table,
    histograms: Table,
    counts: Table,
    relative: Table,
}

impl Tables {
    pub(crate) fn create(folder: &Path) -> Result<Self, ExportError> {
        let of_case = |fields: &str| format!("{OWNER}{OWNING_CASE}{fields}");
        Ok(Self {
            runs: Table::create(folder, "runs", &format!("{OWNER}{RUN}"))?,
            metrics: Table::create(folder, "metrics", &of_case(METRIC))?,
            histograms: Table::create(folder, "histograms", &of_case(HISTOGRAM))?,
            counts: Table::create(folder, "counts", &of_case(COUNT))?,
            relative: Table::create(folder, "relative", &format!("{OWNER}{RELATIVE}"))?,
        })
    }

    /// Appends everything that a run says.
    pub(crate) fn add(&mut self, run: &Run) -> Result<(), ExportError> {
        let owner = [
            Value::Text(run.run_id.clone()),
            Value::Int(run.started_at.as_microsecond()),
            Value::Text(run.scenario.clone()),
            Value::Text(run.machine.to_string()),
            Value::Text(run.revision.clone()),
        ];
        let row = |more: Vec<Value>| owner.iter().cloned().chain(more).collect();
        self.runs.push(row(vec![
            // Parquet stores unsigned integers in the bits of signed ones.
            Value::Int(run.seed.cast_signed()),
            Value::Bool(run.partial),
            Value::Text(json(&run.environment)),
            Value::Text(json(&run.warnings)),
        ]))?;
        for relative in &run.relative {
            self.relative.push(row(vec![
                Value::Text(relative.metric.clone()),
                Value::Text(relative.case.clone()),
                Value::Text(relative.baseline.clone()),
                Value::Float(relative.ratio),
                Value::Float(relative.ci[0]),
                Value::Float(relative.ci[1]),
                Value::Float(relative.level),
            ]))?;
        }
        for case in &run.cases {
            let of_case = [
                Value::Text(case.id.clone()),
                Value::Text(case.endpoint.to_string()),
                Value::Text(case.mode.to_string()),
                Value::Text(case.test.clone()),
                Value::Text(json(&case.params)),
            ];
            self.case(case, &|more| owner.iter().chain(&of_case).cloned().chain(more).collect())?;
        }
        Ok(())
    }

    fn case(&mut self, case: &Case, row: &dyn Fn(Vec<Value>) -> Vec<Value>) -> Result<(), ExportError> {
        for (name, metric) in &case.metrics {
            self.metrics.push(row(metric_values(name, metric)))?;
        }
        for (name, summary) in &case.histograms {
            let s = summary;
            let mut values = vec![Value::Text(name.clone()), Value::Text(s.unit.clone())];
            values.extend([s.count, s.min].map(Value::count));
            values.push(Value::Float(s.mean));
            values.extend([s.p50, s.p90, s.p99, s.p999, s.p9999, s.max].map(Value::count));
            self.histograms.push(row(values))?;
        }
        for (name, count) in &case.counts {
            self.counts.push(row(vec![Value::Text(name.clone()), Value::count(*count)]))?;
        }
        Ok(())
    }

    /// Completes all tables, then puts each into its place.
    pub(crate) fn finish(mut self) -> Result<Vec<(PathBuf, u64)>, ExportError> {
        let all =
            [&mut self.runs, &mut self.metrics, &mut self.histograms, &mut self.counts, &mut self.relative];
        all.into_iter().try_for_each(Table::complete)?;
        [self.runs, self.metrics, self.histograms, self.counts, self.relative]
            .into_iter()
            .map(Table::publish)
            .collect()
    }
}

fn metric_values(name: &str, metric: &Metric) -> Vec<Value> {
    let name = Value::Text(name.to_owned());
    match metric {
        Metric::Measured { value, unit, ci, level, n } => vec![
            name,
            Value::MaybeFloat(Some(*value)),
            Value::MaybeText(Some(unit.clone())),
            Value::MaybeFloat(Some(ci[0])),
            Value::MaybeFloat(Some(ci[1])),
            Value::MaybeFloat(Some(*level)),
            Value::MaybeInt(i64::try_from(*n).ok()),
            Value::MaybeText(None),
        ],
        Metric::Missing { reason } => vec![
            name,
            Value::MaybeFloat(None),
            Value::MaybeText(None),
            Value::MaybeFloat(None),
            Value::MaybeFloat(None),
            Value::MaybeFloat(None),
            Value::MaybeInt(None),
            Value::MaybeText(Some(reason.clone())),
        ],
    }
}

/// Nested data as JSON text. What a run holds always has JSON: it came from there.
fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}
