//! Block after block until the intervals decide, the cap is reached, or somebody interrupts.

use std::{collections::BTreeMap, path::Path, time::Duration};

use iommu_analysis::{
    compare::{self, Comparison, Need},
    paired::Block,
    sequential::{self, Look},
    verdict::{self, Measured as Judged, MetricVerdict, Missing, Report, Thresholds, Verdict},
};
use iommu_results::{Histogram, metric};
use rand::{Rng, RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

use super::{
    build::Side,
    exact,
    process::{Ended, Launcher, Measured, Values},
};
use crate::{failure::Failure, interrupt::Interrupt, progress::Progress};

/// What is compared, and how.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) scenario: String,
    pub(crate) modes: Vec<String>,
    pub(crate) set: Vec<String>,
    pub(crate) seed: u64,
    /// Measured time of a case in a process.
    pub(crate) duration: Duration,
    /// Most blocks.
    pub(crate) cap: usize,
    pub(crate) level: f64,
    /// Of metrics that no rule names.
    pub(crate) thresholds: Thresholds,
    /// The metrics that are judged; all of them where there is no rule.
    pub(crate) rules: Vec<Rule>,
    /// Whether anything is timed.
    pub(crate) timed: bool,
    pub(crate) exact: Option<Exact>,
    /// Bound on the growth of instructions and allocations, where they are counted.
    pub(crate) instructions: Option<f64>,
}

/// A metric that is judged.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    pub(crate) metric: String,
    /// Parts of the ids of the cases that it is judged in; all where there is none.
    pub(crate) cases: Vec<String>,
    pub(crate) thresholds: Thresholds,
}

/// The exact gate.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Exact {
    pub(crate) packets: u64,
    /// Relative growth that is allowed.
    pub(crate) bound: f64,
}

/// Blocks by case and metric.
pub(crate) type Samples = BTreeMap<(String, String), Vec<Block>>;

/// What was found.
pub(crate) struct Outcome {
    pub(crate) comparison: Comparison,
    /// Every block by case and metric.
    pub(crate) samples: Samples,
    pub(crate) blocks: usize,
    pub(crate) interrupted: bool,
}

impl Config {
    /// Usage errors that are known before anything runs.
    ///
    /// # Errors
    /// When the cap is too small for the level, or a rule names what no comparison judges.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        for rule in &self.rules {
            if metric::series(&rule.metric).is_ok_and(|row| !row.is_timing()) {
                let message =
                    format!("`{}` is modelled or only recorded: no verdict is given on it", rule.metric);
                return Err(Failure::usage(message).with_remedy("iommu-bench metrics lists what is measured"));
            }
        }
        sequential::schedule(self.cap, self.level).map(drop).map_err(Failure::usage)
    }

    /// Whether this metric is judged in this case.
    pub(crate) fn judges(&self, case: &str, metric: &str) -> bool {
        self.rule(case, metric).is_some()
    }

    /// What counts as a change of this metric in this case; nothing where it is not judged.
    fn rule(&self, case: &str, metric: &str) -> Option<Thresholds> {
        if self.rules.is_empty() {
            return Some(self.thresholds);
        }
        let applies = |rule: &&Rule| {
            rule.metric == metric
                && (rule.cases.is_empty() || rule.cases.iter().any(|part| case.contains(part)))
        };
        self.rules.iter().find(applies).map(|rule| rule.thresholds)
    }
}

/// Counts, then measures in turn.
///
/// # Errors
/// When a process fails or the builds do not measure the same.
pub(crate) fn measure(
    config: &Config,
    base: &Side,
    head: &Side,
    interrupt: &Interrupt,
    quiet: bool,
) -> Result<Outcome, Failure> {
    let scratch = Scratch::new()?;
    let launcher = Launcher::new(config, scratch.0.clone());
    let mut found = match config.exact {
        Some(exact) => exact::counts(&launcher, base, head, exact)?,
        None => exact::Found::default(),
    };
    if let Some(bound) = config.instructions
        && !found.interrupted
        && !interrupt.requested()
    {
        let counted = exact::instructions(&launcher, base, head, bound, &scratch.0)?;
        found.metrics.extend(counted.metrics);
        found.missing.extend(counted.missing);
        (found.flame, found.interrupted) = (counted.flame, counted.interrupted);
    }
    let mut race = Race::new(config, base, head, launcher, interrupt, quiet);
    race.interrupted = found.interrupted;
    if config.timed && !race.interrupted {
        race.run()?;
    }
    Ok(race.outcome(found))
}

/// The timed part.
struct Race<'c> {
    config: &'c Config,
    sides: [&'c Side; 2],
    launcher: Launcher<'c>,
    interrupt: &'c Interrupt,
    quiet: bool,
    random: Pcg64Mcg,
    blocks: Vec<[[Values; 2]; 2]>,
    histograms: [BTreeMap<(String, String), Histogram>; 2],
    judged: (Vec<MetricVerdict>, Vec<Missing>),
    notes: Vec<String>,
    first: [Option<iommu_results::Run>; 2],
    interrupted: bool,
}

impl<'c> Race<'c> {
    fn new(
        config: &'c Config,
        base: &'c Side,
        head: &'c Side,
        launcher: Launcher<'c>,
        interrupt: &'c Interrupt,
        quiet: bool,
    ) -> Self {
        Self {
            config,
            sides: [base, head],
            launcher,
            interrupt,
            quiet,
            random: Pcg64Mcg::seed_from_u64(config.seed ^ 0x0ab0_0ab0),
            blocks: Vec::new(),
            histograms: Default::default(),
            judged: Default::default(),
            notes: Vec::new(),
            first: [None, None],
            interrupted: false,
        }
    }

    fn run(&mut self) -> Result<(), Failure> {
        let looks = sequential::schedule(self.config.cap, self.config.level).map_err(Failure::usage)?;
        let step = Duration::from_secs(1);
        let mut progress = Progress::new(step * self.config.cap as u32, self.quiet);
        for look in looks {
            while self.blocks.len() < look.blocks {
                progress.now(&format!("block {} of at most {}", self.blocks.len() + 1, self.config.cap));
                let Some(block) = self.block()? else {
                    self.interrupted = true;
                    return Ok(());
                };
                self.blocks.push(block);
                progress.advance(step);
            }
            self.judge(look);
            if self.judged.0.iter().all(|metric| metric.verdict != Verdict::Inconclusive) {
                break;
            }
        }
        progress.finish();
        Ok(())
    }

    /// Four processes: base-head-head-base or head-base-base-head, in link orders drawn at random.
    fn block(&mut self) -> Result<Option<[[Values; 2]; 2]>, Failure> {
        let head_first = self.random.next_u32() & 1 == 1;
        let order = if head_first { [1, 0, 0, 1] } else { [0, 1, 1, 0] };
        let layout = self.sides.map(|side| self.random.random_range(0..side.binaries.len()));
        let mut block: [Vec<Values>; 2] = Default::default();
        for side in order {
            if self.interrupt.requested() {
                return Ok(None);
            }
            let padding = self.random.random_range(0..4096);
            let binary = &self.sides[side].binaries[layout[side]];
            match self.launcher.timed(binary, padding)? {
                Ended::Interrupted => return Ok(None),
                Ended::Well(measured) => block[side].push(self.add(side, *measured)?),
            }
        }
        let pair = |values: Vec<Values>| -> [Values; 2] {
            let mut values = values.into_iter();
            // The order has each side twice.
            [values.next().unwrap_or_default(), values.next().unwrap_or_default()]
        };
        Ok(Some(block.map(pair)))
    }

    /// Keeps a process's histograms, and checks once that both builds measure the same.
    fn add(&mut self, side: usize, measured: Measured) -> Result<Values, Failure> {
        for (key, histogram) in &measured.histograms {
            self.histograms[side].entry(key.clone()).or_default().merge(histogram);
        }
        if self.first[side].is_none() {
            self.first[side] = Some(measured.stored.run);
            if let [Some(base), Some(head)] = &self.first {
                let sides = compare::sides(base, head, Need::Times).map_err(Failure::usage)?;
                // Both sides ran in turn: what is said of head's run holds for base's.
                self.notes.extend(
                    sides.notes.into_iter().filter_map(|note| note.strip_prefix("head: ").map(str::to_owned)),
                );
                self.judged.1 = sides.missing;
            }
        }
        Ok(measured.values)
    }

    fn judge(&mut self, look: Look) {
        let (samples, mut missing) = self.samples();
        let measured: Vec<Judged> = samples
            .into_iter()
            .filter_map(|((case, metric), blocks)| {
                let thresholds = self.config.rule(&case, &metric)?;
                Some(Judged { metric, case, thresholds, blocks })
            })
            .collect();
        let (verdicts, without) = verdict::judge(&measured, look, self.config.level, self.config.seed);
        missing.extend(without);
        let whole_cases = self.judged.1.iter().filter(|missing| missing.metric == "*").cloned();
        missing.extend(whole_cases.collect::<Vec<_>>());
        for rule in &self.config.rules {
            if !measured.iter().any(|one| one.metric == rule.metric) {
                missing.push(Missing {
                    metric: rule.metric.clone(),
                    case: "*".to_owned(),
                    reason: "no case of the scenario has it".to_owned(),
                    one_sided: true,
                });
            }
        }
        self.judged = (verdicts, missing);
    }

    /// Blocks by case and metric; what some process lacks is missing.
    fn samples(&self) -> (Samples, Vec<Missing>) {
        let mut seen: BTreeMap<(String, String), [usize; 2]> = BTreeMap::new();
        for block in &self.blocks {
            for (side, values) in block.iter().enumerate() {
                for key in values.iter().flat_map(|values| values.keys()) {
                    seen.entry(key.clone()).or_default()[side] += 1;
                }
            }
        }
        let all = 2 * self.blocks.len();
        let (mut samples, mut missing) = (Samples::new(), Vec::new());
        for ((case, metric), counts) in seen {
            if counts == [all, all] {
                let key = (case, metric);
                let of = |values: &[Values; 2]| [values[0][&key], values[1][&key]];
                let blocks = self.blocks.iter().map(|[base, head]| Block { base: of(base), head: of(head) });
                let blocks = blocks.collect();
                samples.insert(key, blocks);
            } else if self.config.rule(&case, &metric).is_some() {
                let [base, head] = counts;
                let reason = format!("measured by {base} of {all} processes of base and {head} of head");
                missing.push(Missing { metric, case, reason, one_sided: true });
            }
        }
        (samples, missing)
    }

    fn outcome(self, found: exact::Found) -> Outcome {
        let (samples, _) = self.samples();
        let (mut metrics, mut missing) = (found.metrics, found.missing);
        metrics.extend(self.judged.0);
        missing.extend(self.judged.1);
        if self.interrupted {
            missing.push(Missing {
                metric: "*".to_owned(),
                case: "*".to_owned(),
                reason: format!(
                    "interrupted after {} blocks; the verdicts are those of the last look before",
                    self.blocks.len()
                ),
                one_sided: true,
            });
        }
        metrics.sort_by(|a, b| a.case.cmp(&b.case));
        let no_profile = "no profile was taken; --instructions takes an exact one with valgrind".to_owned();
        let comparison = Comparison {
            title: format!("{}, measured in turn", self.config.scenario),
            base: self.sides[0].label.clone(),
            head: self.sides[1].label.clone(),
            report: Report::new(metrics, missing),
            notes: self.notes,
            per_packet: found.per_packet,
            latencies: compare::latencies(&self.histograms[0], &self.histograms[1]),
            flame: found.flame.unwrap_or(Err(no_profile)),
        };
        Outcome { comparison, samples, blocks: self.blocks.len(), interrupted: self.interrupted }
    }
}

/// A folder of our own that goes when we do.
struct Scratch(std::path::PathBuf);

impl Scratch {
    fn new() -> Result<Self, Failure> {
        let path = std::env::temp_dir().join(format!("iommu-bench-ab-{}", std::process::id()));
        std::fs::create_dir(&path)
            .map_err(|error| Failure::failed(format!("{}: {error}", path.display())))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Best effort: temporary folders are cleaned by the system.
        let _ = std::fs::remove_dir_all(AsRef::<Path>::as_ref(&self.0));
    }
}
