//! `trace` on real processes: this one, and children made for it.

#![allow(clippy::print_stderr, reason = "skipped tests say so")]

mod common;

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
};

use common::outcome;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

/// Every line, after what the schema promises was looked at.
fn lines(text: &str) -> Vec<Value> {
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for (number, line) in lines.iter().enumerate() {
        assert_eq!(line["schema"], "iommu-bench/trace/1");
        assert_eq!(line["final"], number + 1 == lines.len(), "{line}");
        line["at"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
        for probe in line["probes"].as_array().unwrap() {
            for key in ["name", "kind", "target"] {
                assert!(probe[key].is_string(), "{key} in {probe}");
            }
            for key in ["count", "lost", "unmatched"] {
                assert!(probe[key].is_u64(), "{key} in {probe}");
            }
            assert!(probe["histograms"].is_object() && probe["counts"].is_object(), "{probe}");
        }
    }
    lines
}

/// The probe of that name in the last line.
fn total<'a>(lines: &'a [Value], name: &str) -> &'a Value {
    let probes = lines.last().unwrap()["probes"].as_array().unwrap();
    probes.iter().find(|probe| probe["name"] == name).unwrap_or_else(|| panic!("no {name} in {probes:?}"))
}

/// Whether the machine let us; if not, that is said.
fn attached(code: i32, stderr: &str) -> bool {
    if code == 3 {
        iommu_equipment::missing(iommu_equipment::Equipment::Ebpf, stderr.trim());
    }
    code != 3
}

fn busy_child() -> Child {
    Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap()
}

#[test]
fn a_process_that_is_not_there_is_an_error_of_usage() {
    let outcome = outcome(&["trace", "profile", "--pid", "2147483647"]);
    assert_eq!(outcome.code, 2);
    assert!(outcome.stderr.contains("there is no process 2147483647"), "{}", outcome.stderr);
}

#[test]
fn device_and_profile_need_a_process() {
    let outcome = outcome(&["trace", "profile", "--duration", "200ms"]);
    assert_eq!(outcome.code, 3);
    assert!(outcome.stderr.contains("--pid"), "{}", outcome.stderr);
}

#[test]
fn samples_of_a_busy_process_add_up() {
    let mut child = busy_child();
    let pid = child.id().to_string();
    let outcome =
        outcome(&["trace", "profile", "--pid", &pid, "--interval", "300ms", "--duration", "1s", "--json"]);
    child.kill().unwrap();
    child.wait().unwrap();
    if !attached(outcome.code, &outcome.stderr) {
        return;
    }
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let lines = lines(&outcome.stdout);
    let whole = total(&lines, "profile");
    assert!(whole["count"].as_u64().unwrap() > 0, "{whole}");
    assert!(!whole["counts"].as_object().unwrap().is_empty(), "the totals name functions: {whole}");
    let parts: u64 =
        lines[..lines.len() - 1].iter().map(|line| line["probes"][0]["count"].as_u64().unwrap()).sum();
    assert!(parts <= whole["count"].as_u64().unwrap());
}

#[test]
fn a_process_that_goes_is_named_and_the_totals_are_printed() {
    let mut child = busy_child();
    let pid = child.id().to_string();
    let mut trace = Command::new(env!("CARGO_BIN_EXE_iommu-bench"))
        .args(["trace", "profile", "--pid", &pid, "--interval", "100ms", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = String::new();
    let mut stdout = BufReader::new(trace.stdout.take().unwrap());
    stdout.read_line(&mut first).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let rest: String = stdout.lines().map(|line| line.unwrap() + "\n").collect();
    let output = trace.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    if !attached(output.status.code().unwrap(), &stderr) {
        return;
    }
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert!(stderr.contains(&format!("process {pid} is gone")), "{stderr}");
    assert!(!lines(&(first + &rest)).is_empty());
}

/// The guest makes so many exits while this process is watched; the last line says so many.
#[test]
fn exits_of_a_guest_are_counted_exactly_and_ctrl_c_ends_with_totals() {
    let payload =
        kvm_payload::Payload { port_writes: 321, mmio_writes: 123, ..kvm_payload::Payload::default() };
    if let Err(error) = payload.run() {
        iommu_equipment::missing(iommu_equipment::Equipment::Kvm, error);
        return;
    }
    let own = std::process::id().to_string();
    let mut trace = Command::new(env!("CARGO_BIN_EXE_iommu-bench"))
        .args(["trace", "kvm", "--pid", &own, "--interval", "100ms", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut text = String::new();
    let mut stdout = BufReader::new(trace.stdout.take().unwrap());
    stdout.read_line(&mut text).unwrap();
    if !text.is_empty() {
        payload.run().unwrap();
        kill(Pid::from_raw(trace.id().cast_signed()), Signal::SIGINT).unwrap();
        text.extend(stdout.lines().map(|line| line.unwrap() + "\n"));
    }
    let output = trace.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    if !attached(output.status.code().unwrap(), &stderr) {
        return;
    }
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    let lines = lines(&text);
    assert_eq!(total(&lines, "kvm_pio")["count"], 321);
    assert_eq!(total(&lines, "kvm_mmio")["count"], 123);
}

#[test]
fn tables_fit_eighty_columns() {
    let mut child = busy_child();
    let outcome = outcome(&["trace", "profile", "--pid", &child.id().to_string(), "--duration", "500ms"]);
    child.kill().unwrap();
    child.wait().unwrap();
    if attached(outcome.code, &outcome.stderr) {
        assert!(outcome.stdout.contains("total of"), "{}", outcome.stdout);
        assert!(outcome.stdout.lines().all(|line| line.chars().count() <= 80), "{}", outcome.stdout);
    }
}
