//! How long a site of many runs takes to build, and how much memory: `cargo run --release -p iommu-dashboard --example
//! many_runs -- 10000 DIR`. The runs are invented; DIR gets `runs` and `site`.

#![allow(clippy::print_stdout, reason = "a measuring program for people")]

#[path = "../tests/pages/common/mod.rs"]
mod common;
#[allow(dead_code, reason = "the tests use all of it")]
#[path = "../tests/pages/browser/devtools.rs"]
mod devtools;

use std::path::PathBuf;
use std::time::Instant;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let runs = arguments.next().and_then(|runs| runs.parse().ok()).unwrap_or(10_000);
    let folder = PathBuf::from(arguments.next().unwrap_or_else(|| "target/many-runs".to_owned()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    let since = Instant::now();
    let change = Some((runs * 2 / 3, 1.05));
    let store =
        common::Synthetic { runs, change, ..common::Synthetic::default() }.write(&folder.join("runs"));
    println!("{runs} runs written in {:.1} s", since.elapsed().as_secs_f64());
    let before = peak_memory_bytes();
    let since = Instant::now();
    let built = common::build(&store, &common::options(&folder.join("site"))).unwrap();
    println!("site built in {:.1} s: {built:?}", since.elapsed().as_secs_f64());
    println!("peak memory {} MiB, before the build {} MiB", peak_memory_bytes() >> 20, before >> 20);
    interactive(&std::path::absolute(folder.join("site/index.html")).unwrap());
}

/// How long pages take from the start of their loading until they can be used, in a browser that has just started.
fn interactive(index: &std::path::Path) {
    let Some(program) = devtools::program() else {
        println!("not run: pages in a browser (no chromium here)");
        return;
    };
    for page in ["#/", "#/runs"] {
        let mut browser = devtools::Browser::start(&program);
        browser.open(&format!("file://{}{page}", index.display()));
        let after_ms = browser.value("performance.getEntriesByName('ready')[0].startTime");
        println!("page {page} interactive after {:.0} ms", after_ms.as_f64().unwrap());
    }
}

/// The most memory that this process has had resident.
fn peak_memory_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok())
        .map_or(0, |kib| kib * 1024)
}
