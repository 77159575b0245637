//! Paired rounds: what is compared is measured alternately, in an order that is drawn from the seed.

use iommu_analysis::stats::{Estimate, LEVEL, StatsError, mean, paired_ratio};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

/// How much is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effort {
    /// Rounds of each comparison; each round measures both sides twice.
    pub rounds: usize,
    /// Operations of one batch.
    pub batch: u64,
    /// Batches of 64 look-ups, with the writer and without, behind a tail latency.
    pub tail_batches: usize,
    /// Seed of orders and addresses.
    pub seed: u64,
}

impl Effort {
    /// A run to be published.
    pub fn full(seed: u64) -> Self {
        Self { rounds: 40, batch: 100_000, tail_batches: 1_000_000, seed }
    }

    /// A first look.
    pub fn quick(seed: u64) -> Self {
        Self { rounds: 15, batch: 20_000, tail_batches: 100_000, seed }
    }
}

/// The median; not a number when there are no samples.
pub fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_unstable_by(f64::total_cmp);
    samples.get(samples.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Samples of two things, taken in pairs.
#[derive(Clone, Debug, Default)]
pub struct Pairs {
    /// Of ours.
    pub ours: Vec<f64>,
    /// Of what it is compared with.
    pub theirs: Vec<f64>,
    seed: u64,
}

impl Pairs {
    /// Ours by theirs: the geometric mean over the rounds, with its interval.
    ///
    /// # Errors
    /// When a sample is not a positive number.
    pub fn ratio(&self) -> Result<Estimate, StatsError> {
        paired_ratio(&self.ours, &self.theirs, LEVEL, self.seed)
    }

    /// Theirs by ours: the ratio of rates where the samples are times.
    ///
    /// # Errors
    /// As [`ratio`](Self::ratio).
    pub fn inverse_ratio(&self) -> Result<Estimate, StatsError> {
        paired_ratio(&self.theirs, &self.ours, LEVEL, self.seed)
    }

    fn new(seed: u64, samples: impl Iterator<Item = (f64, f64)>) -> Self {
        let (ours, theirs) = samples.unzip();
        Self { ours, theirs, seed }
    }
}

impl Effort {
    /// A generator for `purpose`, so that one measurement's draws do not depend on which others run.
    pub fn random(&self, purpose: u64) -> Pcg64Mcg {
        Pcg64Mcg::seed_from_u64(self.seed ^ purpose.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// Measures two things in rounds of ABBA or BAAB, drawn for each round; a round's sample of a thing is the mean of its
    /// two. `measure` gets `true` for ours. The first round warms up and does not count.
    pub fn abba(&self, mut measure: impl FnMut(bool) -> f64) -> Pairs {
        let [pairs] = self.abba_of(|ours| [measure(ours)]);
        pairs
    }

    /// As [`abba`](Self::abba), for measurements that yield several numbers at once.
    pub fn abba_of<const N: usize>(&self, mut measure: impl FnMut(bool) -> [f64; N]) -> [Pairs; N] {
        let mut random = self.random(1);
        let mut samples: Vec<([f64; N], [f64; N])> = Vec::with_capacity(self.rounds);
        for round in 0..=self.rounds {
            let first = random.random::<bool>();
            let [a1, b1, b2, a2] = [first, !first, !first, first].map(&mut measure);
            let middle = |x: [f64; N], y: [f64; N]| std::array::from_fn(|i| (x[i] + y[i]) / 2.0);
            let (a, b) = (middle(a1, a2), middle(b1, b2));
            if round != 0 {
                samples.push(if first { (a, b) } else { (b, a) });
            }
        }
        std::array::from_fn(|i| {
            Pairs::new(self.seed, samples.iter().map(|(ours, theirs)| (ours[i], theirs[i])))
        })
    }

    /// The mean of one number a round, with its interval; the first round does not count.
    ///
    /// # Errors
    /// When a sample is not a number.
    pub fn mean(&self, mut measure: impl FnMut() -> f64) -> Result<Estimate, StatsError> {
        measure();
        let samples: Vec<f64> = (0..self.rounds).map(|_| measure()).collect();
        mean(&samples, LEVEL, self.seed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The machine slows down by a tenth of a unit with every call: a round's two samples of either thing have the same
    /// mean time, so the drift cancels and the ratio stays.
    #[test]
    fn rounds_are_balanced_and_the_ratio_is_that_of_the_samples() {
        let effort = Effort::quick(7);
        let mut calls = Vec::new();
        let pairs = effort.abba(|ours| {
            let drift = 1.0 + calls.len() as f64 / 10.0;
            calls.push(ours);
            if ours { 3.0 * drift } else { 2.0 * drift }
        });
        assert_eq!(calls.len(), 4 * (effort.rounds + 1));
        for round in calls.chunks(4) {
            let [first, second, ..] = *round else { panic!("{round:?}") };
            assert_eq!(round, [first, !first, !first, first]);
            assert_ne!(first, second);
        }
        assert_eq!((pairs.ours.len(), pairs.theirs.len()), (effort.rounds, effort.rounds));
        for (round, (ours, theirs)) in pairs.ours.iter().zip(&pairs.theirs).enumerate() {
            // The calls of round n, after the one that warms up, have the drifts 4n to 4n + 3 tenths.
            let middle = 1.0 + (4.0 * (round as f64 + 1.0) + 1.5) / 10.0;
            assert!((ours - 3.0 * middle).abs() < 1e-9 && (theirs - 2.0 * middle).abs() < 1e-9, "{round}");
        }
        let ratio = pairs.ratio().unwrap();
        assert!(
            (ratio.value - 1.5).abs() < 1e-9 && ratio.lo <= ratio.value && ratio.value <= ratio.hi,
            "{ratio:?}"
        );
        assert!((pairs.inverse_ratio().unwrap().value - 2.0 / 3.0).abs() < 1e-9);
    }

    #[test]
    fn the_ratio_of_samples_that_vary_is_the_geometric_mean_of_their_ratios() {
        // 3, 1.1, 1.2, 1.1, 1 and 1.
        let samples = [(30.0, 10.0), (22.0, 20.0), (36.0, 30.0), (44.0, 40.0), (7.0, 7.0), (9.0, 9.0)];
        let ratio = Pairs::new(7, samples.into_iter()).ratio().unwrap();
        assert!((ratio.value - 4.356_f64.powf(1.0 / 6.0)).abs() < 1e-9, "{ratio:?}");
        assert!(ratio.lo < ratio.value && ratio.value < ratio.hi, "{ratio:?}");
    }

    #[test]
    fn the_order_depends_on_the_seed_alone() {
        let order = |seed| {
            let mut order = Vec::new();
            Effort::quick(seed).abba(|ours| {
                order.push(ours);
                1.0
            });
            order
        };
        assert_eq!(order(1), order(1));
        assert_ne!(order(1), order(2));
    }
}
