//! The values of each figure over the runs.
//!
//! Two runs belong to one history when scenario, machine, host, build and case agree, and no parameter that both record
//! differs: a later version of the tool records parameters that an earlier one did not have.

use std::collections::BTreeMap;

use iommu_analysis::view;
use iommu_results::metric::{self, Direction, Of};
use iommu_results::{Case, EndpointKind, Machine, Metric, Mode, Param, Run, Timestamp};

/// What is known about a run without opening it again.
#[derive(Clone, Debug)]
pub struct RunMeta {
    /// Its id.
    pub id: String,
    /// Start of the run.
    pub started_at: Timestamp,
    /// Name of the scenario.
    pub scenario: String,
    /// Where it ran.
    pub machine: Machine,
    /// Processor, processors and build.
    pub host: String,
    /// Revision of the sources, as the run names it.
    pub revision: String,
    /// The run was interrupted or failed; it is in no history.
    pub partial: bool,
}

/// What a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A metric with its interval.
    Metric,
    /// A percentile of a latency; one run has no interval for it.
    Latency,
    /// An exact count divided by the packets.
    Count,
}

/// One figure of a case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Figure {
    /// What kind.
    pub kind: Kind,
    /// Its name for a reader, such as `throughput` or `map_latency p99`.
    pub name: String,
    /// Its unit.
    pub unit: String,
    /// Its row in the metric table; none in runs of versions that measured something else.
    pub row: Option<&'static metric::Row>,
}

impl Figure {
    /// Which way is better; nothing for a figure of a stored run that the metric table lacks, which gets no verdict.
    pub fn direction(&self) -> Option<Direction> {
        self.row.map(|row| row.direction)
    }

    /// A model's output.
    pub fn is_modelled(&self) -> bool {
        self.row.is_some_and(|row| row.kind == metric::Kind::Modelled)
    }
}

/// Unit of counts in a history.
const PER_PACKET: &str = "per packet";

/// One value of a history.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Number of the run, in the order of [`Histories::runs`].
    pub run: u32,
    /// The value.
    pub value: f64,
    /// Its interval, where it has one.
    pub ci: Option<[f64; 2]>,
}

/// A case over the runs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CaseKey {
    /// Name of the scenario.
    pub scenario: String,
    /// Where it ran.
    pub machine: Machine,
    /// Processor, processors and build.
    pub host: String,
    /// Id of the case.
    pub case: String,
}

/// Runs of one case whose parameters agree.
#[derive(Clone, Debug)]
pub struct Variant {
    /// What did the DMA.
    pub endpoint: EndpointKind,
    /// What the DMA API did.
    pub mode: Mode,
    /// Name of the test.
    pub test: String,
    /// Every parameter that one of the runs records.
    pub params: BTreeMap<String, Param>,
    /// The figures' values, oldest first once [`Histories::sort`] was called.
    pub figures: BTreeMap<Figure, Vec<Point>>,
}

/// Every history of a store.
#[derive(Clone, Debug, Default)]
pub struct Histories {
    /// The runs, in the order in which they were added.
    pub runs: Vec<RunMeta>,
    /// Cases, and their variants in the order in which they appeared.
    pub cases: BTreeMap<CaseKey, Vec<Variant>>,
}

impl Histories {
    /// Adds a run. A partial one is listed but is in no history: what an interrupted run measured is not what a whole one
    /// measures.
    pub fn add(&mut self, run: &Run) {
        let number = u32::try_from(self.runs.len()).unwrap_or(u32::MAX);
        let host = host(run);
        self.runs.push(RunMeta {
            id: run.run_id.clone(),
            started_at: run.started_at,
            scenario: run.scenario.clone(),
            machine: run.machine,
            host: host.clone(),
            revision: run.revision.clone(),
            partial: run.partial,
        });
        if run.partial {
            return;
        }
        for case in &run.cases {
            let key = CaseKey {
                scenario: run.scenario.clone(),
                machine: run.machine,
                host: host.clone(),
                case: case.id.clone(),
            };
            let variant = variant_of(self.cases.entry(key).or_default(), case);
            for (figure, value, ci) in figures(case) {
                variant.figures.entry(figure).or_default().push(Point { run: number, value, ci });
            }
        }
    }

    /// Puts every history into the order in which its runs started.
    pub fn sort(&mut self) {
        let started: Vec<Timestamp> = self.runs.iter().map(|run| run.started_at).collect();
        let variants = self.cases.values_mut().flatten();
        for points in variants.flat_map(|variant| variant.figures.values_mut()) {
            points.sort_by_key(|point| (started[point.run as usize], point.run));
        }
    }

    /// Every history with what it belongs to; the number is the variant's among those of its case.
    pub fn iter(&self) -> impl Iterator<Item = History<'_>> {
        self.cases.iter().flat_map(|(key, variants)| {
            variants.iter().enumerate().flat_map(move |(number, variant)| {
                variant.figures.iter().map(move |(figure, points)| History {
                    key,
                    number,
                    variant,
                    figure,
                    points,
                })
            })
        })
    }
}

/// The values of one figure.
#[derive(Clone, Copy, Debug)]
pub struct History<'h> {
    /// The case.
    pub key: &'h CaseKey,
    /// Number of the variant among those of its case.
    pub number: usize,
    /// The variant.
    pub variant: &'h Variant,
    /// The figure.
    pub figure: &'h Figure,
    /// Its values.
    pub points: &'h [Point],
}

impl History<'_> {
    /// Sixteen hexadecimal digits that name this history in addresses, the same whenever the site is built.
    pub fn id(&self) -> String {
        let CaseKey { scenario, machine, host, case } = self.key;
        let number = self.number.to_string();
        let parts = [scenario, machine.as_str(), host, case, &number, &self.figure.name];
        // FNV-1a, 64 bits; a byte that no name contains stands between the parts.
        let bytes = parts.iter().flat_map(|part| part.bytes().chain([0]));
        let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        format!("{hash:016x}")
    }
}

/// The first variant that no parameter of the case contradicts, or a new one.
fn variant_of<'v>(variants: &'v mut Vec<Variant>, case: &Case) -> &'v mut Variant {
    let agrees = |variant: &Variant| {
        variant.endpoint == case.endpoint
            && variant.mode == case.mode
            && variant.test == case.test
            && case
                .params
                .iter()
                .all(|(key, value)| variant.params.get(key).is_none_or(|known| known == value))
    };
    let at = variants.iter().position(agrees).unwrap_or_else(|| {
        variants.push(Variant {
            endpoint: case.endpoint,
            mode: case.mode,
            test: case.test.clone(),
            params: BTreeMap::new(),
            figures: BTreeMap::new(),
        });
        variants.len() - 1
    });
    let variant = &mut variants[at];
    for (key, value) in &case.params {
        variant.params.entry(key.clone()).or_insert_with(|| value.clone());
    }
    variant
}

/// Every figure that a case has.
fn figures(case: &Case) -> Vec<(Figure, f64, Option<[f64; 2]>)> {
    let mut found = Vec::new();
    for (name, estimate) in &case.metrics {
        if let Metric::Measured { value, unit, ci, .. } = estimate {
            let row = metric::find(name, Of::Metric).ok();
            let figure = Figure { kind: Kind::Metric, name: name.clone(), unit: unit.clone(), row };
            found.push((figure, *value, Some(*ci)));
        }
    }
    for (name, summary) in &case.histograms {
        let row = metric::find(name, Of::Histogram).ok();
        for (percentile, value) in [("p50", summary.p50), ("p99", summary.p99)] {
            let name = format!("{name} {percentile}");
            found.push((
                Figure { kind: Kind::Latency, name, unit: summary.unit.clone(), row },
                value as f64,
                None,
            ));
        }
    }
    for name in view::PER_PACKET {
        if let Some(value) = case.per_packet(name) {
            let row = metric::find(name, Of::Count).ok();
            let (name, unit) = (name.to_owned(), PER_PACKET.to_owned());
            let figure = Figure { kind: Kind::Count, name, unit, row };
            found.push((figure, value, None));
        }
    }
    found
}

/// What times depend on: processor, how many the process may use, how the tool was built.
fn host(run: &Run) -> String {
    let environment = &run.environment;
    let cpu = environment.cpu_model.value.as_deref().unwrap_or("unknown processor");
    let cpus = environment.cpus_usable.value.map_or_else(|| "?".to_owned(), |cpus| cpus.to_string());
    let build = environment.build_profile.value.as_deref().unwrap_or("unknown");
    let build = if build == "release" { String::new() } else { format!(", {build} build") };
    format!("{cpu}, {cpus} CPUs{build}")
}
