//! The main thread's half of a run: listens to the worker, shows progress, gives up on a worker that hangs.

use std::{
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::{Duration, Instant},
};

use super::{collect::Gathered, worker::Event};
use crate::{machine::Amount, plan::Step, probes::Measured, progress::Progress};

/// How long a case may take to be set up, or the worker to begin the next step.
const SETUP_LIMIT: Duration = Duration::from_secs(60);
/// How long a slice may take beyond what was asked for.
const SLICE_LIMIT: Duration = Duration::from_secs(30);
/// How long a slice of so many packets may take: slices are cut so that even a debug build needs seconds.
const PACKETS_LIMIT: Duration = Duration::from_secs(600);

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// All slices are done.
    Complete,
    /// The user interrupted.
    Interrupted,
    /// Something broke.
    Broke {
        /// What, and why.
        cause: String,
    },
}

/// What the run gathered, and how it ended.
pub(crate) struct Outcome {
    /// By case, in the order of the cases.
    pub(crate) gathered: Vec<Gathered>,
    /// What probes saw.
    pub(crate) observed: Measured,
    /// How it ended.
    pub(crate) end: End,
}

/// Listens until the worker is done, broken or silent for too long.
pub(crate) fn listen(
    events: &Receiver<Event>,
    ids: &[String],
    amount: Amount,
    progress: &mut Progress,
    patience: Patience,
) -> Outcome {
    let mut gathered: Vec<Gathered> = ids.iter().map(|_| Gathered::default()).collect();
    let mut observed = Measured::default();
    let mut doing = "setting up".to_owned();
    let mut limit = patience.setup;
    let origin = Instant::now();
    let mut began = Duration::ZERO;
    let end = loop {
        match events.recv_timeout(limit) {
            Ok(Event::Prepared { case, params }) => gathered[case].params = params,
            Ok(Event::Begins(step)) => {
                began = origin.elapsed();
                doing = label(step, ids);
                progress.now(&doing);
                limit = patience.of(amount);
            }
            Ok(Event::Done(step, slice)) => {
                gathered[step.case].add(step, began, *slice);
                progress.advance(weight(amount));
                limit = patience.setup;
            }
            Ok(Event::Records { case }) => {
                doing = format!("{}, recording its accesses", ids[case]);
                progress.now(&doing);
                limit = patience.of(Amount::Packets(0));
            }
            Ok(Event::Recorded { case, recording }) => gathered[case].recording = Some(*recording),
            Ok(Event::Besides(what)) => {
                doing = what;
                progress.now(&doing);
                limit = patience.setup + patience.of(amount);
            }
            Ok(Event::BesidesDone) => progress.advance(weight(amount)),
            Ok(Event::Observed(seen)) => {
                observed = *seen;
                limit = patience.setup;
            }
            Ok(Event::Finished { interrupted: false }) => break End::Complete,
            Ok(Event::Finished { interrupted: true }) => break End::Interrupted,
            Ok(Event::Failed { cause }) => break End::Broke { cause },
            Err(RecvTimeoutError::Timeout) => {
                let cause = format!("no sign of life for {} s while {doing}", limit.as_secs());
                break End::Broke { cause };
            }
            Err(RecvTimeoutError::Disconnected) => {
                break End::Broke { cause: format!("the driver's thread ended while {doing}") };
            }
        }
    };
    progress.finish();
    Outcome { gathered, observed, end }
}

/// How long silence is borne.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// Outside slices.
    pub(crate) setup: Duration,
    /// Within a slice, beyond its length.
    pub(crate) slice: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { setup: SETUP_LIMIT, slice: SLICE_LIMIT }
    }
}

impl Patience {
    fn of(self, amount: Amount) -> Duration {
        match amount {
            Amount::For(time) => time + self.slice,
            Amount::Packets(_) => self.slice.max(PACKETS_LIMIT),
        }
    }
}

/// What a step counts for in the progress bar.
pub(crate) fn weight(amount: Amount) -> Duration {
    match amount {
        Amount::For(time) => time,
        // Only the share matters: the time a packet takes is not known.
        Amount::Packets(n) => Duration::from_micros(n),
    }
}

fn label(step: Step, ids: &[String]) -> String {
    match step.round {
        Some(round) => format!("{}, slice {}", ids[step.case], round + 1),
        None => format!("{}, warming up", ids[step.case]),
    }
}
