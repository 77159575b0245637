//! Recording on a thread of its own.

use std::{
    sync::mpsc::{self, RecvTimeoutError, Sender},
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::{Profile, ProfileError, Recorder, Settings};

/// How often the buffers are emptied.
const DRAIN_EVERY: Duration = Duration::from_millis(100);

/// A profile being recorded. Dropping it gives the profile up.
#[derive(Debug)]
pub struct Background {
    stop: Sender<()>,
    thread: JoinHandle<Option<Profile>>,
}

impl Background {
    /// Begins to record process `pid`; the recording thread itself is left out.
    ///
    /// # Errors
    /// As [`Recorder::attach`], or when no thread can be started.
    pub fn start(pid: i32, settings: Settings) -> Result<Self, ProfileError> {
        let (stop, stopped) = mpsc::channel();
        let (tell, told) = mpsc::channel();
        let record = move || {
            let mut recorder = Recorder::attach(pid, settings, &[own_thread()]).map_err(|error| {
                // Whoever started this waits for it.
                let _ = tell.send(Err(error));
            });
            if recorder.is_ok() {
                let _ = tell.send(Ok(()));
            }
            while let Ok(recorder) = &mut recorder {
                match stopped.recv_timeout(DRAIN_EVERY) {
                    Err(RecvTimeoutError::Timeout) => recorder.drain(),
                    Ok(()) | Err(RecvTimeoutError::Disconnected) => break,
                }
            }
            recorder.ok().map(Recorder::finish)
        };
        let spawned = thread::Builder::new().name("profile".to_owned()).spawn(record);
        let thread = spawned.map_err(|_| ProfileError::Thread("could not be started"))?;
        told.recv().map_err(|_| ProfileError::Thread("ended before it began"))??;
        Ok(Self { stop, thread })
    }

    /// Ends the recording and finds the names.
    ///
    /// # Errors
    /// When the recording thread panicked.
    pub fn stop(self) -> Result<Profile, ProfileError> {
        // If it is gone, `join` says so.
        let _ = self.stop.send(());
        let profile = self.thread.join().map_err(|_| ProfileError::Thread("panicked"))?;
        profile.ok_or(ProfileError::Thread("ended before it began"))
    }
}

fn own_thread() -> i32 {
    // The link names this thread: `PID/task/TID`.
    let link = std::fs::read_link("/proc/thread-self").ok();
    link.and_then(|link| link.file_name()?.to_str()?.parse().ok()).unwrap_or(0)
}
