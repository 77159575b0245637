//! How the cases of a run compare.

use std::collections::BTreeMap;

use iommu_analysis::stats::{self, LEVEL};
use iommu_results::{Relative, names};
use iommu_workloads::{
    CaseSpec, Test,
    scenario::{Endpoint, Value},
};

use super::{assemble::metrics_of, collect::Gathered};

/// Parameters of which more may do more at once: a case with several is compared with the one that has 1.
const SCALES: [&str; 4] = ["engines", "queue_pairs", "request_queues", "threads"];

/// Every comparison of the run; one without enough slices is left out.
pub(super) fn of(specs: &[CaseSpec], gathered: &[Gathered], seed: u64) -> Vec<Relative> {
    let mut found = by_mode(specs, gathered, seed);
    found.extend(scaling(specs, gathered, seed));
    found.extend(polling(specs, gathered, seed));
    found.extend(over_emulated(specs, gathered, seed));
    found.extend(over_memcpy(specs, gathered, seed));
    found
}

/// A case's main metric against that of the case that has 1 of something and is the same otherwise.
fn scaling(specs: &[CaseSpec], gathered: &[Gathered], seed: u64) -> Vec<Relative> {
    let mut found = Vec::new();
    for (at, spec) in specs.iter().enumerate() {
        for name in SCALES {
            let mut values = spec.values.clone();
            if values.insert(name, Value::Int(1)).is_none_or(|value| value == Value::Int(1)) {
                continue;
            }
            let same = |other: &CaseSpec| {
                (other.test, other.mode, other.endpoint) == (spec.test, spec.mode, spec.endpoint)
                    && other.values == values
            };
            let Some(single) = specs.iter().position(same) else { continue };
            let Some(metric) = metrics_of(spec.test).next() else { continue };
            let (case, base) = paired(&gathered[at], &gathered[single], metric);
            if let Ok(estimate) = stats::paired_ratio(&case, &base, LEVEL, seed) {
                found.push(estimate.to_relative(metric, &spec.id, &specs[single].id));
            }
        }
    }
    found
}

/// A case whose devices poll against the one whose devices wait to be told, and which is the same otherwise.
fn polling(specs: &[CaseSpec], gathered: &[Gathered], seed: u64) -> Vec<Relative> {
    const KEY: &str = "service";
    let service = |spec: &CaseSpec| match spec.values.get(KEY) {
        Some(Value::Text(word)) => word.clone(),
        _ => String::new(),
    };
    let others = |spec: &CaseSpec| {
        let mut values = spec.values.clone();
        values.remove(KEY);
        (spec.test, spec.mode, spec.endpoint, values)
    };
    let mut found = Vec::new();
    for (at, spec) in specs.iter().enumerate().filter(|(_, spec)| service(spec) == "poll") {
        let same = |other: &CaseSpec| service(other) != "poll" && others(other) == others(spec);
        let Some(told) = specs.iter().position(same) else { continue };
        for name in metrics_of(spec.test).take(2) {
            let (case, base) = paired(&gathered[at], &gathered[told], name);
            if let Ok(estimate) = stats::paired_ratio(&case, &base, LEVEL, seed) {
                found.push(estimate.to_relative(name, &spec.id, &specs[told].id));
            }
        }
    }
    found
}

/// A real device's case against that of its model, with the same driver, load and mode.
fn over_emulated(specs: &[CaseSpec], gathered: &[Gathered], seed: u64) -> Vec<Relative> {
    let mut found = Vec::new();
    for (at, spec) in specs.iter().enumerate().filter(|(_, spec)| spec.endpoint == Endpoint::Passthrough) {
        let same = |other: &CaseSpec| {
            other.endpoint == Endpoint::Emulated
                && (other.test, other.mode) == (spec.test, spec.mode)
                && other.values == spec.values
        };
        let Some(model) = specs.iter().position(same) else { continue };
        for name in metrics_of(spec.test).take(2) {
            let (case, base) = paired(&gathered[at], &gathered[model], name);
            if let Ok(estimate) = stats::paired_ratio(&case, &base, LEVEL, seed) {
                found.push(estimate.to_relative(name, &spec.id, &specs[model].id));
            }
        }
    }
    found
}

/// What plain copies are measured by, beside what the engines are.
const OVER_MEMCPY: [(&str, &str); 2] =
    [(names::THROUGHPUT, names::MEMCPY_THROUGHPUT), (names::CPU_PER_PACKET, names::MEMCPY_CPU_PER_PACKET)];

/// What the engines reach against what the guest's CPUs copy by themselves, slice by slice.
fn over_memcpy(specs: &[CaseSpec], gathered: &[Gathered], seed: u64) -> Vec<Relative> {
    let mut found = Vec::new();
    let copies = specs.iter().zip(gathered).filter(|(spec, _)| spec.test == Test::DmaThroughput);
    for (spec, gathered) in copies {
        let series = |name: &str| -> Vec<f64> {
            gathered.series.get(name).into_iter().flatten().map(|slice| slice.value).collect()
        };
        for (metric, baseline) in OVER_MEMCPY {
            let estimate = stats::paired_ratio(&series(metric), &series(baseline), LEVEL, seed);
            let relative = estimate.map(|estimate| estimate.to_relative(metric, &spec.id, &spec.id));
            found.extend(relative.map(|of| Relative { baseline_metric: Some(baseline.to_owned()), ..of }));
        }
    }
    found
}

/// Every case against the one that differs from it in nothing but the mode, which is `off` where there is one and the
/// scenario's first mode elsewhere.
fn by_mode(specs: &[CaseSpec], gathered: &[Gathered], seed: u64) -> Vec<Relative> {
    let mut found = Vec::new();
    for (at, spec) in specs.iter().enumerate() {
        let group = || specs.iter().enumerate().filter(|(_, other)| other.group() == spec.group());
        let off = group().find(|(_, other)| other.mode == iommu_workloads::Mode::Off);
        let Some((baseline_at, baseline)) = off.or_else(|| group().next()) else { continue };
        if baseline_at == at {
            continue;
        }
        // What plain copies reach is compared with nothing but the case itself.
        for name in metrics_of(spec.test).take(2) {
            let (case, base) = paired(&gathered[at], &gathered[baseline_at], name);
            if let Ok(estimate) = stats::paired_ratio(&case, &base, LEVEL, seed) {
                found.push(estimate.to_relative(name, &spec.id, &baseline.id));
            }
        }
    }
    found
}

/// The values of both cases in the rounds that both completed.
fn paired(case: &Gathered, baseline: &Gathered, name: &str) -> (Vec<f64>, Vec<f64>) {
    let by_round = |gathered: &Gathered| -> BTreeMap<u32, f64> {
        gathered.series.get(name).into_iter().flatten().map(|slice| (slice.round, slice.value)).collect()
    };
    let baseline = by_round(baseline);
    by_round(case).into_iter().filter_map(|(round, value)| Some((value, *baseline.get(&round)?))).unzip()
}

#[cfg(test)]
mod tests {
    use iommu_results::SliceValue;

    use super::*;

    fn gathered(values: &[(u32, f64)]) -> Gathered {
        let slices = values.iter().map(|&(round, value)| SliceValue { round, at_ns: 0, value }).collect();
        Gathered { series: BTreeMap::from([(names::THROUGHPUT.to_owned(), slices)]), ..Gathered::default() }
    }

    #[test]
    fn only_rounds_that_both_completed_are_paired() {
        let case = gathered(&[(0, 1.0), (1, 2.0), (2, 3.0)]);
        let baseline = gathered(&[(2, 30.0), (0, 10.0)]);
        assert_eq!(paired(&case, &baseline, names::THROUGHPUT), (vec![1.0, 3.0], vec![10.0, 30.0]));
        assert_eq!(paired(&case, &baseline, names::TRANSACTIONS), (vec![], vec![]));
    }

    #[test]
    fn a_ratio_is_case_over_baseline_off() {
        let specs = iommu_workloads::Scenario::built_in("netperf-strict").unwrap().expand().unwrap();
        let all: Vec<Gathered> = specs
            .iter()
            .map(|spec| {
                let value = if spec.mode == iommu_workloads::Mode::Off { 100.0 } else { 50.0 };
                gathered(&(0..8).map(|round| (round, value)).collect::<Vec<_>>())
            })
            .collect();
        let found = of(&specs, &all, 1);
        assert_eq!(found.len(), 1, "only the stream has a throughput");
        assert!((found[0].ratio - 0.5).abs() < 1e-12);
        assert!(found[0].baseline.contains("/off/") && found[0].case.contains("/strict/"));
    }

    fn cases(sets: &[&str]) -> Vec<CaseSpec> {
        let mut scenario = iommu_workloads::Scenario::built_in("dma-throughput").unwrap();
        for set in
            ["transfer_bytes=4K", "pattern=random", "neighbour=none", "modes=strict"].iter().chain(sets)
        {
            scenario.set(set).unwrap();
        }
        scenario.expand().unwrap()
    }

    #[test]
    fn two_of_something_are_compared_with_one() {
        let specs = cases(&["engines=1,2,3", "request_queues=1,2"]);
        let all: Vec<Gathered> = specs
            .iter()
            .map(|spec| {
                let value = f64::from(spec.params.engines) * f64::from(spec.params.request_queues).sqrt();
                gathered(&(0..8).map(|round| (round, value)).collect::<Vec<_>>())
            })
            .collect();
        let found = of(&specs, &all, 1);
        assert_eq!(found.len(), 2 * 2 + 3, "{found:#?}");
        let mut ratios: Vec<f64> = found.iter().map(|of| of.ratio).collect();
        ratios.sort_by(f64::total_cmp);
        let root = 2_f64.sqrt();
        for (ratio, expected) in ratios.iter().zip([root, root, root, 2.0, 2.0, 3.0, 3.0]) {
            assert!((ratio - expected).abs() < 1e-9, "{ratios:?}");
        }
        assert!(found.iter().all(|of| of.metric == names::THROUGHPUT && of.baseline_metric.is_none()));
    }

    #[test]
    fn polling_devices_are_compared_with_those_that_are_told() {
        let specs = cases(&["engines=1", "service=inline,poll"]);
        let all: Vec<Gathered> = specs
            .iter()
            .map(|spec| {
                let polls = spec.values["service"] == Value::Text("poll".to_owned());
                gathered(&(0..8).map(|round| (round, if polls { 300.0 } else { 100.0 })).collect::<Vec<_>>())
            })
            .collect();
        let found = of(&specs, &all, 1);
        assert_eq!(found.len(), 1, "{found:#?}");
        assert!((found[0].ratio - 3.0).abs() < 1e-9 && found[0].case.contains("service=poll"));
    }

    #[test]
    fn a_real_device_is_compared_with_its_model() {
        let emulated = cases(&["engines=1"]);
        let real = CaseSpec {
            id: emulated[0].id.replace("emulated", "passthrough"),
            endpoint: Endpoint::Passthrough,
            ..emulated[0].clone()
        };
        let all =
            [100.0, 25.0].map(|value| gathered(&(0..8).map(|round| (round, value)).collect::<Vec<_>>()));
        let found = of(&[emulated[0].clone(), real], &all, 1);
        assert_eq!(found.len(), 1, "{found:#?}");
        assert!((found[0].ratio - 0.25).abs() < 1e-9 && found[0].baseline == emulated[0].id);
    }

    #[test]
    fn throughput_is_compared_with_memcpy_of_the_same_slices() {
        let specs = cases(&["engines=1"]);
        let mut case = gathered(&(0..8).map(|round| (round, 90.0)).collect::<Vec<_>>());
        assert_eq!(of(&specs, std::slice::from_ref(&case), 1), []);
        let memcpy = (0..8).map(|round| SliceValue { round, at_ns: 0, value: 100.0 }).collect();
        case.series.insert(names::MEMCPY_THROUGHPUT.to_owned(), memcpy);
        let found = of(&specs, &[case], 1);
        assert_eq!((found.len(), found[0].case == found[0].baseline), (1, true));
        assert_eq!(found[0].baseline_metric.as_deref(), Some(names::MEMCPY_THROUGHPUT));
        assert!((found[0].ratio - 0.9).abs() < 1e-12);
    }
}
