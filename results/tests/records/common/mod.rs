//! A small run of invented figures.

use std::collections::BTreeMap;

use iommu_results::{
    Case, EndpointKind, Environment, HistogramSummary, Machine, Metric, Mode, Probes, Relative, Run, SCHEMA,
    Timestamp,
};

pub(crate) fn started() -> Timestamp {
    "2031-05-06T07:08:09.010Z".parse().unwrap()
}

fn case(id: &str, mode: Mode, throughput: f64) -> Case {
    let mut case = Case::new(id, EndpointKind::Emulated, mode, "TCP_STREAM");
    case.params.insert("message_bytes".to_owned(), 16_384_u64.into());
    case.params.insert("service".to_owned(), "inline".into());
    let metric = Metric::Measured {
        value: throughput,
        unit: "bytes/s".to_owned(),
        ci: [throughput * 0.9, throughput * 1.1],
        level: 0.99,
        n: 8,
    };
    case.metrics.insert("throughput".to_owned(), metric);
    case.metrics.insert("transactions".to_owned(), Metric::missing("no clock"));
    case.counts.insert("packets".to_owned(), 100);
    case
}

pub(crate) fn sample(run_id: &str) -> Run {
    let mut strict = case("tcp_stream/strict", Mode::Strict, 500.0);
    strict.histograms.insert(
        "map_latency".to_owned(),
        HistogramSummary {
            unit: "ns".to_owned(),
            count: 9,
            min: 1,
            mean: 12.5,
            p50: 10,
            p90: 20,
            p99: 30,
            p999: 40,
            p9999: 50,
            max: 60,
        },
    );
    Run {
        schema: SCHEMA.to_owned(),
        run_id: run_id.to_owned(),
        scenario: "netperf-strict".to_owned(),
        machine: Machine::Local,
        seed: 7,
        partial: false,
        started_at: started(),
        revision: "unknown".to_owned(),
        environment: Environment::capture(),
        warnings: vec!["test data".to_owned()],
        cases: vec![case("tcp_stream/off", Mode::Off, 1000.0), strict],
        relative: vec![Relative {
            metric: "throughput".to_owned(),
            case: "tcp_stream/strict".to_owned(),
            baseline: "tcp_stream/off".to_owned(),
            baseline_metric: None,
            ratio: 0.5,
            ci: [0.4, 0.6],
            level: 0.99,
        }],
        probes: Probes { lost: BTreeMap::new(), ..Probes::default() },
    }
}
