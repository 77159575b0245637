//! The tables, read back by Parquet's own reader, against the runs that they were made from.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;

use iommu_results::{
    Case, EndpointKind, Environment, HistogramSummary, Machine, Metric, Mode, Probes, Relative, Run, SCHEMA,
    Store, Timestamp,
};
use iommu_results_export::{GROUP_ROWS, parquet};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, Row};

fn run(run_id: &str, counts: usize) -> Run {
    let mut case = Case::new("a/strict", EndpointKind::Emulated, Mode::Strict, "TCP_STREAM");
    case.params.insert("flows".to_owned(), 2_u64.into());
    let (value, unit) = (0.1 + 0.2, "bytes/s".to_owned());
    case.metrics.insert(
        "throughput".to_owned(),
        Metric::Measured { value, unit, ci: [0.25, 0.5], level: 0.99, n: 8 },
    );
    case.metrics.insert("transactions".to_owned(), Metric::missing("no clock"));
    let summary = HistogramSummary {
        unit: "ns".to_owned(),
        count: 9,
        min: 1,
        mean: 12.5,
        p50: 10,
        p90: 20,
        p99: 30,
        p999: 40,
        p9999: 50,
        max: 60,
    };
    case.histograms.insert("map_latency".to_owned(), summary);
    for count in 0..counts {
        case.counts.insert(format!("count{count:06}"), count as u64);
    }
    let baseline =
        Case { id: "a/off".to_owned(), mode: Mode::Off, histograms: BTreeMap::new(), ..case.clone() };
    Run {
        schema: SCHEMA.to_owned(),
        run_id: run_id.to_owned(),
        scenario: "größer".to_owned(),
        machine: Machine::Local,
        seed: u64::MAX,
        partial: false,
        started_at: "2021-05-06T07:08:09.012345Z".parse().unwrap(),
        revision: "0123456789ab".to_owned(),
        environment: Environment::capture_from(Path::new("/nonexistent")),
        warnings: vec!["a \"quoted\" one".to_owned()],
        cases: vec![baseline, case],
        relative: vec![Relative {
            metric: "throughput".to_owned(),
            case: "a/strict".to_owned(),
            baseline: "a/off".to_owned(),
            baseline_metric: None,
            ratio: 0.5,
            ci: [0.4, 0.6],
            level: 0.99,
        }],
        probes: Probes::default(),
    }
}

fn store(root: &Path, runs: usize, counts: usize) -> Store {
    let store = Store::open(root).unwrap();
    for _ in 0..runs {
        let folder = store.begin("s", Timestamp::now()).unwrap();
        let run = run(folder.run_id(), counts);
        folder.commit(&run).unwrap();
    }
    store
}

fn rows(file: &Path) -> Vec<BTreeMap<String, Field>> {
    let reader = SerializedFileReader::new(File::open(file).unwrap()).unwrap();
    let map = |row: Row| row.get_column_iter().map(|(name, field)| (name.clone(), field.clone())).collect();
    reader.get_row_iter(None).unwrap().map(|row| map(row.unwrap())).collect()
}

fn text(field: &Field) -> &str {
    match field {
        Field::Str(text) => text,
        other => panic!("{other:?} is no text"),
    }
}

#[test]
fn everything_comes_back_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir.path().join("runs"), 2, 3);
    let out = dir.path().join("out");
    let exported = parquet(&store, &out, |_| ()).unwrap();
    let sizes: Vec<_> = exported
        .files
        .iter()
        .map(|(path, rows)| (path.file_name().unwrap().to_str().unwrap(), *rows))
        .collect();
    let expected = [
        ("runs.parquet", 2),
        ("metrics.parquet", 8),
        ("histograms.parquet", 2),
        ("counts.parquet", 12),
        ("relative.parquet", 2),
    ];
    assert_eq!(sizes, expected);
    let ids: Vec<_> = store.list().unwrap();
    let run = Store::load(&ids[0]).unwrap().run;

    let row = &rows(&out.join("runs.parquet"))[0];
    assert_eq!((text(&row["run_id"]), text(&row["scenario"])), (run.run_id.as_str(), "größer"));
    assert_eq!(row["started_at"], Field::TimestampMicros(run.started_at.as_microsecond()));
    assert_eq!((&row["seed"], &row["partial"]), (&Field::ULong(u64::MAX), &Field::Bool(false)));
    assert!(
        text(&row["warnings"]).contains(r#"a \"quoted\" one"#)
            && text(&row["environment"]).contains("kernel")
    );

    let metrics = rows(&out.join("metrics.parquet"));
    assert_eq!((text(&metrics[0]["mode"]), text(&metrics[0]["params"])), ("off", r#"{"flows":2}"#));
    assert_eq!(
        (&metrics[0]["value"], &metrics[0]["ci_high"]),
        (&Field::Double(0.1 + 0.2), &Field::Double(0.5))
    );
    assert_eq!((&metrics[0]["n"], &metrics[0]["reason"]), (&Field::Long(8), &Field::Null));
    assert_eq!((&metrics[1]["value"], text(&metrics[1]["reason"])), (&Field::Null, "no clock"));
    let histogram = &rows(&out.join("histograms.parquet"))[0];
    assert_eq!((&histogram["p9999"], &histogram["mean"]), (&Field::Long(50), &Field::Double(12.5)));
    assert_eq!(rows(&out.join("relative.parquet"))[1]["ratio"], Field::Double(0.5));

    let reader = SerializedFileReader::new(File::open(out.join("counts.parquet")).unwrap()).unwrap();
    let meta = reader.metadata().file_metadata().key_value_metadata().unwrap();
    let schema = meta.iter().find(|entry| entry.key == "iommu-bench.schema").unwrap();
    assert_eq!(schema.value.as_deref(), Some("iommu-bench/parquet/1"));
}

#[test]
fn row_groups_hold_no_more_than_they_may_and_none_is_lost_between_them() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir.path().join("runs"), 2, GROUP_ROWS / 2 + 100);
    parquet(&store, &dir.path().join("out"), |_| ()).unwrap();
    let file = File::open(dir.path().join("out/counts.parquet")).unwrap();
    let reader = SerializedFileReader::new(file).unwrap();
    let sizes: Vec<_> =
        reader.metadata().row_groups().iter().map(|group| group.num_rows() as usize).collect();
    assert_eq!(sizes, [GROUP_ROWS, GROUP_ROWS, 400]);
    let total: i64 = rows(&dir.path().join("out/counts.parquet"))
        .iter()
        .map(|row| if let Field::Long(count) = row["count"] { count } else { panic!("{row:?}") })
        .sum();
    let n = (GROUP_ROWS / 2 + 100) as i64;
    assert_eq!(total, 4 * n * (n - 1) / 2);
}

#[test]
fn an_empty_store_has_empty_tables_and_unsound_runs_are_in_none() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir.path().join("runs"), 1, 1);
    let run = store.list().unwrap().pop().unwrap();
    fs::write(run.join("run.json"), "{").unwrap();
    let exported = parquet(&store, &dir.path().join("out"), |_| ()).unwrap();
    assert_eq!((exported.survey.runs, exported.survey.skipped()), (0, 1));
    for (file, count) in exported.files {
        assert_eq!((count, rows(&file).len()), (0, 0), "{}", file.display());
    }
    let names: Vec<_> =
        fs::read_dir(dir.path().join("out")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 5, "nothing is left behind: {names:?}");
}
