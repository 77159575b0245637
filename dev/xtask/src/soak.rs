//! What takes too long for every commit: long stress, deep models, long fuzzing. Writes what it found to docs/soak.md.

use std::{
    fmt::Write as _,
    fs, io,
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use thiserror::Error;

/// How long to soak.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Seconds of fuzzing for each target
    #[arg(long, default_value_t = 3_600)]
    fuzz_seconds: u64,
    /// Leave fuzzing out
    #[arg(long)]
    no_fuzz: bool,
    /// Accesses of the stress test
    #[arg(long, default_value_t = 100_000_000)]
    accesses: u64,
    /// Requests beside hosts that refuse, caps that are reached and resets
    #[arg(long, default_value_t = 100_000_000)]
    injections: u64,
    /// Random map/unmap cycles of the memory test
    #[arg(long, default_value_t = 10_000_000)]
    cycles: u64,
    /// Kills of a writer in mid-append to the store's index
    #[arg(long, default_value_t = 20_000)]
    kills: u64,
    /// Random schedules of concurrent histories
    #[arg(long, default_value_t = 2_000_000)]
    schedules: u64,
    /// Preemptions loom explores in every model, those of three threads included
    #[arg(long, default_value_t = 3)]
    preemptions: u32,
}

/// Why soaking failed.
#[derive(Debug, Error)]
pub(crate) enum SoakError {
    #[error("cannot run cargo: {0}")]
    Cargo(#[from] io::Error),
    #[error("{failed} of {total} parts failed; see docs/soak.md and the output above")]
    Failed { failed: usize, total: usize },
}

struct Part {
    name: &'static str,
    command: Vec<String>,
    env: Vec<(&'static str, String)>,
    /// Lines of the output worth keeping contain one of these.
    keep: &'static [&'static str],
}

fn parts(options: &Options) -> Vec<Part> {
    let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let mut parts = vec![
        Part {
            name: "use-after-unmap stress",
            command: words("test --release --locked -p virtio-iommu --test stress -- --nocapture"),
            env: vec![("STRESS_ACCESSES", options.accesses.to_string())],
            keep: &["accesses", "test result"],
        },
        Part {
            name: "failures injected at random",
            command: words("test --release --locked -p virtio-iommu --test injection -- --nocapture"),
            env: vec![("INJECTION_OPERATIONS", options.injections.to_string())],
            keep: &["operations", "test result"],
        },
        Part {
            name: "memory over random cycles",
            command: words("test --release --locked -p virtio-iommu memory_stays_bounded -- --nocapture"),
            env: vec![("STRESS_CYCLES", options.cycles.to_string())],
            keep: &["cycles"],
        },
        Part {
            name: "kill -9 in mid-append, two writers",
            command: words("test --release --locked -p iommu-results --lib two_writers -- --nocapture"),
            env: vec![("STORE_KILLS", options.kills.to_string())],
            keep: &["kills"],
        },
        Part {
            name: "a site of 10,000 runs",
            command: words(
                "run --release --locked -p iommu-dashboard --example many_runs -- 10000 target/many-runs",
            ),
            env: Vec::new(),
            keep: &["runs written", "site built", "peak memory", "interactive"],
        },
        Part {
            name: "random schedules, linearizability",
            command: words(&format!("xtask shuttle --schedules {}", options.schedules)),
            env: Vec::new(),
            keep: &["test result"],
        },
        Part {
            name: "loom, deeper",
            command: words(&format!("xtask loom --preemptions {}", options.preemptions)),
            env: Vec::new(),
            keep: &["executions", "test result"],
        },
    ];
    if !options.no_fuzz {
        parts.push(Part {
            name: "fuzzing",
            command: words(&format!("xtask fuzz --seconds {}", options.fuzz_seconds)),
            env: Vec::new(),
            keep: &["fuzz target", "stat::number_of_executed_units"],
        });
    }
    parts
}

pub(crate) fn run(root: &Path, options: &Options) -> Result<(), SoakError> {
    let mut page = String::from(
        "# Soak\n\nWhat `cargo xtask soak` found when it last ran. Times are of that machine, a busy virtual one, and\n\
         say nothing about speed.\n\n",
    );
    for (name, program, args) in [
        ("Commit", "git", &["rev-parse", "--short", "HEAD"][..]),
        ("Compiler", "rustc", &["--version"]),
        ("Kernel", "uname", &["-sr"]),
        ("Date", "date", &["-u", "+%F"]),
    ] {
        let _ = writeln!(page, "- {name}: {}", first_line(program, args));
    }
    let parts = parts(options);
    let mut failed = 0;
    for part in &parts {
        let (ok, text) = soak(root, part)?;
        failed += usize::from(!ok);
        page.push_str(&text);
        fs::write(root.join("docs/soak.md"), &page)?;
    }
    if failed == 0 { Ok(()) } else { Err(SoakError::Failed { failed, total: parts.len() }) }
}

fn soak(root: &Path, part: &Part) -> Result<(bool, String), SoakError> {
    println!("soak: {}", part.name);
    let start = Instant::now();
    let output = Command::new("cargo")
        .current_dir(root)
        .args(&part.command)
        .envs(part.env.iter().map(|(key, value)| (key, value)))
        .stderr(Stdio::piped())
        .output()?;
    let seconds = start.elapsed().as_secs();
    let env: String = part.env.iter().map(|(key, value)| format!("{key}={value} ")).collect();
    let mut text =
        format!("\n## {}\n\n`{env}cargo {}`, {seconds} s\n\n```text\n", part.name, part.command.join(" "));
    let all =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    for line in all.lines().filter(|line| part.keep.iter().any(|word| line.contains(word))) {
        let _ = writeln!(text, "{}", line.trim_end());
    }
    if !output.status.success() {
        let _ = writeln!(text, "FAILED: {}", output.status);
        println!("{all}");
    }
    text.push_str("```\n");
    Ok((output.status.success(), text))
}

fn first_line(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&output).lines().next().unwrap_or("unknown").to_owned()
}
