//! In which order the slices of all cases run.
//!
//! Cases that are compared must share the machine's good and bad moments, so their slices are interleaved: each round
//! gives every case one slice, in a seeded random order, and the next round runs the same order backwards (ABBA), so
//! that a linear drift over two rounds cancels.

use std::time::Duration;

use rand::{SeedableRng, seq::SliceRandom};
use rand_pcg::Pcg64Mcg;

/// Fewest measured slices of a case.
pub(crate) const MIN_SLICES: u32 = 8;
/// Longest slice; a longer case gets more slices, which narrows its interval and lets Ctrl-C act soon.
const LONGEST_SLICE: Duration = Duration::from_millis(500);
/// Most slices of a case.
const MAX_SLICES: u32 = 256;

/// Number of slices `duration` is cut into: even, so that every order runs forwards and backwards.
pub(crate) fn slices_in(duration: Duration) -> u32 {
    let wanted = duration.as_millis().div_ceil(LONGEST_SLICE.as_millis());
    let wanted = u32::try_from(wanted).unwrap_or(MAX_SLICES).clamp(MIN_SLICES, MAX_SLICES);
    wanted.next_multiple_of(2)
}

/// One entry of the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// Which round: slices of one round are compared with each other. The warm-up has none.
    pub(crate) round: Option<u32>,
    /// Index of the case.
    pub(crate) case: usize,
}

/// One warm-up slice of each case, then `rounds` rounds over `cases` cases.
pub(crate) fn interleave(cases: usize, rounds: u32, seed: u64) -> Vec<Step> {
    let mut rng = Pcg64Mcg::seed_from_u64(seed ^ 0x5eed_0f0d_e500_0001);
    let mut order: Vec<usize> = (0..cases).collect();
    let mut steps: Vec<Step> = order.iter().map(|&case| Step { round: None, case }).collect();
    for round in 0..rounds {
        if round % 2 == 0 {
            order.shuffle(&mut rng);
        } else {
            order.reverse();
        }
        steps.extend(order.iter().map(|&case| Step { round: Some(round), case }));
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(steps: &[Step], round: u32) -> Vec<usize> {
        steps.iter().filter(|step| step.round == Some(round)).map(|step| step.case).collect()
    }

    #[test]
    fn every_case_runs_once_a_round_and_backwards_in_the_next() {
        let steps = interleave(4, 8, 1);
        assert_eq!(steps.len(), 4 + 4 * 8);
        for pair in 0..4 {
            let forwards = round(&steps, 2 * pair);
            let mut backwards = round(&steps, 2 * pair + 1);
            backwards.reverse();
            assert_eq!(forwards, backwards);
            backwards.sort_unstable();
            assert_eq!(backwards, [0, 1, 2, 3]);
        }
    }

    #[test]
    fn the_order_depends_on_the_seed_only() {
        assert_eq!(interleave(6, 16, 7), interleave(6, 16, 7));
        assert_ne!(interleave(6, 16, 7), interleave(6, 16, 8));
    }

    #[test]
    fn at_least_eight_slices_and_none_too_long() {
        assert_eq!(slices_in(Duration::from_millis(80)), 8);
        assert_eq!(slices_in(Duration::from_secs(2)), 8);
        assert_eq!(slices_in(Duration::from_secs(10)), 20);
        assert_eq!(slices_in(Duration::from_secs(24 * 3600)), MAX_SLICES);
    }
}
