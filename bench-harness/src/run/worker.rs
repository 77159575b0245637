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
        let last = match outcome {
            Ok(Ok(interrupted)) => Event::Finished { interrupted },
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
        let one = job.machine.prepare(spec)?;
        say(events, Event::Prepared { case, params: one.params() });
        prepared.push(one);
    }
    for (done, &(step, amount)) in job.steps.iter().enumerate() {
        if job.interrupt.requested() {
            return Ok(true);
        }
        say(events, Event::Begins(step));
        inject(job.inject, done);
        let slice = prepared[step.case].run_slice(amount)?;
        say(events, Event::Done(step, Box::new(slice)));
    }
    finish(prepared)?;
    record(job, events)?;
    Ok(job.interrupt.requested())
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
