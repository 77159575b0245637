//! The pass with probes at the device's sites: after the measured slices, and not among them, since a probed site costs
//! most of a microsecond.

use iommu_analysis::stats::{self, LEVEL};
use iommu_probes::{ProbeError, SiteProbes, SitesSeen};
use iommu_results::Overhead;

use crate::machine::Slice;

/// Whether the sites are attached in each round of the pass.
pub(crate) const ORDER: [bool; 8] = [false, true, true, false, false, true, true, false];

/// The pass, while it is under way.
pub(crate) struct Pass {
    probes: SiteProbes,
    before: SitesSeen,
    seen: PassSeen,
}

/// What it saw.
#[derive(Debug, Default)]
pub(crate) struct PassSeen {
    /// Places of each site.
    pub(crate) places: Vec<(&'static str, u64)>,
    /// By case.
    pub(crate) cases: Vec<CaseSeen>,
}

/// What it saw of one case.
#[derive(Debug, Default)]
pub(crate) struct CaseSeen {
    /// What the sites saw in the slices with them.
    pub(crate) sites: SitesSeen,
    /// MAP and UNMAP requests, as driver and device counted them, in the same slices.
    pub(crate) maps: u64,
    /// See `maps`.
    pub(crate) unmaps: u64,
    /// Work per second with the sites attached, and without.
    pub(crate) with: Vec<f64>,
    /// See `with`.
    pub(crate) without: Vec<f64>,
}

impl Pass {
    /// Attaches to the program's own sites, and detaches again.
    ///
    /// # Errors
    /// Why it cannot.
    pub(crate) fn new(cases: usize) -> Result<Self, ProbeError> {
        let mut probes = SiteProbes::own()?;
        probes.detach();
        let places = probes.attached().into_iter().map(|(site, n)| (site.name(), n as u64)).collect();
        let before = probes.snapshot()?;
        let cases = (0..cases).map(|_| CaseSeen::default()).collect();
        Ok(Self { probes, before, seen: PassSeen { places, cases } })
    }

    /// Before the slices of a round.
    ///
    /// # Errors
    /// The sites cannot be attached any more.
    pub(crate) fn round(&mut self, attached: bool) -> Result<(), ProbeError> {
        if attached {
            self.probes.attach()
        } else {
            self.probes.detach();
            Ok(())
        }
    }

    /// After a slice.
    ///
    /// # Errors
    /// A map cannot be read.
    pub(crate) fn slice(&mut self, case: usize, attached: bool, slice: &Slice) -> Result<(), ProbeError> {
        let now = self.probes.snapshot()?;
        let of_slice = now.since(&self.before);
        self.before = now;
        let case = &mut self.seen.cases[case];
        let work = if slice.payload_bytes > 0 { slice.payload_bytes } else { slice.transactions };
        let rate = slice.elapsed_ns.filter(|ns| *ns > 0 && work > 0).map(|ns| work as f64 / ns as f64);
        if !attached {
            case.without.extend(rate);
            return Ok(());
        }
        case.with.extend(rate);
        let count = |name: &str| slice.counts.get(name).copied().unwrap_or(0);
        // The sites also see what surrounds the slice.
        let [maps, unmaps] = slice.served.unwrap_or_else(|| {
            [iommu_results::names::REQUESTS_MAP, iommu_results::names::REQUESTS_UNMAP].map(count)
        });
        case.maps += maps;
        case.unmaps += unmaps;
        case.sites.add(&of_slice);
        Ok(())
    }

    /// What was seen.
    pub(crate) fn finish(self) -> PassSeen {
        self.seen
    }
}

/// Time with probes over time without, from rates that belong together pairwise.
pub(super) fn overhead(with: &[f64], without: &[f64], seed: u64) -> Option<Overhead> {
    let estimate = stats::paired_ratio(without, with, LEVEL, seed).ok()?;
    Some(Overhead { ratio: estimate.value, ci: [estimate.lo, estimate.hi] })
}
