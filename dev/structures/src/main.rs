//! `iommu-bench-structures`: the helper that `iommu-bench tables` starts for the comparison of structures.

use std::{
    fs,
    io::{self, ErrorKind, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Parser;
use iommu_shootout::rounds::Effort;
use iommu_structures::{plot, render, shootout};

/// Measures mapping tables side by side; `iommu-bench tables` starts it.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// Fewer and shorter rounds
    #[arg(long)]
    quick: bool,
    /// Seed of addresses and orders
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Folder to write a plot to, as tables.svg
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

fn main() -> ExitCode {
    match compare(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            // A closed standard error leaves the exit code.
            let _ = writeln!(io::stderr(), "error: {message}");
            ExitCode::from(4)
        }
    }
}

fn compare(args: &Args) -> Result<(), String> {
    let effort = if args.quick { Effort::quick(args.seed) } else { Effort::full(args.seed) };
    let rows = shootout::measure(&effort).map_err(|error| error.to_string())?;
    if let Some(folder) = &args.out {
        write_plot(folder, &rows)?;
    }
    match io::stdout().write_all(render::shootout(&rows).as_bytes()) {
        // A reader that closed the pipe has read enough.
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(format!("standard output cannot be written: {error}"))
        }
        _ => Ok(()),
    }
}

fn write_plot(folder: &Path, rows: &[shootout::Row]) -> Result<(), String> {
    let svg = plot::shootout(rows).map_err(|error| error.to_string())?;
    let path = folder.join("tables.svg");
    let written = fs::create_dir_all(folder).and_then(|()| fs::write(&path, svg));
    written.map_err(|error| format!("{}: {error}", path.display()))
}
