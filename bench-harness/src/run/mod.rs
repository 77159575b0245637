//! `run`: one scenario from the command line to the stored result.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use iommu_results::{
    Artefacts, Environment, Run, RunFolder, Store, StoreError, Timestamp, artefacts, store::REPORT_FILE,
};

use crate::{
    cli::{MachineKind, RunArgs},
    clock::WallClock,
    exit::Exit,
    failure::{Failure, warn},
    guest::{self, GuestMachine, Kept},
    inject::{self, Inject},
    interrupt::Interrupt,
    machine::{Amount, EndpointFault, LocalMachine, LocalOptions, Machine, Real, Time},
    out,
    probes::{self, Wanted},
    progress::Progress,
};

mod assemble;
mod churn;
mod collect;
mod listen;
mod relatives;
mod request;
mod sweep;
mod worker;

pub(crate) use assemble::Assembled;
use assemble::{Facts, assemble};
use listen::{End, Outcome, Patience, listen, weight};
use request::Request;
use worker::Job;

/// Runs a scenario.
///
/// # Errors
/// Before the run: usage errors and missing prerequisites. After it: a failed run, or a result that was not stored.
pub(crate) fn run(args: &RunArgs) -> Result<Exit, Failure> {
    let mut request = Request::new(args)?;
    if request.machine == MachineKind::Lab && iommu_lab::job::inside().is_none() {
        return crate::lab::run_inside(args, &request.scenario.name);
    }
    let inject = inject::from_environment()?;
    let hardware = request.hardware(args)?;
    let notes = request.limit_to(hardware.as_ref());
    let interrupt = Interrupt::install().map_err(Failure::failed)?;
    let mut wanted = Wanted::new(args.probes, request.exact);
    let guest = match request.machine {
        MachineKind::Guest => {
            // The sites of driver and device are followed from one to the other, and this driver is Linux's.
            wanted.sites = false;
            // In the lab nobody else is there, and what a guest does happens in QEMU's process.
            wanted.host = iommu_lab::job::inside().is_some();
            Some(GuestMachine::parts(&args.guest, &args.lab, &Progress::new(Duration::ZERO, args.quiet))?)
        }
        _ => None,
    };
    let started_at = Timestamp::now();
    let environment = Environment::capture();
    let folder = reserve(args, &request, started_at);
    if let Err(error) = &folder {
        warn(&format!("the result will not be stored: {error}"));
    }
    let kept = Arc::new(Mutex::new(Kept::default()));
    let machine = machine(args, &request, &interrupt, inject, hardware, guest.as_ref(), &kept);
    let outcome = measure(args, &request, wanted, interrupt, inject, machine)?;
    let end = outcome.end.clone();
    let run_id = match &folder {
        Ok(folder) => folder.run_id().to_owned(),
        Err(_) => format!("unstored-{}", started_at.as_millisecond()),
    };
    let facts =
        Facts { run_id, started_at, environment, probes: wanted, notes, lab: iommu_lab::job::inside() };
    let mut assembled = assemble(&request, outcome, facts).map_err(Failure::failed)?;
    if let Some(parts) = &guest {
        guest::describe(&mut assembled.run, parts, &kept);
    }
    let stored = folder.and_then(|mut folder| {
        guest::store(&mut folder, &kept)?;
        store(folder, &assembled)
    });
    show(args, &assembled.run, stored.as_ref().ok())?;
    conclude(end, stored)
}

fn reserve(args: &RunArgs, request: &Request, started_at: Timestamp) -> Result<RunFolder, StoreError> {
    Store::open(&args.out)?.begin(&request.scenario.name, started_at)
}

/// Where the cases run.
fn machine(
    args: &RunArgs,
    request: &Request,
    interrupt: &Interrupt,
    inject: Option<Inject>,
    hardware: Option<Real>,
    guest: Option<&Arc<guest::Parts>>,
    kept: &Arc<Mutex<Kept>>,
) -> Box<dyn Machine> {
    if let Some(parts) = guest {
        let alone = guest::has_pollers(&request.cases);
        let joins = args.probes == crate::cli::Probes::On;
        let (parts, kept) = (Arc::clone(parts), Arc::clone(kept));
        return Box::new(GuestMachine::new(
            parts,
            &args.guest,
            &args.lab,
            alone,
            joins,
            interrupt.clone(),
            kept,
        ));
    }
    let time = if request.exact { Time::Virtual } else { Time::Wall(WallClock::best()) };
    let options = LocalOptions {
        seed: request.scenario.seed,
        time,
        alone: request.cases.len() == 1,
        fault: match inject {
            Some(Inject::ServicePanic) => Some(EndpointFault::Panic),
            Some(Inject::Corrupt) => Some(EndpointFault::Corrupt),
            _ => None,
        },
        input_range: hardware.as_ref().and_then(Real::input_range),
        probes: Wanted::new(args.probes, request.exact).kernel,
    };
    Box::new(LocalMachine::new(options, hardware))
}

fn measure(
    args: &RunArgs,
    request: &Request,
    wanted: Wanted,
    interrupt: Interrupt,
    inject: Option<Inject>,
    machine: Box<dyn Machine>,
) -> Result<Outcome, Failure> {
    let ids: Vec<String> = request.cases.iter().map(|case| case.id.clone()).collect();
    let mut total: Duration = request.steps.iter().map(|(_, amount)| weight(*amount)).sum();
    if let (true, Some((_, amount))) = (wanted.sites, request.steps.last()) {
        total += weight(*amount) * (probes::ORDER.len() * request.cases.len()) as u32;
    }
    let mut progress = Progress::new(total, args.quiet);
    let job = Job {
        machine,
        cases: request.cases.clone(),
        steps: request.steps.clone(),
        record: request.record,
        wanted,
        interrupt,
        inject,
    };
    let events = worker::start(job)
        .map_err(|error| Failure::failed(format!("the driver's thread cannot be started: {error}")))?;
    let longest = request.steps.iter().map(|(_, amount)| *amount).max_by_key(|amount| weight(*amount));
    let amount = longest.unwrap_or(Amount::Packets(0));
    Ok(listen(&events, &ids, amount, &mut progress, patience(inject, request.machine)))
}

fn patience(inject: Option<Inject>, machine: MachineKind) -> Patience {
    let default = match machine {
        MachineKind::Guest => Patience { setup: guest::PATIENCE, slice: guest::PATIENCE },
        _ => Patience::default(),
    };
    // A test that provokes a hang has no minute to wait.
    if inject == Some(Inject::Hang) { Patience { slice: Duration::from_secs(1), ..default } } else { default }
}

/// Writes histograms, slices, report and run; the run's folder appears last, and whole.
pub(crate) fn store(mut folder: RunFolder, assembled: &Assembled) -> Result<PathBuf, StoreError> {
    let Assembled { run, histograms, artefacts: beside } = assembled;
    for ((case, name), histogram) in histograms {
        folder.write_histogram(case, name, histogram)?;
    }
    let Artefacts { series, heat, sweep, churn, profile } = beside;
    if let Some(series) = series {
        folder.write_series(series)?;
    }
    if let Some(heat) = heat {
        folder.write_artefact(heat)?;
    }
    if let Some(sweep) = sweep {
        folder.write_artefact(sweep)?;
    }
    if let Some(churn) = churn {
        folder.write_artefact(churn)?;
    }
    if let Some(profile) = profile {
        folder.write(artefacts::Profile::FOLDED_FILE, &profile.folded)?;
        folder.write(artefacts::Profile::SVG_FILE, &profile.svg)?;
    }
    folder.write(REPORT_FILE, iommu_analysis::report::html_with(run, histograms, beside))?;
    folder.commit(run)
}

/// Prints what was asked for to standard output.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn show(args: &RunArgs, run: &Run, stored: Option<&PathBuf>) -> Result<(), Failure> {
    if args.json {
        out::print_json(run)?;
    } else if !args.quiet {
        out::print(&iommu_analysis::terminal::render(run, out::table_options()))?;
        if let Some(folder) = stored {
            out::print(&format!("\nReport: {}\n", folder.join(REPORT_FILE).display()))?;
        }
    }
    Ok(())
}

/// A broken run outweighs a store that failed, which outweighs an interrupt.
fn conclude(end: End, stored: Result<PathBuf, StoreError>) -> Result<Exit, Failure> {
    if let End::Broke { cause } = end {
        let message = format!("the run failed: {cause}");
        let failure = Failure::failed(message);
        return Err(match stored {
            Ok(folder) => {
                failure.with_remedy(format!("what was measured until then is in {}", folder.display()))
            }
            Err(error) => {
                failure.with_remedy(format!("the partial result could not be stored either: {error}"))
            }
        });
    }
    let folder = stored.map_err(|error| match error {
        StoreError::Index { .. } => Failure::failed(error)
            .with_remedy("free some space, then append it with `iommu-bench store import --store DIR`"),
        error => Failure::failed(format!("the result is not stored: {error}"))
            .with_remedy("give a folder that can be written to with --out DIR"),
    })?;
    if end == End::Interrupted {
        // Inside the lab the folder means nothing to the user; outside it will be said.
        if iommu_lab::job::inside().is_none() {
            warn(&format!("interrupted: the partial result is in {}", folder.display()));
        }
        return Ok(Exit::Interrupted);
    }
    Ok(Exit::Ok)
}
