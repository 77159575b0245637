//! `sweep.json`, schema `iommu-bench/sweep/1`: which parameters a run swept.

use serde::{Deserialize, Serialize};

use super::Artefact;
use crate::schema::Param;

/// What a run swept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sweep {
    /// `iommu-bench/sweep/1`.
    pub schema: String,
    /// The run's id.
    pub run_id: String,
    /// One axis, or the two of a grid, in the order given.
    pub axes: Vec<Axis>,
}

/// A swept parameter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Axis {
    /// Its name, as in the `params` of cases.
    pub key: String,
    /// The test whose parameter it is; absent where it is that of every test.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test: Option<String>,
    /// Its values, in the order given.
    pub values: Vec<Param>,
}

impl Artefact for Sweep {
    const FILE: &'static str = "sweep.json";
    const SCHEMA: &'static str = "iommu-bench/sweep/1";

    fn schema(&self) -> &str {
        &self.schema
    }
}
