//! `compare`, `ab` and `gate` as scripts use them: verdicts, exit codes, and what is refused.

mod common;

use std::{
    fs,
    path::{Path, PathBuf},
};

use common::{bench, outcome, run_json};
use serde_json::Value;

/// The folder of a new run in `store`.
fn stored(store: &Path, args: &[&str]) -> PathBuf {
    let run = run_json(store, args);
    store.join(run["run_id"].as_str().unwrap())
}

fn counted(store: &Path, seed: &str) -> PathBuf {
    stored(store, &["netperf-strict", "--packets", "500", "--seed", seed])
}

/// `compare BASE HEAD --json` with more arguments.
fn verdict(base: &Path, head: &Path, more: &[&str]) -> (i32, Value, String) {
    let mut args = vec!["compare", base.to_str().unwrap(), head.to_str().unwrap(), "--json"];
    args.extend(more);
    let out = outcome(&args);
    (out.code, serde_json::from_str(&out.stdout).unwrap_or(Value::Null), out.stderr)
}

/// Copies a run, changes a file of it, and forgets the checksums unless they are what is tested.
fn changed(run: &Path, to: &Path, file: &str, change: impl Fn(String) -> String) -> PathBuf {
    fs::create_dir_all(to.join("histograms")).unwrap();
    for folder in [PathBuf::new(), PathBuf::from("histograms")] {
        let Ok(entries) = fs::read_dir(run.join(&folder)) else { continue };
        for entry in entries.map(|entry| entry.unwrap()).filter(|entry| entry.path().is_file()) {
            fs::copy(entry.path(), to.join(&folder).join(entry.file_name())).unwrap();
        }
    }
    let path = to.join(file);
    fs::write(&path, change(fs::read_to_string(&path).unwrap())).unwrap();
    to.to_owned()
}

#[test]
fn equal_counts_are_the_same_and_more_requests_are_worse() {
    let dir = tempfile::tempdir().unwrap();
    let (one, other) = (counted(dir.path(), "7"), counted(dir.path(), "7"));
    let (code, report, stderr) = verdict(&one, &other, &[]);
    assert_eq!((code, report["verdict"].as_str()), (0, Some("same")), "{stderr}");
    assert_eq!(report["schema"], "iommu-bench/verdict/1");
    let metrics = report["metrics"].as_array().unwrap();
    assert!(metrics.iter().any(|metric| metric["metric"] == "requests_unmap" && metric["ratio"] == 1.0));
    assert!(metrics.iter().all(|metric| metric["verdict"] == "same"));
    // What nobody measured is listed, with the reason, and takes nothing away from the verdict.
    let missing = report["missing"].as_array().unwrap();
    assert!(
        missing
            .iter()
            .any(|one| one["metric"] == "throughput" && one["reason"].as_str().unwrap().contains("virtual"))
    );

    let more = |text: String| {
        let mut run: Value = serde_json::from_str(&text).unwrap();
        let case =
            run["cases"].as_array_mut().unwrap().iter_mut().find(|case| case["mode"] == "strict").unwrap();
        let requests = case["counts"]["requests_unmap"].as_u64().unwrap();
        case["counts"]["requests_unmap"] = (requests + 1).into();
        serde_json::to_string_pretty(&run).unwrap()
    };
    let edited = changed(&other, &dir.path().join("edited"), "run.json", more);
    let (code, _, stderr) = verdict(&one, &edited, &[]);
    assert_eq!(code, 2, "an edited run is refused");
    assert!(stderr.contains("run.json") && stderr.contains("SHA256SUMS"), "{stderr}");
    fs::remove_file(edited.join("SHA256SUMS")).unwrap();
    let (code, report, _) = verdict(&one, &edited, &[]);
    assert_eq!((code, report["verdict"].as_str()), (1, Some("worse")), "one request more is a regression");
    let (code, report, _) = verdict(&edited, &one, &[]);
    assert_eq!((code, report["verdict"].as_str()), (0, Some("better")));
}

#[test]
fn what_must_not_be_compared_is_refused_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let run = counted(dir.path(), "1");
    let other = stored(dir.path(), &["map-storm", "--packets", "200"]);
    let timed = stored(dir.path(), &["netperf-strict", "--duration", "80ms", "--modes", "strict"]);
    let edit = |name: &str, old: &'static str, new: &'static str| {
        let edited = changed(&run, &dir.path().join(name), "run.json", |text| {
            assert!(text.contains(old), "{old}");
            text.replacen(old, new, 1)
        });
        fs::remove_file(edited.join("SHA256SUMS")).unwrap();
        edited
    };
    let cases = [
        (other, "only runs of one scenario"),
        (timed, "counted with --packets"),
        (edit("schema", "iommu-bench/run/1", "iommu-bench/run/9"), "iommu-bench/run/9"),
        (edit("partial", "\"partial\": false", "\"partial\": true"), "partial run"),
        (edit("machine", "\"machine\": \"local\"", "\"machine\": \"kvm\""), "the machine differs"),
        (edit("nan", "\"seed\": 1", "\"seed\": NaN"), "seed"),
        (edit("half", "\"cases\": [", "\"cases\": [{"), "run.json"),
        (dir.path().join("nothing"), "there is no run"),
    ];
    for (head, expected) in cases {
        let (code, report, stderr) = verdict(&run, &head, &[]);
        assert_eq!((code, &report), (2, &Value::Null), "{}: {stderr}", head.display());
        assert!(stderr.contains(expected), "{}: {stderr}", head.display());
    }
    let moved = dir.path().join("machine");
    assert_eq!(verdict(&run, &moved, &["--counts"]).0, 0, "counts carry over to another machine");

    let unfinished = dir.path().join(".unfinished-x");
    fs::rename(dir.path().join("partial"), &unfinished).unwrap();
    let (code, _, stderr) = verdict(&run, &unfinished, &[]);
    assert!(code == 2 && stderr.contains("never finished"), "{stderr}");
}

#[test]
fn a_truncated_histogram_and_a_missing_case_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let run = stored(dir.path(), &["netperf-strict", "--duration", "80ms"]);
    let cut = changed(&run, &dir.path().join("cut"), "report.html", |text| text);
    let histogram = fs::read_dir(cut.join("histograms")).unwrap().next().unwrap().unwrap().path();
    let bytes = fs::read(&histogram).unwrap();
    fs::write(&histogram, &bytes[..bytes.len() / 2]).unwrap();
    let name = histogram.file_name().unwrap().to_str().unwrap();
    let (code, _, stderr) = verdict(&run, &cut, &[]);
    assert!(code == 2 && stderr.contains(name), "{stderr}");
    fs::remove_file(cut.join("SHA256SUMS")).unwrap();
    let (code, _, stderr) = verdict(&run, &cut, &[]);
    assert!(code == 2 && stderr.contains(name), "{stderr}");

    let fewer = stored(dir.path(), &["netperf-strict", "--duration", "80ms", "--modes", "strict"]);
    let (code, report, stderr) = verdict(&run, &fewer, &[]);
    assert!(code == 5 || code == 1, "a case that vanished is never a success: {code} {stderr}");
    let missing = report["missing"].as_array().unwrap();
    let vanished = missing.iter().filter(|one| one["reason"] == "only base has this case").count();
    assert_eq!(vanished, 2, "{missing:?}");
}

#[test]
fn every_form_of_a_comparison() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["netperf-strict", "--duration", "80ms", "--modes", "strict", "--probes", "off"];
    let (one, other) = (stored(dir.path(), &args), stored(dir.path(), &args));
    let page = dir.path().join("page.html");
    let (one, other) = (one.to_str().unwrap(), other.to_str().unwrap());
    let text = outcome(&["compare", one, other, "--html", page.to_str().unwrap()]);
    assert!(text.stdout.contains("verdict: ") && text.stdout.contains("request_service"), "{}", text.stdout);
    assert!(text.stdout.contains("profile.folded"), "why there is no flame graph: {}", text.stdout);
    assert!(text.stdout.lines().all(|line| line.chars().count() <= 80), "{}", text.stdout);
    let html = fs::read_to_string(&page).unwrap();
    assert!(html.contains("<svg") && html.contains("Wasserstein") && !html.contains("<script"));
    let markdown = outcome(&["compare", one, other, "--markdown"]);
    assert!(
        markdown.stdout.starts_with("## netperf\\-strict")
            || markdown.stdout.starts_with("## netperf-strict")
    );
    assert!(markdown.stdout.contains("| request\\_service |"), "{}", markdown.stdout);

    // With profiles beside the runs there is a graph, and it points at what grew.
    for (run, own) in [(one, 100), (other, 130)] {
        fs::write(Path::new(run).join("profile.folded"), format!("main;serve 500\nmain;serve;map {own}\n"))
            .unwrap();
        fs::remove_file(Path::new(run).join("SHA256SUMS")).unwrap();
    }
    let text = outcome(&["compare", one, other, "--html", page.to_str().unwrap()]);
    assert!(text.stdout.contains("+5.00 %  map"), "{}", text.stdout);
    assert!(fs::read_to_string(&page).unwrap().contains("Differential flame graph"));
}

#[test]
fn ab_of_one_binary_is_never_worse_and_keeps_what_it_measured() {
    let dir = tempfile::tempdir().unwrap();
    let binary = bench().get_program().to_str().unwrap().to_owned();
    let out = dir.path().join("ab");
    let results = outcome(&[
        "ab",
        "--base",
        &binary,
        "--head",
        &binary,
        "netperf-strict",
        "--modes",
        "strict",
        "--blocks",
        "8",
        "--metric",
        "request_service,cpu_per_packet,no_such_metric",
        "--packets",
        "300",
        "--json",
        "--out",
        out.to_str().unwrap(),
    ]);
    let report: Value =
        serde_json::from_str(&results.stdout).unwrap_or_else(|_| panic!("{}", results.stderr));
    assert_eq!(results.code, 5, "a metric that nobody has leaves the verdict open: {report}");
    let metrics = report["metrics"].as_array().unwrap();
    assert!(metrics.iter().all(|metric| metric["verdict"] != "worse"), "{metrics:?}");
    let timed: Vec<_> = metrics.iter().filter(|metric| metric["n"] == 8).collect();
    assert_eq!(timed.len(), 4, "two metrics of two cases: {metrics:?}");
    assert!(metrics.iter().any(|metric| metric["metric"] == "kicks_iommu" && metric["verdict"] == "same"));
    assert!(report["missing"].as_array().unwrap().iter().any(|one| one["metric"] == "no_such_metric"));
    let folder = fs::read_dir(&out).unwrap().next().unwrap().unwrap().path();
    let samples: Value =
        serde_json::from_str(&fs::read_to_string(folder.join("samples.json")).unwrap()).unwrap();
    assert_eq!(samples["metrics"][0]["base"].as_array().unwrap().len(), 8);
    for file in ["verdict.json", "verdict.md", "report.html"] {
        assert!(folder.join(file).is_file(), "{file}");
    }
}

#[test]
fn ab_says_what_it_cannot_take() {
    let binary = bench().get_program().to_str().unwrap().to_owned();
    let ab = |base: &str, more: &[&str]| {
        let mut args = vec!["ab", "--base", base, "--head", &binary, "netperf-strict"];
        args.extend(more);
        outcome(&args)
    };
    for (base, more, code, expected) in [
        ("no-such-revision", &[][..], 2, "neither a file nor a git revision"),
        ("/etc/passwd", &[], 2, "not an executable"),
        ("/bin/true", &["--packets", "10"], 4, "stored 0 runs"),
        ("/bin/false", &["--packets", "10"], 4, "/bin/false"),
        (&binary, &["--layouts", "3"], 2, "link order is fixed"),
        (&binary, &["--blocks", "7"], 2, "8..=1024"),
        (&binary, &["--margin", "much"], 2, "percentage"),
        (&binary, &["--modes", "stict"], 2, "stict"),
    ] {
        let out = ab(base, more);
        assert_eq!(out.code, code, "{base} {more:?}: {}", out.stderr);
        assert!(out.stderr.contains(expected), "{base} {more:?}: {}", out.stderr);
    }
}

#[test]
fn a_gate_writes_what_continuous_integration_reads() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let policy = "schema = \"iommu-bench/policy/1\"\nscenario = \"netperf-strict\"\n[exact]\npackets = 300\n";
    fs::write(path("policy.toml"), policy).unwrap();
    let binary = bench().get_program().to_str().unwrap().to_owned();
    let (junit, summary, out) = (path("junit.xml"), path("summary.md"), path("ab"));
    let mut args = vec!["gate", "--policy"];
    let policy = path("policy.toml");
    args.extend([
        policy.as_str(),
        "--base",
        &binary,
        "--head",
        &binary,
        "--junit",
        &junit,
        "--summary",
        &summary,
    ]);
    args.extend(["--annotations", "github", "--out", &out]);
    let gate = outcome(&args);
    assert_eq!(gate.code, 0, "{}{}", gate.stdout, gate.stderr);
    assert!(fs::read_to_string(&junit).unwrap().contains("name=\"requests_map\""));
    assert!(fs::read_to_string(&summary).unwrap().contains("**same**"));

    // The same gate over stored runs, one of which was given a request too many.
    let base = counted(dir.path(), "1");
    let head = changed(&counted(dir.path(), "1"), &dir.path().join("more"), "run.json", |text| {
        let mut run: Value = serde_json::from_str(&text).unwrap();
        let case =
            run["cases"].as_array_mut().unwrap().iter_mut().find(|case| case["mode"] == "strict").unwrap();
        case["counts"]["kicks_iommu"] = (case["counts"]["kicks_iommu"].as_u64().unwrap() + 9).into();
        serde_json::to_string_pretty(&run).unwrap()
    });
    fs::remove_file(head.join("SHA256SUMS")).unwrap();
    let (base, head) = (base.to_str().unwrap(), head.to_str().unwrap());
    let gate =
        outcome(&["gate", "--policy", &policy, "--base", base, "--head", head, "--annotations", "github"]);
    assert_eq!(gate.code, 1, "{}{}", gate.stdout, gate.stderr);
    assert!(gate.stderr.contains("::error title=kicks_iommu worse::"), "{}", gate.stderr);
    let mixed = outcome(&["gate", "--policy", &policy, "--base", base, "--head", &binary]);
    assert!(mixed.code == 2 && mixed.stderr.contains("both"), "{}", mixed.stderr);
}
