//! The store against real file systems: whole runs or nothing, no overwriting, errors that name the path.

use std::fs;
use std::process::Command;

use crate::common::{sample, started};
use iommu_results::{
    CaseSeries, Histogram, Integrity, Invalid, LoadError, MetricSeries, SERIES_SCHEMA, Series, SliceValue,
    Store, StoreError,
};

fn commit(store: &Store) -> std::path::PathBuf {
    let folder = store.begin("netperf-strict", started()).unwrap();
    let run = sample(folder.run_id());
    folder.commit(&run).unwrap()
}

#[test]
fn a_run_comes_back_as_it_was_stored() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("a/b")).unwrap();
    let mut folder = store.begin("netperf-strict", started()).unwrap();
    let run = sample(folder.run_id());
    let mut histogram = Histogram::new();
    (1..5_000_u64).for_each(|value| histogram.record(value * 7));
    folder.write_histogram(&run.cases[1].id, "map_latency", &histogram).unwrap();
    folder.write("report.html", "<p>").unwrap();
    assert!(store.list().unwrap().is_empty(), "nothing is visible before the commit");
    let place = folder.commit(&run).unwrap();

    assert_eq!(store.list().unwrap(), std::slice::from_ref(&place));
    assert_eq!(fs::read_to_string(place.join("report.html")).unwrap(), "<p>");
    for path in [place.clone(), place.join("run.json")] {
        let stored = Store::load(path).unwrap();
        assert_eq!(stored.run, run);
        let histograms = stored.histograms().unwrap();
        assert_eq!(histograms.len(), 1);
        let key = (run.cases[1].id.clone(), "map_latency".to_owned());
        assert_eq!(histograms[&key].summary(), histogram.summary());
    }
    assert_eq!(hidden(dir.path().join("a/b")), 0);
}

#[test]
fn the_same_run_is_the_same_bytes() {
    let text = sample("r").to_json().unwrap();
    assert_eq!(text, sample("r").to_json().unwrap());
    assert_eq!(iommu_results::Run::from_json(&text).unwrap().to_json().unwrap(), text);
}

#[test]
fn cut_off_json_is_refused_at_every_length() {
    let text = sample("r").to_json().unwrap();
    let whole = text.trim_end().len();
    for length in (0..whole).step_by(7) {
        let Some(cut) = text.get(..length) else { continue };
        assert!(iommu_results::Run::from_json(cut).is_err(), "accepted {length} of {whole} bytes");
    }
    let dir = tempfile::tempdir().unwrap();
    let place = commit(&Store::open(dir.path()).unwrap());
    let file = place.join("run.json");
    fs::write(&file, &text[..whole / 2]).unwrap();
    let error = Store::load(&place).unwrap_err();
    assert_eq!(error.path(), file);
    assert!(matches!(error, StoreError::Content { source: LoadError::Json { .. }, .. }), "{error}");
}

/// Replaces `old` by `new` in a stored run and returns the message of the refusal.
fn edited(old: &str, new: &str) -> String {
    let text = sample("r").to_json().unwrap();
    assert!(text.contains(old), "the sample has no `{old}`");
    iommu_results::Run::from_json(&text.replacen(old, new, 1)).expect_err("edited JSON accepted").to_string()
}

#[test]
fn edited_json_is_refused_and_the_field_named() {
    let cases = [
        (r#""iommu-bench/run/1""#, r#""iommu-bench/run/2""#, "schema is `iommu-bench/run/2`"),
        (r#""seed": 7"#, r#""seed": -7"#, "`seed`"),
        (r#""partial": false"#, r#""partial": 0"#, "`partial`"),
        (r#""seed": 7"#, r#""seed": 7, "surprise": 1"#, "surprise"),
        (r#""value": 1000.0"#, r#""value": NaN"#, "cases[0].metrics"),
        (r#""value": 1000.0"#, r#""value": 1e999"#, "cases[0].metrics"),
        (r#""value": 1000.0"#, r#""value": "NaN""#, "cases[0].metrics"),
        (r#""value": 1000.0"#, r#""value": -1.0"#, "cases[0].metrics.throughput.value"),
        (r#""value": 1000.0"#, r#""value": null"#, "cases[0].metrics.throughput"),
        (r#""reason": "no clock""#, r#""why": "no clock""#, "cases[0].metrics.transactions"),
        (r#""level": 0.99"#, r#""level": 99.0"#, "cases[0].metrics.throughput.level"),
        (r#""mode": "strict""#, r#""mode": "stict""#, "cases[1].mode"),
        (r#""id": "tcp_stream/strict""#, r#""id": "../../etc""#, "cases[1].id"),
        (r#""ratio": 0.5"#, r#""ratio": 0.0"#, "relative[0].ratio"),
        (r#""baseline": "tcp_stream/off""#, r#""baseline": "gone""#, "relative[0].baseline"),
        (r#""p99": 30"#, r#""p99": 3"#, "cases[1].histograms.map_latency"),
        (r#""packets": 100"#, r#""packets": -1"#, "cases[0].counts.packets"),
    ];
    for (old, new, expected) in cases {
        let message = edited(old, new);
        assert!(message.contains(expected), "`{new}`: `{message}` does not name `{expected}`");
    }
    let twice = edited(r#""id": "tcp_stream/strict""#, r#""id": "tcp_stream/off""#);
    assert!(twice.contains("cases[1].id"), "{twice}");
}

#[test]
fn what_cannot_be_loaded_is_not_stored() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let folder = store.begin("netperf-strict", started()).unwrap();
    let mut run = sample(folder.run_id());
    run.relative[0].ratio = f64::NAN;
    let error = folder.commit(&run).unwrap_err();
    assert!(
        matches!(error, StoreError::Content { source: LoadError::Invalid(Invalid::NotFinite { .. }), .. }),
        "{error}"
    );
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left behind");
}

#[test]
fn nothing_is_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let mut folder = store.begin("s", started()).unwrap();
    folder.write("report.html", "first").unwrap();
    assert!(matches!(folder.write("report.html", "second"), Err(StoreError::Exists { .. })));
    for name in ["", "../x", "a/b", ".hidden", "run.json"] {
        assert!(matches!(folder.write(name, "x"), Err(StoreError::ArtefactName { .. })), "{name}");
    }
    // Somebody takes the place with a run of theirs while ours is on.
    fs::create_dir(folder.path()).unwrap();
    fs::write(folder.path().join("run.json"), "theirs").unwrap();
    let (run, place) = (sample(folder.run_id()), folder.path().to_owned());
    assert!(matches!(folder.commit(&run), Err(StoreError::Exists { path }) if path == place));
    assert_eq!(fs::read_to_string(place.join("run.json")).unwrap(), "theirs");
    assert_eq!(hidden(dir.path()), 0);
}

#[test]
fn a_run_carries_the_id_of_its_folder() {
    let dir = tempfile::tempdir().unwrap();
    let folder = Store::open(dir.path()).unwrap().begin("s", started()).unwrap();
    assert!(matches!(folder.commit(&sample("other")), Err(StoreError::RunId { .. })));
}

#[test]
fn concurrent_writers_each_get_their_own_folder() {
    const WRITERS: usize = 8;
    let dir = tempfile::tempdir().unwrap();
    let places: std::collections::BTreeSet<_> = std::thread::scope(|scope| {
        let writers: Vec<_> =
            (0..WRITERS).map(|_| scope.spawn(|| commit(&Store::open(dir.path()).unwrap()))).collect();
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    });
    assert_eq!(places.len(), WRITERS);
    let listed = Store::open(dir.path()).unwrap().list().unwrap();
    assert_eq!(listed, places.into_iter().collect::<Vec<_>>());
    assert!(listed.iter().all(|place| Store::load(place).is_ok()));
}

#[test]
fn a_store_that_cannot_be_written_is_noticed_before_the_run() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "x").unwrap();
    for path in [file.clone(), file.join("below")] {
        let error = Store::open(&path).unwrap_err();
        assert!(matches!(error, StoreError::NotWritable { .. }), "{error}");
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    }
    // Not even root can create a folder there.
    let error = Store::open("/proc/iommu-bench").unwrap_err();
    assert_eq!(error.path(), std::path::Path::new("/proc/iommu-bench"));
}

#[test]
fn what_is_not_there_or_not_text_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let error = Store::load(dir.path()).unwrap_err();
    assert!(
        matches!(error, StoreError::Read { .. }) && error.path() == dir.path().join("run.json"),
        "{error}"
    );
    fs::write(dir.path().join("run.json"), [b'{', 0xff]).unwrap();
    assert!(matches!(Store::load(dir.path()), Err(StoreError::NotText { valid_bytes: 1, .. })));
}

#[test]
fn a_damaged_histogram_is_named_and_a_missing_one_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let place = commit(&Store::open(dir.path()).unwrap());
    let stored = Store::load(&place).unwrap();
    assert!(stored.histograms().unwrap().is_empty());
    let file = place.join("histograms/tcp_stream~strict.map_latency.hdr");
    fs::create_dir(place.join("histograms")).unwrap();
    fs::write(&file, "damaged").unwrap();
    let error = stored.histograms().unwrap_err();
    assert!(matches!(error, StoreError::Histogram { .. }) && error.path() == file, "{error}");
}

fn series(run_id: &str) -> Series {
    let slices = (0..4).map(|round| SliceValue { round, at_ns: u64::from(round) * 500, value: 1000.0 });
    let metric = MetricSeries { unit: "bytes/s".to_owned(), slices: slices.collect() };
    let metrics = [("throughput".to_owned(), metric)].into();
    let cases = vec![CaseSeries { id: "tcp_stream/off".to_owned(), metrics }];
    Series { schema: SERIES_SCHEMA.to_owned(), run_id: run_id.to_owned(), cases }
}

#[test]
fn slices_come_back_and_belong_to_their_run() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let mut folder = store.begin("s", started()).unwrap();
    let run = sample(folder.run_id());
    assert!(matches!(folder.write_series(&series("other")), Err(StoreError::Series { .. })));
    let mut broken = series(folder.run_id());
    broken.cases[0].metrics.get_mut("throughput").unwrap().slices[2].value = f64::NAN;
    assert!(matches!(folder.write_series(&broken), Err(StoreError::Series { .. })));
    folder.write_series(&series(&run.run_id)).unwrap();
    let place = folder.commit(&run).unwrap();
    let stored = Store::load(&place).unwrap();
    assert_eq!(stored.series().unwrap(), Some(series(&run.run_id)));
    assert_eq!(stored.verify().unwrap(), Integrity::Verified);

    let without = Store::load(commit(&store)).unwrap();
    assert_eq!(without.series().unwrap(), None);
}

#[test]
fn an_edit_after_the_run_was_stored_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let place = commit(&Store::open(dir.path()).unwrap());
    let verify = || Store::load(&place).unwrap().verify();
    assert_eq!(verify().unwrap(), Integrity::Verified);
    fs::write(place.join("report.html"), "made again").unwrap();
    assert_eq!(verify().unwrap(), Integrity::Verified, "the report may be made again");

    // Every rule of the schema holds; only the sum says that a figure was changed.
    let file = place.join("run.json");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replacen(r#""packets": 100"#, r#""packets": 101"#, 1)).unwrap();
    let error = verify().unwrap_err();
    assert!(matches!(&error, StoreError::Changed { path } if *path == file), "{error}");
    fs::write(&file, &text).unwrap();
    assert_eq!(verify().unwrap(), Integrity::Verified);

    let added = place.join("series.json");
    fs::write(&added, "{}").unwrap();
    assert!(matches!(verify(), Err(StoreError::Changed { path }) if path == added));
    fs::remove_file(&added).unwrap();

    let sums = place.join("SHA256SUMS");
    let stored = fs::read_to_string(&sums).unwrap();
    for damaged in [stored[1..].to_owned(), stored.replace("run.json", "../run.json"), "x".to_owned()] {
        fs::write(&sums, damaged).unwrap();
        assert!(matches!(verify(), Err(StoreError::Checksums { line: 1, .. })));
    }
    fs::write(&sums, "").unwrap();
    assert!(matches!(verify(), Err(StoreError::Changed { path }) if path == file), "a sum was removed");
    fs::remove_file(&sums).unwrap();
    assert_eq!(verify().unwrap(), Integrity::Unknown, "runs of earlier versions have no sums");
}

#[test]
fn sha256sum_agrees() {
    let dir = tempfile::tempdir().unwrap();
    let place = commit(&Store::open(dir.path()).unwrap());
    match Command::new("sha256sum").args(["--strict", "-c", "SHA256SUMS"]).current_dir(&place).output() {
        Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout)),
        Err(error) => {
            iommu_equipment::missing(iommu_equipment::Equipment::Program, format_args!("sha256sum: {error}"))
        }
    }
}

/// The kernel's limit on a file's size stands for a disk that fills up half-way through a file: the same path through
/// the store, without needing a file system of our own. The limit can only be set for a new process.
#[test]
fn a_disk_that_fills_up_is_reported_and_leaves_nothing() {
    const CHILD: &str = "IOMMU_RESULTS_TEST_STORE";
    if let Some(root) = std::env::var_os(CHILD) {
        let mut folder = Store::open(root).unwrap().begin("s", started()).unwrap();
        let error = folder.write("report.html", vec![b'x'; 1 << 20]).unwrap_err();
        assert!(matches!(error, StoreError::Full { .. }), "{error}");
        assert!(error.path().ends_with("report.html"), "{error}");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    // An ignored SIGXFSZ turns the limit into an error; `ulimit -f` counts blocks of 512 or 1024 bytes.
    let status = Command::new("sh")
        .args(["-c", r#"trap "" XFSZ; ulimit -f 64; exec "$0" --exact store::a_disk_that_fills_up_is_reported_and_leaves_nothing"#])
        .arg(std::env::current_exe().unwrap())
        .env(CHILD, dir.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&status.stdout);
    assert!(status.status.success() && text.contains("1 passed"), "{text}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left behind");
}

fn hidden(root: impl AsRef<std::path::Path>) -> usize {
    let entries = fs::read_dir(root).unwrap();
    entries.filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with('.')).count()
}

/// As above, for the index: the limit lets the appends through until it cuts one in two.
#[test]
fn an_index_on_a_full_disk_keeps_what_it_acknowledged() {
    const CHILD: &str = "IOMMU_RESULTS_TEST_INDEX";
    if let Some(root) = std::env::var_os(CHILD) {
        let index = iommu_results::Index::of_store(root.as_ref());
        for n in 0..10_000 {
            let forget = iommu_results::index::Operation::Forget { run_id: format!("run-{n}") };
            let Err(error) = index.append([forget]) else { continue };
            assert!(matches!(error, iommu_results::IndexError::Full { .. }), "{error}");
            let contents = index.read().unwrap();
            assert_eq!((contents.lines.len(), contents.torn_bytes), (n, 0));
            assert!(contents.damaged.is_empty());
            println!("full after {n}");
            return;
        }
        panic!("the limit was never reached");
    }
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new("sh")
        .args(["-c", r#"trap "" XFSZ; ulimit -f 16; exec "$0" --nocapture --exact store::an_index_on_a_full_disk_keeps_what_it_acknowledged"#])
        .arg(std::env::current_exe().unwrap())
        .env(CHILD, dir.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("full after"), "{text}");
    // Space again: the next append goes on where the acknowledged ones ended.
    let index = iommu_results::Index::of_store(dir.path());
    let acknowledged = index.read().unwrap().lines.len();
    let forget = iommu_results::index::Operation::Forget { run_id: "next".to_owned() };
    assert_eq!(index.append([forget]).unwrap().healed_bytes, 0);
    assert_eq!(index.read().unwrap().lines.len(), acknowledged + 1);
}
