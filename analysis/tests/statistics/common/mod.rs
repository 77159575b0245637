//! TEST DATA: an invented run in the shape of a real one, for looking at tables and reports. No figure in it was
//! measured.
#![allow(dead_code, reason = "the suite and an example use a part of it each")]

use iommu_analysis::stats::{self, LEVEL};
use iommu_results::store::Histograms;
use iommu_results::{
    Case, EndpointKind, Environment, Fact, Histogram, Machine, Metric, Mode, Probes, Relative, Run, SCHEMA,
    names,
};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

const SLICES: usize = 10;

struct Cost {
    mode: Mode,
    ns_per_packet: f64,
    map_ns: Option<f64>,
    unmap_ns: Option<f64>,
    requests: u64,
    kicks_percent: u64,
    invalidations_percent: u64,
}

fn costs(modes: &[Mode]) -> Vec<Cost> {
    let all = [
        (Mode::Off, 410.0, None, None, 0, 0, 0),
        (Mode::Identity, 432.0, None, None, 0, 0, 0),
        (Mode::Lazy, 655.0, Some(310.0), Some(95.0), 2, 51, 1),
        (Mode::Strict, 1290.0, Some(330.0), Some(720.0), 2, 200, 100),
    ];
    all.into_iter()
        .filter(|cost| modes.contains(&cost.0))
        .map(|(mode, ns_per_packet, map_ns, unmap_ns, requests, kicks_percent, invalidations_percent)| Cost {
            mode,
            ns_per_packet,
            map_ns,
            unmap_ns,
            requests,
            kicks_percent,
            invalidations_percent,
        })
        .collect()
}

/// A latency with a long tail, as they have.
fn latencies(random: &mut Pcg64Mcg, typical_ns: f64) -> Histogram {
    let mut histogram = Histogram::new();
    for _ in 0..200_000 {
        let spread: f64 = (0..4).map(|_| random.random_range(-0.12..0.12)).sum();
        let tail = if random.random_range(0..1000) < 4 { random.random_range(4.0..60.0) } else { 1.0 };
        histogram.record((typical_ns * (1.0 + spread) * tail) as u64);
    }
    histogram
}

/// The run of `netperf-strict`, or with all modes and sizes that of `netperf-matrix`.
pub(crate) fn run(modes: &[Mode], sizes: &[u64]) -> (Run, Histograms) {
    let mut random = Pcg64Mcg::seed_from_u64(42);
    let (mut cases, mut relative, mut histograms) = (Vec::new(), Vec::new(), Histograms::new());
    for test in ["TCP_STREAM", "TCP_RR"] {
        for &size in sizes {
            let mut baseline: Option<(String, [Vec<f64>; 3])> = None;
            for cost in costs(modes) {
                let stream = test == "TCP_STREAM";
                let packet_bytes = if stream { size.min(1448) } else { size.min(128) } as f64;
                let scale = if stream { 1.0 } else { 2.3 };
                let ns: Vec<f64> = (0..SLICES)
                    .map(|_| cost.ns_per_packet * scale * (1.0 + random.random_range(-0.03..0.03)))
                    .collect();
                let throughput: Vec<f64> = ns.iter().map(|ns| packet_bytes / ns * 1e9).collect();
                let transactions: Vec<f64> = ns.iter().map(|ns| 1e9 / (2.0 * ns)).collect();
                let id = format!("emulated/{test}/{size}/{}", cost.mode);
                let mut case = Case::new(&id, EndpointKind::Emulated, cost.mode, test);
                case.params.insert("message_bytes".into(), size.into());
                for (key, value) in
                    [("flows", 1_u64), ("mtu_bytes", 1500), ("tso_bytes", 0), ("ack_every", 2)]
                {
                    case.params.insert(key.into(), value.into());
                }
                case.params.insert("service".into(), "inline".into());
                case.params.insert("viommu".into(), (cost.mode != Mode::Off).into());
                for (name, unit, samples) in [
                    (names::THROUGHPUT, names::BYTES_PER_SECOND, &throughput),
                    (names::CPU_PER_PACKET, names::NANOSECONDS, &ns),
                    (names::TRANSACTIONS, names::PER_SECOND, &transactions),
                ] {
                    let metric = if stream && name == names::TRANSACTIONS {
                        Metric::missing("a stream has no transactions")
                    } else {
                        stats::metric(samples, unit, LEVEL, 42)
                    };
                    case.metrics.insert(name.into(), metric);
                }
                let packets = 1_000_000;
                for (name, count) in [
                    (names::PACKETS, packets),
                    (names::REQUESTS_MAP, packets * cost.requests / 2),
                    (names::REQUESTS_UNMAP, packets * cost.requests / 2),
                    (names::KICKS_IOMMU, packets * cost.kicks_percent / 100),
                    (names::INVALIDATIONS, packets * cost.invalidations_percent / 100),
                    (names::KICKS_ENDPOINT, packets / 8),
                ] {
                    case.counts.insert(name.into(), count);
                }
                for (name, typical) in [
                    (names::MAP_LATENCY, cost.map_ns),
                    (names::UNMAP_LATENCY, cost.unmap_ns),
                    (names::DMA_LATENCY, Some(90.0)),
                ] {
                    let Some(typical) = typical else { continue };
                    let histogram = latencies(&mut random, typical);
                    case.histograms.insert(name.into(), histogram.summary().unwrap());
                    histograms.insert((id.clone(), name.into()), histogram);
                }
                let samples = [throughput, transactions, ns];
                if let Some((baseline_id, baseline)) = &baseline {
                    let compared = [names::THROUGHPUT, names::TRANSACTIONS, names::CPU_PER_PACKET];
                    for ((name, case_samples), base_samples) in
                        compared.into_iter().zip(&samples).zip(baseline)
                    {
                        if stream && name == names::TRANSACTIONS || !stream && name == names::THROUGHPUT {
                            continue;
                        }
                        let ratio = stats::paired_ratio(case_samples, base_samples, LEVEL, 42).unwrap();
                        relative.push(ratio.to_relative(name, &id, baseline_id));
                    }
                } else {
                    baseline = Some((id.clone(), samples));
                }
                cases.push(case);
            }
        }
    }
    (header(cases, relative), histograms)
}

fn header(cases: Vec<Case>, relative: Vec<Relative>) -> Run {
    Run {
        schema: SCHEMA.into(),
        run_id: "20310506T070809.010Z-netperf-strict-5a5a5a".into(),
        scenario: "netperf-strict".into(),
        machine: Machine::Local,
        seed: 42,
        partial: false,
        started_at: "2031-05-06T07:08:09.010Z".parse().unwrap(),
        revision: "0123456789ab".into(),
        environment: environment(),
        warnings: vec![
            "TEST DATA: every figure is invented".into(),
            "this machine is itself a virtual machine (Example HVM): its processors may be taken away or emulated, so compare ratios rather than times".into(),
            "the frequency governor is unknown (/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor does not exist): the clock may change during the run".into(),
        ],
        cases,
        relative,
        probes: Probes::default(),
    }
}

fn environment() -> Environment {
    let text = |text: &str| Fact::known(text.to_owned());
    Environment {
        cpu_model: text("Example CPU 9000 @ 2.40GHz"),
        cpus_online: Fact::known(2),
        cpus_usable: Fact::known(2),
        smt: text("off"),
        memory_bytes: Fact::known(16 << 30),
        kernel: text("6.12.0-example"),
        os: text("Example Linux 1"),
        hypervisor: text("Example HVM"),
        container: text("none"),
        governor: Fact::unknown("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor does not exist"),
        boost: Fact::unknown("/sys/devices/system/cpu/cpufreq/boost does not exist"),
        thp: text("madvise"),
        clock_source: text("tsc"),
        load_average: Fact::known(0.25),
        build_profile: text("release"),
        more: Default::default(),
    }
}

/// Two modes, one size: what `netperf-strict` gives.
pub(crate) fn strict() -> (Run, Histograms) {
    run(&[Mode::Off, Mode::Strict], &[16_384])
}

/// Every mode at several sizes.
pub(crate) fn matrix() -> (Run, Histograms) {
    let (mut run, histograms) = run(Mode::ALL, &[64, 1448, 65_536]);
    run.scenario = "netperf-matrix".into();
    (run, histograms)
}
