//! The site's files: what is built, what is left out and said, what is refused.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::common::{Synthetic, build, options};
use iommu_dashboard::{Built, SiteError, revisions::Revisions};
use serde_json::Value;

/// The value that a data file hands to the site.
fn data(site: &Path, file: &str) -> Value {
    let text = fs::read_to_string(site.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
    let inner = text.strip_prefix("IB.put(").unwrap().strip_suffix(");\n").unwrap();
    let mut values = serde_json::Deserializer::from_str(inner).into_iter::<Value>();
    values.next().unwrap().unwrap();
    serde_json::from_str(inner[values.byte_offset()..].strip_prefix(',').unwrap()).unwrap()
}

#[test]
fn every_history_and_run_has_a_file_and_the_change_its_revision() {
    let dir = tempfile::tempdir().unwrap();
    let store = Synthetic::default().write(&dir.path().join("runs"));
    let site = dir.path().join("site");
    let built = build(&store, &options(&site)).unwrap();
    assert_eq!((built.runs, built.histories, built.skipped, built.faults), (40, 32, 0, 0));
    let overview = data(&site, "data/overview.js");
    assert_eq!(overview["schema"], "iommu-bench/site/1");
    let series = overview["series"].as_array().unwrap();
    let mut strict = 0;
    for row in series {
        let file = data(&site, &format!("data/series/{}.js", row["id"].as_str().unwrap()));
        let length = row["n"].as_u64().unwrap() as usize;
        for column in ["run", "t", "v", "lo", "hi", "rev"] {
            assert_eq!(file[column].as_array().unwrap().len(), length, "{column} of {row}");
        }
        assert!(file["t"].as_array().unwrap().is_sorted_by_key(|t| t.as_i64()));
        let changes = file["points_of_change"].as_array().unwrap();
        if row["mode"] == "strict" && row["kind"] == "metric" {
            strict += 1;
            assert_eq!((changes.len(), &row["verdict"]), (1, &"worse".into()), "{row}");
            // Runs 25 and 26 are the first slow ones of the two machines; both are of this revision.
            assert_eq!(changes[0]["to"], "00000abc0005", "{row}");
        } else if row["mode"] == "off" {
            assert!(changes.is_empty(), "{row}");
        }
    }
    assert_eq!(strict, 8);
    for id in data(&site, "data/runs.js")["id"].as_array().unwrap() {
        let page = data(&site, &format!("runs/{}/run.js", id.as_str().unwrap()));
        assert_eq!(page["run"]["run_id"], *id);
    }
}

#[test]
fn the_same_store_is_the_same_site_and_an_older_one_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let store = Synthetic { runs: 9, ..Synthetic::default() }.write(&dir.path().join("runs"));
    let site = dir.path().join("site");
    build(&store, &options(&site)).unwrap();
    let first = fs::read(site.join("data/overview.js")).unwrap();
    fs::write(site.join("data/series/stale.js"), "").unwrap();
    build(&store, &options(&site)).unwrap();
    assert_eq!(fs::read(site.join("data/overview.js")).unwrap(), first);
    assert!(!site.join("data/series/stale.js").exists());
    let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "nothing is left behind: {names:?}");
}

#[test]
fn what_is_no_site_is_not_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let store = Synthetic { runs: 1, ..Synthetic::default() }.write(&dir.path().join("runs"));
    let home = dir.path().join("home");
    fs::create_dir(&home).unwrap();
    build(&store, &options(&home)).expect("an empty folder is free");
    let other = dir.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("thesis.tex"), "years of work").unwrap();
    let error = build(&store, &options(&other)).unwrap_err();
    assert!(matches!(&error, SiteError::NotASite { path } if *path == other), "{error}");
    assert!(other.join("thesis.tex").exists());
}

#[test]
fn the_chart_library_comes_with_its_licence() {
    let dir = tempfile::tempdir().unwrap();
    let store = iommu_results::Store::open(dir.path().join("runs")).unwrap();
    let site = dir.path().join("site");
    build(&store, &options(&site)).unwrap();
    let licence = fs::read_to_string(site.join("assets/uplot/LICENSE")).unwrap();
    assert!(licence.starts_with("The MIT License") && licence.contains("Leon Sorokin"), "{licence}");
    let library = fs::read_to_string(site.join("assets/uplot/uPlot.iife.min.js")).unwrap();
    assert!(library.contains("(v1.6.32)"), "docs/dashboard.md names this version");
}

#[test]
fn an_empty_store_has_a_site() {
    let dir = tempfile::tempdir().unwrap();
    let store = iommu_results::Store::open(dir.path().join("runs")).unwrap();
    let site = dir.path().join("site");
    assert_eq!(build(&store, &options(&site)).unwrap(), Built::default());
    assert_eq!(data(&site, "data/overview.js")["series"], Value::Array(vec![]));
}

#[test]
fn what_is_not_sound_is_left_out_counted_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("runs");
    let store = Synthetic { runs: 8, ..Synthetic::default() }.write(&root);
    let folders = store.list().unwrap();
    let change = |at: usize, from: &str, to: &str| {
        let file = folders[at].join("run.json");
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, text.replacen(from, to, 1)).unwrap();
    };
    change(0, "\"seed\": 1", "\"seed\": 3");
    fs::write(folders[1].join("run.json"), "{").unwrap();
    fs::create_dir(root.join("copy")).unwrap();
    fs::copy(folders[2].join("run.json"), root.join("copy/run.json")).unwrap();
    fs::create_dir(root.join("future")).unwrap();
    fs::write(root.join("future/run.json"), "{\"schema\": \"iommu-bench/run/7\"}").unwrap();
    let site = dir.path().join("site");
    let built = build(&store, &options(&site)).unwrap();
    assert_eq!((built.runs, built.skipped), (6, 4));
    let quality = data(&site, "data/quality.js");
    for (name, subject) in [
        ("edited", folders[0].file_name().unwrap().to_str().unwrap()),
        ("truncated", folders[1].file_name().unwrap().to_str().unwrap()),
        ("duplicate-id", "copy"),
        ("unknown-schema", "future"),
    ] {
        let group = &quality["groups"][name];
        assert_eq!((&group["count"], &group["skipped"]), (&1.into(), &true.into()), "{name}: {quality}");
        assert_eq!(group["entries"][0]["subject"], subject);
    }
    let ids = data(&site, "data/runs.js")["id"].as_array().unwrap().len();
    assert_eq!(ids, 6);
}

/// A repository with three commits; their hashes.
fn repository(path: &Path) -> Vec<String> {
    let git = |arguments: &[&str]| {
        let identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"];
        let output = Command::new("git").arg("-C").arg(path).args(identity).args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    fs::create_dir(path).unwrap();
    git(&["init", "-q"]);
    let commit = |subject: &str| {
        git(&["commit", "-q", "--allow-empty", "-m", subject]);
        git(&["rev-parse", "HEAD"])
    };
    ["first", "quick <b>", "slow"].map(commit).to_vec()
}

#[test]
fn changes_name_their_commits_and_unknown_revisions_are_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let commits = repository(&dir.path().join("repo"));
    let root = dir.path().join("runs");
    let store = Synthetic::default().write(&root);
    // Rewrites the runs with real revisions, as their index has to be.
    for (number, folder) in store.list().unwrap().iter().enumerate() {
        let commit = if number < 25 { &commits[0] } else { &commits[2] };
        let revision =
            if number == 39 { "0123456789ab".to_owned() } else { format!("{}-dirty", &commit[..12]) };
        let mut run = iommu_results::Store::load(folder).unwrap().run;
        run.revision = revision;
        fs::write(folder.join("run.json"), run.to_json().unwrap()).unwrap();
    }
    fs::remove_file(root.join("index.jsonl")).unwrap();
    let site = dir.path().join("site");
    let revisions = Some(Revisions::read(&dir.path().join("repo")).unwrap());
    let built = build(&store, &iommu_dashboard::Options { revisions, ..options(&site) }).unwrap();
    assert_eq!((built.runs, built.skipped), (39, 1));
    let quality = data(&site, "data/quality.js");
    let unknown = &quality["groups"]["unknown-revision"];
    assert!(unknown["entries"][0]["message"].as_str().unwrap().contains("0123456789ab"), "{unknown}");
    let overview = data(&site, "data/overview.js");
    let worse = overview["series"].as_array().unwrap().iter().find(|row| row["verdict"] == "worse").unwrap();
    let file = data(&site, &format!("data/series/{}.js", worse["id"].as_str().unwrap()));
    let change = &file["points_of_change"][0];
    assert_eq!(change["to"], format!("{}-dirty", &commits[2][..12]));
    let subjects: Vec<_> = change["commits"].as_array().unwrap().iter().map(|commit| &commit[1]).collect();
    assert_eq!(subjects, ["slow", "quick <b>"]);
}

#[test]
fn no_repository_is_an_error_with_a_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let error = Revisions::read(&dir.path().join("nowhere")).unwrap_err().to_string();
    assert!(error.contains("nowhere") && error.contains("--repo"), "{error}");
}

/// What must hold for a store of any size, at one where it is quick to see: reading is one run at a time, so files grow
/// with the runs, and a history with what it holds.
#[test]
fn the_overview_does_not_grow_with_the_runs() {
    let dir = tempfile::tempdir().unwrap();
    let size = |runs: usize| {
        let root = dir.path().join(format!("runs{runs}"));
        let store = Synthetic { runs, change: None, ..Synthetic::default() }.write(&root);
        let site = dir.path().join(format!("site{runs}"));
        build(&store, &options(&site)).unwrap();
        fs::metadata(site.join("data/overview.js")).unwrap().len() as f64
    };
    let (some, many) = (size(150), size(600));
    assert!(many < some * 1.05, "{some} bytes for 150 runs, {many} for 600");
}
