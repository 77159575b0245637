//! How often the verdicts of `iommu-bench ab` are wrong: runs `analysis/examples/calibrate.rs` as a release build.

use std::{io, path::Path, process::Command};

use thiserror::Error;

/// What is passed on.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Arguments of the simulation; `-- --help` lists them
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// Why there is no calibration.
#[derive(Debug, Error)]
pub(crate) enum CalibrateError {
    #[error("cannot run cargo: {0}")]
    Cargo(#[from] io::Error),
    #[error("the bar is not met, or nothing could be simulated; see above")]
    Failed,
}

pub(crate) fn run(root: &Path, options: &Options) -> Result<(), CalibrateError> {
    let status = Command::new("cargo")
        .current_dir(root)
        .args([
            "run",
            "--release",
            "--locked",
            "--quiet",
            "--package",
            "iommu-analysis",
            "--example",
            "calibrate",
            "--",
        ])
        .args(&options.arguments)
        .status()?;
    if status.success() { Ok(()) } else { Err(CalibrateError::Failed) }
}
