//! `gate`: a comparison that a policy describes, for continuous integration.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum, ValueHint};
use iommu_analysis::{
    compare::{Comparison, Need},
    verdict::{Report, Thresholds},
};

use crate::{
    ab::{self, Config, Side},
    compare::{self, Loaded},
    deliver::{self, DeliverArgs},
    exit::Exit,
    failure::Failure,
    interrupt::Interrupt,
};

mod ci;
mod policy;

const EXAMPLES: &str = "\
Examples:
  iommu-bench gate --policy policy.toml --base origin/main --head HEAD
  iommu-bench gate --policy policy.toml --base ./old --head ./new --junit gate.xml
  iommu-bench gate --policy policy.toml --base RUN --head RUN      two stored runs

In GitHub Actions annotations and the job's summary are written by themselves.

Exit codes: 0 better or same, 1 worse, 2 usage, 3 a prerequisite is missing,
4 a build or run failed, 5 inconclusive, 130 interrupted.";

/// Arguments of `gate`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct GateArgs {
    /// What is measured, which metrics are judged, and their floors
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    policy: PathBuf,
    /// Build to compare with: a binary, a git revision, or the folder of a stored run
    #[arg(long, required = true, value_name = "BIN|REV|RUN", value_hint = ValueHint::AnyPath)]
    base: Vec<String>,
    /// Build in question, likewise
    #[arg(long, required = true, value_name = "BIN|REV|RUN", value_hint = ValueHint::AnyPath)]
    head: Vec<String>,
    /// Write JUnit XML
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    junit: Option<PathBuf>,
    /// Append Markdown to this file [default: what GITHUB_STEP_SUMMARY names]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    summary: Option<PathBuf>,
    /// Print annotations on standard error
    #[arg(long, value_enum, default_value_t = Annotations::Auto)]
    annotations: Annotations,
    /// Folder that gets a new folder with the verdicts, every sample and a page
    #[arg(long, value_name = "DIR", default_value = "results/ab", value_hint = ValueHint::DirPath)]
    out: PathBuf,
    #[command(flatten)]
    deliver: DeliverArgs,
    /// Print errors only (and the JSON with --json)
    #[arg(long, short)]
    quiet: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Annotations {
    /// When this runs in GitHub Actions
    Auto,
    /// Always
    Github,
    /// Never
    None,
}

/// Compares as the policy says.
///
/// # Errors
/// As `ab` and `compare`; a policy that cannot be used.
pub(crate) fn gate(args: &GateArgs) -> Result<Exit, Failure> {
    let (config, layouts) = policy::read(&args.policy).map_err(|error| {
        Failure::usage(error).with_remedy("docs/policy.toml is an example; docs/analysis.md explains it")
    })?;
    config.check()?;
    let is_run = |names: &[String]| names.len() == 1 && Path::new(&names[0]).join("run.json").is_file();
    let (comparison, interrupted) = match (is_run(&args.base), is_run(&args.head)) {
        (true, true) => (of_runs(args, &config)?, false),
        (false, false) => of_builds(args, &config, layouts)?,
        _ => return Err(Failure::usage("base and head must both be stored runs, or both builds")),
    };
    publish(args, &comparison)?;
    let exit = deliver::deliver(&args.deliver, &comparison, args.quiet)?;
    Ok(if interrupted { Exit::Interrupted } else { exit })
}

fn of_builds(args: &GateArgs, config: &Config, layouts: u16) -> Result<(Comparison, bool), Failure> {
    let base = Side::resolve("base", &args.base, layouts, args.quiet)?;
    let head = Side::resolve("head", &args.head, layouts, args.quiet)?;
    let interrupt = Interrupt::install().map_err(Failure::failed)?;
    let outcome = ab::measure(config, &base, &head, &interrupt, args.quiet)?;
    ab::keep(&args.out, config, &outcome)?;
    Ok((outcome.comparison, outcome.interrupted))
}

/// Two stored runs: counts, and of the timings those that the policy names.
fn of_runs(args: &GateArgs, config: &Config) -> Result<Comparison, Failure> {
    let nowhere = Path::new("");
    let base = Loaded::of(Path::new(&args.base[0]), nowhere)?;
    let head = Loaded::of(Path::new(&args.head[0]), nowhere)?;
    let ran = &base.stored.run.scenario;
    if *ran != config.scenario {
        let message = format!("the policy is about `{}`, base ran `{ran}`", config.scenario);
        return Err(Failure::usage(message));
    }
    let need = if config.timed { Need::Times } else { Need::Counts };
    let mut comparison = compare::compared(&base, &head, need, Thresholds::default())?;
    let Report { mut metrics, mut missing, .. } = comparison.report;
    metrics.retain(|metric| metric.n == 1 || config.judges(&metric.case, &metric.metric));
    missing.retain(|one| one.metric == "*" || one.one_sided && config.judges(&one.case, &one.metric));
    comparison.report = Report::new(metrics, missing);
    Ok(comparison)
}

fn publish(args: &GateArgs, comparison: &Comparison) -> Result<(), Failure> {
    let on_github = std::env::var_os("GITHUB_ACTIONS").is_some_and(|value| value == "true");
    if args.annotations == Annotations::Github || args.annotations == Annotations::Auto && on_github {
        anstream::eprint!("{}", ci::annotations(comparison));
    }
    let summary = args.summary.clone().or_else(|| {
        let named = std::env::var_os("GITHUB_STEP_SUMMARY").filter(|name| on_github && !name.is_empty());
        named.map(PathBuf::from)
    });
    let cannot = |path: &Path| {
        let path = path.display().to_string();
        move |error| Failure::failed(format!("{path}: cannot be written: {error}"))
    };
    if let Some(path) = summary {
        ci::summary(&path, comparison).map_err(cannot(&path))?;
    }
    if let Some(path) = &args.junit {
        ci::junit(path, comparison).map_err(cannot(path))?;
    }
    Ok(())
}
