//! `iommu-bench tables`: the figures that the project is held to, and mapping tables side by side.
//!
//! The figures are measured here; a helper measures the ecosystem's structures (see [`crate::helper`]). Without it the
//! figures are complete, and a warning says that the comparison is missing.

use std::process::{Command, Stdio};

use clap::{Args, ValueHint};
use iommu_shootout::{
    figures::{self, MeasureError},
    render,
    report::Report,
    rounds::Effort,
};

use crate::{
    exit::Exit,
    failure::{self, Failure},
    helper::Helper,
    out,
};

const EXAMPLES: &str = "\
Examples:
  iommu-bench tables                         everything, a few minutes
  iommu-bench tables --quick                 a first look: wide intervals
  iommu-bench tables --only map_unmap_1t_vs_radix
  iommu-bench tables --json > tables.json    the figures for scripts
  iommu-bench tables --out docs              also writes docs/tables.svg

Bounds are published, not enforced: the exit code is 0 whenever everything could be measured.";

/// Arguments of `tables`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct TablesArgs {
    /// Fewer and shorter rounds
    #[arg(long)]
    quick: bool,
    /// Only this figure, without the comparison of structures
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// Seed of addresses and orders
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Folder to write a plot of the structures to, as tables.svg
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    out: Option<std::path::PathBuf>,
    /// Print the figures as JSON on standard output
    #[arg(long)]
    json: bool,
}

/// Measures and prints.
pub(crate) fn tables(args: &TablesArgs) -> Result<Exit, Failure> {
    let helper = helper(args)?;
    let effort = if args.quick { Effort::quick(args.seed) } else { Effort::full(args.seed) };
    let figures = figures::measure(&effort, args.only.as_deref(), |names| note(&names.join(", ")));
    let figures = figures.map_err(failure)?;
    if args.json {
        out::print_json(&Report::new(figures))?;
    } else {
        out::print(&render::figures(&figures))?;
    }
    if let Some(command) = helper {
        note("structures side by side");
        compare(args, command)?;
    }
    Ok(Exit::Ok)
}

/// The helper's command line where the comparison is asked for. A plot needs the helper; a table goes without, with a
/// warning.
fn helper(args: &TablesArgs) -> Result<Option<Command>, Failure> {
    if args.only.is_some() || (args.json && args.out.is_none()) {
        return Ok(None);
    }
    match Helper::Structures.command() {
        Ok(command) => Ok(Some(command)),
        Err(missing) if args.out.is_some() => Err(missing),
        Err(missing) => {
            failure::warn(&missing.to_string());
            missing.remedy.iter().for_each(|remedy| failure::warn(remedy));
            Ok(None)
        }
    }
}

/// Runs the helper: its table follows the figures on standard output, unless that carries JSON.
fn compare(args: &TablesArgs, mut command: Command) -> Result<(), Failure> {
    command.arg("--seed").arg(args.seed.to_string());
    if args.quick {
        command.arg("--quick");
    }
    if let Some(folder) = &args.out {
        command.arg("--out").arg(folder);
    }
    if args.json {
        command.stdout(Stdio::null());
    } else {
        out::print("\n")?;
    }
    let helper = Helper::Structures;
    helper.judge(command.status().map_err(|error| helper.broken(&error))?)
}

fn failure(error: MeasureError) -> Failure {
    match error {
        MeasureError::UnknownFigure { .. } => {
            let names: Vec<_> = figures::GROUPS.iter().flat_map(|group| group.names).copied().collect();
            Failure::usage(error).with_remedy(format!("figures: {}", names.join(", ")))
        }
        _ => Failure::failed(error),
    }
}

/// Note on a terminal: the measurement that runs now.
fn note(what: &str) {
    use std::io::{IsTerminal as _, Write as _};
    let mut stderr = anstream::stderr();
    if std::io::stderr().is_terminal() {
        // Nothing is lost when standard error is gone.
        let _ = writeln!(stderr, "measuring {what}");
    }
}
