//! The command line's contract: subcommands, options, exit codes, messages that name the remedy.

mod common;

use common::{bench, outcome};

#[test]
fn no_arguments_is_a_usage_error_with_help() {
    let out = outcome(&[]);
    assert_eq!(out.code, 2);
    assert!(out.stderr.contains("Usage: iommu-bench"), "{}", out.stderr);
}

#[test]
fn help_shows_examples_and_exit_codes() {
    let out = outcome(&["--help"]);
    assert_eq!(out.code, 0);
    for text in ["Examples:", "iommu-bench run netperf-strict", "Exit codes:", "130"] {
        assert!(out.stdout.contains(text), "{text:?} is not in\n{}", out.stdout);
    }
    let run = outcome(&["run", "--help"]);
    assert_eq!(run.code, 0);
    for option in [
        "--machine",
        "--endpoint",
        "--modes",
        "--duration",
        "--packets",
        "--seed",
        "--out",
        "--set",
        "--probes",
        "--json",
        "--quiet",
        "--quick",
    ] {
        assert!(run.stdout.contains(option), "{option} is not in the help");
    }
}

#[test]
fn every_command_is_offered() {
    let help = outcome(&["--help"]).stdout;
    for command in [
        "run",
        "list",
        "show",
        "metrics",
        "tables",
        "doctor",
        "trace",
        "report",
        "compare",
        "ab",
        "gate",
        "dashboard",
        "store",
        "serve",
    ] {
        assert!(
            help.lines().any(|line| line.trim_start().starts_with(&format!("{command} "))),
            "{command}: {help}"
        );
    }
}

#[test]
fn list_names_the_built_in_scenarios() {
    let out = outcome(&["list"]);
    assert_eq!(out.code, 0);
    let json = outcome(&["list", "--json"]);
    let list: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    let names: Vec<_> =
        list["scenarios"].as_array().unwrap().iter().map(|s| s["name"].as_str().unwrap()).collect();
    for name in ["netperf-strict", "netperf-lazy", "netperf-identity", "netperf-matrix"] {
        assert!(names.contains(&name), "{name} is not in {names:?}");
        assert!(out.stdout.contains(name), "{name} is not in\n{}", out.stdout);
    }
    assert!(out.stdout.lines().all(|line| line.chars().count() <= 80), "{}", out.stdout);
}

#[test]
fn show_prints_a_scenario_that_can_be_run_from_a_file() {
    let out = outcome(&["show", "netperf-strict"]);
    assert_eq!(out.code, 0, "{}", out.stderr);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mine.toml");
    std::fs::write(&file, &out.stdout).unwrap();
    let again = outcome(&["show", file.to_str().unwrap(), "--json"]);
    assert_eq!(again.code, 0, "{}", again.stderr);
    let shown: serde_json::Value = serde_json::from_str(&again.stdout).unwrap();
    let cases = shown["cases"].as_array().unwrap();
    let modes: std::collections::BTreeSet<_> =
        cases.iter().map(|case| case["mode"].as_str().unwrap()).collect();
    let tests: std::collections::BTreeSet<_> =
        cases.iter().map(|case| case["test"].as_str().unwrap()).collect();
    assert_eq!(modes.into_iter().collect::<Vec<_>>(), ["off", "strict"]);
    assert_eq!(tests.into_iter().collect::<Vec<_>>(), ["TCP_RR", "TCP_STREAM"]);
}

#[test]
fn unknown_scenario_names_the_nearest_and_the_rest() {
    for command in ["run", "show"] {
        let out = outcome(&[command, "netperf-strikt"]);
        assert_eq!(out.code, 2);
        assert!(out.stderr.contains("netperf-strikt"), "{}", out.stderr);
        assert!(out.stderr.contains("netperf-strict"), "{}", out.stderr);
    }
}

#[test]
fn scenario_file_that_is_not_there_or_not_toml() {
    let out = outcome(&["run", "/nonexistent/mine.toml"]);
    assert_eq!(out.code, 2);
    assert!(out.stderr.contains("/nonexistent/mine.toml"), "{}", out.stderr);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("broken.toml");
    std::fs::write(&file, "name = [unclosed").unwrap();
    let out = outcome(&["run", file.to_str().unwrap()]);
    assert_eq!(out.code, 2);
    assert!(out.stderr.contains("broken.toml"), "{}", out.stderr);
}

#[test]
fn bad_values_are_usage_errors_before_anything_runs() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let bad: &[&[&str]] = &[
        &["--duration", "0s"],
        &["--duration", "fast"],
        &["--duration", "-2s"],
        &["--duration", "1000000h"],
        &["--packets", "0"],
        &["--packets", "-1"],
        &["--packets", "many"],
        &["--packets", "10", "--duration", "1s"],
        &["--seed", "x"],
        &["--set", "mtu"],
        &["--set", "no_such_key=1"],
        &["--set", "message_bytes=0"],
        &["--set", "message_bytes=99999999999999"],
        &["--set", "message_bytes=banana"],
        &["--set", "flows=4000000000"],
        &["--set", "mtu=1"],
        &["--modes", "strickt"],
        &["--modes", ""],
        &["--endpoint", "floppy"],
        &["--endpoint", "passthrough=banana"],
        &["--machine", "moon"],
        &["--probes", "maybe"],
        &["--no-such-option"],
    ];
    for extra in bad {
        let out = bench().args(["run", "netperf-strict", "--out"]).arg(&store).args(*extra).output().unwrap();
        let stderr = String::from_utf8(out.stderr).unwrap();
        assert_eq!(out.status.code(), Some(2), "{extra:?}: {stderr}");
        assert!(stderr.contains("error"), "{extra:?}: {stderr}");
        assert!(out.stdout.is_empty(), "{extra:?}");
    }
    assert!(!store.exists(), "a usage error left something in the store");
}

#[test]
fn misspelt_key_and_mode_get_the_nearest_match() {
    let out = outcome(&["run", "netperf-strict", "--set", "mesage_bytes=64"]);
    assert_eq!(out.code, 2);
    assert!(out.stderr.contains("message_bytes"), "{}", out.stderr);
    let out = outcome(&["run", "netperf-strict", "--modes", "strickt"]);
    assert_eq!(out.code, 2);
    assert!(out.stderr.contains("strict"), "{}", out.stderr);
}

#[test]
fn machines_and_endpoints_of_other_builds_are_missing_prerequisites() {
    let folder = tempfile::tempdir().unwrap();
    let missing: &[(&[&str], &str)] = &[
        (&["--machine", "kvm"], "kvm"),
        (&["--endpoint", "passthrough"], "passthrough"),
        (&["--endpoint", "passthrough=0000:01:00.0"], "0000:01:00.0"),
        (&["--endpoint", "all"], "passthrough"),
    ];
    for (extra, named) in missing {
        let out = bench()
            .args(["run", "netperf-strict", "--out"])
            .arg(folder.path())
            .args(*extra)
            .output()
            .unwrap();
        let stderr = String::from_utf8(out.stderr).unwrap();
        assert_eq!(out.status.code(), Some(3), "{extra:?}: {stderr}");
        assert!(stderr.contains(named), "{extra:?}: {stderr}");
        assert!(stderr.contains("hint:"), "{extra:?}: {stderr}");
    }
}

#[test]
fn a_scenario_that_needs_more_than_this_build_has_can_be_told_otherwise() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("elsewhere.toml");
    let text = "name = \"elsewhere\"\nsummary = \"s\"\nmachine = \"lab\"\ntests = [\"TCP_RR\"]\n\
                modes = [\"off\"]\nendpoints = [\"passthrough\"]\nduration = \"1s\"\n";
    std::fs::write(&file, text).unwrap();
    let run = |extra: &[&str]| {
        let store = folder.path().join("store");
        bench().arg("run").arg(&file).args(["--json", "--out"]).arg(store).args(extra).output()
    };
    let out = run(&["--machine", "local", "--quick"]).unwrap();
    assert_eq!(out.status.code(), Some(3), "{}", String::from_utf8_lossy(&out.stderr));
    let out = run(&["--packets", "20"]).unwrap();
    assert_eq!(
        out.status.code(),
        Some(2),
        "a real device is not exact: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    let out = run(&["--machine", "local", "--endpoint", "emulated", "--packets", "20"]).unwrap();
    assert_eq!(out.status.code(), Some(0), "{}", String::from_utf8_lossy(&out.stderr));
    let run: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!((&run["machine"], &run["cases"][0]["endpoint"]), (&"local".into(), &"emulated".into()));
    assert_eq!(run["cases"][0]["id"], "TCP_RR/off/emulated");
}

#[test]
fn completions_know_the_scenarios() {
    for shell in ["bash", "zsh", "fish"] {
        let out = outcome(&["completions", shell]);
        assert_eq!(out.code, 0, "{shell}");
        assert!(out.stdout.contains("netperf-strict"), "{shell} does not complete scenarios");
        assert!(out.stdout.contains("duration"), "{shell} does not complete options");
    }
    assert_eq!(outcome(&["completions", "tcsh"]).code, 2);
}

#[test]
fn report_of_nothing_is_a_usage_error() {
    let out = outcome(&["report", "/nonexistent/run"]);
    assert_eq!(out.code, 2);
    assert!(out.stderr.contains("/nonexistent/run"), "{}", out.stderr);
}

#[test]
fn metrics_prints_the_table() {
    use iommu_results::metric::TABLE;
    let json = outcome(&["metrics", "--json"]);
    let table: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!((json.code, &table["schema"]), (0, &serde_json::json!("iommu-bench/metrics/1")));
    assert_eq!(table["metrics"], serde_json::to_value(TABLE).unwrap());
    let text = outcome(&["metrics"]).stdout;
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    assert!(outcome(&["metrics", "--help"]).stdout.contains("Examples:"));
    assert!(outcome(&["completions", "bash"]).stdout.contains("iommu__bench,metrics)"));
}
