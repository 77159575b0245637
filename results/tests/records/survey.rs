//! A store that was tampered with: what is sound is visited, everything else is named.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use crate::common::{sample, started};
use iommu_results::index::{Entry, INDEX_FILE, Operation, Record};
use iommu_results::store::{GcOptions, Imported, Refusal};
use iommu_results::{Fault, Finding, Run, Store, Survey};
use jiff::SignedDuration;

fn commit(store: &Store) -> PathBuf {
    let folder = store.begin("netperf-strict", started()).unwrap();
    let run = sample(folder.run_id());
    folder.commit(&run).unwrap()
}

/// A store of `N` runs that started long ago, and their folders.
fn store_of<const N: usize>(dir: &Path) -> (Store, [PathBuf; N]) {
    let store = Store::open(dir).unwrap();
    let mut folders = [(); N].map(|()| commit_old(&store));
    folders.sort();
    (store, folders)
}

fn commit_old(store: &Store) -> PathBuf {
    let started = "2021-05-06T07:08:09.010Z".parse().unwrap();
    let folder = store.begin("netperf-strict", started).unwrap();
    let run = Run { started_at: started, ..sample(folder.run_id()) };
    folder.commit(&run).unwrap()
}

fn name(folder: &Path) -> String {
    folder.file_name().unwrap().to_str().unwrap().to_owned()
}

/// What a survey visits, and what it finds.
fn survey(store: &Store) -> (Vec<PathBuf>, Survey) {
    let mut visited = Vec::new();
    let survey = store.survey(|run, _| visited.push(run.folder)).unwrap();
    assert_eq!(survey.runs, visited.len());
    (visited, survey)
}

/// The only finding of a survey.
fn only(survey: &Survey) -> &Finding {
    assert_eq!(survey.findings.len(), 1, "{:?}", survey.findings);
    &survey.findings[0]
}

#[test]
fn a_store_as_it_was_written_is_sound() {
    let dir = tempfile::tempdir().unwrap();
    let (store, folders) = store_of::<3>(dir.path());
    let mut positions = Vec::new();
    let survey = store.survey(|_, position| positions.push((position.done, position.total))).unwrap();
    assert!(survey.is_sound() && survey.findings.is_empty(), "{:?}", survey.findings);
    assert_eq!((survey.runs, survey.skipped()), (3, 0));
    assert_eq!(positions, [(0, 3), (1, 3), (2, 3)]);
    assert_eq!(self::survey(&store).0, folders);
}

#[test]
fn a_truncated_and_an_edited_run_are_named_and_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let (store, [cut, edited, sound]) = store_of::<3>(dir.path());
    let text = fs::read_to_string(cut.join("run.json")).unwrap();
    fs::write(cut.join("run.json"), &text[..1000]).unwrap();
    let text = fs::read_to_string(edited.join("run.json")).unwrap();
    // A valid run, better than the one that was measured.
    fs::write(edited.join("run.json"), text.replace("1000.0", "9000.0")).unwrap();
    let (visited, survey) = survey(&store);
    assert_eq!(visited, [sound]);
    assert_eq!((survey.skipped(), survey.is_sound()), (2, false));
    let [one, two] = &survey.findings[..] else { panic!("{:?}", survey.findings) };
    assert!(
        matches!(one.fault, Fault::Truncated { found: 1000, .. }) && one.subject == name(&cut),
        "{one:?}"
    );
    assert!(matches!(two.fault, Fault::Edited { .. }) && two.subject == name(&edited), "{two:?}");
    assert_eq!(two.path, edited.join("run.json"));
}

#[test]
fn an_unknown_schema_is_named_also_where_the_index_vouches_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let (store, [folder]) = store_of::<1>(dir.path());
    let file = folder.join("run.json");
    let text = fs::read_to_string(&file).unwrap().replace("iommu-bench/run/1", "iommu-bench/run/9");
    fs::write(&file, &text).unwrap();
    fs::remove_file(dir.path().join(INDEX_FILE)).unwrap();
    let mut run = sample(&name(&folder));
    run.revision = "by another version".to_owned();
    store.index().append([Operation::Add(Entry::of(&run, text.as_bytes()))]).unwrap();
    let (visited, survey) = survey(&store);
    assert!(visited.is_empty());
    let found = "iommu-bench/run/9".to_owned();
    assert_eq!(only(&survey).fault, Fault::UnknownSchema { found, reads: "iommu-bench/run/1" });
}

#[test]
fn a_copied_folder_is_a_duplicate_and_a_renamed_one_is_told_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let (store, [folder]) = store_of::<1>(dir.path());
    let copy = dir.path().join("copy-of-it");
    fs::create_dir(&copy).unwrap();
    fs::copy(folder.join("run.json"), copy.join("run.json")).unwrap();
    let (visited, found) = survey(&store);
    assert_eq!(visited, std::slice::from_ref(&folder));
    assert_eq!(only(&found).fault, Fault::Duplicate { of: name(&folder) });

    fs::remove_dir_all(&copy).unwrap();
    fs::rename(&folder, dir.path().join("other")).unwrap();
    fs::remove_file(dir.path().join(INDEX_FILE)).unwrap();
    let (visited, found) = survey(&store);
    assert!(visited.is_empty());
    assert!(found.findings.iter().any(|finding| finding.fault == Fault::Renamed { id: name(&folder) }));
}

#[test]
fn an_id_that_the_index_has_twice_counts_once() {
    let dir = tempfile::tempdir().unwrap();
    let (store, [folder]) = store_of::<1>(dir.path());
    let bytes = fs::read(folder.join("run.json")).unwrap();
    let mut run = Store::load(&folder).unwrap().run;
    run.revision = "forged".to_owned();
    store.index().append([Operation::Add(Entry::of(&run, &bytes[1..]))]).unwrap();
    let (visited, survey) = survey(&store);
    assert_eq!(visited.len(), 1, "the first entry counts, and the file is what it says");
    assert_eq!(only(&survey).subject, "index.jsonl:2");
    assert_eq!(only(&survey).fault, Fault::DuplicateEntry { id: name(&folder), first: 1 });
}

/// Writes an index in which the runs were appended at these times.
fn appended_at(dir: &Path, folders: &[PathBuf], times: &[&str]) {
    let mut file = File::create(dir.join(INDEX_FILE)).unwrap();
    for (folder, at) in folders.iter().zip(times) {
        let bytes = fs::read(folder.join("run.json")).unwrap();
        let entry = Entry::of(&Store::load(folder).unwrap().run, &bytes);
        let line = Record::new(Operation::Add(entry), at.parse().unwrap()).to_line().unwrap();
        file.write_all(line.as_bytes()).unwrap();
    }
}

#[test]
fn a_clock_that_was_set_back_is_named_once() {
    let dir = tempfile::tempdir().unwrap();
    let (store, folders) = store_of::<4>(dir.path());
    let times =
        ["2022-01-02T00:00:00Z", "2022-01-02T00:00:01Z", "2022-01-01T00:00:00Z", "2022-01-01T00:00:09Z"];
    appended_at(dir.path(), &folders, &times);
    let (visited, survey) = survey(&store);
    assert_eq!(visited.len(), 3);
    assert_eq!(only(&survey).subject, name(&folders[2]));
    assert!(matches!(only(&survey).fault, Fault::ClockBackwards { .. }));
}

#[test]
fn clocks_that_differ_a_little_are_no_finding_and_a_start_in_the_future_is() {
    let dir = tempfile::tempdir().unwrap();
    let (store, folders) = store_of::<2>(dir.path());
    appended_at(dir.path(), &folders, &["2022-01-01T00:00:01Z", "2022-01-01T00:00:00Z"]);
    assert!(survey(&store).1.is_sound());
    appended_at(dir.path(), &folders, &["2020-01-01T00:00:00Z", "2022-01-01T00:00:00Z"]);
    let (visited, survey) = survey(&store);
    assert_eq!(visited, [folders[1].clone()]);
    assert!(matches!(only(&survey).fault, Fault::StartedLater { .. }));
}

#[test]
fn folders_that_are_gone_or_unfinished_or_strange_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let (store, [gone, damaged]) = store_of::<2>(dir.path());
    fs::remove_dir_all(&gone).unwrap();
    fs::write(damaged.join("run.json"), [0xff; 8]).unwrap();
    fs::create_dir(dir.path().join("notes")).unwrap();
    fs::create_dir(dir.path().join(".unfinished-x")).unwrap();
    File::options().append(true).open(dir.path().join(INDEX_FILE)).unwrap().write_all(b"{\"to").unwrap();
    let (visited, survey) = survey(&store);
    assert!(visited.is_empty());
    let mut names: Vec<_> = survey.findings.iter().map(|finding| finding.fault.name()).collect();
    names.sort_unstable();
    assert_eq!(names, ["missing", "no-run", "torn-entry", "truncated", "unfinished"]);
    assert_eq!(survey.skipped(), 2);
    for finding in &survey.findings {
        assert!(!finding.fault.to_string().is_empty() && finding.path.starts_with(dir.path()));
    }
}

#[test]
fn a_store_of_an_older_version_is_read_and_import_makes_its_index() {
    let dir = tempfile::tempdir().unwrap();
    let (store, folders) = store_of::<2>(dir.path());
    fs::remove_file(dir.path().join(INDEX_FILE)).unwrap();
    let (visited, found) = survey(&store);
    assert_eq!(visited, folders);
    assert_eq!((&only(&found).fault, found.is_sound()), (&Fault::NoIndex, true));
    let import = store.import_own().unwrap();
    assert!(import.runs.iter().all(|(_, what)| matches!(what, Imported::Indexed)) && import.runs.len() == 2);
    assert!(survey(&store).1.findings.is_empty());
    assert!(store.import_own().unwrap().runs.is_empty(), "the second time there is nothing to do");
}

#[test]
fn runs_of_another_store_are_copied_byte_for_byte_and_once() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (source, folders) = store_of::<2>(from.path());
    fs::create_dir(folders[0].join("histograms")).unwrap();
    fs::write(folders[0].join("histograms/a.b.hdr"), "figures").unwrap();
    fs::write(folders[0].join("report.html"), "<p>").unwrap();
    std::os::unix::fs::symlink("/etc/passwd", folders[0].join("link")).unwrap();
    let store = Store::open(to.path()).unwrap();
    let import = store.import(source.root()).unwrap();
    assert!(import.runs.iter().all(|(_, what)| matches!(what, Imported::Copied)), "{import:?}");
    let (visited, found) = survey(&store);
    assert!(visited.len() == 2 && found.findings.is_empty());
    for file in ["run.json", "report.html", "histograms/a.b.hdr"] {
        assert_eq!(
            fs::read(visited[0].join(file)).unwrap(),
            fs::read(folders[0].join(file)).unwrap(),
            "{file}"
        );
    }
    assert!(!visited[0].join("link").exists());
    let again = store.import(source.root()).unwrap();
    assert!(again.runs.iter().all(|(_, what)| matches!(what, Imported::Present)));
    // The same id with other figures is somebody's edit.
    let text = fs::read_to_string(folders[1].join("run.json")).unwrap();
    fs::write(folders[1].join("run.json"), text.replace("1000.0", "9000.0")).unwrap();
    let import = store.import(&folders[1]).unwrap();
    assert!(matches!(&import.runs[..], [(_, Imported::Refused(Refusal::Conflict { .. }))]), "{import:?}");
    assert_eq!(import.refused(), 1);
}

#[test]
fn gc_takes_away_what_it_is_told_and_says_so_before() {
    let dir = tempfile::tempdir().unwrap();
    let (store, [old, gone]) = store_of::<2>(dir.path());
    fs::remove_dir_all(&gone).unwrap();
    let new = commit(&store);
    let at_work = store.begin("s", started()).unwrap();
    let options = GcOptions {
        runs_before: Some("2022-01-01T00:00:00Z".parse().unwrap()),
        missing: true,
        ..GcOptions::default()
    };
    let before = fs::read(dir.path().join(INDEX_FILE)).unwrap();
    let would = store.gc(&GcOptions { dry_run: true, ..options }).unwrap();
    assert_eq!((would.runs, would.missing), (vec![name(&old)], vec![name(&gone)]));
    assert!(old.exists() && fs::read(dir.path().join(INDEX_FILE)).unwrap() == before);

    let did = store.gc(&options).unwrap();
    assert_eq!((did.runs, did.missing, did.unfinished.len()), (vec![name(&old)], vec![name(&gone)], 0));
    assert_eq!(did.index_lines, 4, "two entries and two that they are forgotten");
    assert!(!old.exists() && new.exists());
    drop(at_work);
    let (_, found) = survey(&store);
    // The sample claims to start in 2031.
    assert!(matches!(only(&found).fault, Fault::StartedLater { .. }));

    let left = dir.path().join(".unfinished-left");
    fs::create_dir(&left).unwrap();
    assert!(store.gc(&GcOptions::default()).unwrap().unfinished.is_empty(), "somebody may be at it");
    let now = GcOptions { unfinished_after: SignedDuration::ZERO, ..GcOptions::default() };
    assert_eq!(store.gc(&now).unwrap().unfinished, std::slice::from_ref(&left));
    assert!(!left.exists());
}
