//! Runs that go wrong: the cause is named, what was measured is kept, nothing hangs.

mod common;

use std::{
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use common::{bench, try_run_json_with};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

fn only_run(store: &Path) -> Value {
    let paths = std::fs::read_dir(store).unwrap().map(|entry| entry.unwrap().path());
    let folders: Vec<_> = paths.filter(|path| path.is_dir()).collect();
    assert_eq!(folders.len(), 1, "{folders:?}");
    assert!(folders[0].join("report.html").is_file());
    serde_json::from_str(&std::fs::read_to_string(folders[0].join("run.json")).unwrap()).unwrap()
}

/// Runs with a failure injected; the run must end soon, with exit code 4, a partial result and the cause in both.
fn fails_with(inject: &str, cause: &str, extra: &[&str]) -> Value {
    let store = tempfile::tempdir().unwrap();
    let since = Instant::now();
    let mut args = vec!["netperf-strict", "--duration", "800ms"];
    args.extend(extra);
    let (run, out) = try_run_json_with(store.path(), &args, &[("IOMMU_BENCH_INJECT", inject)]);
    assert!(since.elapsed() < Duration::from_secs(60), "{inject} took {:?}", since.elapsed());
    assert_eq!(out.code, 4, "{}", out.stderr);
    assert!(out.stderr.contains(cause), "{}", out.stderr);
    assert!(out.stderr.contains(store.path().to_str().unwrap()), "{}", out.stderr);
    assert_eq!(run["partial"], true);
    let warnings = run["warnings"].to_string();
    assert!(warnings.contains(cause), "{warnings}");
    assert_eq!(only_run(store.path()), run);
    run
}

#[test]
fn driver_panic() {
    let run = fails_with("driver-panic", "injected panic in the driver", &[]);
    let packets = |case: &Value| case["counts"]["packets"].as_u64().unwrap_or(0);
    let measured: u64 = run["cases"].as_array().unwrap().iter().map(packets).sum();
    assert!(measured > 0, "slices before the panic are kept");
}

#[test]
fn service_panic_in_every_service_mode() {
    for service in ["inline", "thread", "poll"] {
        let set = format!("service={service}");
        fails_with("service-panic", "injected panic in the endpoint's service", &["--set", &set]);
    }
}

#[test]
fn driver_that_hangs() {
    fails_with("hang", "no sign of life", &[]);
}

#[test]
fn corrupted_payload() {
    fails_with("corrupt", "checksum", &[]);
}

fn interrupted(signal: Signal, signals: u32) -> (Option<i32>, tempfile::TempDir, String) {
    let store = tempfile::tempdir().unwrap();
    let program = bench().get_program().to_owned();
    let mut child = std::process::Command::new(program)
        .args(["run", "netperf-strict", "--duration", "60s", "--out"])
        .arg(store.path())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Long enough for a few slices in a debug build.
    std::thread::sleep(Duration::from_secs(4));
    let pid = Pid::from_raw(child.id().try_into().unwrap());
    let since = Instant::now();
    for _ in 0..signals {
        kill(pid, signal).unwrap();
        std::thread::sleep(Duration::from_millis(20));
    }
    let status = child.wait().unwrap();
    assert!(since.elapsed() < Duration::from_secs(20), "{:?}", since.elapsed());
    let mut stderr = String::new();
    std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut stderr).unwrap();
    (status.code(), store, stderr)
}

#[test]
fn ctrl_c_saves_what_was_measured() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let (code, store, stderr) = interrupted(signal, 1);
        assert_eq!(code, Some(130), "{stderr}");
        assert!(stderr.contains(store.path().to_str().unwrap()), "{stderr}");
        let run = only_run(store.path());
        assert_eq!(run["partial"], true);
        assert!(run["warnings"].to_string().contains("interrupted"));
    }
}

#[test]
fn second_ctrl_c_aborts() {
    let (code, store, stderr) = interrupted(Signal::SIGINT, 2);
    assert_eq!(code, Some(130), "{stderr}");
    let visible = std::fs::read_dir(store.path()).unwrap();
    let runs =
        visible.filter(|entry| !entry.as_ref().unwrap().file_name().to_string_lossy().starts_with('.'));
    assert_eq!(runs.count(), 0, "an aborted run leaves nothing to mistake for a result");
}
