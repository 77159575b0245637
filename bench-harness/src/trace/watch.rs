//! The event loop: a table an interval, until the end.

use std::{
    io::IsTerminal as _,
    time::{Duration, Instant},
};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{MissedTickBehavior, interval_at, sleep},
};

use super::{TraceArgs, output, source::Sources, target::Target};
use crate::{
    exit::Exit,
    failure::{Failure, warn},
    out,
};

/// A day is as good as for ever, and a sleep has an end.
const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 3600);
/// How often samples are taken from the kernel, and the process looked for.
const OFTEN: Duration = Duration::from_millis(100);

/// Watches and prints until the user, the clock or the end of the process says stop.
///
/// # Errors
/// When the kernel's maps cannot be read or standard output cannot be written.
pub(super) async fn watch(args: &TraceArgs, target: &Target, mut sources: Sources) -> Result<Exit, Failure> {
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    let began = Instant::now();
    let mut last = began;
    let mut tick = interval_at((began + args.interval).into(), args.interval);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut look = interval_at((began + OFTEN).into(), OFTEN);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let end = sleep(args.duration.unwrap_or(FOR_EVER));
    tokio::pin!(end);
    loop {
        tokio::select! {
            _ = tick.tick() => {
                let readings = sources.interval()?;
                let over = last.elapsed();
                last = Instant::now();
                if args.json {
                    out::print(&output::json(&readings, false).map_err(Failure::failed)?)?;
                } else {
                    let now = jiff::Zoned::now().strftime("%H:%M:%S").to_string();
                    out::print(&format!("{}{}\n", clear(), output::table(&readings, over, &now)))?;
                }
            }
            _ = look.tick() => {
                sources.drain();
                if target.is_gone() {
                    warn(&format!("process {} is gone", target.pid.unwrap_or(0)));
                    break;
                }
            }
            () = &mut end => break,
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
        }
    }
    let over = began.elapsed();
    let readings = sources.totals()?;
    if args.json {
        out::print(&output::json(&readings, true).map_err(Failure::failed)?)?;
    } else {
        out::print(&output::table(&readings, over, &format!("total of {:.1} s", over.as_secs_f64())))?;
    }
    Ok(Exit::Ok)
}

fn listen(kind: SignalKind) -> Result<Signal, Failure> {
    signal(kind).map_err(|error| Failure::failed(format!("signals cannot be listened to: {error}")))
}

/// Makes the table stay in place on a terminal.
fn clear() -> &'static str {
    if std::io::stdout().is_terminal() { "\x1b[H\x1b[2J" } else { "" }
}
