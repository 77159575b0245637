//! Recording on a thread of its own.

use std::{
    sync::mpsc::{self, RecvTimeoutError, Sender},
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::{Profile, ProfileError, Recorder, Settings};

/// How often the buffers are emptied.
const DRAIN_EVERY: Duration = Duration::from_millis(100);

/// What the recording thread is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tell {
    Run(bool),
    Stop,
}

/// A profile being recorded. Dropping it gives the profile up.
#[derive(Debug)]
pub struct Background {
    tell: Sender<Tell>,
    thread: JoinHandle<Option<Profile>>,
}

impl Background {
    /// Begins to record process `pid`; the recording thread itself is left out.
    ///
    /// # Errors
    /// As [`Recorder::attach`], or when no thread can be started.
    pub fn start(pid: i32, settings: Settings) -> Result<Self, ProfileError> {
        let (tell, told) = mpsc::channel();
        let (begun, begins) = mpsc::channel();
        let record = move || {
            let attached = Recorder::attach(pid, settings, &[own_thread()]);
            let mut recorder = match attached {
                Ok(recorder) => recorder,
                Err(error) => {
                    // Whoever started this waits for it.
                    let _ = begun.send(Err(error));
                    return None;
                }
            };
            let _ = begun.send(Ok(()));
            let mut runs = true;
            loop {
                // Paused, there is nothing to take.
                let next = if runs {
                    told.recv_timeout(DRAIN_EVERY)
                } else {
                    told.recv().map_err(|_| RecvTimeoutError::Disconnected)
                };
                match next {
                    Err(RecvTimeoutError::Timeout) => recorder.drain(),
                    Ok(Tell::Run(on)) => {
                        runs = on;
                        recorder.run(on);
                    }
                    Ok(Tell::Stop) => return Some(recorder.finish()),
                    // Nobody wants it any more.
                    Err(RecvTimeoutError::Disconnected) => return None,
                }
            }
        };
        let spawned = thread::Builder::new().name("profile".to_owned()).spawn(record);
        let thread = spawned.map_err(|_| ProfileError::Thread("could not be started"))?;
        begins.recv().map_err(|_| ProfileError::Thread("ended before it began"))??;
        Ok(Self { tell, thread })
    }

    /// Samples, or pauses. Takes effect within moments.
    pub fn run(&self, on: bool) {
        // If the thread is gone, `stop` says so.
        let _ = self.tell.send(Tell::Run(on));
    }

    /// Ends the recording and finds the names.
    ///
    /// # Errors
    /// When the recording thread panicked.
    pub fn stop(self) -> Result<Profile, ProfileError> {
        // If it is gone, `join` says so.
        let _ = self.tell.send(Tell::Stop);
        let profile = self.thread.join().map_err(|_| ProfileError::Thread("panicked"))?;
        profile.ok_or(ProfileError::Thread("ended before it began"))
    }
}

fn own_thread() -> i32 {
    // The link names this thread: `PID/task/TID`.
    let link = std::fs::read_link("/proc/thread-self").ok();
    link.and_then(|link| link.file_name()?.to_str()?.parse().ok()).unwrap_or(0)
}
