//! Files beside `run.json`: what is written is read again, what is not understood is refused by name.

use iommu_results::artefacts::{
    Artefact, ArtefactError, Artefacts, Axis, CaseHeat, Churn, Heat, SliceHeat, Sweep,
};
use iommu_results::{Store, StoreError, StoredRun};

fn heat(run_id: &str) -> Heat {
    let latency = [("map_latency".to_owned(), vec![(64, 2), (76, u64::MAX)])].into();
    let slice = SliceHeat { round: 3, at_ns: 17, latency };
    let cases = vec![CaseHeat { case: "a/b".into(), slices: vec![slice] }];
    Heat { schema: Heat::SCHEMA.into(), run_id: run_id.into(), cases }
}

fn sweep(run_id: &str) -> Sweep {
    let axes =
        vec![Axis { key: "mtu".into(), test: None, values: vec![1500_u64.into(), "x".into(), 0.5.into()] }];
    Sweep { schema: Sweep::SCHEMA.into(), run_id: run_id.into(), axes }
}

/// A stored run with these files beside it.
fn stored(root: &std::path::Path) -> StoredRun {
    let mut folder = Store::open(root).unwrap().begin("s", crate::common::started()).unwrap();
    let run = crate::common::sample(folder.run_id());
    folder.write_artefact(&heat(&run.run_id)).unwrap();
    folder.write_artefact(&sweep(&run.run_id)).unwrap();
    assert!(matches!(folder.write_artefact(&sweep(&run.run_id)), Err(StoreError::Exists { .. })));
    Store::load(folder.commit(&run).unwrap()).unwrap()
}

#[test]
fn what_is_written_is_read_and_what_is_absent_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let stored = stored(dir.path());
    let id = &stored.run.run_id;
    let expected = Artefacts { heat: Some(heat(id)), sweep: Some(sweep(id)), ..Artefacts::default() };
    assert_eq!(stored.artefacts().unwrap(), expected);
}

#[test]
fn another_schema_or_field_is_refused_with_the_file_and_the_place() {
    let dir = tempfile::tempdir().unwrap();
    let stored = stored(dir.path());
    let file = stored.folder.join(Sweep::FILE);
    let good = std::fs::read_to_string(&file).unwrap();
    for (from, to, said) in [
        ("sweep/1", "sweep/2", "iommu-bench/sweep/2"),
        ("\"key\"", "\"kez\"", "axes[0]"),
        ("[1500", "[{}", "axes[0].values"),
        ("}]}", "}]", "EOF"),
    ] {
        let bad = good.replacen(from, to, 1);
        assert_ne!(good, bad);
        std::fs::write(&file, bad).unwrap();
        let message = stored.artefacts().unwrap_err().to_string();
        assert!(message.contains(said) && message.contains("sweep.json"), "{message}");
    }
}

#[test]
fn a_case_without_a_recording_says_why() {
    let text = r#"{"schema":"iommu-bench/churn/1","run_id":"r","cases":[{"case":"a","reason":"nothing is translated"}]}"#;
    let churn = Churn::from_json(text).unwrap();
    assert_eq!(churn.of("a").unwrap_err(), "nothing is translated");
    assert_eq!(churn.of("b").unwrap_err(), "the case was not recorded");
    assert_eq!(Churn::from_json(&churn.to_json().unwrap()).unwrap(), churn);
    let unknown = text.replace("\"reason\"", "\"raison\"");
    assert!(matches!(Churn::from_json(&unknown), Err(ArtefactError::Json { .. })));
}
