//! Probes of a run: attached in half of its rounds, so that the run itself tells what they cost.
//!
//! Rounds come in pairs; in each pair one round runs with the probes attached and one without, in the order on, off, off,
//! on. So a drift of the machine does not look like a cost, and within a round all cases share the same state: ratios
//! between cases are as if there were no probes.

mod counters;
mod flame;
mod record;
mod sites;

use iommu_probes::{Attached, Filter, ProbeError, ProbeSet, Skipped, Snapshot};
use iommu_results::Overhead;

pub(crate) use counters::{Counted, Counters};
pub(crate) use flame::{Flame, record as record_profile};
pub(crate) use record::{Measured, record};
pub(crate) use sites::{ORDER, Pass, PassSeen};

use crate::cli;

/// What a run shall observe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// The default set of kernel probes.
    pub(crate) kernel: bool,
    /// The pass with the device's sites.
    pub(crate) sites: bool,
    /// Whether the programs shall log.
    pub(crate) log: bool,
    /// Nothing is timed.
    pub(crate) exact: bool,
    /// Of every process, not of this one alone.
    pub(crate) host: bool,
}

impl Wanted {
    /// What the user asked for; in virtual time nothing that would be timed is attached.
    pub(crate) fn new(asked: cli::Probes, exact: bool) -> Self {
        Self {
            kernel: asked != cli::Probes::Off && !exact,
            sites: asked == cli::Probes::On,
            log: tracing::enabled!(tracing::Level::INFO),
            exact,
            host: false,
        }
    }
}

/// Whether probes are attached in a round; in the warm-up, which has none, they are not.
pub(crate) const fn attached_in(round: Option<u32>) -> bool {
    matches!(round, Some(round) if round % 4 == 0 || round % 4 == 3)
}

/// Kernel probes, while the run is under way.
pub(crate) struct Watch {
    set: ProbeSet,
}

/// What kernel probes saw.
#[derive(Debug)]
pub(crate) struct Seen {
    /// How each is attached.
    pub(crate) attached: Vec<Attached>,
    /// What is not, and why.
    pub(crate) skipped: Vec<Skipped>,
    /// What was counted.
    pub(crate) snapshot: Result<Snapshot, ProbeError>,
}

impl Watch {
    /// Loads the default set, for this process's own events, or for everybody's.
    pub(crate) fn start(wanted: Wanted) -> Self {
        let tgid = (!wanted.host).then(std::process::id);
        let whose = Filter { tgid, ..Filter::default() };
        let mut set = ProbeSet::builder().default_set().filter(whose).log(wanted.log).start();
        set.detach();
        Self { set }
    }

    /// Attaches or detaches, as the round wants it.
    pub(crate) fn for_round(&mut self, round: Option<u32>) {
        match (attached_in(round), self.set.is_attached()) {
            (true, false) => self.set.attach(),
            (false, true) => self.set.detach(),
            _ => {}
        }
        self.set.flush_log();
    }

    /// Takes the probes away and reads them.
    pub(crate) fn finish(mut self) -> Seen {
        self.set.detach();
        self.set.flush_log();
        Seen {
            attached: self.set.attached(),
            skipped: self.set.skipped().to_vec(),
            snapshot: self.set.snapshot(),
        }
    }
}

/// What attached probes cost, from each case's rates by round: time with them over time without.
pub(crate) fn overhead(series: &[Vec<(u32, f64)>], seed: u64) -> Option<Overhead> {
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for case in series {
        for &(round, rate) in case {
            // The pair's other round; each pair is looked at from its attached one.
            let other = case.iter().find(|(other, _)| *other == round ^ 1);
            if let (true, Some((_, other))) = (attached_in(Some(round)), other) {
                with.push(rate);
                without.push(*other);
            }
        }
    }
    sites::overhead(&with, &without, seed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pair_of_rounds_has_one_of_each() {
        let state: Vec<bool> = (0..8).map(|round| attached_in(Some(round))).collect();
        assert_eq!(state, [true, false, false, true, true, false, false, true]);
        assert!(!attached_in(None));
    }

    #[test]
    fn the_overhead_is_time_with_over_time_without() {
        // Attached rounds are a tenth slower, on a machine that gets slower all the time.
        let rate = |round: u32| {
            let drift = 1000.0 - f64::from(round);
            if attached_in(Some(round)) { drift / 1.1 } else { drift }
        };
        let case: Vec<_> = (0..16).map(|round| (round, rate(round))).collect();
        let found = overhead(&[case.clone(), case], 1).expect("enough rounds");
        assert!((found.ratio - 1.1).abs() < 1e-3, "{found:?}");
        assert!(found.ci[0] <= found.ratio && found.ratio <= found.ci[1]);
        assert!(overhead(&[vec![(0, 1.0), (1, 1.0)]], 1).is_none(), "one pair has no interval");
    }
}
