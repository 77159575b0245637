//! One process of one build: run, read, forget.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use iommu_analysis::paired::typical;
use iommu_results::{
    Histogram, Metric, Store, StoredRun,
    metric::{self, Row},
};

use super::sequence::Config;
use crate::{exit::Exit, failure::Failure};

/// A value by case and metric.
pub(super) type Values = BTreeMap<(String, String), f64>;

/// What one process measured.
pub(super) struct Measured {
    /// The run.
    pub(super) stored: StoredRun,
    /// One value a metric: what is typical of its slices.
    pub(super) values: Values,
    /// Its histograms.
    pub(super) histograms: BTreeMap<(String, String), Histogram>,
}

/// How a process ended.
pub(super) enum Ended {
    /// It did what it was asked for.
    Well(Box<Measured>),
    /// Somebody interrupted it.
    Interrupted,
}

/// How to start processes of a scenario.
pub(super) struct Launcher<'c> {
    config: &'c Config,
    folder: PathBuf,
}

impl<'c> Launcher<'c> {
    /// Results go to `folder` and are removed from it once read.
    pub(super) fn new(config: &'c Config, folder: PathBuf) -> Self {
        Self { config, folder }
    }

    /// Arguments of the run that all processes share.
    pub(super) fn arguments(&self) -> Vec<String> {
        let config = self.config;
        let mut all = vec!["run".to_owned(), config.scenario.clone(), "--quiet".to_owned()];
        all.extend(["--probes".to_owned(), "off".to_owned()]);
        all.extend(["--seed".to_owned(), config.seed.to_string()]);
        if !config.modes.is_empty() {
            all.extend(["--modes".to_owned(), config.modes.join(",")]);
        }
        for set in &config.set {
            all.extend(["--set".to_owned(), set.clone()]);
        }
        all.extend(["--out".to_owned(), self.folder.join("runs").display().to_string()]);
        all
    }

    /// Runs `binary` once for `config.duration` a case. The environment is padded by `padding` bytes, which moves the
    /// stack: its place alone can cost some per cent.
    pub(super) fn timed(&self, binary: &Path, padding: usize) -> Result<Ended, Failure> {
        let mut command = Command::new(binary);
        let duration = format!("{}ms", self.config.duration.as_millis());
        command.args(self.arguments()).args(["--duration", &duration]);
        command.env("IOMMU_BENCH_PADDING", "x".repeat(padding));
        self.run(command)
    }

    /// Runs `binary` once for exactly so many packets a case.
    pub(super) fn exact(&self, binary: &Path, packets: u64) -> Result<Ended, Failure> {
        let mut command = Command::new(binary);
        command.args(self.arguments()).args(["--packets", &packets.to_string()]);
        self.run(command)
    }

    /// Runs a command that stores one run in this launcher's folder.
    pub(super) fn run(&self, mut command: Command) -> Result<Ended, Failure> {
        let program = command.get_program().to_string_lossy().into_owned();
        let output = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).output();
        let output = output.map_err(|error| Failure::usage(format!("{program}: cannot be run: {error}")))?;
        match output.status.code() {
            Some(0) => self.read(&program).map(|measured| Ended::Well(Box::new(measured))),
            Some(code) if code == i32::from(Exit::Interrupted as u8) => Ok(Ended::Interrupted),
            _ => Err(failed(&program, &output)),
        }
    }

    fn read(&self, program: &str) -> Result<Measured, Failure> {
        let folders = Store::open(self.folder.join("runs")).and_then(|store| store.list());
        let folders = folders.map_err(Failure::failed)?;
        let [folder] = folders.as_slice() else {
            let message = format!("{program}: stored {} runs instead of one", folders.len());
            return Err(Failure::failed(message).with_remedy("give a binary of iommu-bench"));
        };
        let stored = Store::load(folder).map_err(Failure::failed)?;
        let histograms = stored.histograms().map_err(Failure::failed)?;
        let values = values(&stored)?;
        let runs = self.folder.join("runs");
        std::fs::remove_dir_all(&runs)
            .map_err(|error| Failure::failed(format!("{}: {error}", runs.display())))?;
        Ok(Measured { stored, values, histograms })
    }
}

/// What is typical of the slices of every measured metric; the mean over the run where a build does not keep slices, or
/// where the metric table lacks the name, which [`verdict::judge`](iommu_analysis::verdict::judge) then lists as missing.
fn values(stored: &StoredRun) -> Result<Values, Failure> {
    let series = stored.series().map_err(Failure::failed)?;
    let mut values = Values::new();
    for case in &stored.run.cases {
        let key = |name: &String| (case.id.clone(), name.clone());
        let judged = |name: &str| metric::series(name).map_or(true, Row::is_timing);
        for (name, metric) in case.metrics.iter().filter(|(name, _)| judged(name)) {
            if let Metric::Measured { value, .. } = metric {
                values.insert(key(name), *value);
            }
        }
        for (name, summary) in &case.histograms {
            values.insert(key(name), summary.mean);
        }
    }
    for case in series.into_iter().flat_map(|series| series.cases) {
        for (name, metric) in case.metrics.iter().filter(|(_, metric)| !metric.slices.is_empty()) {
            let row = metric::series(name).ok().filter(|row| row.is_timing());
            if let Some(value) = row.and_then(|row| typical(row.direction, &metric.values())) {
                values.insert((case.id.clone(), name.clone()), value);
            }
        }
    }
    Ok(values)
}

fn failed(program: &str, output: &Output) -> Failure {
    let stderr = String::from_utf8_lossy(&output.stderr);
    let last: Vec<&str> = stderr.trim().lines().rev().take(6).collect();
    let said: Vec<&str> = last.into_iter().rev().collect();
    let message = format!("{program}: {}: {}", output.status, said.join("; "));
    match output.status.code().and_then(Exit::from_code) {
        Some(Exit::Usage) => Failure::usage(message),
        Some(Exit::Prerequisite) => Failure::prerequisite(message, "see what that process says"),
        _ => Failure::failed(message),
    }
}
