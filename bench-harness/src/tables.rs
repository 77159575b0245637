//! `iommu-bench tables`: mapping tables side by side, and the figures that the project is held to.

use std::{fs, path::Path};

use clap::{Args, ValueHint};
use iommu_shootout::{
    figures::{self, MeasureError},
    plot, render,
    report::Report,
    rounds::Effort,
    shootout,
};

use crate::{exit::Exit, failure::Failure, out};

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
    let effort = if args.quick { Effort::quick(args.seed) } else { Effort::full(args.seed) };
    let figures = figures::measure(&effort, args.only.as_deref(), |names| note(&names.join(", ")));
    let figures = figures.map_err(failure)?;
    let compare = args.only.is_none() && (!args.json || args.out.is_some());
    let rows = if compare {
        note("structures side by side");
        Some(shootout::measure(&effort).map_err(Failure::failed)?)
    } else {
        None
    };
    if let (Some(folder), Some(rows)) = (&args.out, &rows) {
        write_plot(folder, rows)?;
    }
    if args.json {
        out::print_json(&Report::new(figures))?;
    } else {
        let structures = rows.map_or(String::new(), |rows| format!("\n{}", render::shootout(&rows)));
        out::print(&(render::figures(&figures) + &structures))?;
    }
    Ok(Exit::Ok)
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

fn write_plot(folder: &Path, rows: &[shootout::Row]) -> Result<(), Failure> {
    let svg = plot::shootout(rows).map_err(Failure::failed)?;
    let path = folder.join("tables.svg");
    let written = fs::create_dir_all(folder).and_then(|()| fs::write(&path, svg));
    written.map_err(|error| Failure::failed(format!("{}: {error}", path.display())))
}

/// What is being measured, for people who wait.
fn note(what: &str) {
    use std::io::{IsTerminal as _, Write as _};
    let mut stderr = anstream::stderr();
    if std::io::stderr().is_terminal() {
        // Nothing is lost when standard error is gone.
        let _ = writeln!(stderr, "measuring {what}");
    }
}
