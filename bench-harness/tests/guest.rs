//! Linux in QEMU with our devices: both accounts of its mappings agree, an interrupt keeps what was measured, and what is
//! missing or dies is said.

#![allow(clippy::print_stderr, reason = "a test that cannot run here says so")]

mod common;

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use common::{bench, outcome, run_json};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

/// Whether a guest can be had here, which fetches it when it is not in the cache; says so when it cannot.
fn guest() -> bool {
    let store = tempfile::tempdir().unwrap();
    let args = ["run", "netperf-strict", "--machine", "guest", "--kernel", "/nonexistent", "--out"];
    let out = outcome(&[&args[..], &[store.path().to_str().unwrap()]].concat());
    assert_eq!(out.code, 3, "{}", out.stderr);
    // Everything else is there when the kernel that does not exist is what is complained about.
    let there = out.stderr.contains("/nonexistent");
    if !there {
        iommu_equipment::missing(iommu_equipment::Equipment::Guest, out.stderr.trim());
    }
    there
}

fn checks<'a>(run: &'a Value, guest: &str) -> &'a Vec<Value> {
    let guests = run["probes"]["guests"].as_array().unwrap();
    let one = guests.iter().find(|one| one["guest"] == guest);
    one.unwrap_or_else(|| panic!("no guest {guest} in {guests:?}"))["checks"].as_array().unwrap()
}

#[test]
fn netperf_runs_through_our_devices_and_both_accounts_agree() {
    if !guest() {
        return;
    }
    let store = tempfile::tempdir().unwrap();
    let args = ["netperf-strict", "--machine", "guest", "--quick", "--modes", "off,lazy", "--probes", "off"];
    let run = run_json(store.path(), &args);
    assert_eq!((&run["machine"], &run["partial"]), (&"guest".into(), &false.into()));
    for case in run["cases"].as_array().unwrap() {
        assert_eq!(case["params"]["endpoint_implementation"], "iommu-bench nic over vfio-user");
        assert!(case["counts"]["packets"].as_u64() > Some(0), "{case}");
        let metric = if case["test"] == "TCP_RR" { "transactions" } else { "throughput" };
        assert!(case["metrics"][metric]["value"].as_f64() > Some(0.0), "{case}");
        let maps = case["counts"]["requests_map"].as_u64();
        assert_eq!(maps > Some(0), case["mode"] == "lazy", "{case}");
    }
    assert_eq!(run["relative"].as_array().unwrap().len(), 4, "both tests, main metric and time per packet");
    let names: Vec<_> = checks(&run, "lazy-exit").iter().map(|check| check["name"].to_string()).collect();
    for wanted in ["bytes mapped", "bytes unmapped", "MAP requests", "UNMAP requests", "DMA-FQ", "PROBE"] {
        assert!(names.iter().any(|name| name.contains(wanted)), "{wanted} in {names:?}");
    }
    assert!(checks(&run, "lazy-exit").iter().all(|check| check["ok"] == true));
    let traced = &run["probes"]["guests"].as_array().unwrap().last().unwrap()["traced"];
    assert!(traced.is_object(), "{run}");
    let folder = store.path().join(run["run_id"].as_str().unwrap());
    let words = std::fs::read_to_string(folder.join("netperf.txt")).unwrap();
    assert_eq!(words.matches("THROUGHPUT=").count(), 4 * 9, "four cases, eight slices and a warm-up");
    let console = std::fs::read_to_string(folder.join("console-lazy-exit.log")).unwrap();
    assert!(console.contains("Linux version 6.12"), "{console}");
    assert!(folder.join("report.html").is_file());
}

/// A run that is left running, with progress as lines.
fn start(store: &Path) -> Child {
    // assert_cmd's command cannot be left running.
    let mut run = Command::new(bench().get_program());
    run.args(["run", "netperf-strict", "--machine", "guest", "--modes", "strict", "--duration", "60s"])
        .args(["--probes", "off", "--json", "--out"])
        .arg(store)
        .env("IOMMU_BENCH_PROGRESS_LINES", "1")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    run.spawn().unwrap()
}

/// Reads progress until some slices are done, then goes on reading aside, so that nobody is kept waiting.
fn wait_for_slices(stderr: std::process::ChildStderr) -> std::thread::JoinHandle<String> {
    use std::io::{BufRead, BufReader};
    let (sender, seen) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut all = String::new();
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            if line.contains("slice 3") {
                let _ = sender.send(());
            }
            all += &(line + "\n");
        }
        all
    });
    seen.recv_timeout(Duration::from_secs(400)).expect("the run makes progress");
    reader
}

fn children(parent: u32) -> Vec<i32> {
    let list = Command::new("ps").args(["-o", "pid=", "--ppid", &parent.to_string()]).output().unwrap();
    String::from_utf8_lossy(&list.stdout).split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

#[test]
fn an_interrupt_and_a_dead_qemu_keep_what_was_measured() {
    if !guest() {
        return;
    }
    let store = tempfile::tempdir().unwrap();
    let ends: [(&dyn Fn(u32), i32); 2] = [
        (&|run| kill(Pid::from_raw(run as i32), Signal::SIGINT).unwrap(), 130),
        (
            &|run| {
                children(run).into_iter().for_each(|qemu| kill(Pid::from_raw(qemu), Signal::SIGKILL).unwrap())
            },
            4,
        ),
    ];
    for (end, code) in ends {
        let mut child = start(store.path());
        let id = child.id();
        let said = wait_for_slices(child.stderr.take().unwrap());
        let qemus = children(id);
        assert_eq!(qemus.len(), 1, "one mode, one guest");
        end(id);
        let out = child.wait_with_output().unwrap();
        let said = said.join().unwrap();
        assert_eq!(out.status.code(), Some(code), "{said}");
        assert!(!Path::new(&format!("/proc/{}", qemus[0])).exists(), "QEMU outlived the run");
        let run: Value = serde_json::from_slice(&out.stdout).unwrap();
        assert_eq!(run["partial"], true);
        assert!(run["cases"][0]["counts"]["packets"].as_u64() > Some(0), "{run}");
        assert_eq!(said.contains("QEMU ended"), code == 4, "{said}");
        let folder = store.path().join(run["run_id"].as_str().unwrap());
        assert!(folder.join("console-strict-exit.log").is_file());
    }
}

#[test]
fn what_is_missing_is_said_with_how_to_get_it() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let run = |extra: &[&str], variables: &[(&str, &str)]| {
        let mut all = vec!["run", "netperf-strict", "--machine", "guest", "--out", store.to_str().unwrap()];
        all.extend(extra);
        common::outcome_with(&all, variables)
    };
    let cache = folder.path().join("cache");
    let cache = cache.to_str().unwrap();
    // Without apt nothing can be fetched.
    let tools = folder.path().join("tools");
    std::fs::create_dir(&tools).unwrap();
    for tool in ["bash", "mkdir"] {
        let real = ["/usr/bin", "/bin"].map(|place| Path::new(place).join(tool));
        std::os::unix::fs::symlink(real.iter().find(|path| path.exists()).unwrap(), tools.join(tool))
            .unwrap();
    }
    let out = run(&["--guest-cache", cache], &[("PATH", tools.to_str().unwrap())]);
    assert_eq!(out.code, 3, "{}", out.stderr);
    for text in ["QEMU 10.1", "trixie-backports", "apt-get", "hint:", "docs/guest.md"] {
        assert!(out.stderr.contains(text), "{text}: {}", out.stderr);
    }
    let out = run(&["--guest-cache", "/dev/null/x"], &[]);
    assert_eq!(out.code, 3, "{}", out.stderr);
    assert!(out.stderr.contains("--guest-cache DIR"), "{}", out.stderr);
    let wrong: [(&[&str], &str); 4] = [
        (&["--packets", "10"], "virtual clock"),
        (&["--set", "tso_bytes=1024"], "tso_bytes"),
        (&["--viommu", "intel"], "qemu-virtio"),
        (&["--machine", "local", "--viommu", "none"], "--machine guest"),
    ];
    for (extra, named) in wrong {
        let out = if extra[0] == "--machine" {
            outcome(&[&["run", "netperf-strict"][..], extra].concat())
        } else {
            run(extra, &[])
        };
        assert_eq!(out.code, 2, "{extra:?}: {}", out.stderr);
        assert!(out.stderr.contains(named), "{extra:?}: {}", out.stderr);
    }
    assert!(
        !store.exists() || std::fs::read_dir(&store).unwrap().next().is_none(),
        "something was left behind"
    );
}
