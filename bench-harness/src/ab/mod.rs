//! `ab`: two builds, measured in turn until the intervals decide.

use std::path::PathBuf;

use clap::{Args, ValueHint};
use iommu_analysis::verdict::Thresholds;

use crate::{
    deliver::{self, DeliverArgs},
    duration,
    exit::Exit,
    failure::{Failure, warn},
    interrupt::Interrupt,
    out,
};

mod build;
mod exact;
mod keep;
mod process;
mod sequence;

pub(crate) use build::Side;
pub(crate) use keep::keep;
pub(crate) use sequence::{Config, Exact, Rule, measure};

const EXAMPLES: &str = "\
Examples:
  iommu-bench ab --base main --head HEAD netperf-strict
  iommu-bench ab --base ./old --head ./new netperf-strict --blocks 128
  iommu-bench ab --base main --head HEAD netperf-strict --layouts 4
  iommu-bench ab --base ./old --head ./new netperf-strict --modes strict --instructions
  iommu-bench ab --base ./x --head ./x netperf-strict      what equal builds show

A block is four processes, base-head-head-base or the other way round. Counts are
compared exactly first; then blocks are measured until every metric is decided.

Exit codes: 0 better or same, 1 worse, 2 usage, 3 a prerequisite is missing,
4 a build or run failed, 5 inconclusive, 130 interrupted (what was measured is kept).";

/// Arguments of `ab`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct AbArgs {
    /// Build to compare with: an iommu-bench binary, or a git revision to build; several binaries are link orders of it
    #[arg(long, required = true, value_name = "BIN|REV", value_hint = ValueHint::AnyPath)]
    base: Vec<String>,
    /// Build in question, likewise
    #[arg(long, required = true, value_name = "BIN|REV", value_hint = ValueHint::AnyPath)]
    head: Vec<String>,
    /// Name of a built-in scenario, or a scenario file ending in .toml
    #[arg(value_name = "SCENARIO|FILE.toml", value_hint = ValueHint::FilePath)]
    scenario: String,
    /// Only these modes, comma-separated: off, identity, lazy, strict
    #[arg(long, value_name = "MODE,…", value_delimiter = ',')]
    modes: Vec<String>,
    /// Change a key of the scenario; may be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Judge only these metrics (or histograms, by their mean), comma-separated
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    metric: Vec<String>,
    /// Measured time of each case in each process
    #[arg(long, value_name = "TIME", default_value = "80ms", value_parser = duration::parse)]
    duration: std::time::Duration,
    /// Most blocks; fewer if all metrics are decided before
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(8..=1024))]
    blocks: u16,
    /// Smallest change that is called better or worse
    #[arg(long, value_name = "PERCENT", default_value = "1%", value_parser = deliver::percent)]
    smallest: f64,
    /// A change that `same` excludes
    #[arg(long, value_name = "PERCENT", default_value = "3%", value_parser = deliver::percent)]
    margin: f64,
    /// Seed of orders, layouts, loads and resampling
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Build a revision in so many link orders and mix them, since the layout alone can fake some per cent
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=16))]
    layouts: u16,
    /// Packets of the exact gate, in virtual time; 0 leaves it out
    #[arg(long, value_name = "N", default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(0..=10_000_000))]
    packets: u64,
    /// Count instructions and allocations with valgrind too, and make the differential flame graph of them
    #[arg(long)]
    instructions: bool,
    /// Only count, do not time
    #[arg(long, conflicts_with_all = ["blocks", "duration", "metric"])]
    exact: bool,
    /// Folder that gets a new folder with the verdicts, every sample and a page
    #[arg(long, value_name = "DIR", default_value = "results/ab", value_hint = ValueHint::DirPath)]
    out: PathBuf,
    #[command(flatten)]
    deliver: DeliverArgs,
    /// Print errors only (and the JSON with --json)
    #[arg(long, short)]
    quiet: bool,
}

impl AbArgs {
    fn config(&self) -> Config {
        let thresholds = Thresholds { smallest: self.smallest, margin: self.margin };
        let rules =
            self.metric.iter().map(|name| Rule { metric: name.clone(), cases: Vec::new(), thresholds });
        Config {
            scenario: self.scenario.clone(),
            modes: self.modes.clone(),
            set: self.set.clone(),
            seed: self.seed,
            duration: self.duration,
            cap: usize::from(self.blocks),
            level: iommu_analysis::stats::LEVEL,
            thresholds,
            rules: rules.collect(),
            timed: !self.exact,
            exact: (self.packets > 0).then_some(Exact { packets: self.packets, bound: 0.0 }),
            instructions: self.instructions.then_some(exact::INSTRUCTIONS_BOUND),
        }
    }
}

/// Compares two builds.
///
/// # Errors
/// Usage errors and missing prerequisites; a build or process that failed; a result that could not be stored.
pub(crate) fn ab(args: &AbArgs) -> Result<Exit, Failure> {
    let config = args.config();
    config.check()?;
    let base = Side::resolve("base", &args.base, args.layouts, args.quiet)?;
    let head = Side::resolve("head", &args.head, args.layouts, args.quiet)?;
    let interrupt = Interrupt::install().map_err(Failure::failed)?;
    let outcome = measure(&config, &base, &head, &interrupt, args.quiet)?;
    let kept = keep(&args.out, &config, &outcome);
    let exit = deliver::deliver(&args.deliver, &outcome.comparison, args.quiet)?;
    let folder = kept?;
    if !args.quiet && !args.deliver.json && !args.deliver.markdown {
        out::print(&format!("Kept in: {}\n", folder.display()))?;
    }
    if outcome.interrupted {
        warn(&format!(
            "interrupted after {} blocks; what was measured is in {}",
            outcome.blocks,
            folder.display()
        ));
        return Ok(Exit::Interrupted);
    }
    Ok(exit)
}
