//! `compare A B`: two stored runs.

use std::path::{Path, PathBuf};

use clap::{Args, ValueHint};
use iommu_analysis::{
    compare::{self, Comparison, Flame, Need},
    verdict::{Report, Thresholds},
};
use iommu_results::{Histograms, Integrity, Series, Store, StoreError, StoredRun, file::read_stored_text};

use crate::{
    deliver::{self, DeliverArgs},
    exit::Exit,
    failure::Failure,
};

const EXAMPLES: &str = "\
Examples:
  iommu-bench compare results/runs/20310506T070809… results/runs/20310507T…
  iommu-bench compare OLD NEW --html difference.html
  iommu-bench compare OLD NEW --markdown >> \"$GITHUB_STEP_SUMMARY\"
  iommu-bench compare OLD NEW --counts --json     counts only, also of different machines

Runs measured one after the other say little about small changes: nothing below
5 % is called one. `iommu-bench ab` measures both in turn and finds 3 %.

Exit codes: 0 better or same, 1 worse, 2 not comparable, 5 inconclusive.";

/// Name of the folded stacks in a run's folder.
pub(crate) const PROFILE_FILE: &str = "profile.folded";

/// Arguments of `compare`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct CompareArgs {
    /// The run to compare with: its folder, its run.json, or its name in the store
    #[arg(value_name = "A", value_hint = ValueHint::AnyPath)]
    base: PathBuf,
    /// The run in question
    #[arg(value_name = "B", value_hint = ValueHint::AnyPath)]
    head: PathBuf,
    /// Store in which names are looked up
    #[arg(long, value_name = "DIR", default_value = "results/runs", value_hint = ValueHint::DirPath)]
    store: PathBuf,
    /// Compare counts only: they carry over from one machine to another
    #[arg(long)]
    counts: bool,
    /// A change that `same` excludes
    #[arg(long, value_name = "PERCENT", default_value = "5%", value_parser = deliver::percent)]
    margin: f64,
    #[command(flatten)]
    deliver: DeliverArgs,
}

/// Compares two stored runs.
///
/// # Errors
/// When a run cannot be read, was changed, or must not be compared with the other.
pub(crate) fn compare(args: &CompareArgs) -> Result<Exit, Failure> {
    let (base, head) = (Loaded::of(&args.base, &args.store)?, Loaded::of(&args.head, &args.store)?);
    let need = if args.counts { Need::Counts } else { Need::Times };
    let comparison = compared(&base, &head, need, Thresholds { smallest: 0.0, margin: args.margin })?;
    deliver::deliver(&args.deliver, &comparison, false)
}

/// Compares two runs that were read.
///
/// # Errors
/// When they must not be compared.
pub(crate) fn compared(
    base: &Loaded,
    head: &Loaded,
    need: Need,
    thresholds: Thresholds,
) -> Result<Comparison, Failure> {
    let (in_base, in_head) = (&base.stored.run, &head.stored.run);
    let sides = compare::sides(in_base, in_head, need).map_err(|error| {
        Failure::usage(error).with_remedy("measure both on one machine: iommu-bench ab --base … --head …")
    })?;
    let (mut metrics, mut missing, per_packet) = compare::counts(in_base, in_head, &sides, 0.0);
    if need == Need::Times {
        let timings = compare::timings(
            (in_base, base.series.as_ref()),
            (in_head, head.series.as_ref()),
            &sides,
            thresholds,
            in_base.seed,
        );
        metrics.extend(timings.0);
        missing.extend(timings.1);
    }
    missing.extend(sides.missing.iter().cloned());
    let order: Vec<&str> = sides.cases.iter().map(|(case, _)| case.id.as_str()).collect();
    // Stable: timings stay behind the counts of their case.
    metrics.sort_by_key(|metric| order.iter().position(|id| *id == metric.case));
    let mut notes: Vec<String> = base.notes.iter().map(|note| format!("base: {note}")).collect();
    notes.extend(head.notes.iter().map(|note| format!("head: {note}")));
    notes.extend(sides.notes);
    Ok(Comparison {
        title: format!("{} on {}", in_base.scenario, in_base.machine),
        base: in_base.run_id.clone(),
        head: in_head.run_id.clone(),
        report: Report::new(metrics, missing),
        notes,
        per_packet,
        latencies: compare::latencies(&base.histograms, &head.histograms),
        flame: flame(&base.stored.folder, &head.stored.folder),
    })
}

/// A run with everything beside it, checked.
pub(crate) struct Loaded {
    /// The run and its folder.
    pub(crate) stored: StoredRun,
    histograms: Histograms,
    series: Option<Series>,
    notes: Vec<String>,
}

impl Loaded {
    /// Reads a run by path, or by its name in `store`.
    ///
    /// # Errors
    /// When there is none, it is not whole, or it was changed.
    pub(crate) fn of(run: &Path, store: &Path) -> Result<Self, Failure> {
        let by_name = store.join(run);
        let place = [run, &by_name].into_iter().find(|path| path.exists()).ok_or_else(|| {
            Failure::usage(format!("there is no run at {} or {}", run.display(), by_name.display()))
                .with_remedy("give the folder of a run, such as results/runs/20310506T120000.007Z-…")
        })?;
        let unfinished = |path: &Path| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(".unfinished-"))
        };
        if place.ancestors().any(unfinished) {
            let message = format!("{}: this run was never finished", place.display());
            return Err(Failure::usage(message).with_remedy("compare runs whose folder has its final name"));
        }
        let refused =
            |error: StoreError| Failure::usage(error).with_remedy("this run is not compared; run it again");
        let stored = Store::load(place).map_err(refused)?;
        let mut notes = Vec::new();
        if stored.verify().map_err(refused)? == Integrity::Unknown {
            notes.push("no SHA256SUMS: whether this run was edited is unknown".to_owned());
        }
        let histograms = stored.histograms().map_err(refused)?;
        let series = stored.series().map_err(refused)?;
        let named: usize = stored.run.cases.iter().map(|case| case.histograms.len()).sum();
        if histograms.len() < named {
            notes.push(format!("{} of {named} histograms are not beside the run", named - histograms.len()));
        }
        Ok(Self { stored, histograms, series, notes })
    }
}

/// The differential flame graph of both runs' profiles, or why there is none.
fn flame(base: &Path, head: &Path) -> Result<Flame, String> {
    let read = |folder: &Path, side: &str| {
        let text = read_stored_text(&folder.join(PROFILE_FILE))
            .map_err(|error| format!("{side} has no readable {PROFILE_FILE} ({error})"))?;
        compare::parse_folded(&text)
            .map_err(|line| format!("{side}: line {line} of {PROFILE_FILE} is no stack"))
    };
    let (base, head) = (read(base, "base")?, read(head, "head")?);
    compare::differential(&base, &head, "samples").map_err(|error| error.to_string())
}
