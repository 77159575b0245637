//! What probes saw, as it stands in `probes` of `run.json` and in what `trace --json` prints.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{HistogramSummary, Overhead, Probes};

/// One probe's counts and histograms.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProbeData {
    /// Its name.
    pub name: String,
    /// How it is attached, such as `tp_btf`.
    pub kind: String,
    /// What it is attached to.
    pub target: String,
    /// All events, of pairs the opening ones: `seen + unmatched + lost`.
    pub count: u64,
    /// Events or pairs that are in `counts` or `histograms`.
    pub seen: u64,
    /// Pairs that were not closed.
    pub unmatched: u64,
    /// Events that a full map or ring buffer had no room for.
    pub lost: u64,
    /// Events that the kernel did not show to the probe, because it was running on that processor; not in `count`.
    pub missed: u64,
    /// Single events by key; a probe without keys has one, `all`.
    pub counts: BTreeMap<String, u64>,
    /// Times between events in nanoseconds, or values of single events, by key.
    pub histograms: BTreeMap<String, HistogramSummary>,
    /// What to know before believing it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// Where the time of a case's requests went, by the device's sites.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Breakdown {
    /// Id of the case.
    pub case: String,
    /// Which requests, such as `map`.
    pub request: String,
    /// How many were followed from submission to completion.
    pub requests: u64,
    /// How many the device counted meanwhile; absent where it does not count them apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counted: Option<u64>,
    /// Submission to completion, ns.
    pub whole: HistogramSummary,
    /// The parts in order.
    pub parts: Vec<BreakdownPart>,
    /// Sum of all parts over the sum of all wholes, less one. The parts are cut at the same readings of the clock, so this
    /// is 0.
    pub error: f64,
}

/// A part of a request's time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BreakdownPart {
    /// Its name: `queued`, `doorbell`, `table`, …
    pub name: String,
    /// Its share of the whole, over all requests.
    pub share: f64,
    /// Its mean over all requests, those that did not pass it included, ns.
    pub mean_ns: f64,
    /// Over the requests that passed it.
    pub histogram: HistogramSummary,
}

/// The separate pass with probes at the device's sites.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SitesPass {
    /// Instructions probed, by site.
    pub places: BTreeMap<String, u64>,
    /// How often each site was passed.
    pub hits: BTreeMap<String, u64>,
    /// Requests not followed: submitted or completed while the probes were not there.
    pub unmatched: u64,
    /// Requests lost because a map was full.
    pub lost: u64,
    /// Sites attached over not attached, in time; absent where it was not measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overhead: Option<Overhead>,
    /// Why there was no such pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped: Option<String>,
}

const DATA: &str = "data";
const BREAKDOWN: &str = "breakdown";
const SITES: &str = "sites";

impl Probes {
    /// What each attached probe saw; empty in runs of versions that did not store it.
    #[must_use]
    pub fn data(&self) -> Vec<ProbeData> {
        self.read(DATA).unwrap_or_default()
    }

    /// Where the requests' time went; empty without the pass with the device's sites.
    #[must_use]
    pub fn breakdown(&self) -> Vec<Breakdown> {
        self.read(BREAKDOWN).unwrap_or_default()
    }

    /// The pass with the device's sites, if it was asked for.
    #[must_use]
    pub fn sites(&self) -> Option<SitesPass> {
        self.read(SITES)
    }

    fn read<T: for<'de> Deserialize<'de>>(&self, name: &str) -> Option<T> {
        T::deserialize(self.more.get(name)?).ok()
    }

    /// Sets what [`Probes::data`] gives.
    ///
    /// # Errors
    ///
    /// A figure is not finite.
    pub fn set_data(&mut self, data: &[ProbeData]) -> Result<(), serde_json::Error> {
        self.set(DATA, data)
    }

    /// Sets what [`Probes::breakdown`] gives.
    ///
    /// # Errors
    ///
    /// A figure is not finite.
    pub fn set_breakdown(&mut self, breakdown: &[Breakdown]) -> Result<(), serde_json::Error> {
        self.set(BREAKDOWN, breakdown)
    }

    /// Sets what [`Probes::sites`] gives.
    ///
    /// # Errors
    ///
    /// A figure is not finite.
    pub fn set_sites(&mut self, sites: &SitesPass) -> Result<(), serde_json::Error> {
        self.set(SITES, sites)
    }

    fn set<T: Serialize + ?Sized>(&mut self, name: &str, value: &T) -> Result<(), serde_json::Error> {
        self.more.insert(name.to_owned(), serde_json::to_value(value)?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_is_read_again() {
        let mut probes = Probes::default();
        assert!(probes.data().is_empty() && probes.breakdown().is_empty() && probes.sites().is_none());
        let data = ProbeData {
            name: "kvm_pio".to_owned(),
            kind: "tp_btf".to_owned(),
            target: "kvm:kvm_pio".to_owned(),
            count: 3,
            seen: 2,
            unmatched: 0,
            lost: 1,
            missed: 0,
            counts: BTreeMap::from([("port 0x3f8 out".to_owned(), 2)]),
            histograms: BTreeMap::new(),
            note: None,
        };
        let sites = SitesPass { unmatched: 7, ..SitesPass::default() };
        probes.set_data(std::slice::from_ref(&data)).expect("finite");
        probes.set_sites(&sites).expect("finite");
        let text = serde_json::to_string(&probes).expect("finite");
        let again: Probes = serde_json::from_str(&text).expect("its own");
        assert_eq!(again.data(), [data]);
        assert_eq!(again.sites(), Some(sites));
    }
}
