//! From what was gathered to the run that is stored.

use iommu_analysis::stats::{self, LEVEL};
use iommu_results::{
    Case, CaseSeries, EndpointKind, Environment, Histograms, Machine, Metric, MetricSeries, Mode, Param,
    Probes, Run, SCHEMA, SERIES_SCHEMA, Series, SliceValue, Timestamp,
    artefacts::{Artefact as _, Artefacts, CaseHeat, Heat},
    names, revision,
};
use iommu_workloads::{
    CaseSpec, Test,
    scenario::{Endpoint, Value},
};

use super::{
    churn,
    collect::Gathered,
    listen::{End, Outcome},
    relatives,
    request::Request,
    sweep,
};
use crate::{
    cli::MachineKind,
    probes::{self, Measured, Wanted},
};

/// Why a run in virtual time has no figures in seconds.
const VIRTUAL_TIME: &str = "the clock is virtual (--packets): nothing was timed";

/// What is known about the run besides its cases.
pub(crate) struct Facts {
    /// Its id.
    pub(crate) run_id: String,
    /// When it began.
    pub(crate) started_at: Timestamp,
    /// Where.
    pub(crate) environment: Environment,
    /// What was to be observed.
    pub(crate) probes: Wanted,
    /// What the run was changed to, for the reader.
    pub(crate) notes: Vec<String>,
    /// What the lab is, when this is inside it.
    pub(crate) lab: Option<String>,
}

/// A run as it is stored.
pub(crate) struct Assembled {
    /// The run.
    pub(crate) run: Run,
    /// Its full-resolution histograms.
    pub(crate) histograms: Histograms,
    /// What lies beside it.
    pub(crate) artefacts: Artefacts,
}

/// Everything that is stored of a run.
pub(crate) fn assemble(request: &Request, mut outcome: Outcome, facts: Facts) -> Assembled {
    let Request { scenario, cases: specs, exact, .. } = request;
    let mut warnings = facts.environment.warnings();
    if cfg!(feature = "planted-regression") {
        warnings.push("built with planted-regression: every request is made dearer on purpose".to_owned());
    }
    warnings.extend(facts.notes);
    warnings.extend(lab_warning(facts.lab.as_deref()));
    warnings.extend(end_warning(&outcome.end));
    let profile = outcome.observed.profile.take();
    let observed = std::mem::take(&mut outcome.observed);
    let sampled = matches!(profile, Some(Ok(_)));
    let (mut probes, said) = probed(facts.probes, observed, sampled, specs, &outcome.gathered, scenario.seed);
    warnings.extend(said);
    let machine = match (request.machine, &facts.lab) {
        (MachineKind::Guest, _) => Machine::Guest,
        (_, Some(_)) => Machine::Lab,
        (_, None) => Machine::Local,
    };
    let title = format!("{} on {machine}", scenario.name);
    let flame = profile.and_then(|profile| {
        let (kept, said) = probes::record_profile(&mut probes, profile, &title);
        warnings.extend(said);
        kept
    });
    let relative = relatives::of(specs, &outcome.gathered, scenario.seed);
    let mut histograms = Histograms::new();
    let artefacts = Artefacts {
        series: Some(series(&facts.run_id, specs, &outcome.gathered)),
        heat: Some(heat(&facts.run_id, specs, &mut outcome.gathered)),
        sweep: sweep::artefact(&facts.run_id, &request.swept),
        churn: request.record.is_some().then(|| churn::artefact(&facts.run_id, specs, &outcome.gathered)),
        profile: flame,
    };
    let mut cases = Vec::with_capacity(specs.len());
    for (spec, gathered) in specs.iter().zip(outcome.gathered) {
        for (name, histogram) in &gathered.histograms {
            histograms.insert((spec.id.clone(), name.clone()), histogram.clone());
        }
        cases.push(case(spec, gathered, *exact, scenario.seed));
    }
    let run = Run {
        schema: SCHEMA.to_owned(),
        run_id: facts.run_id,
        scenario: scenario.name.clone(),
        machine,
        seed: scenario.seed,
        partial: outcome.end != End::Complete,
        started_at: facts.started_at,
        revision: revision().to_owned(),
        environment: facts.environment,
        warnings,
        cases,
        relative,
        probes,
    };
    Assembled { run, histograms, artefacts }
}

fn heat(run_id: &str, specs: &[CaseSpec], gathered: &mut [Gathered]) -> Heat {
    let case = |(spec, gathered): (&CaseSpec, &mut Gathered)| CaseHeat {
        case: spec.id.clone(),
        slices: std::mem::take(&mut gathered.heat),
    };
    let cases = specs.iter().zip(gathered).map(case).collect();
    Heat { schema: Heat::SCHEMA.to_owned(), run_id: run_id.to_owned(), cases }
}

fn series(run_id: &str, specs: &[CaseSpec], gathered: &[Gathered]) -> Series {
    let metric = |(name, slices): (&String, &Vec<SliceValue>)| {
        (name.clone(), MetricSeries { unit: names::unit_of(name).to_owned(), slices: slices.clone() })
    };
    let case = |(spec, gathered): (&CaseSpec, &Gathered)| CaseSeries {
        id: spec.id.clone(),
        metrics: gathered.series.iter().map(metric).collect(),
    };
    let cases = specs.iter().zip(gathered).map(case).collect();
    Series { schema: SERIES_SCHEMA.to_owned(), run_id: run_id.to_owned(), cases }
}

/// What a reader of figures from the lab must know first.
fn lab_warning(lab: Option<&str>) -> Option<String> {
    lab.map(|what| format!("emulated IOMMU: counts exact, times not hardware's ({what})"))
}

fn end_warning(end: &End) -> Option<String> {
    match end {
        End::Complete => None,
        End::Interrupted => Some("interrupted by the user before all slices were measured".to_owned()),
        End::Broke { cause } => Some(format!("the run failed: {cause}")),
    }
}

fn case(spec: &CaseSpec, gathered: Gathered, exact: bool, seed: u64) -> Case {
    let mut case = Case::new(&spec.id, endpoint(spec), mode(spec), spec.test.name());
    case.params = spec.values.iter().map(|(name, value)| ((*name).to_owned(), param(value))).collect();
    case.params.extend(gathered.params.clone());
    case.metrics = metrics_of(spec.test)
        .map(|(name, unit)| (name.to_owned(), metric(gathered.series.get(name), unit, exact, seed)))
        .collect();
    case.metrics.extend(pinning(spec, &gathered, seed));
    case.metrics.extend(iotlb_rates(&gathered, exact, seed));
    case.metrics.extend(churn::metrics(spec, &gathered, seed));
    case.metrics.extend(hardware_counts(&gathered, seed));
    if let Some(reason) = &gathered.missing {
        case.metrics.values_mut().for_each(|metric| *metric = Metric::missing(reason.clone()));
    }
    let summaries = gathered.histograms.iter().filter_map(|(name, h)| Some((name.clone(), h.summary()?)));
    case.histograms = summaries.collect();
    case.counts = gathered.counts;
    case
}

fn endpoint(spec: &CaseSpec) -> EndpointKind {
    match spec.endpoint {
        Endpoint::Emulated => EndpointKind::Emulated,
        Endpoint::Passthrough => EndpointKind::Passthrough,
    }
}

fn mode(spec: &CaseSpec) -> Mode {
    use iommu_workloads::Mode as Guest;
    match spec.mode {
        Guest::Off => Mode::Off,
        Guest::Identity => Mode::Identity,
        Guest::Lazy => Mode::Lazy,
        Guest::Strict => Mode::Strict,
    }
}

pub(super) fn param(value: &Value) -> Param {
    match value {
        Value::Int(n) => Param::Int(*n),
        Value::Float(x) => Param::Float(*x),
        Value::Text(word) => Param::Text(word.clone()),
    }
}

/// What a test is measured by: name and unit.
pub(super) fn metrics_of(test: Test) -> impl Iterator<Item = (&'static str, &'static str)> {
    let main = match test {
        test if test.transacts() => (names::TRANSACTIONS, names::PER_SECOND),
        _ => (names::THROUGHPUT, names::BYTES_PER_SECOND),
    };
    let memcpy: &[(&str, &str)] = if test == Test::DmaThroughput {
        &[
            (names::MEMCPY_THROUGHPUT, names::BYTES_PER_SECOND),
            (names::MEMCPY_CPU_PER_PACKET, names::NANOSECONDS),
        ]
    } else {
        &[]
    };
    [main, (names::CPU_PER_PACKET, names::NANOSECONDS)].into_iter().chain(memcpy.iter().copied())
}

/// Rates of the modelled IOTLB, where there is one.
fn iotlb_rates(gathered: &Gathered, exact: bool, seed: u64) -> impl Iterator<Item = (String, Metric)> {
    let counted = names::IOTLB_RATES.into_iter().filter(|rate| gathered.counts.contains_key(rate.count));
    counted.flat_map(move |rate| {
        let metric =
            |name, unit, exact| (String::from(name), metric(gathered.series.get(name), unit, exact, seed));
        [
            // A count by a count: no clock takes part.
            metric(rate.per_packet, names::PER_PACKET, false),
            metric(rate.per_second, names::PER_SECOND, exact),
        ]
    })
}

/// What of a map is pinning, or why that is not known.
fn pinning(spec: &CaseSpec, gathered: &Gathered, seed: u64) -> Vec<(String, Metric)> {
    if spec.test != Test::VfioMap {
        return Vec::new();
    }
    let one = |(name, unit): (&str, &str)| {
        let metric = match (gathered.series.get(name), gathered.uncounted.get(name)) {
            (None, Some(reason)) => Metric::missing(reason),
            (series, _) => metric(series, unit, false, seed),
        };
        (name.to_owned(), metric)
    };
    names::PINNING.into_iter().map(one).collect()
}

/// What the processor counted for each packet, or why it did not.
fn hardware_counts(gathered: &Gathered, seed: u64) -> impl Iterator<Item = (String, Metric)> {
    iommu_profile::Event::HARDWARE.iter().filter_map(move |event| {
        let name = names::per_packet(event.name());
        let metric = match (gathered.series.get(&name), gathered.uncounted.get(&name)) {
            (_, Some(reason)) => Metric::missing(reason),
            (Some(series), None) => metric(Some(series), names::PER_PACKET, false, seed),
            (None, None) => return None,
        };
        Some((name, metric))
    })
}

fn metric(series: Option<&Vec<SliceValue>>, unit: &str, exact: bool, seed: u64) -> Metric {
    if exact {
        return Metric::missing(VIRTUAL_TIME);
    }
    let samples: Vec<f64> = series.into_iter().flatten().map(|slice| slice.value).collect();
    stats::metric(&samples, unit, LEVEL, seed)
}

/// What probes saw, and what to say about it.
fn probed(
    wanted: Wanted,
    observed: Measured,
    sampled: bool,
    specs: &[CaseSpec],
    gathered: &[Gathered],
    seed: u64,
) -> (Probes, Vec<String>) {
    let rates = |(spec, gathered): (&CaseSpec, &Gathered)| -> Vec<(u32, f64)> {
        let main = metrics_of(spec.test).next().and_then(|(name, _)| gathered.series.get(name));
        main.into_iter().flatten().map(|slice| (slice.round, slice.value)).collect()
    };
    let is_attached = sampled || observed.kernel.as_ref().is_some_and(|seen| !seen.attached.is_empty());
    let series: Vec<_> = specs.iter().zip(gathered).map(rates).collect();
    let overhead = is_attached.then(|| probes::overhead(&series, seed)).flatten();
    let ids: Vec<String> = specs.iter().map(|spec| spec.id.clone()).collect();
    probes::record(wanted, observed, overhead, &ids, seed)
}
