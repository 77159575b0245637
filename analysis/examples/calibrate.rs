//! Simulates comparisons of equal builds from recorded noise, prints what was found, and can write it as a page; can also
//! record noise. `cargo xtask calibrate` runs it.

#![allow(clippy::print_stdout, reason = "a command-line tool for developers")]

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::thread;

use clap::Parser;
use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use iommu_analysis::calibrate::{Options, Tally, simulate, upper_bound};
use iommu_analysis::noise::Noise;
use iommu_analysis::stats::LEVEL;
use iommu_analysis::verdict::{Report, Thresholds, Verdict};
use iommu_results::Store;

/// The bar.
const MOST_FALSE_ALARMS: f64 = 0.01;
const LEAST_FOUND: f64 = 0.95;
const COVERAGE: std::ops::RangeInclusive<f64> = 0.98..=1.0;

#[derive(Parser)]
#[command(about = "How often the verdicts of `iommu-bench ab` are wrong")]
struct Cli {
    /// Recorded noise
    #[arg(long, default_value = "analysis/noise/netperf-strict.txt.gz")]
    noise: PathBuf,
    /// Simulated comparisons of equal builds
    #[arg(long, default_value_t = 10_000)]
    comparisons: u32,
    /// Most blocks of a comparison
    #[arg(long, default_value_t = 64)]
    blocks: usize,
    /// How much dearer one metric is made, for the power
    #[arg(long, default_value_t = 0.03)]
    planted: f64,
    /// Seed of everything drawn
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Threads
    #[arg(long, default_value_t = 2)]
    threads: u32,
    /// Write what was found to this page
    #[arg(long)]
    page: Option<PathBuf>,
    /// Instead of simulating, run this binary again and again and record its noise
    #[arg(long, value_name = "BIN")]
    record: Option<PathBuf>,
    /// Instead of simulating, let this binary's `ab` compare it with itself ten times
    #[arg(long, value_name = "BIN", conflicts_with = "record")]
    real: Option<PathBuf>,
    /// And with this build, which has a regression planted (feature `planted-regression`)
    #[arg(long, value_name = "BIN", requires = "real")]
    against: Option<PathBuf>,
    /// How many processes are recorded
    #[arg(long, default_value_t = 1_000)]
    processes: usize,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match (&cli.record, &cli.real) {
        (Some(binary), _) => record(&cli, binary).map(|()| true),
        (None, Some(binary)) => real(&cli, binary),
        (None, None) => calibrate(&cli),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn calibrate(cli: &Cli) -> Result<bool, Box<dyn Error>> {
    let mut text = String::new();
    GzDecoder::new(fs::File::open(&cli.noise)?).read_to_string(&mut text)?;
    let noise = Noise::parse(&text)?;
    let options = Options {
        comparisons: 0,
        cap: cli.blocks,
        level: LEVEL,
        thresholds: Thresholds::default(),
        planted: cli.planted,
        seed: cli.seed,
    };
    let tally = side_by_side(&noise, cli, &options)?;
    let comments: Vec<&str> = text.lines().skip(1).take_while(|line| line.starts_with('#')).collect();
    let (table, met) = table(cli, &noise, &tally, &comments);
    print!("{table}");
    if let Some(page) = &cli.page {
        fs::write(page, table)?;
    }
    Ok(met)
}

/// All comparisons, a part of them on each thread. How they are cut does not change what is found.
fn side_by_side(noise: &Noise, cli: &Cli, options: &Options) -> Result<Tally, Box<dyn Error>> {
    let threads = cli.threads.max(1);
    let share = cli.comparisons.div_ceil(threads);
    let parts = thread::scope(|scope| {
        let part = |first: u32| {
            let comparisons = share.min(cli.comparisons - first.min(cli.comparisons));
            scope.spawn(move || simulate(noise, first, &Options { comparisons, ..*options }))
        };
        let running: Vec<_> = (0..threads).map(|thread| part(thread * share)).collect();
        running
            .into_iter()
            .map(|part| part.join().map_err(|_| "a thread panicked"))
            .collect::<Result<Vec<_>, _>>()
    })?;
    let mut sum = Tally::default();
    for part in parts {
        sum.add(&part?);
    }
    Ok(sum)
}

/// The page, and whether the bar is met.
fn table(cli: &Cli, noise: &Noise, tally: &Tally, comments: &[&str]) -> (String, bool) {
    let share = |n: u64| n as f64 / tally.comparisons as f64;
    let bound = upper_bound(tally.false_alarms, tally.comparisons);
    let mut met = bound <= MOST_FALSE_ALARMS;
    let mut page = String::from(HEAD);
    // Writing to a String cannot fail.
    let _ = writeln!(
        page,
        "`cargo xtask calibrate -- --comparisons {} --blocks {} --seed {}`\n",
        cli.comparisons, cli.blocks, cli.seed
    );
    let _ = writeln!(page, "- Noise: `{}`, {} processes.", cli.noise.display(), noise.processes.len());
    comments.iter().for_each(|line| {
        let _ = writeln!(page, "  {}", line.trim_start_matches("# "));
    });
    let _ = writeln!(
        page,
        "- Comparisons of equal builds: {}, {:.1} blocks each on average.",
        tally.comparisons,
        tally.blocks as f64 / tally.comparisons as f64
    );
    let _ = writeln!(
        page,
        "- **False alarms, any of {} metrics called worse: {}. With 95 % confidence at most {:.3} %.** The bar is 1 %.",
        noise.series.len(),
        tally.false_alarms,
        bound * 100.0
    );
    let _ = writeln!(page, "- Any metric called better: {}.\n", tally.false_praise);
    let _ = writeln!(
        page,
        "| case | metric | interval holds the truth | {:.0} % found | equal builds called same |\n|---|---|--:|--:|--:|",
        cli.planted * 100.0
    );
    for ((case, metric), sums) in noise.series.iter().zip(&tally.metrics) {
        let wall = matches!(metric.as_str(), "throughput" | "transactions");
        let _ = writeln!(
            page,
            "| {case} | {metric}{} | {:.2} % | {:.2} % | {:.1} % |",
            if wall { " (wall time)" } else { "" },
            share(sums.covered) * 100.0,
            share(sums.found) * 100.0,
            share(sums.same) * 100.0
        );
        met &= COVERAGE.contains(&share(sums.covered)) && sums.inverted == 0;
        met &= wall || share(sums.found) >= LEAST_FOUND;
    }
    let _ = writeln!(page, "\n{}", if met { "Every bar is met." } else { "**A bar is not met.**" });
    page.push_str(TAIL);
    (page, met)
}

const HEAD: &str = "# How often `iommu-bench ab` is wrong\n\n\
    Written by `cargo xtask calibrate`; do not edit. Method: [analysis.md](analysis.md).\n\n";

const TAIL: &str = "\nRates in wall time have no bar here: while the noise was recorded, more work competed for the\n\
    processors than they could do, so a process got an arbitrary share of them. The verdict about such a rate is\n\
    *inconclusive*, not wrong. Times in the table are CPU time (`cpu_per_packet`) or short enough to fall between two\n\
    interruptions.\n";

/// Real comparisons: ten of a build with itself, one with a regression planted.
fn real(cli: &Cli, binary: &Path) -> Result<bool, Box<dyn Error>> {
    const EQUAL: u64 = 10;
    let mut page = String::from(REAL_HEAD);
    let mut met = true;
    let folder = tempfile::tempdir()?;
    let compare = |head: &Path, seed: u64, more: &[&str]| -> Result<Report, Box<dyn Error>> {
        let output = Command::new(binary)
            .args(["ab", "netperf-strict", "--modes", "strict", "--json", "--base"])
            .arg(binary)
            .arg("--head")
            .arg(head)
            .args(["--seed", &seed.to_string(), "--blocks", &cli.blocks.to_string(), "--out"])
            .arg(folder.path())
            .args(more)
            .output()?;
        serde_json::from_slice(&output.stdout)
            .map_err(|error| format!("{error}: {}", String::from_utf8_lossy(&output.stderr)).into())
    };
    for seed in 1..=EQUAL {
        let report = compare(binary, seed, &[])?;
        let of = |verdict| report.metrics.iter().filter(|metric| metric.verdict == verdict).count();
        let blocks = report.metrics.iter().map(|metric| metric.n).max().unwrap_or(0);
        met &= of(Verdict::Worse) == 0;
        // Writing to a String cannot fail.
        let _ = writeln!(
            page,
            "| {seed} | {} | {blocks} | {} | {} | {} | {} |",
            report.verdict,
            of(Verdict::Worse),
            of(Verdict::Better),
            of(Verdict::Same),
            of(Verdict::Inconclusive)
        );
        println!("seed {seed}: {}", report.verdict);
    }
    if let Some(planted) = &cli.against {
        let report = compare(planted, 1, &["--instructions"])?;
        met &= report.verdict == Verdict::Worse;
        page.push_str(PLANTED_HEAD);
        for metric in report.metrics.iter().filter(|metric| metric.n > 1 || metric.verdict != Verdict::Same) {
            let [lo, hi] = metric.ci.unwrap_or_default();
            let _ = writeln!(
                page,
                "| {} | {} | {:.4} | {lo:.4} to {hi:.4} | {:.2} % | {} | {} |",
                metric.case,
                metric.metric,
                metric.ratio.unwrap_or_default(),
                metric.noise_floor * 100.0,
                metric.n,
                metric.verdict
            );
        }
        let kept = fs::read_dir(folder.path())?.filter_map(Result::ok).map(|entry| entry.path()).max();
        let summary =
            kept.map(|kept| fs::read_to_string(kept.join("verdict.md"))).transpose()?.unwrap_or_default();
        let grew: Vec<&str> = summary.lines().filter(|line| line.contains(" % `")).collect();
        // The caller, which now has to save its registers around the call, grows too.
        met &= grew.iter().take(2).any(|line| line.contains("planted_regression") && line.contains("(new)"));
        let _ = writeln!(page, "\nWhere the differential flame graph says it grew:\n\n{}", grew.join("\n"));
    }
    let _ = writeln!(page, "\n{}", if met { "Every bar is met." } else { "**A bar is not met.**" });
    if let Some(path) = &cli.page {
        fs::write(path, &page)?;
    }
    print!("{page}");
    Ok(met)
}

const REAL_HEAD: &str = "# Real comparisons\n\n\
    Written by `cargo xtask calibrate -- --real BIN --against PLANTED --page docs/ab-runs.md`; do not edit.\n\n\
    ## One build with itself\n\n\
    `iommu-bench ab --base BIN --head BIN netperf-strict --modes strict`, exact counts included:\n\n\
    | seed | verdict | blocks | worse | better | same | inconclusive |\n|--:|---|--:|--:|--:|--:|--:|\n";

const PLANTED_HEAD: &str = "\n## A planted regression\n\n\
    Head is the same revision with feature `planted-regression`, which makes every request a few nanoseconds dearer:\n\n\
    | case | metric | ratio | interval | noise floor | n | verdict |\n|---|---|--:|---|--:|--:|---|\n";

/// Runs the binary again and again.
fn record(cli: &Cli, binary: &Path) -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let mut noise = Noise { series: Vec::new(), processes: Vec::new() };
    for number in 0..cli.processes {
        let store = folder.path().join(number.to_string());
        let arguments = [
            "run",
            "netperf-strict",
            "--duration",
            "80ms",
            "--seed",
            "1",
            "--quiet",
            "--probes",
            "off",
            "--out",
        ];
        let status = Command::new(binary).args(arguments).arg(&store).status()?;
        let runs = Store::open(&store)?.list()?;
        let (true, [run]) = (status.success(), runs.as_slice()) else {
            return Err("a process failed".into());
        };
        let kept = Store::load(run)?.series()?.ok_or("the binary keeps no slices")?;
        let mut of: BTreeMap<(String, String), Vec<f64>> = BTreeMap::new();
        for case in &kept.cases {
            // Round trips move one byte each way: their throughput says nothing that transactions do not.
            let twice = |metric: &str| metric == "throughput" && case.metrics.contains_key("transactions");
            for (metric, slices) in case.metrics.iter().filter(|(metric, _)| !twice(metric)) {
                of.insert((case.id.clone(), metric.clone()), slices.values());
            }
        }
        if noise.series.is_empty() {
            noise.series = of.keys().cloned().collect();
        }
        let slices = noise.series.iter().map(|key| of.get(key).cloned().ok_or("a metric vanished"));
        let slices = slices.collect::<Result<_, _>>()?;
        noise.processes.push(slices);
        fs::remove_dir_all(&store)?;
    }
    let comment =
        format!("netperf-strict, 80 ms a case, seed 1: {}, process after process.", binary.display());
    let text = noise.to_text(&comment);
    let mut file = GzEncoder::new(fs::File::create(&cli.noise)?, Compression::best());
    file.write_all(text.as_bytes())?;
    file.finish()?;
    println!("{} processes recorded in {}", cli.processes, cli.noise.display());
    Ok(())
}
