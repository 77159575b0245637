//! What an `ab` leaves behind: verdicts, every sample, a page.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use iommu_analysis::{compare, report};
use iommu_results::metric;
use serde::Serialize;

use super::sequence::{Config, Outcome};
use crate::failure::Failure;

/// Schema of `samples.json`.
const SCHEMA: &str = "iommu-bench/ab-samples/1";

#[derive(Serialize)]
struct Samples<'o> {
    schema: &'static str,
    scenario: &'o str,
    seed: u64,
    base: &'o str,
    head: &'o str,
    metrics: Vec<MetricSamples<'o>>,
}

#[derive(Serialize)]
struct MetricSamples<'o> {
    case: &'o str,
    metric: &'o str,
    unit: &'static str,
    /// Two processes of each build a block, in the order in which they ran.
    base: Vec<[f64; 2]>,
    head: Vec<[f64; 2]>,
}

/// Writes a new folder below `store` and returns it; it appears whole.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn keep(store: &Path, config: &Config, outcome: &Outcome) -> Result<PathBuf, Failure> {
    let started = jiff::Timestamp::now();
    let scenario: String =
        config.scenario.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(64).collect();
    let name = format!(
        "{}.{:03}Z-{}-ab-{}",
        started.strftime("%Y%m%dT%H%M%S"),
        started.subsec_millisecond(),
        scenario.trim_matches('-'),
        std::process::id()
    );
    let (work, place) = (store.join(format!(".unfinished-{name}")), store.join(&name));
    write(&work, config, outcome).and_then(|()| fs::rename(&work, &place)).map_err(|error| {
        Failure::failed(format!("{}: the result is not stored: {error}", place.display()))
            .with_remedy("give a folder that can be written to with --out DIR")
    })?;
    Ok(place)
}

fn write(folder: &Path, config: &Config, outcome: &Outcome) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let comparison = &outcome.comparison;
    let metric =
        |((case, metric), blocks): (&'_ (String, String), &'_ Vec<iommu_analysis::paired::Block>)| {
            (case.clone(), metric.clone(), blocks.clone())
        };
    let all: Vec<_> = outcome.samples.iter().map(metric).collect();
    let samples = Samples {
        schema: SCHEMA,
        scenario: &config.scenario,
        seed: config.seed,
        base: &comparison.base,
        head: &comparison.head,
        metrics: all
            .iter()
            // What the metric table lacks has no unit; the verdict lists it as missing.
            .filter_map(|(case, metric, blocks)| {
                Some(MetricSamples {
                    case,
                    metric,
                    unit: metric::series(metric).ok()?.unit,
                    base: blocks.iter().map(|block| block.base).collect(),
                    head: blocks.iter().map(|block| block.head).collect(),
                })
            })
            .collect(),
    };
    fs::write(folder.join("verdict.json"), serde_json::to_string_pretty(&comparison.report)? + "\n")?;
    fs::write(folder.join("verdict.md"), compare::markdown(comparison))?;
    fs::write(folder.join("samples.json"), serde_json::to_string(&samples)? + "\n")?;
    fs::write(folder.join("report.html"), report::comparison(comparison))?;
    if let Ok(flame) = &comparison.flame {
        fs::write(folder.join("flame.svg"), &flame.svg)?;
    }
    Ok(())
}
