//! Hand-planted faults of ordering, grace and permission, which cargo-mutants cannot make: each edit is made in a scratch
//! copy of the committed tree, and the named tests have to fail with it.

use std::{
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use serde::Deserialize;

/// Where a whole run is recorded.
const PAGE: &str = "docs/mutants.md";
const KILLED: &str = "killed";
/// A test that hangs has noticed, too. In seconds, for one build or one test.
const LIMIT_SECONDS: &str = "600";

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Check only that every fault's place and test exist
    #[arg(long)]
    check: bool,
    /// Plant only the faults whose name contains this
    #[arg(long)]
    only: Option<String>,
}

#[derive(Deserialize)]
struct List {
    fault: Vec<Fault>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fault {
    name: String,
    file: String,
    before: String,
    after: String,
    package: String,
    /// `lib`, or the name of an integration test.
    target: String,
    filter: String,
    loom: bool,
}

pub(crate) fn run(root: &Path, options: &Options) -> io::Result<()> {
    let faults = read(root)?;
    let rotten: Vec<String> = faults.iter().filter_map(|fault| fault.problem(root)).collect();
    if !rotten.is_empty() {
        return Err(io::Error::other(rotten.join("\n")));
    }
    if options.check {
        println!("{} faults: each place occurs once, each test exists", faults.len());
        return Ok(());
    }
    let scratch = scratch(root)?;
    let mut outcomes = Vec::new();
    let chosen = faults
        .iter()
        .filter(|fault| options.only.as_ref().is_none_or(|name| fault.name.contains(name.as_str())));
    for fault in chosen {
        let start = Instant::now();
        let outcome = fault.plant(&scratch)?;
        println!("{outcome}: {} ({}, {} s)", fault.name, fault.filter, start.elapsed().as_secs());
        outcomes.push((fault, outcome));
    }
    discard(root, &scratch)?;
    if options.only.is_none() {
        fs::write(root.join(PAGE), page(root, &outcomes))?;
    }
    let failures = outcomes.iter().filter(|(_, outcome)| *outcome != KILLED).count();
    if failures > 0 {
        return Err(io::Error::other(format!("{failures} faults survived or could not be built")));
    }
    Ok(())
}

fn read(root: &Path) -> io::Result<Vec<Fault>> {
    let mut faults = Vec::new();
    let mut paths = fs::read_dir(root.join("dev/xtask/mutants"))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<Vec<PathBuf>>>()?;
    paths.sort();
    for path in paths {
        let list: List = toml::from_str(&fs::read_to_string(&path)?)
            .map_err(|error| io::Error::other(format!("{}: {error}", path.display())))?;
        faults.extend(list.fault);
    }
    Ok(faults)
}

/// A work tree of the committed revision under `target/`.
fn scratch(root: &Path) -> io::Result<PathBuf> {
    let path = root.join("target/mutants/tree");
    let git = |arguments: &[&str]| Command::new("git").current_dir(root).args(arguments).arg(&path).status();
    if path.exists() {
        discard(root, &path)?;
    }
    if !git(&["worktree", "add", "--force", "--detach"])?.success() {
        return Err(io::Error::other("git could not make the scratch work tree"));
    }
    Ok(path)
}

fn discard(root: &Path, tree: &Path) -> io::Result<()> {
    Command::new("git")
        .current_dir(root)
        .args(["worktree", "remove", "--force"])
        .arg(tree)
        .status()
        .map(|_| ())
}

/// The committed record of a whole run.
fn page(root: &Path, outcomes: &[(&Fault, &str)]) -> String {
    let revision = Command::new("git").current_dir(root).args(["rev-parse", "--short", "HEAD"]).output();
    let revision = revision.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    let killed = outcomes.iter().filter(|(_, outcome)| *outcome == KILLED).count();
    let mut page = format!(
        "# Planted faults\n\nFaults of ordering, grace and permission that `cargo xtask mutants` planted one by one \
         (`dev/xtask/mutants/`), and the test\nthat was run against each. Revision {}: {killed} of {} killed.\n\n\
         | file | fault | test | outcome |\n|---|---|---|---|\n",
        revision.unwrap_or_default(),
        outcomes.len()
    );
    for (fault, outcome) in outcomes {
        let kind = if fault.loom { "loom: " } else { "" };
        let _ =
            writeln!(page, "| `{}` | {} | {kind}`{}` | {outcome} |", fault.file, fault.name, fault.filter);
    }
    page
}

impl Fault {
    fn problem(&self, root: &Path) -> Option<String> {
        let found =
            fs::read_to_string(root.join(&self.file)).map_or(0, |text| text.matches(&self.before).count());
        if found != 1 {
            return Some(format!("{}: the text to replace occurs {found} times in {}", self.name, self.file));
        }
        let name = self.filter.split("::").filter(|part| !part.is_empty()).last().unwrap_or_default();
        (!mentions(&root.join("device/iommu"), name))
            .then(|| format!("{}: no test or module is named {}", self.name, self.filter))
    }

    /// `killed`, `survived` or `does not compile`.
    fn plant(&self, tree: &Path) -> io::Result<&'static str> {
        let path = tree.join(&self.file);
        let text = fs::read_to_string(&path)?;
        fs::write(&path, text.replacen(&self.before, &self.after, 1))?;
        let built = self.cargo(tree, true)?;
        let passed = built && self.cargo(tree, false)?;
        fs::write(&path, text)?;
        Ok(match (built, passed) {
            (false, _) => "does not compile",
            (true, true) => "survived",
            (true, false) => KILLED,
        })
    }

    fn cargo(&self, tree: &Path, only_build: bool) -> io::Result<bool> {
        let mut command = Command::new("timeout");
        command.args([LIMIT_SECONDS, "cargo"]);
        command.current_dir(tree).args(["test", "--quiet", "--locked", "-p", &self.package]);
        command.env("RUST_BACKTRACE", "0");
        if self.loom {
            command.env("RUSTFLAGS", "--cfg loom");
        }
        let target = tree.with_file_name(if self.loom { "loom" } else { "debug" });
        command.arg("--target-dir").arg(target);
        match self.target.as_str() {
            "lib" => command.arg("--lib"),
            name => command.args(["--test", name]),
        };
        if only_build {
            command.arg("--no-run");
        }
        Ok(command.arg(&self.filter).output()?.status.success())
    }
}

/// Whether a source below `folder` names `name` as a function or module (or a prefix of one).
fn mentions(folder: &Path, name: &str) -> bool {
    let Ok(entries) = fs::read_dir(folder) else { return false };
    entries.flatten().map(|entry| entry.path()).any(|path| {
        if path.is_dir() {
            return mentions(&path, name);
        }
        let named = path.file_stem().is_some_and(|stem| stem.to_string_lossy().starts_with(name));
        let text = fs::read_to_string(&path).unwrap_or_default();
        named
            || text.lines().any(|line| (line.contains("fn ") || line.contains("mod ")) && line.contains(name))
    })
}
