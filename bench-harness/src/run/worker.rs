//! The thread that drives the cases. Everything of the guest lives on it; the main thread only listens, so that a
//! driver that hangs or panics takes neither the result nor the terminal with it.

use std::{
    any::Any,
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::mpsc::{Receiver, Sender, channel},
    thread,
};

use iommu_results::Param;
use iommu_workloads::CaseSpec;

use crate::{
    inject::Inject,
    interrupt::Interrupt,
    machine::{Amount, CaseError, Machine, PreparedCase, RecordLimits, Recording, Slice},
    plan::Step,
    probes::{self, Counters, Flame, Measured, Pass, PassSeen, Wanted, Watch},
};

/// Steps that pass before an injected failure of the driver.
const STEPS_BEFORE: usize = 6;

/// What the worker says.
#[derive(Debug)]
pub(crate) enum Event {
    /// A case is set up; these parameters are the machine's.
    Prepared { case: usize, params: BTreeMap<String, Param> },
    /// A step is about to begin.
    Begins(Step),
    /// A step is done.
    Done(Step, Box<Slice>),
    /// The accesses of a case are about to be recorded.
    Records { case: usize },
    /// They are recorded, or there are none to record.
    Recorded { case: usize, recording: Box<Result<Recording, String>> },
    /// Something besides the steps is about to begin, such as a slice with probes.
    Besides(String),
    /// That slice is done.
    BesidesDone,
    /// What probes saw.
    Observed(Box<Measured>),
    /// Nothing more will come: something broke.
    Failed { cause: String },
    /// Nothing more will come: all steps are done, or the user interrupted.
    Finished { interrupted: bool },
}

/// What the worker shall do.
pub(crate) struct Job {
    /// Where.
    pub(crate) machine: Box<dyn Machine>,
    /// The cases.
    pub(crate) cases: Vec<CaseSpec>,
    /// The slices, in order, with their amounts.
    pub(crate) steps: Vec<(Step, Amount)>,
    /// How much of each case's accesses is recorded after the slices; nothing when it is to be left out.
    pub(crate) record: Option<RecordLimits>,
    /// What to observe meanwhile.
    pub(crate) wanted: Wanted,
    /// Ends the work between two steps.
    pub(crate) interrupt: Interrupt,
    /// Failure to provoke.
    pub(crate) inject: Option<Inject>,
}

/// Starts to work.
///
/// # Errors
/// When no thread can be started.
pub(crate) fn start(job: Job) -> std::io::Result<Receiver<Event>> {
    let (events, listener) = channel();
    let body = move || {
        let outcome = catch_unwind(AssertUnwindSafe(|| work(&job, &events)));
        let interrupted = job.interrupt.requested();
        // Real devices go back to the host before anyone learns that the work is done, and the process may end.
        // A machine that goes puts aside what it keeps, before the listener looks for it.
        drop(job);
        let last = match outcome {
            Ok(Ok(interrupted)) => Event::Finished { interrupted },
            // What was given up because the user did not want to wait is no failure.
            Ok(Err(_)) if interrupted => Event::Finished { interrupted: true },
            Ok(Err(error)) => Event::Failed { cause: error.to_string() },
            Err(panic) => Event::Failed { cause: format!("the driver panicked: {}", text(&*panic)) },
        };
        // Nobody listens any more when the main thread has given up on us.
        let _ = events.send(last);
    };
    thread::Builder::new().name("driver".to_owned()).spawn(body)?;
    Ok(listener)
}

/// Runs all steps; says whether it was interrupted.
fn work(job: &Job, events: &Sender<Event>) -> Result<bool, CaseError> {
    let mut prepared = Vec::with_capacity(job.cases.len());
    for (case, spec) in job.cases.iter().enumerate() {
        if job.interrupt.requested() {
            return Ok(true);
        }
        say(events, Event::Besides(format!("{}, setting up", spec.id)));
        let one = job.machine.prepare(spec)?;
        say(events, Event::Prepared { case, params: one.params() });
        prepared.push(one);
    }
    let mut measured = Measured::default();
    let mut watch = job.wanted.kernel.then(|| {
        say(events, Event::Besides("attaching kernel probes".to_owned()));
        Watch::start(job.wanted)
    });
    let flame = job.wanted.kernel.then(Flame::start);
    let stepped = steps(job, events, &mut prepared, watch.as_mut(), flame.as_ref());
    measured.kernel = watch.map(Watch::finish);
    if let Some(flame) = flame {
        say(events, Event::Besides("finding the names of sampled functions".to_owned()));
        measured.profile = Some(flame.finish());
    }
    if matches!(stepped, Ok(false)) && job.wanted.sites {
        measured.sites = Some(sites(job, events, &mut prepared)?);
    }
    say(events, Event::Observed(Box::new(measured)));
    if stepped? {
        return Ok(true);
    }
    finish(prepared)?;
    record(job, events)?;
    Ok(job.interrupt.requested())
}

type Prepared = Vec<Box<dyn PreparedCase>>;

/// The slices that are measured; says whether it was interrupted.
fn steps(
    job: &Job,
    events: &Sender<Event>,
    prepared: &mut Prepared,
    mut watch: Option<&mut Watch>,
    flame: Option<&Flame>,
) -> Result<bool, CaseError> {
    let mut counters = (!job.wanted.exact).then(Counters::start);
    for (done, &(step, amount)) in job.steps.iter().enumerate() {
        if job.interrupt.requested() {
            return Ok(true);
        }
        say(events, Event::Begins(step));
        inject(job.inject, done);
        if let Some(watch) = &mut watch {
            watch.for_round(step.round);
        }
        if let Some(flame) = flame {
            flame.for_round(step.round);
        }
        if let Some(counters) = &mut counters {
            counters.begin();
        }
        let mut slice = prepared[step.case].run_slice(amount)?;
        if let Some(counters) = &mut counters {
            slice.counted = counters.end();
        }
        say(events, Event::Done(step, Box::new(slice)));
    }
    Ok(false)
}

/// The pass with the device's sites; the inner error is why there is none.
fn sites(
    job: &Job,
    events: &Sender<Event>,
    prepared: &mut Prepared,
) -> Result<Result<PassSeen, String>, CaseError> {
    let Some(&(_, amount)) = job.steps.last() else { return Ok(Err("there is nothing to run".to_owned())) };
    say(events, Event::Besides("attaching to the device's sites".to_owned()));
    let mut pass = match Pass::new(prepared.len()) {
        Ok(pass) => pass,
        Err(error) => return Ok(Err(error.to_string())),
    };
    for (number, attached) in probes::ORDER.into_iter().enumerate() {
        say(events, Event::Besides(format!("breakdown, round {}", number + 1)));
        if let Err(error) = pass.round(attached) {
            return Ok(Err(error.to_string()));
        }
        for (case, one) in prepared.iter_mut().enumerate() {
            if job.interrupt.requested() {
                return Ok(Err("interrupted".to_owned()));
            }
            say(events, Event::Besides(format!("breakdown of {}", job.cases[case].id)));
            let slice = one.run_slice(amount)?;
            if let Err(error) = pass.slice(case, attached, &slice) {
                return Ok(Err(error.to_string()));
            }
            say(events, Event::BesidesDone);
        }
    }
    Ok(Ok(pass.finish()))
}

/// Records the accesses of every case, now that nothing is timed any more.
fn record(job: &Job, events: &Sender<Event>) -> Result<(), CaseError> {
    let Some(limits) = job.record else { return Ok(()) };
    for (case, spec) in job.cases.iter().enumerate() {
        if job.interrupt.requested() {
            return Ok(());
        }
        say(events, Event::Records { case });
        let recording = Box::new(job.machine.record(spec, limits)?);
        say(events, Event::Recorded { case, recording });
    }
    Ok(())
}

fn finish(prepared: Vec<Box<dyn PreparedCase>>) -> Result<(), CaseError> {
    for one in prepared {
        one.finish()?;
    }
    Ok(())
}

fn say(events: &Sender<Event>, event: Event) {
    // As in `start`: without a listener there is nothing left to do, and the next step ends the process anyway.
    let _ = events.send(event);
}

/// Test hook: see [`Inject`].
fn inject(inject: Option<Inject>, done: usize) {
    match inject {
        Some(Inject::DriverPanic) if done == STEPS_BEFORE => panic!("injected panic in the driver"),
        Some(Inject::Hang) if done == STEPS_BEFORE => loop {
            thread::park();
        },
        _ => (),
    }
}

fn text(panic: &(dyn Any + Send)) -> String {
    let str = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    str.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}
