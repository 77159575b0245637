//! `heat.json`, schema `iommu-bench/heat/1`: the latencies of every measured slice, in coarse buckets, for what changes
//! over time.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Artefact;
use crate::histogram::Histogram;

/// Latencies of all slices of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Heat {
    /// `iommu-bench/heat/1`.
    pub schema: String,
    /// The run's id.
    pub run_id: String,
    /// By case, in the order of the run's cases.
    pub cases: Vec<CaseHeat>,
}

/// The slices of a case.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaseHeat {
    /// Id of the case.
    pub case: String,
    /// In the order in which they ran; without the warm-up.
    pub slices: Vec<SliceHeat>,
}

/// One slice.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SliceHeat {
    /// Which round: slices of one round are compared with each other.
    pub round: u32,
    /// From the start of measuring until the slice began, in nanoseconds.
    pub at_ns: u64,
    /// Latencies by the names of `run.json`, in buckets.
    pub latency: BTreeMap<String, Vec<LatencyBucket>>,
}

/// Smallest latency of a bucket in nanoseconds, and how many operations were in it.
pub type LatencyBucket = (u64, u64);

/// Buckets of a factor of two.
pub const BUCKETS_PER_OCTAVE: u32 = 4;

impl Artefact for Heat {
    const FILE: &'static str = "heat.json";
    const SCHEMA: &'static str = "iommu-bench/heat/1";

    fn schema(&self) -> &str {
        &self.schema
    }
}

/// A histogram in [`BUCKETS_PER_OCTAVE`] buckets a factor of two, those that hold anything, lowest first.
pub fn latency_buckets(histogram: &Histogram) -> Vec<LatencyBucket> {
    let mut buckets: Vec<LatencyBucket> = Vec::new();
    for (value_ns, count) in histogram.recorded() {
        let from = bucket_of(value_ns);
        match buckets.last_mut() {
            Some(last) if last.0 == from => last.1 += count,
            _ => buckets.push((from, count)),
        }
    }
    buckets
}

/// The largest 2^(k/4), rounded up to whole nanoseconds, that is not above the value.
fn bucket_of(value_ns: u64) -> u64 {
    let value_ns = value_ns.max(1);
    let bound = |k: u32| 2_f64.powf(f64::from(k) / f64::from(BUCKETS_PER_OCTAVE)).ceil() as u64;
    let octave = BUCKETS_PER_OCTAVE * value_ns.ilog2();
    (octave..octave + BUCKETS_PER_OCTAVE).rev().map(bound).find(|from| *from <= value_ns).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_hold_every_value_once_and_begin_at_or_below_it() {
        let mut histogram = Histogram::new();
        for value in 1..3000_u64 {
            histogram.record(value);
        }
        let buckets = latency_buckets(&histogram);
        assert!(buckets.is_sorted_by(|a, b| a.0 < b.0), "{buckets:?}");
        assert_eq!(buckets.iter().map(|bucket| bucket.1).sum::<u64>(), 2999);
        for value in 1..100_000_u64 {
            let from = bucket_of(value);
            assert!(from <= value && (value as f64) < from as f64 * 2_f64.powf(0.25) + 1.0, "{value} {from}");
        }
    }
}
