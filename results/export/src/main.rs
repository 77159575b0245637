//! `iommu-bench-export`: the helper that `iommu-bench store export` starts.

use std::{
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use iommu_results::{Store, export::ExportLine};

const USAGE: &str = "usage: iommu-bench-export STORE FOLDER; `iommu-bench store export` starts it";

fn main() -> ExitCode {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [store, folder] = &arguments[..] else {
        // A closed standard error leaves the exit code.
        let _ = writeln!(io::stderr(), "{USAGE}");
        return ExitCode::from(2);
    };
    let exported =
        Store::existing(store).map_err(|error| error.to_string()).and_then(|store| export(&store, folder));
    let failed = exported.is_err();
    let last = exported.unwrap_or_else(|message| ExportLine::Failed { message });
    match say(&last) {
        Ok(()) if failed => ExitCode::from(4),
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(4),
    }
}

fn export(store: &Store, folder: &std::path::Path) -> Result<ExportLine, String> {
    let exported = iommu_results_export::parquet(store, folder, |position| {
        // Without a reader the tables are written all the same.
        let _ = say(&ExportLine::Progress { done: position.done, total: position.total });
    });
    let exported = exported.map_err(|error| error.to_string())?;
    Ok(ExportLine::Exported {
        tables: iommu_results_export::SCHEMA.to_owned(),
        runs: exported.survey.runs,
        skipped: exported.survey.skipped(),
        files: exported.files,
    })
}

fn say(line: &ExportLine) -> io::Result<()> {
    let text = serde_json::to_string(line)?;
    writeln!(io::stdout(), "{text}")
}
