//! `churn.json`, schema `iommu-bench/churn/1`: the recorded streams of page accesses, counted, and what models say of them.

use serde::{Deserialize, Serialize};

use super::Artefact;

/// The streams of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Churn {
    /// `iommu-bench/churn/1`.
    pub schema: String,
    /// The run's id.
    pub run_id: String,
    /// By case, in the order of the run's cases.
    pub cases: Vec<CaseChurn>,
}

/// The stream of a case, or why there is none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaseChurn {
    /// Id of the case.
    pub case: String,
    /// What was recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recording: Option<Recording>,
    /// Why there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What was recorded of a case, in a pass of its own: inline service, virtual clock, nothing timed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recording {
    /// Packets of the pass, without its warm-up.
    pub packets: u64,
    /// Payload bytes of them.
    pub payload_bytes: u64,
    /// Streams that were recorded: one for each of the endpoints' DMA engines.
    pub streams: u32,
    /// Facts of the streams.
    pub counted: Counted,
    /// What models say of them.
    pub modelled: Modelled,
}

/// Facts of the streams.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counted {
    /// Bytes of a page.
    pub page_bytes: u64,
    /// Accesses of pages: an access of memory is one for each page that it touches.
    pub accesses: u64,
    /// Pages whose translation was invalidated.
    pub invalidations: u64,
    /// Times all translations were invalidated.
    pub flushes: u64,
    /// Accesses of a window.
    pub window_accesses: u64,
    /// The windows, one after the other.
    pub windows: Vec<Window>,
    /// Reuse distances; absent where the stream had more pages than are followed exactly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reuse: Option<Distances>,
}

/// One window of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// Pages accessed in it: the working set.
    pub unique_pages: u64,
    /// Pages invalidated in it.
    pub invalidations: u64,
}

/// How many other pages, and free entries, came between two uses of a page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Distances {
    /// First uses.
    pub first: u64,
    /// First uses since the page was invalidated.
    pub invalidated: u64,
    /// First uses since everything was.
    pub flushed: u64,
    /// The others, in buckets of a factor of two.
    pub buckets: Vec<ReuseBucket>,
}

/// Accesses whose distances lie between two bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReuseBucket {
    /// Smallest distance.
    pub from: u64,
    /// Largest.
    pub to: u64,
    /// Accesses.
    pub accesses: u64,
}

/// What models say: nobody measured any of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Modelled {
    /// Miss ratio of a fully associative LRU IOTLB against its capacity.
    pub miss_ratio_curve: Curve,
    /// Entries of the IOTLB that the figures below, and the metrics of `run.json`, assume.
    pub capacity_entries: u64,
    /// Whether that is the case's `iotlb_entries`, or an assumption.
    pub capacity_assumed: bool,
    /// Misses by access of a page, at that capacity.
    pub miss_ratio: f64,
    /// Misses by 4 KiB of payload.
    pub misses_per_page: f64,
    /// Memory reads by 4 KiB of payload, with all levels of the walk but the leaf cached.
    pub reads_per_page: f64,
    /// The same with none cached: four reads a miss.
    pub reads_per_page_uncached: f64,
    /// Throughput by T = p / (l0 + M · lm), in bytes a second, M being `reads_per_page`.
    pub throughput: f64,
    /// The same, M being `reads_per_page_uncached`.
    pub throughput_uncached: f64,
    /// l0: nanoseconds of a page without any read for its translation.
    pub base_ns: f64,
    /// lm: nanoseconds of a read.
    pub read_ns: f64,
}

/// A curve that steps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Curve {
    /// `lru_stack`: exact for the stream; `lru_shards`: from a sample of its pages.
    pub by: String,
    /// Capacity in entries, and the miss ratio from there to the next.
    pub points: Vec<(u64, f64)>,
}

impl Artefact for Churn {
    const FILE: &'static str = "churn.json";
    const SCHEMA: &'static str = "iommu-bench/churn/1";

    fn schema(&self) -> &str {
        &self.schema
    }
}

impl Churn {
    /// The recording of a case.
    ///
    /// # Errors
    /// Why there is none.
    pub fn of(&self, case: &str) -> Result<&Recording, &str> {
        let found = self.cases.iter().find(|churn| churn.case == case).ok_or("the case was not recorded")?;
        let reason = found.reason.as_deref().unwrap_or("the case was not recorded");
        found.recording.as_ref().ok_or(reason)
    }
}
