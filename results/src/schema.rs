//! The types of `run.json`, schema `iommu-bench/run/1`.
//!
//! Maps are ordered by key and structures by declaration, so the same run is the same bytes. `docs/results-schema.md`
//! describes every field to users.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::environment::Environment;
use crate::histogram::HistogramSummary;

/// The schema that this version reads and writes.
pub const SCHEMA: &str = "iommu-bench/run/1";

/// One run: every case of one scenario on one machine, measured interleaved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// Always [`SCHEMA`].
    pub schema: String,
    /// Unique and sortable by start time; also the name of the run's folder.
    pub run_id: String,
    /// Name of the scenario.
    pub scenario: String,
    /// Where it ran.
    pub machine: Machine,
    /// Seed of everything drawn at random, resampling included.
    pub seed: u64,
    /// The run was interrupted or a worker failed: the figures cover what was measured until then.
    pub partial: bool,
    /// Start of the run, RFC 3339 in UTC.
    pub started_at: Timestamp,
    /// Revision of the sources that the tool was built from, or `unknown`.
    pub revision: String,
    /// What the machine was.
    pub environment: Environment,
    /// What a reader must know before believing the figures, one sentence each.
    pub warnings: Vec<String>,
    /// The measured cases, in the scenario's order.
    pub cases: Vec<Case>,
    /// Ratios between cases, from paired slices.
    pub relative: Vec<Relative>,
    /// What observed the run from outside, and what observing cost.
    pub probes: Probes,
}

/// One combination of the scenario's axes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// Unique in the run; letters, digits and `._=+-,:/`.
    pub id: String,
    /// What did the DMA.
    pub endpoint: EndpointKind,
    /// What the guest's DMA API did.
    pub mode: Mode,
    /// Name of the test, such as `TCP_STREAM`.
    pub test: String,
    /// Every other axis: `message_bytes`, `flows`, `service`, …
    pub params: BTreeMap<String, Param>,
    /// Estimates with intervals, by name; see [`crate::names`].
    pub metrics: BTreeMap<String, Metric>,
    /// Summaries of the histograms stored beside `run.json`, by name.
    pub histograms: BTreeMap<String, HistogramSummary>,
    /// Exact counts by name. A count that does not exist is absent, never 0.
    pub counts: BTreeMap<String, u64>,
}

impl Case {
    /// A case with nothing measured yet.
    pub fn new(id: impl Into<String>, endpoint: EndpointKind, mode: Mode, test: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            endpoint,
            mode,
            test: test.into(),
            params: BTreeMap::new(),
            metrics: BTreeMap::new(),
            histograms: BTreeMap::new(),
            counts: BTreeMap::new(),
        }
    }

    /// `counts[name] / counts["packets"]`, or `None` where either is absent or no packet was moved.
    pub fn per_packet(&self, name: &str) -> Option<f64> {
        let packets = *self.counts.get(crate::names::PACKETS)?;
        let count = *self.counts.get(name)?;
        (packets > 0).then(|| count as f64 / packets as f64)
    }
}

/// An estimate with its interval, or the reason why there is none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "MetricJson", into = "MetricJson")]
pub enum Metric {
    /// Measured.
    Measured {
        /// The estimate, in `unit`.
        value: f64,
        /// `bytes/s`, `1/s` or `ns`.
        unit: String,
        /// Lower and upper end of the interval, in `unit`.
        ci: [f64; 2],
        /// Confidence level of the interval, 0.99 unless the run says otherwise.
        level: f64,
        /// How many samples (slices) the estimate stands on.
        n: u64,
    },
    /// Could not be measured; printed as `n/a`.
    Missing {
        /// Why.
        reason: String,
    },
}

impl Metric {
    /// A metric that could not be measured.
    pub fn missing(reason: impl Into<String>) -> Self {
        Self::Missing { reason: reason.into() }
    }

    /// The estimate, if there is one.
    pub fn value(&self) -> Option<f64> {
        match self {
            Self::Measured { value, .. } => Some(*value),
            Self::Missing { .. } => None,
        }
    }
}

/// How [`Metric`] looks in JSON: `{value, unit, ci, level, n}` or `{value: null, reason}`.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MetricJson {
    value: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unit: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ci: Option<[f64; 2]>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    level: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    n: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// Why a JSON object is no metric.
#[derive(Debug, thiserror::Error)]
enum MetricError {
    #[error("a value needs unit, ci, level and n beside it, and `{0}` is absent")]
    Incomplete(&'static str),
    #[error("a value cannot have a reason for being absent")]
    ReasonWithValue,
    #[error("a null value needs a reason")]
    NoReason,
    #[error("a null value cannot have `{0}`")]
    ExtraWithoutValue(&'static str),
}

impl TryFrom<MetricJson> for Metric {
    type Error = MetricError;

    fn try_from(json: MetricJson) -> Result<Self, MetricError> {
        let Some(value) = json.value else {
            let extras =
                [("unit", json.unit.is_some()), ("ci", json.ci.is_some()), ("level", json.level.is_some())];
            if let Some((name, _)) = extras.into_iter().chain([("n", json.n.is_some())]).find(|(_, set)| *set)
            {
                return Err(MetricError::ExtraWithoutValue(name));
            }
            return Ok(Self::Missing { reason: json.reason.ok_or(MetricError::NoReason)? });
        };
        if json.reason.is_some() {
            return Err(MetricError::ReasonWithValue);
        }
        Ok(Self::Measured {
            value,
            unit: json.unit.ok_or(MetricError::Incomplete("unit"))?,
            ci: json.ci.ok_or(MetricError::Incomplete("ci"))?,
            level: json.level.ok_or(MetricError::Incomplete("level"))?,
            n: json.n.ok_or(MetricError::Incomplete("n"))?,
        })
    }
}

impl From<Metric> for MetricJson {
    fn from(metric: Metric) -> Self {
        match metric {
            Metric::Measured { value, unit, ci, level, n } => Self {
                value: Some(value),
                unit: Some(unit),
                ci: Some(ci),
                level: Some(level),
                n: Some(n),
                reason: None,
            },
            Metric::Missing { reason } => {
                Self { value: None, unit: None, ci: None, level: None, n: None, reason: Some(reason) }
            }
        }
    }
}

/// How one case compares with another: `ratio = case / baseline`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Relative {
    /// Name of the metric, in both cases unless `baseline_metric` says otherwise.
    pub metric: String,
    /// Id of the case in the numerator.
    pub case: String,
    /// Id of the case in the denominator.
    pub baseline: String,
    /// The metric in the denominator where it is another one of the same unit: what plain `memcpy` reaches, say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline_metric: Option<String>,
    /// Geometric mean over the paired slices.
    pub ratio: f64,
    /// Lower and upper end of the ratio's interval.
    pub ci: [f64; 2],
    /// Confidence level of the interval.
    pub level: f64,
}

/// What observed the run from outside.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Probes {
    /// Attached probes.
    pub attached: Vec<ProbeAttached>,
    /// Probes that were wanted but not attached.
    pub skipped: Vec<ProbeSkipped>,
    /// Events lost, by probe.
    pub lost: BTreeMap<String, u64>,
    /// Cost of observing, probes on over probes off; absent where it was not measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overhead: Option<Overhead>,
    /// Whatever else a probe reports.
    #[serde(flatten)]
    pub more: BTreeMap<String, serde_json::Value>,
}

/// A probe that observed the run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProbeAttached {
    /// Name of the probe.
    pub name: String,
    /// How it is attached, such as `tracepoint`.
    pub kind: String,
    /// What it is attached to.
    pub target: String,
}

/// A probe that could not observe the run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProbeSkipped {
    /// Name of the probe.
    pub name: String,
    /// Why it was left out.
    pub reason: String,
}

/// What observing costs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Overhead {
    /// Probes on over probes off.
    pub ratio: f64,
    /// Interval of the ratio.
    pub ci: [f64; 2],
}

/// The value of one axis of a case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Param {
    /// A switch.
    Bool(bool),
    /// A whole number; sizes are in bytes and their axis' name ends in `_bytes`.
    Int(u64),
    /// A fraction.
    Float(f64),
    /// A name.
    Text(String),
}

impl std::fmt::Display for Param {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bool(value) => value.fmt(f),
            Self::Int(value) => value.fmt(f),
            Self::Float(value) => value.fmt(f),
            Self::Text(value) => f.pad(value),
        }
    }
}

macro_rules! param_from {
    ($($from:ty => $variant:ident),+ $(,)?) => {
        $(impl From<$from> for Param {
            fn from(value: $from) -> Self {
                Self::$variant(value.into())
            }
        })+
    };
}
param_from!(bool => Bool, u8 => Int, u16 => Int, u32 => Int, u64 => Int, f32 => Float, f64 => Float,
    &str => Text, String => Text);

impl From<usize> for Param {
    fn from(value: usize) -> Self {
        Self::Int(value as u64)
    }
}

/// A name that is none of those a field accepts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{found}` is not one of {accepted:?}")]
pub struct UnknownName {
    /// What was given.
    pub found: String,
    /// What would have been accepted.
    pub accepted: &'static [&'static str],
}

macro_rules! names {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $name { $($(#[$variant_doc])* #[serde(rename = $text)] $variant),+ }

        impl $name {
            /// Every value, in the order in which tables show them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];
            /// Every name, in the same order.
            pub const NAMES: &'static [&'static str] = &[$($text),+];

            /// The name in `run.json` and on the command line.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = UnknownName;
            fn from_str(text: &str) -> Result<Self, UnknownName> {
                match text {
                    $($text => Ok(Self::$variant),)+
                    _ => Err(UnknownName { found: text.to_owned(), accepted: Self::NAMES }),
                }
            }
        }
    };
}

names! {
    /// What the guest's DMA API does with the vIOMMU.
    Mode {
        /// No vIOMMU: the endpoint uses guest-physical addresses.
        Off = "off",
        /// The domain bypasses: no MAP, no UNMAP.
        Identity = "identity",
        /// UNMAPs are queued and waited for together.
        Lazy = "lazy",
        /// Every UNMAP is waited for before the buffer is reused.
        Strict = "strict",
    }
}

names! {
    /// Where a run takes place.
    Machine {
        /// Guest, device and endpoint in one process; no kernel IOMMU, VFIO or KVM in the path.
        Local = "local",
        /// A bare payload under KVM.
        Kvm = "kvm",
        /// A Linux guest.
        Guest = "guest",
        /// The emulated host with real VFIO endpoints.
        Lab = "lab",
    }
}

names! {
    /// What does the DMA.
    EndpointKind {
        /// Our virtio-net model.
        Emulated = "emulated",
        /// A device passed through over VFIO.
        Passthrough = "passthrough",
    }
}
