//! From what was gathered to the run that is stored.

use iommu_analysis::stats::{self, LEVEL};
use iommu_results::{
    Case, CaseSeries, EndpointKind, Environment, Histograms, Machine, Metric, MetricSeries, Mode, Param,
    Probes, Run, SCHEMA, SERIES_SCHEMA, Series, SliceValue, Timestamp,
    artefacts::{Artefact as _, Artefacts, CaseHeat, Heat},
    metric::{self, Of, UnknownName},
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
///
/// # Errors
/// [`UnknownName`] when a case holds a name without a row in the metric table.
pub(crate) fn assemble(
    request: &Request,
    mut outcome: Outcome,
    facts: Facts,
) -> Result<Assembled, UnknownName> {
    let Request { scenario, cases: specs, exact, .. } = request;
    outcome.gathered.iter().try_for_each(known)?;
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
        series: Some(series(&facts.run_id, specs, &outcome.gathered)?),
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
        cases.push(case(spec, gathered, *exact, scenario.seed)?);
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
    Ok(Assembled { run, histograms, artefacts })
}

/// Checks that every name a machine reported has a row.
fn known(gathered: &Gathered) -> Result<(), UnknownName> {
    let Gathered { counts, histograms, series, uncounted, .. } = gathered;
    counts.keys().try_for_each(|name| metric::find(name, Of::Count).map(drop))?;
    histograms.keys().try_for_each(|name| metric::find(name, Of::Histogram).map(drop))?;
    series.keys().try_for_each(|name| metric::series(name).map(drop))?;
    uncounted.keys().try_for_each(|name| metric::find(name, Of::Metric).map(drop))
}

fn heat(run_id: &str, specs: &[CaseSpec], gathered: &mut [Gathered]) -> Heat {
    let case = |(spec, gathered): (&CaseSpec, &mut Gathered)| CaseHeat {
        case: spec.id.clone(),
        slices: std::mem::take(&mut gathered.heat),
    };
    let cases = specs.iter().zip(gathered).map(case).collect();
    Heat { schema: Heat::SCHEMA.to_owned(), run_id: run_id.to_owned(), cases }
}

fn series(run_id: &str, specs: &[CaseSpec], gathered: &[Gathered]) -> Result<Series, UnknownName> {
    let metric = |(name, slices): (&String, &Vec<SliceValue>)| {
        let unit = metric::series(name)?.unit.to_owned();
        Ok((name.clone(), MetricSeries { unit, slices: slices.clone() }))
    };
    let case = |(spec, gathered): (&CaseSpec, &Gathered)| {
        let metrics = gathered.series.iter().map(metric).collect::<Result<_, _>>()?;
        Ok(CaseSeries { id: spec.id.clone(), metrics })
    };
    let cases = specs.iter().zip(gathered).map(case).collect::<Result<_, _>>()?;
    Ok(Series { schema: SERIES_SCHEMA.to_owned(), run_id: run_id.to_owned(), cases })
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

fn case(spec: &CaseSpec, gathered: Gathered, exact: bool, seed: u64) -> Result<Case, UnknownName> {
    let mut case = Case::new(&spec.id, endpoint(spec), mode(spec), spec.test.name());
    case.params = spec.values.iter().map(|(name, value)| ((*name).to_owned(), param(value))).collect();
    case.params.extend(gathered.params.clone());
    for name in metrics_of(spec.test) {
        case.metrics.insert(name.to_owned(), estimate(name, &gathered, exact, seed)?);
    }
    case.metrics.extend(pinning(spec, &gathered, seed)?);
    case.metrics.extend(iotlb_rates(&gathered, exact, seed)?);
    case.metrics.extend(churn::metrics(spec, &gathered, seed)?);
    case.metrics.extend(hardware_counts(&gathered, seed)?);
    if let Some(reason) = &gathered.missing {
        case.metrics.values_mut().for_each(|metric| *metric = Metric::missing(reason.clone()));
    }
    let summaries = gathered.histograms.iter().filter_map(|(name, h)| Some((name.clone(), h.summary()?)));
    case.histograms = summaries.collect();
    case.counts = gathered.counts;
    Ok(case)
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

/// Metrics of a test.
pub(super) fn metrics_of(test: Test) -> impl Iterator<Item = &'static str> {
    let main = if test.transacts() { names::TRANSACTIONS } else { names::THROUGHPUT };
    let memcpy: &[&str] = match test {
        Test::DmaThroughput => &[names::MEMCPY_THROUGHPUT, names::MEMCPY_CPU_PER_PACKET],
        _ => &[],
    };
    [main, names::CPU_PER_PACKET].into_iter().chain(memcpy.iter().copied())
}

/// A case's metrics by name.
type Metrics = Vec<(String, Metric)>;

/// Rates of the modelled IOTLB, where there is one.
fn iotlb_rates(gathered: &Gathered, exact: bool, seed: u64) -> Result<Metrics, UnknownName> {
    let mut found = Metrics::new();
    for rate in names::IOTLB_RATES.into_iter().filter(|rate| gathered.counts.contains_key(rate.count)) {
        // A count by a count: no clock takes part.
        for (name, exact) in [(rate.per_packet, false), (rate.per_second, exact)] {
            found.push((name.to_owned(), estimate(name, gathered, exact, seed)?));
        }
    }
    Ok(found)
}

/// What of a map is pinning, or why that is not known.
fn pinning(spec: &CaseSpec, gathered: &Gathered, seed: u64) -> Result<Metrics, UnknownName> {
    let names: &[&str] = if spec.test == Test::VfioMap { &names::PINNING } else { &[] };
    let one = |name: &&str| {
        let metric = match (gathered.series.contains_key(*name), gathered.uncounted.get(*name)) {
            (false, Some(reason)) => Metric::missing(reason),
            _ => estimate(name, gathered, false, seed)?,
        };
        Ok(((*name).to_owned(), metric))
    };
    names.iter().map(one).collect()
}

/// What the processor counted for each packet, or why it did not.
fn hardware_counts(gathered: &Gathered, seed: u64) -> Result<Metrics, UnknownName> {
    let mut found = Metrics::new();
    for (_, name) in names::HARDWARE {
        let metric = match (gathered.series.contains_key(name), gathered.uncounted.get(name)) {
            (_, Some(reason)) => Metric::missing(reason),
            (true, None) => estimate(name, gathered, false, seed)?,
            (false, None) => continue,
        };
        found.push((name.to_owned(), metric));
    }
    Ok(found)
}

/// A metric's estimate from its slices, in the unit of the table.
fn estimate(name: &str, gathered: &Gathered, exact: bool, seed: u64) -> Result<Metric, UnknownName> {
    let unit = metric::find(name, Of::Metric)?.unit;
    if exact {
        return Ok(Metric::missing(VIRTUAL_TIME));
    }
    let slices = gathered.series.get(name).into_iter().flatten();
    let samples: Vec<f64> = slices.map(|slice| slice.value).collect();
    Ok(stats::metric(&samples, unit, LEVEL, seed))
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
        let main = metrics_of(spec.test).next().and_then(|name| gathered.series.get(name));
        main.into_iter().flatten().map(|slice| (slice.round, slice.value)).collect()
    };
    let is_attached = sampled || observed.kernel.as_ref().is_some_and(|seen| !seen.attached.is_empty());
    let series: Vec<_> = specs.iter().zip(gathered).map(rates).collect();
    let overhead = is_attached.then(|| probes::overhead(&series, seed)).flatten();
    let ids: Vec<String> = specs.iter().map(|spec| spec.id.clone()).collect();
    probes::record(wanted, observed, overhead, &ids, seed)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use iommu_results::Histogram;

    use super::*;

    #[test]
    fn a_name_without_a_row_is_an_error_wherever_it_was_reported() {
        let slice = SliceValue { round: 0, at_ns: 0, value: 1.0 };
        let with = |name: &str| -> [(Of, Gathered); 4] {
            let name = name.to_owned();
            let counts = BTreeMap::from([(name.clone(), 1)]);
            let histograms = BTreeMap::from([(name.clone(), Histogram::new())]);
            let series = BTreeMap::from([(name.clone(), vec![slice])]);
            let uncounted = BTreeMap::from([(name, String::new())]);
            [
                (Of::Count, Gathered { counts, ..Gathered::default() }),
                (Of::Histogram, Gathered { histograms, ..Gathered::default() }),
                (Of::Metric, Gathered { series, ..Gathered::default() }),
                (Of::Metric, Gathered { uncounted, ..Gathered::default() }),
            ]
        };
        for (of, gathered) in with("new_figure") {
            let error = known(&gathered).unwrap_err();
            assert_eq!(error, UnknownName { name: "new_figure".to_owned(), of });
            assert!(error.to_string().contains("names.rs"), "{error}");
        }
        for row in metric::TABLE {
            for (of, gathered) in with(row.name).into_iter().filter(|(of, _)| *of == row.of) {
                assert_eq!(known(&gathered), Ok(()), "{} as a {of}", row.name);
            }
        }
        assert_eq!(known(&Gathered::default()), Ok(()));
    }

    #[test]
    fn what_the_program_counts_is_in_the_table() {
        for (name, _) in iommu_workloads::dma::Counts::default().named() {
            assert!(metric::find(name, Of::Count).is_ok(), "{name}");
        }
        let events: Vec<&str> = iommu_profile::Event::HARDWARE.iter().map(|event| event.name()).collect();
        assert_eq!(events, names::HARDWARE.map(|(event, _)| event));
        for test in Test::ALL {
            for name in metrics_of(test) {
                assert!(metric::find(name, Of::Metric).is_ok(), "{name}");
            }
        }
    }
}
