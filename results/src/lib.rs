//! Versioned schema and append-only store of benchmark runs.
//!
//! - [`artefacts`]: what lies beside `run.json`, each file with a schema of its own.
//! - [`export`]: lines between `iommu-bench store export` and its helper.
//! - [`schema`]: the types of `run.json`, schema [`SCHEMA`], and what makes one valid.
//! - [`histogram`]: full-resolution latency histograms and their summaries.
//! - [`mod@file`]: readers that a file cannot make allocate without bound.
//! - [`environment`]: what the machine is, each fact with the reason where it could not be read.
//! - [`series`]: what each slice measured.
//! - [`metric`]: the table of names, units and directions.
//! - [`index`]: the store's append-only list of acknowledged runs.
//! - [`probed`]: what probes saw.
//! - [`store`]: one new folder a run, written under a temporary name and renamed when complete.
//! - [`survey`]: every run of a store, and everything in it that is not sound.

pub mod artefacts;
pub mod environment;
pub mod export;
pub mod file;
pub mod histogram;
pub mod index;
pub mod metric;
pub mod names;
pub mod probed;
pub mod schema;
pub mod series;
pub mod store;
pub mod survey;
pub mod validate;

pub use artefacts::{Artefact, ArtefactError, Artefacts};
pub use environment::{Environment, Fact, revision};
pub use histogram::{Histogram, HistogramSummary};
pub use index::{INDEX_SCHEMA, Index, IndexError};
pub use jiff::Timestamp;
pub use probed::{Breakdown, BreakdownPart, ProbeData, SitesPass};
pub use schema::{
    Case, EndpointKind, Machine, Metric, Mode, Overhead, Param, ProbeAttached, ProbeSkipped, Probes,
    Relative, Run, SCHEMA,
};
pub use series::{CaseSeries, MetricSeries, SERIES_SCHEMA, Series, SeriesError, SliceValue};
pub use store::{Histograms, Integrity, RunFolder, Store, StoreError, StoredRun};
pub use survey::{Fault, Finding, Survey};
pub use validate::{Invalid, LoadError};
