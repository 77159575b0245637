//! The helper program, as `iommu-bench store export` starts it.

use assert_cmd::Command;
use iommu_results::export::ExportLine;

fn lines(arguments: &[&str]) -> (Option<i32>, Vec<ExportLine>) {
    let done = Command::cargo_bin("iommu-bench-export").unwrap().args(arguments).output().unwrap();
    let text = String::from_utf8(done.stdout).unwrap();
    (done.status.code(), text.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

#[test]
fn its_last_line_says_what_was_written_or_why_not() {
    let dir = tempfile::tempdir().unwrap();
    let (store, out) = (dir.path().join("store"), dir.path().join("out"));
    std::fs::create_dir(&store).unwrap();
    let (code, said) = lines(&[store.to_str().unwrap(), out.to_str().unwrap()]);
    let Some(ExportLine::Exported { tables, runs: 0, skipped: 0, files }) = said.last() else {
        panic!("{said:?}");
    };
    assert_eq!((code, tables.as_str(), files.len()), (Some(0), iommu_results_export::SCHEMA, 5));
    assert!(files.iter().all(|(path, rows)| path.is_file() && *rows == 0), "{files:?}");

    let (code, said) = lines(&[dir.path().join("absent").to_str().unwrap(), out.to_str().unwrap()]);
    let [ExportLine::Failed { message }] = &said[..] else { panic!("{said:?}") };
    assert!(code == Some(4) && message.contains("absent"), "{message}");
    assert_eq!(lines(&["one"]), (Some(2), vec![]));
}
