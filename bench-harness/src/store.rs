//! `store`: look after a store of runs.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use clap::{Args, Subcommand, ValueHint};
use iommu_results::{
    Finding, Store, Timestamp,
    export::ExportLine,
    store::{GcOptions, Import, Imported},
    survey,
};
use jiff::{SignedDuration, SpanRelativeTo};
use serde::Serialize;
use serde_json::json;

use crate::{exit::Exit, failure::Failure, helper::Helper, out, progress::Progress};

const EXAMPLES: &str = "\
Examples:
  iommu-bench store verify                          is everything as it was stored?
  iommu-bench store gc --dry-run                    what crashes left behind
  iommu-bench store gc --runs-older-than 90d
  iommu-bench store import                          index a store of an older version
  iommu-bench store import ~/colleague/results/runs
  iommu-bench store export --out tables             then: duckdb -c \"select *
                                                    from 'tables/metrics.parquet'\"

Exit codes: 0 ok, 2 usage, 4 something is not sound, was refused, or failed.";

/// Arguments of `store`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct StoreArgs {
    #[command(subcommand)]
    command: StoreCommand,
}

#[derive(Debug, Subcommand)]
enum StoreCommand {
    /// Check every run, histogram and index entry against what was stored
    Verify(VerifyArgs),
    /// Remove what crashes left behind, and runs that are too old
    Gc(GcArgs),
    /// Copy runs of other stores into this one; without a source, index the runs that are here
    Import(ImportArgs),
    /// Write Parquet tables of every sound run, for DuckDB, DataFusion, ClickHouse or Spark
    Export(ExportArgs),
}

/// Where the store is and how to print.
#[derive(Debug, Args)]
struct Common {
    /// The store
    #[arg(long, value_name = "DIR", default_value = "results/runs", value_hint = ValueHint::DirPath)]
    store: PathBuf,
    /// As JSON on standard output
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct VerifyArgs {
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
struct GcArgs {
    #[command(flatten)]
    common: Common,
    /// Unfinished runs that nothing was written to for this long; longer than any run takes
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = age)]
    unfinished_older_than: SignedDuration,
    /// Runs that started longer ago than this, such as 90d or 12h
    #[arg(long, value_name = "TIME", value_parser = age)]
    runs_older_than: Option<SignedDuration>,
    /// Forget the runs whose folders are gone
    #[arg(long)]
    missing: bool,
    /// Drop lines of the index that cannot be read
    #[arg(long)]
    damaged: bool,
    /// Only say what would be removed
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Args)]
struct ImportArgs {
    #[command(flatten)]
    common: Common,
    /// Stores, or folders of single runs
    #[arg(value_name = "SOURCE", value_hint = ValueHint::DirPath)]
    sources: Vec<PathBuf>,
}

#[derive(Debug, Args)]
struct ExportArgs {
    #[command(flatten)]
    common: Common,
    /// Folder that gets runs, metrics, histograms, counts and relative.parquet; earlier ones are replaced
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    out: PathBuf,
}

/// Looks after a store.
///
/// # Errors
/// When the store cannot be read or written.
pub(crate) fn store(args: &StoreArgs) -> Result<Exit, Failure> {
    match &args.command {
        StoreCommand::Verify(args) => verify(args),
        StoreCommand::Gc(args) => gc(args),
        StoreCommand::Import(args) => import(args),
        StoreCommand::Export(args) => export(args),
    }
}

/// The store, which must exist.
pub(crate) fn existing(path: &Path) -> Result<Store, Failure> {
    Store::existing(path).map_err(|error| {
        Failure::usage(error)
            .with_remedy("name the folder of a store with --store DIR; `iommu-bench run` makes one")
    })
}

/// A finding for scripts and people.
#[derive(Serialize)]
pub(crate) struct FindingJson {
    name: &'static str,
    subject: String,
    path: String,
    skipped: bool,
    note: bool,
    message: String,
}

impl From<&Finding> for FindingJson {
    fn from(finding: &Finding) -> Self {
        Self {
            name: finding.fault.name(),
            subject: finding.subject.clone(),
            path: finding.path.display().to_string(),
            skipped: finding.fault.skips_run(),
            note: finding.fault.is_note(),
            message: finding.fault.to_string(),
        }
    }
}

fn verify(args: &VerifyArgs) -> Result<Exit, Failure> {
    let store = existing(&args.common.store)?;
    let progress = Progress::of_items("runs");
    let mut artefacts = Vec::new();
    let survey = store.survey(|run, position| {
        progress.item("runs", position.done, position.total);
        artefacts.extend(survey::artefacts(&run));
    });
    progress.finish();
    let mut survey = survey.map_err(Failure::failed)?;
    survey.findings.extend(artefacts);
    if args.common.json {
        let findings: Vec<FindingJson> = survey.findings.iter().map(FindingJson::from).collect();
        out::print_json(&json!({
            "schema": "iommu-bench/verify/1",
            "store": args.common.store.display().to_string(),
            "runs": survey.runs,
            "skipped": survey.skipped(),
            "sound": survey.is_sound(),
            "findings": findings,
        }))?;
    } else {
        out::print(&verify_text(&args.common.store, &survey))?;
    }
    Ok(if survey.is_sound() { Exit::Ok } else { Exit::Failed })
}

fn verify_text(store: &Path, survey: &iommu_results::Survey) -> String {
    let mut text = format!("{}: {} sound, {} not\n", store.display(), runs(survey.runs), survey.skipped());
    text += &findings_text(&survey.findings);
    text
}

/// Findings by name, at most a few of each, 80 columns wide.
fn findings_text(findings: &[Finding]) -> String {
    const SHOWN: usize = 5;
    let mut by_name: BTreeMap<&str, Vec<&Finding>> = BTreeMap::new();
    for finding in findings {
        by_name.entry(finding.fault.name()).or_default().push(finding);
    }
    let mut text = String::new();
    for (name, findings) in by_name {
        text += &format!("\n{name}: {}\n", findings.len());
        for finding in findings.iter().take(SHOWN) {
            text += &format!("  {}\n", finding.subject);
            for line in out::wrapped(&finding.fault.to_string(), out::WIDTH - 4) {
                text += &format!("    {line}\n");
            }
        }
        if findings.len() > SHOWN {
            text += &format!("  and {} more; --json lists all\n", findings.len() - SHOWN);
        }
    }
    text
}

fn gc(args: &GcArgs) -> Result<Exit, Failure> {
    let store = existing(&args.common.store)?;
    let runs_before = args.runs_older_than.map(|age| {
        Timestamp::now()
            .checked_sub(age)
            .map_err(|_| Failure::usage("--runs-older-than reaches back before the year -9999"))
    });
    let options = GcOptions {
        unfinished_after: args.unfinished_older_than,
        runs_before: runs_before.transpose()?,
        missing: args.missing,
        damaged: args.damaged,
        dry_run: args.dry_run,
    };
    let report = store.gc(&options).map_err(Failure::failed)?;
    if args.common.json {
        let unfinished: Vec<_> = report.unfinished.iter().map(|path| path.display().to_string()).collect();
        out::print_json(&json!({
            "schema": "iommu-bench/gc/1",
            "dry_run": args.dry_run,
            "unfinished": unfinished,
            "runs": report.runs,
            "missing": report.missing,
            "index_lines": if args.dry_run { None } else { Some(report.index_lines) },
        }))?;
        return Ok(Exit::Ok);
    }
    let did = if args.dry_run { "would remove" } else { "removed" };
    let mut text = format!(
        "{did} {} that {} too old, {} unfinished, {} whose folders are gone\n",
        runs(report.runs.len()),
        if report.runs.len() == 1 { "was" } else { "were" },
        report.unfinished.len(),
        report.missing.len(),
    );
    let paths = report.unfinished.iter().map(|path| path.display().to_string());
    for name in report.runs.iter().chain(&report.missing).cloned().chain(paths) {
        text += &format!("  {name}\n");
    }
    if !args.dry_run {
        text += &format!("lines of the index that were dropped: {}\n", report.index_lines);
    }
    out::print(&text)?;
    Ok(Exit::Ok)
}

fn import(args: &ImportArgs) -> Result<Exit, Failure> {
    let mut imports = Import::default();
    if args.sources.is_empty() {
        imports = existing(&args.common.store)?.import_own().map_err(Failure::failed)?;
    } else {
        let store = Store::open(&args.common.store).map_err(Failure::failed)?;
        for source in &args.sources {
            let import = store.import(source).map_err(|error| {
                Failure::usage(error).with_remedy("a source is a store, or the folder of one run")
            })?;
            imports.runs.extend(import.runs);
        }
    }
    let count = |wanted: fn(&Imported) -> bool| imports.runs.iter().filter(|(_, what)| wanted(what)).count();
    let copied = count(|what| matches!(what, Imported::Copied));
    let indexed = count(|what| matches!(what, Imported::Indexed));
    let present = count(|what| matches!(what, Imported::Present));
    let refused: Vec<(String, String)> = imports
        .runs
        .iter()
        .filter_map(|(path, what)| match what {
            Imported::Refused(why) => Some((path.display().to_string(), why.to_string())),
            _ => None,
        })
        .collect();
    if args.common.json {
        let refused: Vec<_> =
            refused.iter().map(|(path, why)| json!({"path": path, "reason": why})).collect();
        out::print_json(&json!({
            "schema": "iommu-bench/import/1",
            "copied": copied, "indexed": indexed, "present": present, "refused": refused,
        }))?;
    } else {
        let mut text = format!(
            "{copied} copied, {indexed} indexed, {present} here already, {} refused\n",
            refused.len()
        );
        for (path, why) in &refused {
            text += &format!("  {path}\n");
            out::wrapped(why, out::WIDTH - 4).iter().for_each(|line| text += &format!("    {line}\n"));
        }
        out::print(&text)?;
    }
    Ok(if refused.is_empty() { Exit::Ok } else { Exit::Failed })
}

fn export(args: &ExportArgs) -> Result<Exit, Failure> {
    let store = existing(&args.common.store)?;
    let Tables { schema, runs: exported, skipped, files } = written(store.root(), &args.out)?;
    if args.common.json {
        let files: Vec<_> = files
            .iter()
            .map(|(path, rows)| json!({"path": path.display().to_string(), "rows": rows}))
            .collect();
        out::print_json(&json!({
            "schema": "iommu-bench/export/1",
            "tables": schema,
            "runs": exported,
            "skipped": skipped,
            "files": files,
        }))?;
    } else {
        let mut text = format!("{} exported, {skipped} left out", runs(exported));
        text += if skipped == 0 { "\n" } else { ": see `iommu-bench store verify`\n" };
        for (path, rows) in &files {
            text += &format!("{rows:>10} rows  {}\n", path.display());
        }
        out::print(&text)?;
    }
    Ok(Exit::Ok)
}

/// Tables that the helper wrote.
struct Tables {
    schema: String,
    runs: usize,
    skipped: usize,
    files: Vec<(PathBuf, u64)>,
}

/// Starts the helper and reads its lines.
fn written(store: &Path, out: &Path) -> Result<Tables, Failure> {
    let helper = Helper::Export;
    let mut command = helper.command()?;
    let child = command.arg(store).arg(out).stdout(Stdio::piped()).spawn();
    let mut child = child.map_err(|error| helper.broken(&error))?;
    let progress = Progress::of_items("runs");
    let mut last = None;
    for line in child.stdout.take().into_iter().flat_map(|stdout| BufReader::new(stdout).lines()) {
        let Ok(line) = line else { break };
        match serde_json::from_str(&line) {
            Ok(ExportLine::Progress { done, total }) => progress.item("runs", done, total),
            Ok(end) => last = Some(end),
            Err(error) => last = Some(ExportLine::Failed { message: format!("`{line}`: {error}") }),
        }
    }
    progress.finish();
    let status = child.wait().map_err(|error| helper.broken(&error))?;
    match last {
        Some(ExportLine::Exported { tables, runs, skipped, files }) => {
            helper.judge(status)?;
            Ok(Tables { schema: tables, runs, skipped, files })
        }
        Some(ExportLine::Failed { message }) => Err(Failure::failed(message)),
        Some(ExportLine::Progress { .. }) | None => {
            helper.judge(status)?;
            Err(Failure::failed("the export's helper ended without a result"))
        }
    }
}

fn runs(count: usize) -> String {
    if count == 1 { "1 run".to_owned() } else { format!("{count} runs") }
}

/// An age such as `90d`, `2w` or `12h`; days have 24 hours.
fn age(text: &str) -> Result<SignedDuration, String> {
    let wrong = |why: &dyn std::fmt::Display| format!("`{text}` is no age such as 90d, 2w or 12h: {why}");
    let span: jiff::Span = text.parse().map_err(|error| wrong(&error))?;
    let age = span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(|error| wrong(&error))?;
    if age.is_negative() { Err(wrong(&"it is negative")) } else { Ok(age) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages() {
        assert_eq!(age("12h"), Ok(SignedDuration::from_hours(12)));
        assert_eq!(age("90d"), Ok(SignedDuration::from_hours(90 * 24)));
        assert_eq!(age("2w"), Ok(SignedDuration::from_hours(14 * 24)));
        for text in ["", "90", "d", "-3d", "3 parsecs", "99999999999999999999d"] {
            assert!(age(text).is_err(), "{text:?}");
        }
    }
}
