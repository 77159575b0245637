//! `report`: the page of a stored run, made again.

use std::{
    fs,
    path::{Path, PathBuf},
};

use iommu_results::{Store, store::REPORT_FILE};

use crate::{cli::ReportArgs, exit::Exit, failure::Failure, out};

/// Makes `report.html` again.
///
/// # Errors
/// When there is no such run, it cannot be read, or the report cannot be written.
pub(crate) fn report(args: &ReportArgs) -> Result<Exit, Failure> {
    let stored = Store::load(find(args)?).map_err(Failure::failed)?;
    let histograms = stored.histograms().map_err(Failure::failed)?;
    let artefacts = stored.artefacts().map_err(Failure::failed)?;
    let page = iommu_analysis::report::html_with(&stored.run, &histograms, &artefacts);
    let path = stored.folder.join(REPORT_FILE);
    replace(&path, page.as_ref())
        .map_err(|error| Failure::failed(format!("{}: cannot be written: {error}", path.display())))?;
    if args.json {
        out::print_json(&stored.run)?;
    } else {
        out::print(&format!("Report: {}\n", path.display()))?;
    }
    Ok(Exit::Ok)
}

/// The path as given, or the name of a run in the store.
fn find(args: &ReportArgs) -> Result<PathBuf, Failure> {
    let by_name = args.out.join(&args.run);
    let found = [&args.run, &by_name].into_iter().find(|path| path.exists());
    found.cloned().ok_or_else(|| {
        let elsewhere =
            if by_name == args.run { String::new() } else { format!(" or {}", by_name.display()) };
        Failure::usage(format!("there is no run at {}{elsewhere}", args.run.display())).with_remedy(
            "give the folder of a run, such as results/runs/20310506T120000.007Z-netperf-strict-1a2b3c",
        )
    })
}

/// Writes beside the file and renames, so that a reader sees the old page or the new one.
fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let new = path.with_extension(format!("html.new-{}", std::process::id()));
    let written = fs::write(&new, bytes).and_then(|()| fs::rename(&new, path));
    if written.is_err() {
        // Best effort: it may never have been created.
        let _ = fs::remove_file(&new);
    }
    written
}
