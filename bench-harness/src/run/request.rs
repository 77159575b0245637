//! From the command line to what is to be run; everything that can be wrong before anything runs.

use std::time::Duration;

use iommu_workloads::{
    CaseSpec, Scenario,
    scenario::{Device, Endpoint, Machine, Value},
};

use super::sweep::{self, Swept};
use crate::{
    cli::{EndpointKind, MachineKind, RunArgs},
    duration,
    failure::Failure,
    guest,
    machine::{Allowed, Amount, HardwareError, Real, RecordLimits, chain},
    plan::{self, Step},
};

/// Measured time of each case with `--quick`.
const QUICK: Duration = Duration::from_millis(400);
/// Most measured time of each case in the lab, unless it is given: an emulated machine takes its time around the slices,
/// and more of them would make no time of its a hardware's.
const LAB: Duration = Duration::from_secs(1);
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
        let (mut scenario, swept) = changed_scenario(args)?;
        let machine = machine(args, &scenario);
        guest::apply(&mut scenario, &args.guest, machine == MachineKind::Guest)?;
        let mut cases = scenario.expand().map_err(Failure::usage)?;
        check_available(args, &scenario, machine)?;
        if machine == MachineKind::Guest {
            cases = guest::checked(cases, &args.guest)?;
        }
        let steps = match args.packets {
            Some(packets) => exact_steps(cases.len(), packets),
            None if machine == MachineKind::Guest => guest::steps(&cases, &scenario),
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

impl Request {
    /// The real devices that the passthrough cases need, taken over; none when there are no such cases.
    ///
    /// # Errors
    /// When there are none, or they cannot be taken.
    pub(super) fn hardware(&self, args: &RunArgs) -> Result<Option<Real>, Failure> {
        let real: Vec<&CaseSpec> =
            self.cases.iter().filter(|case| case.endpoint == Endpoint::Passthrough).collect();
        if real.is_empty() {
            return Ok(None);
        }
        let missing = |error: HardwareError| {
            match error {
                HardwareError::ReadOnly { address, .. } => {
                    let remedy =
                        format!("--allow-writes {address} allows it, and destroys what is on the disk");
                    return Failure::usage(error).with_remedy(remedy);
                }
                HardwareError::Case { .. } | HardwareError::Mixed => return Failure::usage(error),
                _ => (),
            }
            let remedy = "docs/passthrough.md says what it needs; --machine lab has it anywhere";
            Failure::prerequisite(chain(&error), remedy)
        };
        let wanted = match &args.endpoint {
            Some(EndpointKind::Passthrough(bdf)) => bdf.as_deref(),
            _ => None,
        };
        let allowed =
            Allowed { bind: args.bind, writes: args.allow_writes.as_deref(), in_use: &args.allow_in_use };
        Real::open(&real, wanted, allowed).map(Some).map_err(missing)
    }

    /// Narrows every case to what the real devices can do, so that all cases do the same work; says what it changed.
    pub(super) fn limit_to(&mut self, hardware: Option<&Real>) -> Vec<String> {
        let mut notes = Vec::new();
        if hardware.is_none_or(Real::segments) {
            return notes;
        }
        for case in &mut self.cases {
            let mss = u32::from(case.params.mss());
            if case.test.device() == Device::Nic && case.params.tso_bytes > mss {
                case.params.tso_bytes = mss;
                case.values.insert("tso_bytes", Value::Int(u64::from(mss)));
                notes = vec![format!(
                    "the real network cards do not segment large packets: in all cases of this run, emulated ones \
                     included, no packet is larger than a segment (tso_bytes = {mss})"
                )];
            }
        }
        notes
    }
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
    if let Some(kind) = &args.endpoint {
        let endpoints = match kind {
            EndpointKind::Emulated => "emulated",
            EndpointKind::Passthrough(_) => "passthrough",
            EndpointKind::All => "emulated,passthrough",
        };
        scenario.set(&format!("endpoints={endpoints}")).map_err(Failure::usage)?;
    }
    if let Some(seed) = args.seed {
        scenario.seed = seed;
    }
    match args.duration {
        Some(duration) => scenario.duration = duration,
        None if machine(args, &scenario) == MachineKind::Lab => {
            scenario.duration = LAB.min(scenario.duration);
        }
        None => (),
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
    if machine == MachineKind::Kvm {
        let message =
            "machine `kvm` needs a payload that runs under /dev/kvm, which this build does not have";
        return Err(Failure::prerequisite(message, "use --machine local (or leave --machine out)"));
    }
    if args.packets.is_some() && scenario.endpoints.contains(&Endpoint::Passthrough) {
        return Err(Failure::usage(
            "--packets counts exactly what the parameters say; a real device takes what it finds: use --duration",
        ));
    }
    if machine == MachineKind::Guest && args.packets.is_some() {
        return Err(Failure::usage(
            "--packets needs a virtual clock, and netperf in a guest has the guest's",
        )
        .with_remedy("give --duration, in whole seconds a slice"));
    }
    Ok(())
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
