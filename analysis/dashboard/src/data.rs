//! The site's data, as the scripts read it. `docs/dashboard.md` describes it.

use std::collections::BTreeMap;

use iommu_results::Param;
use iommu_results::metric::Direction;
use serde::Serialize;

use crate::history::{History, Kind, RunMeta};
use crate::quality::Group;
use crate::revisions::Revisions;
use crate::trend::{self, Change, Verdict};

/// Schema of everything below `data/` and of `runs/*/run.js`.
pub(crate) const SITE_SCHEMA: &str = "iommu-bench/site/1";

/// Values of a sparkline.
const SPARK: usize = 40;
/// Commits listed for a change.
const SUSPECTS: usize = 20;

/// `data/overview.js`.
#[derive(Serialize)]
pub(crate) struct Overview<'d> {
    pub(crate) schema: &'static str,
    pub(crate) generated_at: String,
    pub(crate) tool: &'d str,
    pub(crate) runs: usize,
    pub(crate) skipped: usize,
    pub(crate) faults: usize,
    pub(crate) significance: f64,
    pub(crate) recent: usize,
    pub(crate) revision_url: Option<&'d str>,
    pub(crate) series: Vec<Summary>,
}

/// One row of the overview.
#[derive(Clone, Serialize)]
pub(crate) struct Summary {
    pub(crate) id: String,
    pub(crate) scenario: String,
    pub(crate) machine: String,
    pub(crate) host: String,
    pub(crate) endpoint: String,
    pub(crate) mode: String,
    pub(crate) test: String,
    pub(crate) case: String,
    pub(crate) variant: usize,
    pub(crate) figure: String,
    pub(crate) kind: &'static str,
    pub(crate) unit: String,
    pub(crate) better: Option<&'static str>,
    pub(crate) label: &'static str,
    pub(crate) n: usize,
    pub(crate) last: f64,
    pub(crate) last_ci: Option<[f64; 2]>,
    pub(crate) verdict: &'static str,
    pub(crate) changes: usize,
    pub(crate) change: Option<f64>,
    pub(crate) spark: Vec<f64>,
}

/// `data/series/<id>.js`: the columns of a chart.
#[derive(Serialize)]
pub(crate) struct SeriesFile<'d> {
    #[serde(flatten)]
    pub(crate) summary: &'d Summary,
    pub(crate) params: &'d BTreeMap<String, Param>,
    /// Numbers of the runs in `data/runs.js`.
    pub(crate) run: Vec<u32>,
    /// Start of the run, ms since 1970.
    pub(crate) t: Vec<i64>,
    pub(crate) v: Vec<f64>,
    pub(crate) lo: Vec<Option<f64>>,
    pub(crate) hi: Vec<Option<f64>>,
    /// Index into `revs`.
    pub(crate) rev: Vec<usize>,
    pub(crate) revs: Vec<RevisionJson>,
    pub(crate) points_of_change: Vec<ChangeJson>,
}

/// A revision for a reader.
#[derive(Serialize)]
pub(crate) struct RevisionJson {
    pub(crate) id: String,
    pub(crate) subject: Option<String>,
    pub(crate) committed_at: Option<String>,
}

/// A change, with the commits that may have caused it.
#[derive(Serialize)]
pub(crate) struct ChangeJson {
    pub(crate) index: usize,
    pub(crate) before: f64,
    pub(crate) after: f64,
    pub(crate) ratio: Option<f64>,
    pub(crate) p: f64,
    pub(crate) direction: &'static str,
    /// Revision of the last run before it.
    pub(crate) from: String,
    /// Revision of the first run after it.
    pub(crate) to: String,
    pub(crate) commits: Vec<(String, String)>,
}

/// `data/runs.js`, a column a field.
#[derive(Default, Serialize)]
pub(crate) struct Runs {
    pub(crate) id: Vec<String>,
    pub(crate) t: Vec<i64>,
    pub(crate) scenario: Vec<String>,
    pub(crate) machine: Vec<String>,
    pub(crate) host: Vec<String>,
    pub(crate) rev: Vec<String>,
    pub(crate) partial: Vec<bool>,
}

/// `data/quality.js`.
#[derive(Serialize)]
pub(crate) struct QualityFile<'d> {
    pub(crate) groups: &'d BTreeMap<&'static str, Group>,
    /// The repository that revisions were looked up in.
    pub(crate) revisions_checked: bool,
}

impl Runs {
    pub(crate) fn of(runs: &[RunMeta]) -> Self {
        let mut columns = Self::default();
        for run in runs {
            columns.id.push(run.id.clone());
            columns.t.push(run.started_at.as_millisecond());
            columns.scenario.push(run.scenario.clone());
            columns.machine.push(run.machine.to_string());
            columns.host.push(run.host.clone());
            columns.rev.push(run.revision.clone());
            columns.partial.push(run.partial);
        }
        columns
    }
}

/// The row of a history in the overview.
pub(crate) fn summary(history: &History<'_>, changes: &[Change]) -> Summary {
    let History { key, number, variant, figure, points } = history;
    let direction = figure.direction();
    let verdict = trend::verdict(changes, points.len(), direction);
    let decisive = changes.last().filter(|_| matches!(verdict, Verdict::Better | Verdict::Worse));
    let last = points.last();
    Summary {
        id: history.id(),
        scenario: key.scenario.clone(),
        machine: key.machine.to_string(),
        host: key.host.clone(),
        endpoint: variant.endpoint.to_string(),
        mode: variant.mode.to_string(),
        test: variant.test.clone(),
        case: key.case.clone(),
        variant: *number,
        figure: figure.name.clone(),
        kind: kind(figure.kind),
        unit: figure.unit.clone(),
        better: match direction {
            Some(Direction::Higher) => Some("higher"),
            Some(Direction::Lower) => Some("lower"),
            Some(Direction::Neither) | None => None,
        },
        label: match figure.row {
            Some(_) if figure.is_modelled() => "modelled",
            Some(_) => "",
            None => "not in the metric table: no direction, no verdict",
        },
        n: points.len(),
        last: last.map_or(0.0, |point| short(point.value)),
        last_ci: last.and_then(|point| point.ci).map(|ci| ci.map(short)),
        verdict: verdict.as_str(),
        changes: changes.len(),
        change: decisive.and_then(ratio),
        spark: points
            .iter()
            .skip(points.len().saturating_sub(SPARK))
            .map(|point| short(point.value))
            .collect(),
    }
}

/// The columns of a history's chart.
pub(crate) fn series<'d>(
    history: &History<'d>,
    summary: &'d Summary,
    changes: &[Change],
    runs: &[RunMeta],
    revisions: Option<&Revisions>,
) -> SeriesFile<'d> {
    let points = history.points;
    let mut numbers: BTreeMap<&str, usize> = BTreeMap::new();
    let mut revs = Vec::new();
    let rev = points
        .iter()
        .map(|point| {
            let id = runs[point.run as usize].revision.as_str();
            *numbers.entry(id).or_insert_with(|| {
                revs.push(revision(id, revisions));
                revs.len() - 1
            })
        })
        .collect();
    let of_run = |index: usize| runs[points[index].run as usize].revision.clone();
    let change = |change: &Change| {
        let (from, to) = (of_run(change.index - 1), of_run(change.index));
        let commits = revisions.map(|known| known.between(&from, &to, SUSPECTS)).unwrap_or_default();
        let verdict = trend::verdict(
            std::slice::from_ref(change),
            change.index + trend::MIN_SEGMENT,
            history.figure.direction(),
        );
        ChangeJson {
            index: change.index,
            before: short(change.before),
            after: short(change.after),
            ratio: ratio(change),
            p: change.p_value,
            direction: verdict.as_str(),
            from,
            to,
            commits,
        }
    };
    SeriesFile {
        summary,
        params: &history.variant.params,
        run: points.iter().map(|point| point.run).collect(),
        t: points.iter().map(|point| runs[point.run as usize].started_at.as_millisecond()).collect(),
        v: points.iter().map(|point| short(point.value)).collect(),
        lo: points.iter().map(|point| point.ci.map(|ci| short(ci[0]))).collect(),
        hi: points.iter().map(|point| point.ci.map(|ci| short(ci[1]))).collect(),
        rev,
        revs,
        points_of_change: changes.iter().map(change).collect(),
    }
}

fn revision(id: &str, revisions: Option<&Revisions>) -> RevisionJson {
    let commit = revisions.and_then(|known| known.find(id));
    RevisionJson {
        id: id.to_owned(),
        subject: commit.map(|commit| commit.subject.clone()),
        committed_at: commit.map(|commit| commit.committed_at.to_string()),
    }
}

fn ratio(change: &Change) -> Option<f64> {
    (change.before > 0.0 && change.after > 0.0).then(|| short(change.after / change.before))
}

fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Metric => "metric",
        Kind::Latency => "latency",
        Kind::Count => "count",
    }
}

/// Six significant digits: a chart shows no more, and the file stays small.
fn short(value: f64) -> f64 {
    format!("{value:.5e}").parse().unwrap_or(value)
}
