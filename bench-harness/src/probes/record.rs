//! From what probes saw to what the run's record says about it.

use std::collections::{BTreeMap, BTreeSet};

use iommu_probes::{LogHistogram, ProbeError, Skipped, Snapshot, common::site::Part};
use iommu_results::{
    Breakdown, BreakdownPart, HistogramSummary, Overhead, ProbeAttached, ProbeData, ProbeSkipped, Probes,
    SitesPass,
};

use super::{PassSeen, Seen, Wanted, sites};

/// What was observed of a run.
#[derive(Debug, Default)]
pub(crate) struct Measured {
    /// By kernel probes; nothing where none was asked for.
    pub(crate) kernel: Option<Seen>,
    /// In the pass with the device's sites, or why there was none.
    pub(crate) sites: Option<Result<PassSeen, String>>,
    /// Where the time went, or why that is not known; nothing where it was not asked for.
    pub(crate) profile: Option<Result<iommu_profile::Profile, String>>,
}

/// Requests by their type on the wire (virtio-iommu, 5.13.6).
const MAP: u8 = 3;
const UNMAP: u8 = 4;

/// The run's record of its probes, and what must be said about it aloud.
pub(crate) fn record(
    wanted: Wanted,
    measured: Measured,
    overhead: Option<Overhead>,
    cases: &[String],
    seed: u64,
) -> (Probes, Vec<String>) {
    let mut probes = Probes { overhead, ..Probes::default() };
    let mut warnings = Vec::new();
    match measured.kernel {
        Some(seen) => warnings.extend(kernel(&mut probes, seen)),
        None => {
            let reason = if wanted.exact {
                "nothing is timed with --packets"
            } else {
                "switched off with --probes off"
            };
            probes.skipped.push(ProbeSkipped { name: "kernel".to_owned(), reason: reason.to_owned() });
        }
    }
    if probes.overhead.is_none() {
        let why = if probes.attached.is_empty() {
            "nothing was attached, so there is no overhead to measure"
        } else {
            "too few pairs of rounds for an interval"
        };
        probes.more.insert("overhead_reason".to_owned(), why.into());
    }
    match measured.sites {
        Some(Ok(seen)) => warnings.extend(pass(&mut probes, &seen, cases, seed)),
        Some(Err(reason)) => {
            warnings.push(format!("no breakdown by the device's sites: {reason}"));
            let _ = probes.set_sites(&SitesPass { skipped: Some(reason), ..SitesPass::default() });
        }
        None => {}
    }
    (probes, warnings)
}

fn kernel(probes: &mut Probes, seen: Seen) -> Vec<String> {
    let mut warnings = said_aloud(&seen.skipped);
    probes.attached = seen
        .attached
        .iter()
        .map(|one| ProbeAttached { name: one.name.to_owned(), kind: one.kind(), target: one.target.clone() })
        .collect();
    probes.skipped = seen
        .skipped
        .iter()
        .map(|one| ProbeSkipped { name: one.name.to_owned(), reason: one.reason.to_string() })
        .collect();
    match &seen.snapshot {
        Ok(snapshot) => {
            let data: Vec<_> = seen.attached.iter().filter_map(|one| data(snapshot, one)).collect();
            probes.lost = data.iter().map(|one| (one.name.clone(), one.lost + one.missed)).collect();
            if let Err(error) = probes.set_data(&data) {
                warnings.push(format!("what the probes saw cannot be stored: {error}"));
            }
        }
        Err(error) => warnings.push(format!("what the probes saw is lost: {error}")),
    }
    warnings
}

/// One line for each reason that the user can do something about; the record has all of them.
fn said_aloud(skipped: &[Skipped]) -> Vec<String> {
    let mut by_reason: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for one in skipped {
        tracing::info!(probe = one.name, reason = %one.reason, "left out");
        let absent = matches!(*one.reason, ProbeError::NoFunction { .. } | ProbeError::NoEvent { .. });
        if !absent {
            by_reason.entry(one.reason.to_string()).or_default().insert(one.name);
        }
    }
    by_reason
        .into_iter()
        .map(|(reason, names)| {
            let names: Vec<_> = names.into_iter().collect();
            let who =
                if names.len() == skipped.len() { "kernel probes".to_owned() } else { names.join(", ") };
            format!("left out: {who}: {reason}")
        })
        .collect()
}

/// One probe's counts and histograms, with keys in words.
pub(crate) fn data(snapshot: &Snapshot, attached: &iommu_probes::Attached) -> Option<ProbeData> {
    let probe = snapshot.probe(attached.name)?;
    let unit = probe.histogram_unit();
    let name = |key| match probe.key_name(key) {
        name if name.is_empty() => "all".to_owned(),
        name => name,
    };
    Some(ProbeData {
        name: attached.name.to_owned(),
        kind: attached.kind(),
        target: attached.target.clone(),
        count: probe.total(),
        seen: probe.tally.seen,
        unmatched: probe.unmatched(),
        lost: probe.lost(),
        missed: probe.missed,
        counts: probe.counts.iter().map(|(key, count)| (name(key), count.count)).collect(),
        histograms: probe.histograms.iter().map(|(key, one)| (name(key), summary(one, unit))).collect(),
        note: snapshot.note(attached.name).map(str::to_owned),
    })
}

/// A histogram's figures: count, mean and maximum exact, the rest to 6.25 %.
pub(crate) fn summary(histogram: &LogHistogram, unit: &str) -> HistogramSummary {
    let at = |quantile| histogram.quantile(quantile);
    HistogramSummary {
        unit: unit.to_owned(),
        count: histogram.count(),
        min: histogram.min(),
        mean: histogram.mean(),
        p50: at(0.5),
        p90: at(0.9),
        p99: at(0.99),
        p999: at(0.999),
        p9999: at(0.9999),
        max: histogram.max(),
    }
}

fn pass(probes: &mut Probes, seen: &PassSeen, cases: &[String], seed: u64) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut breakdown = Vec::new();
    let mut all = SitesPass {
        places: seen.places.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect(),
        ..SitesPass::default()
    };
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for (id, case) in cases.iter().zip(&seen.cases) {
        let pairs = case.with.len().min(case.without.len());
        with.extend_from_slice(&case.with[..pairs]);
        without.extend_from_slice(&case.without[..pairs]);
        all.unmatched += case.sites.unmatched();
        all.lost += case.sites.lost();
        for site in iommu_probes::common::site::Site::ALL {
            *all.hits.entry(site.name().to_owned()).or_default() += case.sites.hits(site);
        }
        for (kind, counted) in [(MAP, case.maps), (UNMAP, case.unmaps)] {
            let Some(one) = broken_down(id, kind, counted, &case.sites) else {
                if counted > 0 {
                    warnings.push(format!(
                        "{id}: the sites saw none of {counted} {} requests",
                        request_name(kind)
                    ));
                }
                continue;
            };
            if one.requests != counted {
                let (saw, what) = (one.requests, &one.request);
                warnings
                    .push(format!("{id}: the sites followed {saw} {what} requests, {counted} were counted"));
            }
            breakdown.push(one);
        }
    }
    all.overhead = sites::overhead(&with, &without, seed);
    if let Err(error) = probes.set_sites(&all).and_then(|()| probes.set_breakdown(&breakdown)) {
        warnings.push(format!("the breakdown cannot be stored: {error}"));
    }
    warnings
}

fn broken_down(case: &str, kind: u8, counted: u64, seen: &iommu_probes::SitesSeen) -> Option<Breakdown> {
    let kind_key = u64::from(kind);
    let whole = seen.parts.get(&(kind_key, Part::Whole))?;
    let (parts_ns, whole_ns) = seen.sums_ns(kind_key);
    let share = |sum: u64| if whole_ns == 0 { 0.0 } else { sum as f64 / whole_ns as f64 };
    let part = |part: Part| {
        let histogram = seen.parts.get(&(kind_key, part))?;
        Some(BreakdownPart {
            name: part.name().to_owned(),
            share: share(histogram.sum()),
            mean_ns: histogram.sum() as f64 / whole.count() as f64,
            histogram: summary(histogram, "ns"),
        })
    };
    Some(Breakdown {
        case: case.to_owned(),
        request: request_name(kind).to_owned(),
        requests: whole.count(),
        counted: Some(counted),
        whole: summary(whole, "ns"),
        parts: Part::ALL.into_iter().filter(|one| *one != Part::Whole).filter_map(part).collect(),
        error: share(parts_ns) - if whole_ns == 0 { 0.0 } else { 1.0 },
    })
}

const fn request_name(kind: u8) -> &'static str {
    match kind {
        MAP => "map",
        UNMAP => "unmap",
        _ => "other",
    }
}
