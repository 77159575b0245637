//! From a scenario's cases to those that a guest can run.

use std::time::Duration;

use clap::ValueEnum as _;
use iommu_workloads::{
    CaseSpec, Mode, Scenario, Test,
    scenario::{Endpoint, Service, Value},
};
use virtio_transport::ServiceMode;

use super::{
    options::{GuestOptions, Viommu},
    vm::Kind,
};
use crate::{
    failure::Failure,
    machine::Amount,
    plan::{self, Step},
    serve::Doorbell,
};

/// Parameters that mean something to Linux and netperf; the others are the local driver's.
const MEANT: [&str; 4] = ["flows", "message_bytes", "mtu", "service"];
/// Parameters whose default is what Linux does by itself.
const BY_ITSELF: [&str; 2] = ["flush_entries", "flush_ms"];
/// Name of the axis that tells whose IOMMU and cards a case has.
const VIOMMU: &str = "viommu";
/// netperf measures whole seconds.
const SHORTEST_SLICE: Duration = Duration::from_secs(1);

/// Changes the scenario as the guest's options want it.
///
/// # Errors
/// Usage errors.
pub(crate) fn apply(scenario: &mut Scenario, options: &GuestOptions, is_guest: bool) -> Result<(), Failure> {
    if !is_guest {
        let given = [(options.viommu.is_empty(), "--viommu"), (options.doorbell.is_empty(), "--doorbell")];
        return match given.into_iter().find(|(absent, _)| !absent) {
            Some((_, option)) => Err(Failure::usage(format!("{option} needs --machine guest"))),
            None => Ok(()),
        };
    }
    if options.viommu == [Viommu::None] {
        scenario.set("modes=off").map_err(Failure::usage)?;
    }
    if !options.doorbell.is_empty() {
        let words = options.doorbell.iter().map(|doorbell| match doorbell {
            Doorbell::Exit => "auto",
            Doorbell::Poll => "poll",
        });
        let words: Vec<&str> = words.collect();
        scenario.set(&format!("service={}", words.join(","))).map_err(Failure::usage)?;
    }
    Ok(())
}

/// The slices of all cases: interleaved, or guest after guest where pollers take the cores of all.
pub(crate) fn steps(cases: &[CaseSpec], scenario: &Scenario) -> Vec<(Step, Amount)> {
    let (rounds, amount) = rounds(scenario.duration);
    let steps = plan::interleave(cases.len(), rounds, scenario.seed);
    let mut steps: Vec<_> = steps.into_iter().map(|step| (step, amount)).collect();
    if has_pollers(cases) {
        group_by_guest(cases, &mut steps);
    }
    steps
}

/// How many slices of which length a duration is cut into.
fn rounds(duration: Duration) -> (u32, Amount) {
    let rounds = plan::slices_in(duration);
    let seconds = (duration / rounds).max(SHORTEST_SLICE).as_secs_f64().round().max(1.0);
    (rounds, Amount::For(Duration::from_secs_f64(seconds)))
}

/// The cases that guests run, each with the guest it runs in.
///
/// # Errors
/// Usage errors: tests or parameters that only the local driver knows.
pub(crate) fn checked(cases: Vec<CaseSpec>, options: &GuestOptions) -> Result<Vec<CaseSpec>, Failure> {
    let viommus = if options.viommu.is_empty() { &[Viommu::Reference][..] } else { &options.viommu };
    let mut all: Vec<CaseSpec> = Vec::new();
    for case in cases {
        fits(&case)?;
        for &viommu in viommus {
            if viommu == Viommu::None && case.mode != Mode::Off {
                continue;
            }
            if viommu == Viommu::QemuVirtio && case.params.service == Service::Poll {
                // QEMU's cards know one way to hear of work.
                continue;
            }
            let case = with_viommu(case.clone(), viommu);
            if all.iter().all(|other| other.id != case.id) {
                all.push(case);
            }
        }
    }
    if all.is_empty() {
        return Err(Failure::usage(
            "nothing is left to run: --viommu none has no mode but off, and QEMU's own cards do not poll",
        ));
    }
    Ok(all)
}

/// Whether a guest can run it, and as it says.
fn fits(case: &CaseSpec) -> Result<(), Failure> {
    if case.endpoint != Endpoint::Emulated {
        return Err(Failure::usage("machine `guest` has emulated endpoints only")
            .with_remedy("use --endpoint emulated, or --machine lab for a real device"));
    }
    if !matches!(case.test, Test::TcpStream | Test::TcpMaerts | Test::TcpRr | Test::UdpStream | Test::UdpRr) {
        let tests = "TCP_STREAM, TCP_MAERTS, TCP_RR, UDP_STREAM and UDP_RR";
        return Err(Failure::usage(format!("machine `guest` has netperf's {tests}, not {}", case.test))
            .with_remedy("use a netperf scenario, or --machine local"));
    }
    let defaults = iommu_workloads::scenario::default_of;
    for (name, value) in &case.values {
        let changed = defaults(name).as_ref() != Some(value);
        if changed && !MEANT.contains(name) {
            let message = format!("machine `guest` cannot set {name}={value}: Linux decides that");
            return Err(Failure::usage(message)
                .with_remedy(format!("leave it out; a guest takes {}", MEANT.join(", "))));
        }
    }
    Ok(())
}

fn with_viommu(mut case: CaseSpec, viommu: Viommu) -> CaseSpec {
    case.values
        .retain(|name, _| MEANT.contains(name) || (BY_ITSELF.contains(name) && case.mode == Mode::Lazy));
    if viommu == Viommu::QemuVirtio {
        let joint = if case.id.matches('/').count() > 2 { ',' } else { '/' };
        case.id = format!("{}{joint}{VIOMMU}={}", case.id, viommu.name());
        case.values.insert(VIOMMU, Value::Text(viommu.name().to_owned()));
    }
    case
}

/// The guest that a case runs in.
pub(super) fn kind(case: &CaseSpec) -> Kind {
    let viommu = match case.values.get(VIOMMU) {
        Some(Value::Text(name)) => Viommu::from_str(name, false).unwrap_or(Viommu::Reference),
        _ => Viommu::Reference,
    };
    let service = match case.params.service {
        Service::Auto | Service::Inline => ServiceMode::Inline,
        Service::Thread => ServiceMode::Thread,
        Service::Poll => ServiceMode::Poll,
    };
    Kind { mode: case.mode, viommu, service }
}

/// Whether a case polls: then guests must not be alive at once.
pub(crate) fn has_pollers(cases: &[CaseSpec]) -> bool {
    cases.iter().any(|case| case.params.service == Service::Poll)
}

/// Puts all steps of a guest before those of the next.
fn group_by_guest(cases: &[CaseSpec], steps: &mut [(Step, Amount)]) {
    let mut kinds: Vec<Kind> = Vec::new();
    let mut of_case = Vec::with_capacity(cases.len());
    for case in cases {
        let kind = kind(case);
        let at = kinds.iter().position(|other| *other == kind).unwrap_or(kinds.len());
        if at == kinds.len() {
            kinds.push(kind);
        }
        of_case.push(at);
    }
    steps.sort_by_key(|(step, _)| of_case[step.case]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(viommu: &[Viommu]) -> GuestOptions {
        GuestOptions {
            viommu: viommu.to_vec(),
            doorbell: Vec::new(),
            linux: super::super::options::Linux::Stable,
            memory_mib: 512,
            cache: None,
        }
    }

    fn cases(sets: &[&str]) -> Vec<CaseSpec> {
        let mut scenario = Scenario::built_in("netperf-strict").unwrap();
        for set in sets {
            scenario.set(set).unwrap();
        }
        scenario.expand().unwrap()
    }

    #[test]
    fn every_netperf_scenario_runs_unchanged() {
        for name in ["netperf-strict", "netperf-lazy", "netperf-identity", "netperf-matrix"] {
            let all = Scenario::built_in(name).unwrap().expand().unwrap();
            let ids: Vec<String> = all.iter().map(|case| case.id.clone()).collect();
            let here = checked(all, &options(&[])).unwrap();
            assert_eq!(here.iter().map(|case| case.id.clone()).collect::<Vec<_>>(), ids, "{name}");
            assert!(here.iter().all(|case| !case.values.contains_key("tso_bytes")));
        }
    }

    #[test]
    fn rows_of_different_cards_are_different_cases_of_different_groups() {
        let all = checked(cases(&[]), &options(&[Viommu::Reference, Viommu::QemuVirtio])).unwrap();
        assert_eq!(all.len(), 8);
        let theirs: Vec<_> = all.iter().filter(|case| kind(case).viommu == Viommu::QemuVirtio).collect();
        assert_eq!(theirs.len(), 4);
        for case in theirs {
            let same_group = all.iter().filter(|other| other.group() == case.group());
            assert!(same_group.clone().count() == 2, "{}", case.id);
            assert!(same_group.clone().all(|other| kind(other).viommu == Viommu::QemuVirtio));
        }
        let none = checked(cases(&[]), &options(&[Viommu::None])).unwrap();
        assert!(none.len() == 2 && none.iter().all(|case| case.mode == Mode::Off));
    }

    #[test]
    fn what_only_the_local_driver_can_do_is_refused() {
        for set in ["tso_bytes=1024", "flush_ms=1", "iotlb_entries=64", "rx_buffers=128"] {
            let failure = checked(cases(&[set]), &options(&[])).unwrap_err();
            assert!(failure.message.contains(set.split('=').next().unwrap()), "{}", failure.message);
        }
        let storm = Scenario::built_in("map-storm").unwrap().expand().unwrap();
        assert!(checked(storm, &options(&[])).unwrap_err().message.contains("TCP_STREAM"));
    }

    #[test]
    fn slices_are_whole_seconds_and_at_least_eight() {
        let of = |ms| rounds(Duration::from_millis(ms));
        let seconds = |n| Amount::For(Duration::from_secs(n));
        assert_eq!(of(400), (8, seconds(1)));
        assert_eq!(of(5000), (10, seconds(1)));
        assert_eq!(of(20_000).1, seconds(1));
    }

    #[test]
    fn guests_with_pollers_take_turns() {
        let cases = cases(&["service=auto,poll"]);
        assert!(has_pollers(&cases));
        let amount = Amount::For(Duration::from_secs(1));
        let mut steps: Vec<_> =
            plan::interleave(cases.len(), 8, 1).into_iter().map(|step| (step, amount)).collect();
        group_by_guest(&cases, &mut steps);
        let kinds: Vec<Kind> = steps.iter().map(|(step, _)| kind(&cases[step.case])).collect();
        let changes = kinds.windows(2).filter(|pair| pair[0] != pair[1]).count();
        assert_eq!(changes, 3, "four guests, each once");
    }
}
