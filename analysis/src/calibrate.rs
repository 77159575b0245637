//! How often the whole procedure of `ab` is wrong: simulated comparisons of equal builds, drawn from recorded noise.
//!
//! A simulated comparison takes consecutive processes of the record, from a place drawn at random, so that drifts and
//! bursts stay what they were, lets a coin decide in each block of four which build they belong to, as `ab` does, and
//! judges at the same looks with the same code until everything is decided. Nothing differs between the builds, so every
//! *worse* is a false alarm and every interval should hold 1. For the power, one metric of head is then made dearer by a
//! known share, and the same comparison judged again.

use iommu_results::metric::{Direction, UnknownName};
use rand::{Rng, RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use statrs::distribution::{Beta, ContinuousCDF};

use crate::noise::Noise;
use crate::paired::{self, Block, PairedError};
use crate::sequential::{self, Look, ScheduleError};
use crate::verdict::{Rule, Thresholds, Verdict, decide_all};

/// What is simulated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// How many comparisons.
    pub comparisons: u32,
    /// Most blocks of each.
    pub cap: usize,
    /// Level of the intervals, over all looks.
    pub level: f64,
    /// What is called a change.
    pub thresholds: Thresholds,
    /// How much dearer one metric of head is made, such as 0.03.
    pub planted: f64,
    /// Seed of everything drawn.
    pub seed: u64,
}

/// Why nothing can be simulated.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum CalibrateError {
    /// Too few processes for one comparison.
    #[error("{processes} processes are recorded, a comparison of {cap} blocks takes {needed}")]
    Short {
        /// How many there are.
        processes: usize,
        /// Most blocks.
        cap: usize,
        /// How many are needed.
        needed: usize,
    },
    /// A series that the metric table lacks.
    #[error(transparent)]
    Unknown(#[from] UnknownName),
    /// No such schedule.
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
    /// Noise without a logarithm.
    #[error(transparent)]
    Paired(#[from] PairedError),
}

/// What was found, summed over comparisons.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tally {
    /// Comparisons of equal builds.
    pub comparisons: u64,
    /// Those in which any metric was called worse.
    pub false_alarms: u64,
    /// Those in which any metric was called better.
    pub false_praise: u64,
    /// Blocks measured until the end.
    pub blocks: u64,
    /// By metric, in the order of the record.
    pub metrics: Vec<MetricTally>,
}

/// What was found of one metric.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MetricTally {
    /// Intervals at the end that hold 1.
    pub covered: u64,
    /// Equal builds called the same.
    pub same: u64,
    /// Planted changes called worse.
    pub found: u64,
    /// Planted changes called better.
    pub inverted: u64,
}

impl Tally {
    /// Adds another part of the same simulation.
    pub fn add(&mut self, other: &Self) {
        self.comparisons += other.comparisons;
        self.false_alarms += other.false_alarms;
        self.false_praise += other.false_praise;
        self.blocks += other.blocks;
        self.metrics.resize(self.metrics.len().max(other.metrics.len()), MetricTally::default());
        for (sum, one) in self.metrics.iter_mut().zip(&other.metrics) {
            sum.covered += one.covered;
            sum.same += one.same;
            sum.found += one.found;
            sum.inverted += one.inverted;
        }
    }
}

/// The largest share of which `seen` in `of` is still plausible at 95 %, one-sided (Clopper and Pearson, "The Use of
/// Confidence or Fiducial Limits", Biometrika 26, 1934).
pub fn upper_bound(seen: u64, of: u64) -> f64 {
    if seen >= of {
        return 1.0;
    }
    // Shape parameters above zero are parameters of a distribution.
    Beta::new(seen as f64 + 1.0, (of - seen) as f64).map_or(1.0, |beta| beta.inverse_cdf(0.95))
}

/// Simulates the comparisons `first..first + options.comparisons`: each has a seed of its own, so that parts can run side
/// by side and add up to the same.
///
/// # Errors
/// [`CalibrateError`] when the record is too short or the options make no sense.
pub fn simulate(noise: &Noise, first: u32, options: &Options) -> Result<Tally, CalibrateError> {
    let looks = sequential::schedule(options.cap, options.level)?;
    let needed = 4 * options.cap;
    let processes = noise.typical()?;
    if processes.len() < needed {
        return Err(CalibrateError::Short { processes: processes.len(), cap: options.cap, needed });
    }
    let directions = noise.directions()?;
    let mut tally = Tally { metrics: vec![MetricTally::default(); directions.len()], ..Tally::default() };
    for number in first..first.saturating_add(options.comparisons) {
        let seed = options.seed ^ (u64::from(number) << 20);
        let mut random = Pcg64Mcg::seed_from_u64(seed);
        let start = random.random_range(0..=processes.len() - needed);
        let blocks = drawn(&processes[start..start + needed], directions.len(), &mut random);
        one(&blocks, &directions, &looks, seed, options, &mut tally)?;
    }
    Ok(tally)
}

/// Blocks by metric, each with its coin.
fn drawn(processes: &[Vec<f64>], metrics: usize, random: &mut Pcg64Mcg) -> Vec<Vec<Block>> {
    let mut blocks = vec![Vec::with_capacity(processes.len() / 4); metrics];
    for four in processes.as_chunks::<4>().0 {
        let head_first = random.next_u32() & 1 == 1;
        for (metric, blocks) in blocks.iter_mut().enumerate() {
            let (outer, inner) = ([four[0][metric], four[3][metric]], [four[1][metric], four[2][metric]]);
            blocks.push(match head_first {
                true => Block { base: inner, head: outer },
                false => Block { base: outer, head: inner },
            });
        }
    }
    blocks
}

/// A look at every metric, as it is and with the change planted.
struct Seen {
    look: Look,
    equal: Vec<Rule>,
    planted: Vec<Rule>,
}

/// One comparison: equal builds, then once with each metric made dearer.
fn one(
    blocks: &[Vec<Block>],
    directions: &[Direction],
    looks: &[Look],
    seed: u64,
    options: &Options,
    tally: &mut Tally,
) -> Result<(), CalibrateError> {
    let rule = |metric: usize, look: Look| -> Result<Rule, CalibrateError> {
        let ratio = paired::ratio(&blocks[metric][..look.blocks], 1.0 - look.error, seed)?;
        Ok(Rule { direction: directions[metric], thresholds: options.thresholds, ratio })
    };
    let mut seen = Vec::with_capacity(looks.len());
    for look in looks {
        let dearer = |metric: usize| match directions[metric] {
            Direction::Higher => 1.0 / (1.0 + options.planted),
            _ => 1.0 + options.planted,
        };
        let equal = (0..blocks.len()).map(|metric| rule(metric, *look)).collect::<Result<Vec<_>, _>>()?;
        let with_change = |(metric, rule): (usize, &Rule)| -> Result<Rule, CalibrateError> {
            let ratio = paired::scaled(&rule.ratio, &blocks[metric][..look.blocks], dearer(metric))?;
            Ok(Rule { ratio, ..*rule })
        };
        let planted = equal.iter().enumerate().map(with_change).collect::<Result<_, _>>()?;
        seen.push(Seen { look: *look, equal, planted });
    }
    let (at, verdicts) = decided(&seen, None);
    tally.comparisons += 1;
    tally.blocks += seen[at].look.blocks as u64;
    tally.false_alarms += u64::from(verdicts.contains(&Verdict::Worse));
    tally.false_praise += u64::from(verdicts.contains(&Verdict::Better));
    for (metric, sums) in tally.metrics.iter_mut().enumerate() {
        let ratio = seen[at].equal[metric].ratio;
        sums.covered += u64::from(ratio.lo <= 1.0 && 1.0 <= ratio.hi);
        sums.same += u64::from(verdicts[metric] == Verdict::Same);
        let (_, with_planted) = decided(&seen, Some(metric));
        sums.found += u64::from(with_planted[metric] == Verdict::Worse);
        sums.inverted += u64::from(with_planted[metric] == Verdict::Better);
    }
    Ok(())
}

/// The first look at which everything is decided, or the last, and its verdicts; with one metric's change planted or none.
fn decided(seen: &[Seen], planted: Option<usize>) -> (usize, Vec<Verdict>) {
    let mut last = (0, Vec::new());
    for (index, at) in seen.iter().enumerate() {
        let mut rules = at.equal.clone();
        if let Some(metric) = planted {
            rules[metric] = at.planted[metric];
        }
        last = (index, decide_all(&rules, at.look));
        if !last.1.contains(&Verdict::Inconclusive) {
            break;
        }
    }
    last
}
