//! Statement, anchor, test, result.

use std::{collections::BTreeMap, fmt::Write as _, fs, io, path::Path};

use serde::Deserialize;
use thiserror::Error;

mod runs;

use runs::{BESIDE_THE_TRANSPORT, Results, TRANSPORTS};

/// Keywords (MUST, SHOULD, MAY) of the specification's device normative sections.
const DEVICE_KEYWORDS: usize = 66;

/// What is wrong with the conformance suite.
#[derive(Debug, Error)]
pub(crate) enum ConformanceError {
    #[error("{path}: {source}")]
    File { path: String, source: io::Error },
    #[error("statements.toml: {0}")]
    Statements(#[from] toml::de::Error),
    #[error("the list has {found} device keywords, the specification {DEVICE_KEYWORDS}")]
    KeywordCount { found: usize },
    #[error("{} problem(s):\n  {}", .0.len(), .0.join("\n  "))]
    Problems(Vec<String>),
    #[error("docs/conformance.md is not up to date; run `cargo xtask conformance`")]
    Stale,
}

#[derive(Deserialize)]
struct Statements {
    statement: Vec<Statement>,
}

#[derive(Deserialize)]
struct Statement {
    id: String,
    side: String,
    keyword: String,
    anchor: String,
    text: String,
}

struct Test {
    module: String,
    name: String,
    clause: Option<(String, String)>,
}

impl Test {
    fn path(&self) -> String {
        format!("{}::{}", self.module, self.name)
    }
}

pub(crate) fn run(root: &Path, check: bool) -> Result<(), ConformanceError> {
    let statements: Statements = toml::from_str(&read(&root.join("docs/conformance/statements.toml"))?)?;
    let found = statements.statement.iter().filter(|statement| statement.side == "device").count();
    if found != DEVICE_KEYWORDS {
        return Err(ConformanceError::KeywordCount { found });
    }
    let tests = tests(&root.join("device/iommu/tests/conformance"))?;
    let by_clause = pair(&statements.statement, &tests)?;
    let names: Vec<String> = tests.iter().map(Test::path).collect();
    known_by_name(&names)?;
    let results = runs::run(root, &names)?;
    let page = page(&statements.statement, &by_clause, &results);
    let path = root.join("docs/conformance.md");
    if check {
        if fs::read_to_string(&path).ok().as_deref() != Some(&page) {
            return Err(ConformanceError::Stale);
        }
    } else {
        fs::write(&path, &page).map_err(|source| file_error(&path, source))?;
    }
    let failed = failed(&results);
    if !failed.is_empty() {
        return Err(ConformanceError::Problems(failed));
    }
    let transports = TRANSPORTS.map(|transport| transport.name).join(", ");
    println!(
        "{found} device statements, {} tests, all pass ({transports}), with one request queue and with three",
        tests.len()
    );
    Ok(())
}

/// Whether the table of what is beside the transport names tests that exist.
fn known_by_name(tests: &[String]) -> Result<(), ConformanceError> {
    let unknown = BESIDE_THE_TRANSPORT.iter().filter(|(name, _)| !tests.iter().any(|test| test == name));
    let problems: Vec<_> = unknown.map(|(name, _)| format!("no test {name}")).collect();
    if problems.is_empty() { Ok(()) } else { Err(ConformanceError::Problems(problems)) }
}

fn failed(results: &Results) -> Vec<String> {
    let of = |(name, each): (&String, &[String; TRANSPORTS.len()])| {
        let bad = TRANSPORTS.iter().zip(each).filter(|(_, result)| !["ok", "—"].contains(&result.as_str()));
        bad.map(|(transport, result)| format!("test {name}, {}: {result}", transport.name))
            .collect::<Vec<_>>()
    };
    results.iter().flat_map(of).collect()
}

fn file_error(path: &Path, source: io::Error) -> ConformanceError {
    ConformanceError::File { path: path.display().to_string(), source }
}

fn read(path: &Path) -> Result<String, ConformanceError> {
    fs::read_to_string(path).map_err(|source| file_error(path, source))
}

/// The tests of all modules, with the clause their documentation names.
fn tests(folder: &Path) -> Result<Vec<Test>, ConformanceError> {
    let entries = fs::read_dir(folder).map_err(|source| file_error(folder, source))?;
    let mut paths: Vec<_> = entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
    paths.sort();
    let mut tests = Vec::new();
    for path in paths.iter().filter(|path| path.extension().is_some_and(|extension| extension == "rs")) {
        let module = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        tests.extend(tests_of(&module, &read(path)?));
    }
    Ok(tests)
}

fn tests_of(module: &str, source: &str) -> Vec<Test> {
    let (mut clause, mut is_test) = (None, false);
    let mut tests = Vec::new();
    for line in source.lines().map(str::trim) {
        if let Some(rest) = line.strip_prefix("/// clause: ") {
            let (id, text) = rest.split_once(' ').unwrap_or((rest, ""));
            clause = Some((id.to_owned(), text.trim_matches('"').to_owned()));
        } else if line == "#[test]" {
            is_test = true;
        } else if let Some(rest) = line.strip_prefix("fn ") {
            let name = rest.split('(').next().unwrap_or_default().to_owned();
            if is_test {
                tests.push(Test { module: module.to_owned(), name, clause: clause.take() });
            }
            (clause, is_test) = (None, false);
        }
    }
    tests
}

/// Clause to test, or all that does not match.
fn pair<'a>(
    statements: &[Statement],
    tests: &'a [Test],
) -> Result<BTreeMap<String, &'a Test>, ConformanceError> {
    let mut problems = Vec::new();
    let mut by_clause: BTreeMap<String, &Test> = BTreeMap::new();
    let known: BTreeMap<&str, &Statement> = statements.iter().map(|s| (s.id.as_str(), s)).collect();
    for test in tests {
        let name = test.path();
        let Some((id, text)) = &test.clause else {
            problems.push(format!("test {name} names no statement"));
            continue;
        };
        match known.get(id.as_str()) {
            None => problems.push(format!("test {name} names the unknown statement {id}")),
            Some(statement) if statement.text != *text => {
                problems.push(format!("test {name} does not quote statement {id} as it is"));
            }
            Some(_) if !test.name.starts_with(&format!("{id}_")) => {
                problems.push(format!("test {name} is not named after {id}"));
            }
            Some(_) => {
                if let Some(other) = by_clause.insert(id.clone(), test) {
                    problems.push(format!("statement {id} has two tests, {} and {}", other.name, test.name));
                }
            }
        }
    }
    let untested = statements.iter().filter(|s| s.side == "device" && !by_clause.contains_key(&s.id));
    problems.extend(untested.map(|statement| format!("statement {} has no test", statement.id)));
    if problems.is_empty() { Ok(by_clause) } else { Err(ConformanceError::Problems(problems)) }
}

fn page(statements: &[Statement], by_clause: &BTreeMap<String, &Test>, results: &Results) -> String {
    let mut page = String::from(
        "# Conformance\n\nGenerated by `cargo xtask conformance` from `docs/conformance/statements.toml` and the tests in\n\
         `device/iommu/tests/conformance/`. Do not edit.\n\nOne row a keyword of the specification; a sentence with two has \
         two rows. Anchors are the labels of the\nspecification's source. Each test runs on the device itself (direct), on a \
         virtio-pci function and on one\nbehind a vfio-user socket (`device/vfio-user/tests/conformance/`), and on each of these twice: \
         on the standard device, and\non one with three request queues (`docs/multi-queue.md`) of which the driver uses the first.\n",
    );
    let columns = TRANSPORTS.map(|transport| transport.name).join(" | ");
    let device = statements.iter().filter(|s| s.side == "device");
    let driver: Vec<_> = statements.iter().filter(|s| s.side == "driver").collect();
    let mut section = "";
    for statement in device {
        if statement.anchor != section {
            section = &statement.anchor;
            let _ = write!(
                page,
                "\n## `{section}`\n\n| | keyword | statement | test | {columns} |\n|---|---|---|---|---|---|---|\n"
            );
        }
        let Some(test) = by_clause.get(&statement.id) else { continue };
        let name = test.path();
        let result = results.get(&name).map_or("not run".to_owned(), |each| each.join(" | "));
        let _ = writeln!(
            page,
            "| {} | {} | {} | `{name}` | {result} |",
            statement.id, statement.keyword, statement.text
        );
    }
    page.push_str("\n## Beside the transport\n\nWhat no transport has a part in, by test.\n\n| test | why |\n|---|---|\n");
    for (name, why) in BESIDE_THE_TRANSPORT {
        let _ = writeln!(page, "| `{name}` | {why} |");
    }
    let _ = write!(
        page,
        "\n## Statements that bind the driver\n\n{} keywords a device cannot fail, listed so that none is overlooked.\n\n| | \
         keyword | statement |\n|---|---|---|\n",
        driver.len()
    );
    for statement in driver {
        let _ = writeln!(page, "| {} | {} | {} |", statement.id, statement.keyword, statement.text);
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statement(id: &str) -> Statement {
        let text = "The device MUST x.".to_owned();
        Statement { id: id.into(), side: "device".into(), keyword: "MUST".into(), anchor: "a".into(), text }
    }

    #[test]
    fn a_statement_without_a_test_and_a_test_without_a_statement_are_problems() {
        let source =
            "/// clause: map_1 \"The device MUST x.\"\n#[test]\nfn map_1_x() {}\n#[test]\nfn stray() {}\n";
        let tests = tests_of("map", source);
        let problems = match pair(&[statement("map_1"), statement("map_2")], &tests) {
            Err(ConformanceError::Problems(problems)) => problems,
            _ => Vec::new(),
        };
        assert_eq!(problems, ["test map::stray names no statement", "statement map_2 has no test"]);
    }

    #[test]
    fn a_misquoted_statement_is_a_problem() {
        let tests = tests_of("map", "/// clause: map_1 \"The device MAY x.\"\n#[test]\nfn map_1_x() {}\n");
        let Err(ConformanceError::Problems(problems)) = pair(&[statement("map_1")], &tests) else {
            panic!("accepted")
        };
        let misquoted = "test map::map_1_x does not quote statement map_1 as it is";
        assert_eq!(problems, [misquoted, "statement map_1 has no test"]);
        // Quoted to the letter, the same test is one.
        let quoted = tests_of("map", &quote(&statement("map_1").text));
        assert_eq!(pair(&[statement("map_1")], &quoted).unwrap()["map_1"].name, "map_1_x");
    }

    fn quote(text: &str) -> String {
        format!("/// clause: map_1 \"{text}\"\n#[test]\nfn map_1_x() {{}}\n")
    }
}
