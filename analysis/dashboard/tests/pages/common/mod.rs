//! Stores of invented runs. Figures are drawn from a seed; nothing here was measured.

#![allow(dead_code, unreachable_pub, reason = "the suite and an example use a part of it each")]

use std::fs;
use std::path::Path;

use iommu_dashboard::{Built, Options, SiteError};
use iommu_results::index::{Entry, Operation};
use iommu_results::{
    Case, EndpointKind, Environment, Fact, HistogramSummary, Machine, Metric, Mode, Probes, Relative, Run,
    SCHEMA, Store, Timestamp,
};
use jiff::{SignedDuration, ToSpan as _};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

/// An invented history.
pub struct Synthetic {
    /// How many runs.
    pub runs: usize,
    /// Run from which strict mode is `factor` times as slow.
    pub change: Option<(usize, f64)>,
    /// Seed of the noise.
    pub seed: u64,
    /// Revision of each run.
    pub revision: fn(usize) -> String,
}

impl Default for Synthetic {
    fn default() -> Self {
        Self {
            runs: 40,
            change: Some((25, 1.3)),
            seed: 1,
            revision: |run| format!("{:012x}", 0xabc_0000 + run / 5),
        }
    }
}

impl Synthetic {
    /// Writes the store: the runs' files, then one append for all of them.
    pub fn write(&self, root: &Path) -> Store {
        let store = Store::open(root).unwrap();
        let mut random = Pcg64Mcg::seed_from_u64(self.seed);
        let first: Timestamp = "2025-01-01T00:00:00Z".parse().unwrap();
        let mut entries = Vec::new();
        for number in 0..self.runs {
            let started_at = first + SignedDuration::from_mins(number as i64 * 60);
            let run = self.run(number, started_at, &mut random);
            let folder = root.join(&run.run_id);
            fs::create_dir(&folder).unwrap();
            let text = run.to_json().unwrap();
            fs::write(folder.join("run.json"), &text).unwrap();
            entries.push(Operation::Add(Entry::of(&run, text.as_bytes())));
        }
        store.index().append(entries).unwrap();
        store
    }

    fn run(&self, number: usize, started_at: Timestamp, random: &mut Pcg64Mcg) -> Run {
        let slow = self.change.filter(|(from, _)| number >= *from).map_or(1.0, |(_, factor)| factor);
        let run_id = format!("{}-netperf-strict-{number:06x}", started_at.strftime("%Y%m%dT%H%M%S.000Z"));
        Run {
            schema: SCHEMA.to_owned(),
            run_id,
            scenario: "netperf-strict".to_owned(),
            machine: if number % 3 == 2 { Machine::Kvm } else { Machine::Local },
            seed: 1,
            partial: false,
            started_at,
            revision: (self.revision)(number),
            environment: environment(),
            warnings: vec!["invented: a test wrote this run".to_owned()],
            cases: ["TCP_STREAM", "TCP_RR"]
                .into_iter()
                .flat_map(|test| [(test, Mode::Off, 1.0), (test, Mode::Strict, 2.0 * slow)])
                .map(|(test, mode, cost)| case(test, mode, cost, random))
                .collect(),
            relative: vec![Relative {
                metric: "throughput".to_owned(),
                case: "TCP_STREAM/strict/emulated".to_owned(),
                baseline: "TCP_STREAM/off/emulated".to_owned(),
                baseline_metric: None,
                ratio: 0.5 / slow,
                ci: [0.49 / slow, 0.51 / slow],
                level: 0.99,
            }],
            probes: Probes::default(),
        }
    }
}

fn environment() -> Environment {
    let mut environment = Environment::capture_from(Path::new("/nonexistent"));
    environment.cpu_model = Fact::known("Invented CPU <script>alert(1)</script>".to_owned());
    environment.cpus_usable = Fact::known(2);
    environment.build_profile = Fact::known("release".to_owned());
    environment
}

fn case(test: &str, mode: Mode, cost: f64, random: &mut Pcg64Mcg) -> Case {
    let mut case = Case::new(format!("{test}/{mode}/emulated"), EndpointKind::Emulated, mode, test);
    case.params.insert("message_bytes".to_owned(), 16_384_u64.into());
    case.params.insert("service".to_owned(), "inline".into());
    let measured = |value: f64, unit: &str| Metric::Measured {
        value,
        unit: unit.to_owned(),
        ci: [value * 0.99, value * 1.01],
        level: 0.99,
        n: 8,
    };
    let (rate, unit) = if test == "TCP_RR" { ("transactions", "1/s") } else { ("throughput", "bytes/s") };
    case.metrics.insert(rate.to_owned(), measured(2e9 / cost * noise(random), unit));
    case.metrics.insert("cpu_per_packet".to_owned(), measured(170.0 * cost * noise(random), "ns"));
    if mode == Mode::Strict {
        let p50 = (100.0 * cost * noise(random)) as u64;
        let summary = HistogramSummary {
            unit: "ns".to_owned(),
            count: 1000,
            min: 1,
            mean: p50 as f64,
            p50,
            p90: p50 * 2,
            p99: p50 * 3,
            p999: p50 * 4,
            p9999: p50 * 5,
            max: p50 * 6,
        };
        case.histograms.insert("map_latency".to_owned(), summary);
    }
    case.counts.insert("packets".to_owned(), 1000);
    case.counts.insert("requests_map".to_owned(), if mode == Mode::Strict { 1080 } else { 0 });
    case
}

/// About normal with a standard deviation of 1 %.
pub fn noise(random: &mut Pcg64Mcg) -> f64 {
    let sum: f64 = (0..12).map(|_| random.random::<f64>()).sum();
    1.0 + (sum - 6.0) * 0.01
}

/// Options for a site at `out`, all reports, no repository.
pub fn options(out: &Path) -> Options {
    Options {
        out: out.to_owned(),
        revisions: None,
        revision_url: None,
        reports: usize::MAX,
        now: "2026-01-01T00:00:00Z".parse::<Timestamp>().unwrap() + 1.hour(),
    }
}

/// Builds without showing progress.
pub fn build(store: &Store, options: &Options) -> Result<Built, SiteError> {
    iommu_dashboard::build(store, options, &|_| {})
}
