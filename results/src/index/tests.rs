//! The index under writers that die, disks that fill up and files that were tampered with.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use jiff::Timestamp;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proptest::prelude::*;

use super::*;
use crate::schema::Machine;

fn add(run_id: &str) -> Operation {
    Operation::Add(Entry {
        run_id: run_id.to_owned(),
        scenario: "netperf-strict".to_owned(),
        machine: Machine::Local,
        started_at: "2031-05-06T07:08:09Z".parse().unwrap(),
        revision: "0123456789ab".to_owned(),
        partial: false,
        run_bytes: 10_000,
        run_crc32c: "00c0ffee".to_owned(),
    })
}

fn ids(contents: &Contents) -> Vec<String> {
    let id = |line: &Line| match &line.record.operation {
        Operation::Add(entry) => entry.run_id.clone(),
        Operation::Forget { run_id } => format!("-{run_id}"),
    };
    contents.lines.iter().map(id).collect()
}

#[test]
fn records_come_back_in_order_and_each_line_is_json() {
    let dir = tempfile::tempdir().unwrap();
    let index = Index::of_store(dir.path());
    assert_eq!(index.read().unwrap(), Contents::default());
    index.append([add("a"), add("b")]).unwrap();
    index.append([Operation::Forget { run_id: "a".to_owned() }]).unwrap();
    let contents = index.read().unwrap();
    assert_eq!(ids(&contents), ["a", "b", "-a"]);
    assert!(contents.damaged.is_empty() && contents.torn_bytes == 0);
    for line in fs::read_to_string(index.path()).unwrap().lines() {
        let json: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(json["schema"], INDEX_SCHEMA);
        assert_eq!(json["crc32c"].as_str().unwrap().len(), 8);
    }
}

#[test]
fn a_tail_cut_at_any_byte_is_healed_and_costs_only_the_last_record() {
    let dir = tempfile::tempdir().unwrap();
    let index = Index::of_store(dir.path());
    index.append([add("kept"), add("cut")]).unwrap();
    let whole = fs::read(index.path()).unwrap();
    let first = whole.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    for length in first..whole.len() {
        fs::write(index.path(), &whole[..length]).unwrap();
        let torn = index.read().unwrap();
        assert_eq!((ids(&torn), torn.torn_bytes), (vec!["kept".to_owned()], (length - first) as u64));
        let appended = index.append([add("next")]).unwrap();
        assert_eq!(appended.healed_bytes, (length - first) as u64);
        let healed = index.read().unwrap();
        assert_eq!(ids(&healed), ["kept", "next"], "cut at byte {length}");
        assert!(healed.damaged.is_empty() && healed.torn_bytes == 0);
    }
}

#[test]
fn any_changed_byte_is_noticed_and_costs_only_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let index = Index::of_store(dir.path());
    index.append([add("a"), add("b"), add("c")]).unwrap();
    let sound = fs::read(index.path()).unwrap();
    let newlines: Vec<_> = (0..sound.len()).filter(|at| sound[*at] == b'\n').collect();
    for at in newlines[0] + 1..newlines[1] {
        let mut bytes = sound.clone();
        bytes[at] ^= 1;
        fs::write(index.path(), &bytes).unwrap();
        let contents = index.read().unwrap();
        assert_eq!(ids(&contents), ["a", "c"], "byte {at}");
        assert_eq!(contents.damaged.len(), 1 + usize::from(bytes[at] == b'\n'), "byte {at}");
        assert_eq!(contents.damaged[0].number, 2);
    }
}

#[test]
fn another_schema_is_named_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let index = Index::of_store(dir.path());
    index.append([add("a")]).unwrap();
    let mut record = Record::new(add("b"), Timestamp::UNIX_EPOCH);
    record.schema = "iommu-bench/index/2".to_owned();
    let line = record.to_line().unwrap();
    File::options().append(true).open(index.path()).unwrap().write_all(line.as_bytes()).unwrap();
    index.append([add("c")]).unwrap();
    let contents = index.read().unwrap();
    assert_eq!(ids(&contents), ["a", "c"]);
    let found = "iommu-bench/index/2".to_owned();
    assert_eq!(contents.damaged, [Damage { number: 2, error: RecordError::Schema { found } }]);
}

#[test]
fn a_key_that_the_schema_does_not_have_is_refused() {
    let line = Record::new(add("a"), Timestamp::UNIX_EPOCH).to_line().unwrap();
    let (body, _) = line.rsplit_once(",\"crc32c\"").unwrap();
    let body = format!("{body},\"surprise\":1");
    let sum = crc(body.as_bytes());
    let error = Record::from_line(format!("{body},\"crc32c\":\"{sum}\"}}").as_bytes()).unwrap_err();
    assert!(matches!(&error, RecordError::Content { message } if message.contains("surprise")), "{error}");
}

#[test]
fn endless_lines_are_passed_over_without_being_kept() {
    let dir = tempfile::tempdir().unwrap();
    let index = Index::of_store(dir.path());
    index.append([add("a")]).unwrap();
    let mut file = File::options().append(true).open(index.path()).unwrap();
    file.write_all(&vec![b'x'; 100_000]).unwrap();
    assert_eq!(index.read().unwrap().torn_bytes, 100_000);
    file.write_all(b"\n").unwrap();
    let contents = index.read().unwrap();
    assert!(matches!(contents.damaged[..], [Damage { number: 2, error: RecordError::TooLong { .. } }]));
    index.append([add("b")]).unwrap();
    assert_eq!(ids(&index.read().unwrap()), ["a", "b"]);
}

#[test]
fn a_record_that_no_reader_would_accept_is_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let index = Index::of_store(dir.path());
    let error = index.append([add("a"), add(&"x".repeat(20_000))]).unwrap_err();
    assert!(matches!(error, IndexError::Record { source: RecordError::TooLong { .. }, .. }), "{error}");
    assert_eq!(index.read().unwrap(), Contents::default());
}

#[test]
fn an_append_that_fails_half_way_is_taken_back() {
    let dir = tempfile::tempdir().unwrap();
    let index = Index::of_store(dir.path());
    index.append([add("a")]).unwrap();
    let before = fs::read(index.path()).unwrap();
    let error = index
        .append_by([add("b")], &mut |file, bytes| {
            file.write_all(&bytes[..bytes.len() / 2])?;
            Err(std::io::ErrorKind::StorageFull.into())
        })
        .unwrap_err();
    assert!(matches!(error, IndexError::Full { .. }), "{error}");
    assert_eq!(fs::read(index.path()).unwrap(), before);
}

#[test]
fn a_compaction_loses_no_append_that_waits_for_it() {
    const WRITERS: usize = 4;
    const EACH: usize = 25;
    let dir = tempfile::tempdir().unwrap();
    let index = Index::of_store(dir.path());
    index.append([add("old"), Operation::Forget { run_id: "old".to_owned() }]).unwrap();
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let index = &index;
            scope.spawn(move || {
                for n in 0..EACH {
                    index.append([add(&format!("{writer}-{n}"))]).unwrap();
                }
            });
        }
        scope.spawn(|| {
            for _ in 0..EACH {
                // Each compaction drops the mark that the one before it left, so that each makes a new file.
                let mark = add("mark");
                index.append([mark.clone()]).unwrap();
                let gone = index
                    .compact(|records| {
                        let is_mark = |record: &Result<Record, RecordError>| {
                            record.as_ref().is_ok_and(|record| record.operation == mark)
                        };
                        records.iter().map(is_mark).collect()
                    })
                    .unwrap();
                assert_eq!(gone, 1);
            }
        });
    });
    let found: BTreeSet<_> = ids(&index.read().unwrap()).into_iter().collect();
    let written = (0..WRITERS).flat_map(|writer| (0..EACH).map(move |n| format!("{writer}-{n}")));
    assert_eq!(found, written.chain(["old".to_owned(), "-old".to_owned()]).collect());
}

proptest! {
    #[test]
    fn reading_arbitrary_bytes_never_fails_and_an_append_always_shows(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::of_store(dir.path());
        fs::write(index.path(), &bytes).unwrap();
        prop_assert!(index.read().unwrap().lines.is_empty());
        index.append([add("a")]).unwrap();
        let contents = index.read().unwrap();
        prop_assert_eq!(ids(&contents), ["a"]);
        prop_assert_eq!(contents.torn_bytes, 0);
    }
}

const WRITER: &str = "IOMMU_RESULTS_TEST_WRITER";
const STORE: &str = "IOMMU_RESULTS_TEST_STORE";

/// Kills of a writer that is appending; `cargo xtask soak` sets more.
fn kills() -> usize {
    std::env::var("STORE_KILLS").map_or(1000, |kills| kills.parse().unwrap())
}

/// Two processes append to one index; one of them is killed with SIGKILL in mid-append and started again, 1,000 times.
/// Whatever either was told is stored must be there, once, and the file must hold nothing that is damaged.
#[test]
fn two_writers_and_a_kill_in_mid_append_a_thousand_times() {
    if let Some(name) = std::env::var_os(WRITER) {
        append_for_ever(&name.into_string().unwrap(), Path::new(&std::env::var_os(STORE).unwrap()));
    }
    const KILLS_A_STORE: usize = 50;
    let (mut torn, mut acknowledged) = (0_usize, 0_usize);
    let mut left = kills();
    while left > 0 {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::of_store(dir.path());
        let steady = Writer::start("steady", dir.path());
        let mut told = BTreeSet::new();
        for round in 0..left.min(KILLS_A_STORE) {
            let victim = Writer::start(&format!("victim{round}"), dir.path());
            told.extend(victim.killed_in_mid_append(round));
            torn += usize::from(index.read().unwrap().torn_bytes > 0);
        }
        left -= left.min(KILLS_A_STORE);
        told.extend(steady.killed());
        index.append([add("last")]).unwrap();
        let contents = index.read().unwrap();
        let found = ids(&contents);
        let distinct: BTreeSet<_> = found.iter().cloned().collect();
        assert!(contents.damaged.is_empty(), "{:?}", contents.damaged);
        assert_eq!((distinct.len(), contents.torn_bytes), (found.len(), 0));
        let lost: Vec<_> = told.difference(&distinct).collect();
        assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
        acknowledged += told.len();
    }
    println!("{} kills, {acknowledged} records acknowledged, none lost; {torn} torn tails seen", kills());
    assert!(torn * 10 > kills(), "only {torn} of {} kills came in mid-append", kills());
}

/// A process that appends until it is killed.
struct Writer(Child);

impl Writer {
    fn start(name: &str, store: &Path) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "index::tests::two_writers_and_a_kill_in_mid_append_a_thousand_times"])
            .args(["--nocapture", "--quiet"])
            .env(WRITER, name)
            .env(STORE, store)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }

    /// Waits until the writer says that it is half-way through a record, and kills it a moment later.
    fn killed_in_mid_append(mut self, round: usize) -> Vec<String> {
        let mut lines = BufReader::new(self.0.stdout.take().unwrap()).lines();
        let mut told = Vec::new();
        // After some appends that are let through.
        let mut to_see = round % 3;
        for line in lines.by_ref().map(Result::unwrap) {
            if line == "half-way" {
                if to_see == 0 {
                    break;
                }
                to_see -= 1;
            }
            told.extend(line.strip_prefix("stored ").map(str::to_owned));
        }
        std::thread::sleep(Duration::from_micros((round as u64 * 97) % 700));
        kill(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGKILL).unwrap();
        // What it said before it died counts.
        told.extend(lines.filter_map(|line| line.unwrap().strip_prefix("stored ").map(str::to_owned)));
        self.0.wait().unwrap();
        told
    }

    fn killed(mut self) -> Vec<String> {
        kill(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGKILL).unwrap();
        let lines = BufReader::new(self.0.stdout.take().unwrap()).lines();
        let told =
            lines.filter_map(|line| line.unwrap().strip_prefix("stored ").map(str::to_owned)).collect();
        self.0.wait().unwrap();
        told
    }
}

/// Appends records in pieces with pauses between them, so that there is a middle to die in, and says after each that it
/// is stored.
fn append_for_ever(name: &str, store: &Path) -> ! {
    let index = Index::of_store(store);
    let steady = name == "steady";
    let mut stdout = std::io::stdout();
    for n in 0_u64.. {
        let id = format!("{name}-{n}");
        let pieces = |file: &mut File, bytes: &[u8]| {
            for piece in bytes.chunks(bytes.len().div_ceil(8)) {
                file.write_all(piece)?;
                if !steady {
                    // One write of one line: a pipe passes it on whole, whatever happens next.
                    let _ = std::io::stdout().write_all(b"half-way\n");
                    let _ = std::io::stdout().flush();
                }
                std::thread::sleep(Duration::from_micros(60));
            }
            Ok(())
        };
        index.append_by([add(&id)], &mut { pieces }).unwrap();
        if stdout.write_all(format!("stored {id}\n").as_bytes()).and_then(|()| stdout.flush()).is_err() {
            std::process::exit(0);
        }
        if steady {
            // The other one is to get the lock, too.
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    std::process::exit(0)
}
