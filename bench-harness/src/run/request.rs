//! From the command line to what is to be run; everything that can be wrong before anything runs.

use std::time::Duration;

use iommu_workloads::{
    CaseSpec, Scenario,
    scenario::{Endpoint, Machine},
};

use super::sweep::{self, Swept};
use crate::{
    cli::{EndpointKind, MachineKind, RunArgs},
    duration,
    failure::Failure,
    machine::{Amount, RecordLimits},
    plan::{self, Step},
};

/// Measured time of each case with `--quick`.
const QUICK: Duration = Duration::from_millis(400);
/// Most packets of a slice, so that an interrupt and the watchdog need not wait for all.
const PACKETS_PER_SLICE: u64 = 20_000;

/// What is to be run.
pub(crate) struct Request {
    /// Where it runs.
    pub(crate) machine: MachineKind,
    /// The scenario, changed as the command line wants.
    pub(crate) scenario: Scenario,
    /// The parameters that it sweeps.
    pub(crate) swept: Vec<Swept>,
    /// Its cases.
    pub(crate) cases: Vec<CaseSpec>,
    /// How much of each case's accesses is recorded.
    pub(crate) record: Option<RecordLimits>,
    /// The slices in order.
    pub(crate) steps: Vec<(Step, Amount)>,
    /// Virtual time and exact amounts instead of wall time.
    pub(crate) exact: bool,
}

impl Request {
    /// Reads the scenario, applies the options, expands the cases and checks that they can run here.
    ///
    /// # Errors
    /// Usage errors, and prerequisites this build does not have.
    pub(crate) fn new(args: &RunArgs) -> Result<Self, Failure> {
        let (scenario, swept) = changed_scenario(args)?;
        let cases = scenario.expand().map_err(Failure::usage)?;
        let machine = machine(args, &scenario);
        check_available(args, &scenario, machine)?;
        let steps = match args.packets {
            Some(packets) => exact_steps(cases.len(), packets),
            None => timed_steps(cases.len(), scenario.duration, scenario.seed),
        };
        Ok(Self {
            machine,
            scenario,
            swept,
            record: record(args),
            cases,
            steps,
            exact: args.packets.is_some(),
        })
    }
}

/// What is recorded of each case: never more packets than were asked for.
fn record(args: &RunArgs) -> Option<RecordLimits> {
    let packets = args.packets.unwrap_or(u64::MAX);
    (args.churn > 0).then_some(RecordLimits { accesses: args.churn, packets })
}

fn changed_scenario(args: &RunArgs) -> Result<(Scenario, Vec<Swept>), Failure> {
    let mut scenario = Scenario::find(&args.scenario).map_err(Failure::usage)?;
    for argument in &args.set {
        scenario.set(argument).map_err(Failure::usage)?;
    }
    let swept = sweep::apply(&mut scenario, &args.sweep, &args.set)?;
    if !args.modes.is_empty() {
        scenario
            .set(&format!("modes={}", args.modes.join(",")))
            .map_err(|error| Failure::usage(error.to_string().replacen("--set:", "--modes:", 1)))?;
    }
    if args.endpoint == Some(EndpointKind::Emulated) {
        scenario.set("endpoints=emulated").map_err(Failure::usage)?;
    }
    if let Some(seed) = args.seed {
        scenario.seed = seed;
    }
    if let Some(duration) = args.duration {
        scenario.duration = duration;
    }
    if args.quick {
        scenario.duration = QUICK.min(scenario.duration);
    }
    duration::check(scenario.duration)
        .map_err(|error| Failure::usage(format!("duration of `{}`: {error}", scenario.name)))?;
    Ok((scenario, swept))
}

/// The user's choice, or the scenario's.
fn machine(args: &RunArgs, scenario: &Scenario) -> MachineKind {
    args.machine.unwrap_or(match scenario.machine {
        Machine::Local => MachineKind::Local,
        Machine::Kvm => MachineKind::Kvm,
        Machine::Guest => MachineKind::Guest,
        Machine::Lab => MachineKind::Lab,
    })
}

/// What other builds or machines have.
fn check_available(args: &RunArgs, scenario: &Scenario, machine: MachineKind) -> Result<(), Failure> {
    let needs = match machine {
        MachineKind::Local | MachineKind::Lab => None,
        MachineKind::Kvm => Some(("kvm", "a payload that runs under /dev/kvm")),
        MachineKind::Guest => {
            Some(("guest", "a Linux guest and the vfio-user server that attaches the device to it"))
        }
    };
    if let Some((name, what)) = needs {
        let message = format!("machine `{name}` needs {what}, which this build does not have");
        return Err(Failure::prerequisite(message, "use --machine local (or leave --machine out)"));
    }
    let from_scenario = scenario.endpoints.contains(&Endpoint::Passthrough);
    let wanted = match &args.endpoint {
        Some(EndpointKind::Emulated) => None,
        Some(EndpointKind::Passthrough(Some(bdf))) => Some(format!("endpoint `passthrough={bdf}`")),
        Some(EndpointKind::Passthrough(None)) => Some("endpoint `passthrough`".to_owned()),
        Some(EndpointKind::All) => Some("endpoint `all` includes `passthrough`, which".to_owned()),
        None if from_scenario => {
            Some(format!("scenario `{}` has endpoint `passthrough`, which", scenario.name))
        }
        None => None,
    };
    match wanted {
        None => Ok(()),
        Some(what) => Err(Failure::prerequisite(
            format!("{what} needs a device behind VFIO, which this build cannot drive"),
            "use --endpoint emulated (or leave --endpoint out)",
        )),
    }
}

fn timed_steps(cases: usize, duration: Duration, seed: u64) -> Vec<(Step, Amount)> {
    let rounds = plan::slices_in(duration);
    let amount = Amount::For(duration / rounds);
    plan::interleave(cases, rounds, seed).into_iter().map(|step| (step, amount)).collect()
}

/// Case after case, without a warm-up: nothing is timed, and the counts are the parameters' alone.
fn exact_steps(cases: usize, packets: u64) -> Vec<(Step, Amount)> {
    let mut steps = Vec::new();
    for case in 0..cases {
        let mut left = packets;
        for round in 0.. {
            let n = left.min(PACKETS_PER_SLICE);
            steps.push((Step { round: Some(round), case }, Amount::Packets(n)));
            left -= n;
            if left == 0 {
                break;
            }
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_steps_add_up_to_what_was_asked_for() {
        for packets in [1, PACKETS_PER_SLICE, PACKETS_PER_SLICE + 1, 12_345_678] {
            let steps = exact_steps(3, packets);
            for case in 0..3 {
                let of_case = steps.iter().filter(|(step, _)| step.case == case);
                let sum: u64 =
                    of_case.map(|(_, amount)| if let Amount::Packets(n) = amount { *n } else { 0 }).sum();
                assert_eq!(sum, packets);
            }
        }
    }

    #[test]
    fn timed_steps_add_up_to_the_duration_and_a_warm_up() {
        let steps = timed_steps(4, Duration::from_secs(2), 1);
        let measured = steps.iter().filter(|(step, _)| step.case == 2 && step.round.is_some());
        let time: Duration =
            measured.map(|(_, amount)| if let Amount::For(t) = amount { *t } else { Duration::ZERO }).sum();
        assert_eq!(time, Duration::from_secs(2));
        assert_eq!(steps.iter().filter(|(step, _)| step.round.is_none()).count(), 4);
    }
}
