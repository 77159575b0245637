//! `store`, as a user meets it.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{build_helper, outcome, run_json};
use serde_json::Value;

fn measure(store: &Path) -> PathBuf {
    let run = run_json(store, &["netperf-strict", "--packets", "200"]);
    store.join(run["run_id"].as_str().unwrap())
}

fn json(args: &[&str]) -> (i32, Value) {
    let out = outcome(args);
    (out.code, serde_json::from_str(&out.stdout).unwrap_or_else(|error| panic!("{error}: {}", out.stderr)))
}

#[test]
fn each_run_is_acknowledged_and_an_edit_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().to_str().unwrap();
    let (first, second) = (measure(dir.path()), measure(dir.path()));
    let (code, sound) = json(&["store", "verify", "--json", "--store", store]);
    assert_eq!((code, &sound["runs"], &sound["sound"]), (0, &2.into(), &true.into()), "{sound}");
    assert_eq!(sound["schema"], "iommu-bench/verify/1");
    assert!(sound["findings"].as_array().unwrap().is_empty(), "{sound}");
    assert_eq!(fs::read_to_string(dir.path().join("index.jsonl")).unwrap().lines().count(), 2);

    let text = fs::read_to_string(first.join("run.json")).unwrap();
    fs::write(first.join("run.json"), text.replace("\"seed\": 1", "\"seed\": 2")).unwrap();
    fs::write(second.join("run.json"), "{").unwrap();
    let (code, report) = json(&["store", "verify", "--json", "--store", store]);
    assert_eq!((code, &report["runs"], &report["skipped"]), (4, &0.into(), &2.into()));
    let names: Vec<_> =
        report["findings"].as_array().unwrap().iter().map(|finding| &finding["name"]).collect();
    assert_eq!(names, ["edited", "truncated"]);
    let text = outcome(&["store", "verify", "--store", store]);
    assert!(text.stdout.contains("changed after it was stored"), "{}", text.stdout);
    assert!(text.stdout.lines().skip(1).all(|line| line.chars().count() <= 80), "{}", text.stdout);
}

#[test]
fn import_gc_and_verify_go_together() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    measure(&from);
    let (from, to) = (from.to_str().unwrap(), to.to_str().unwrap());
    let (code, import) = json(&["store", "import", from, "--store", to, "--json"]);
    assert_eq!((code, &import["copied"], &import["present"]), (0, &1.into(), &0.into()), "{import}");
    let (_, again) = json(&["store", "import", from, "--store", to, "--json"]);
    assert_eq!((&again["copied"], &again["present"]), (&0.into(), &1.into()));
    let (code, would) =
        json(&["store", "gc", "--runs-older-than", "0s", "--dry-run", "--store", to, "--json"]);
    assert_eq!((code, would["runs"].as_array().unwrap().len()), (0, 1));
    let (code, did) = json(&["store", "gc", "--runs-older-than", "0s", "--store", to, "--json"]);
    assert_eq!((code, &did["index_lines"]), (0, &2.into()), "{did}");
    let (code, empty) = json(&["store", "verify", "--store", to, "--json"]);
    assert_eq!((code, &empty["runs"], empty["findings"].as_array().unwrap().len()), (0, &0.into(), 0));
}

#[test]
fn the_dashboard_of_real_runs_has_a_page_for_each() {
    let dir = tempfile::tempdir().unwrap();
    let (store, site) = (dir.path().join("runs"), dir.path().join("site"));
    let runs = [measure(&store), measure(&store)];
    let arguments = ["dashboard", "--store", store.to_str().unwrap(), "--out", site.to_str().unwrap()];
    let (code, done) = json(&[&arguments[..], &["--json"]].concat());
    assert_eq!(
        (code, &done["schema"], &done["built"]["runs"]),
        (0, &"iommu-bench/dashboard/1".into(), &2.into())
    );
    assert!(done["built"]["histories"].as_u64().unwrap() > 0, "{done}");
    for run in runs {
        let page = site.join("runs").join(run.file_name().unwrap());
        assert!(page.join("run.js").is_file() && page.join("report.html").is_file());
    }
    let text = outcome(&arguments);
    assert!(
        text.code == 0 && text.stdout.contains("2 runs") && text.stdout.contains("index.html"),
        "{}",
        text.stdout
    );
    let out = outcome(&[&arguments[..], &["--repo", "/nonexistent"]].concat());
    assert!(out.code == 2 && out.stderr.contains("--repo"), "{}", out.stderr);
    let out = outcome(&["dashboard", "--store", store.to_str().unwrap(), "--out", store.to_str().unwrap()]);
    assert!(out.code == 2 && out.stderr.contains("no site"), "{}", out.stderr);
}

#[test]
fn export_writes_five_tables_and_says_how_many_rows() {
    build_helper("iommu-results-export", "iommu-bench-export");
    let dir = tempfile::tempdir().unwrap();
    measure(&dir.path().join("runs"));
    let (store, out) = (dir.path().join("runs"), dir.path().join("tables"));
    let arguments = ["store", "export", "--store", store.to_str().unwrap(), "--out", out.to_str().unwrap()];
    let (code, done) = json(&[&arguments[..], &["--json"]].concat());
    assert_eq!(
        (code, &done["tables"], &done["runs"]),
        (0, &"iommu-bench/parquet/1".into(), &1.into()),
        "{done}"
    );
    let files = done["files"].as_array().unwrap();
    assert_eq!((files.len(), &files[0]["rows"]), (5, &1.into()), "{done}");
    for file in files {
        let bytes = fs::read(file["path"].as_str().unwrap()).unwrap();
        assert!(bytes.starts_with(b"PAR1") && bytes.ends_with(b"PAR1"), "{file}");
    }
}

/// A command that was installed alone names the program that is missing, and leaves the folder alone.
#[test]
fn export_and_plots_without_their_helper_say_what_to_build() {
    let dir = tempfile::tempdir().unwrap();
    let (lone, out) = (dir.path().join("iommu-bench"), dir.path().join("out"));
    let bench = env!("CARGO_BIN_EXE_iommu-bench");
    fs::hard_link(bench, &lone).or_else(|_| fs::copy(bench, &lone).map(drop)).unwrap();
    let (folder, store) = (out.to_str().unwrap(), dir.path().to_str().unwrap());
    let commands = [
        vec!["store", "export", "--store", store, "--out", folder],
        vec!["tables", "--quick", "--out", folder],
    ];
    for (arguments, helper) in commands.iter().zip(["iommu-bench-export", "iommu-bench-structures"]) {
        let done = std::process::Command::new(&lone).args(arguments).output().unwrap();
        let stderr = String::from_utf8(done.stderr).unwrap();
        assert_eq!(done.status.code(), Some(3), "{stderr}");
        assert!(stderr.contains(helper) && stderr.contains("make helpers"), "{stderr}");
        assert!(!out.exists() && done.stdout.is_empty());
    }
}

/// The project's own history, as it is committed: real runs of real revisions.
#[test]
fn the_committed_history_is_as_it_was_stored() {
    let store = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("results/history");
    let (code, report) = json(&["store", "verify", "--json", "--store", store.to_str().unwrap()]);
    assert_eq!((code, &report["skipped"]), (0, &0.into()), "{report}");
    assert!(
        report["runs"].as_u64().unwrap() >= 24 && report["findings"].as_array().unwrap().is_empty(),
        "{report}"
    );
}

#[test]
fn nonsense_is_a_usage_error_with_a_remedy() {
    let out = outcome(&["store", "verify", "--store", "/nonexistent/store"]);
    assert_eq!(out.code, 2);
    assert!(
        out.stderr.contains("/nonexistent/store") && out.stderr.contains("--store DIR"),
        "{}",
        out.stderr
    );
    let out = outcome(&["store", "gc", "--runs-older-than", "yesterday"]);
    assert!(out.code == 2 && out.stderr.contains("90d"), "{}", out.stderr);
    let dir = tempfile::tempdir().unwrap();
    let out = outcome(&["store", "import", "/nonexistent", "--store", dir.path().to_str().unwrap()]);
    assert!(out.code == 2 && out.stderr.contains("/nonexistent"), "{}", out.stderr);
}
