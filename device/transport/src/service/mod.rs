//! Service modes: on which thread the work of a device's queues runs.
//!
//! - [`ServiceMode::Inline`]: on the thread that kicked, as a VM exit would. A kick that arrives while another thread
//!   serves is handed to that thread and returns at once; none is lost.
//! - [`ServiceMode::Thread`]: on a worker thread that sleeps on an eventfd. While it works, kicks are suppressed; before
//!   it sleeps it asks for kicks again and looks once more.
//! - [`ServiceMode::Poll`]: on a worker thread that never sleeps, kicks suppressed throughout.
//!
//! A device owns its [`Service`] for life: [`start`](Service::start) on activation, [`notify`](Service::notify) on
//! each kick, [`stop`](Service::stop) on reset. A panic in the worker is caught, ends the service until the next
//! start and is told by [`failed`](Service::failed), which the device reports as
//! [`needs_reset`](crate::VirtioDevice::needs_reset).

use std::{
    any::Any,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
};

use thiserror::Error;
use vmm_sys_util::eventfd::EventFd;

use crate::Interrupt;

mod inline;
#[cfg(test)]
mod tests;
mod threaded;

use inline::Inline;

/// Where queue work runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ServiceMode {
    /// On the kicking thread.
    Inline,
    /// On a thread that sleeps until it is kicked.
    Thread,
    /// On a thread that polls.
    Poll,
}

/// What a call of [`QueueWorker::run`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Something was done; there may be more.
    Worked,
    /// There was nothing to do.
    Idle,
}

/// The work of one or several queues.
pub trait QueueWorker: Send {
    /// Serves a bounded share of what is available: between two calls the service looks whether it is to stop.
    ///
    /// An inline service never calls [`suppress_kicks`](Self::suppress_kicks). A worker whose driver needs the request
    /// for kicks renewed (EVENT_IDX) does so before it answers [`Progress::Idle`], and looks once more after that.
    fn run(&mut self) -> Progress;

    /// Asks the driver not to kick (`true`), or to kick again (`false`).
    fn suppress_kicks(&mut self, on: bool);
}

/// A service could not be set up.
#[derive(Debug, Error)]
pub enum ServiceError {
    /// No eventfd.
    #[error("cannot create an eventfd")]
    EventFd(#[source] io::Error),
    /// No thread.
    #[error("cannot start the worker thread {name}")]
    Spawn {
        /// Name of the thread.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// [`Service::start`] was called again without [`Service::stop`].
    #[error("the service {name} is already running")]
    Running {
        /// Name of the service.
        name: String,
    },
}

/// What the service's front and its worker thread share.
#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    failed: AtomicBool,
    failure: Mutex<Option<String>>,
    wake: Option<EventFd>,
}

/// Runs a [`QueueWorker`] as its [`ServiceMode`] says.
pub struct Service {
    name: String,
    mode: ServiceMode,
    kicks: AtomicU64,
    shared: Arc<Shared>,
    inline: Inline,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Service {
    /// A service that is not running. `name` names its thread (Linux shows the first 15 bytes).
    ///
    /// # Errors
    /// When no eventfd can be had.
    pub fn new(name: impl Into<String>, mode: ServiceMode) -> Result<Self, ServiceError> {
        let wake = match mode {
            ServiceMode::Thread => Some(EventFd::new(0).map_err(ServiceError::EventFd)?),
            ServiceMode::Inline | ServiceMode::Poll => None,
        };
        Ok(Self {
            name: name.into(),
            mode,
            kicks: AtomicU64::new(0),
            shared: Arc::new(Shared { wake, ..Shared::default() }),
            inline: Inline::new(),
            thread: Mutex::new(None),
        })
    }

    /// The mode it was created with.
    pub fn mode(&self) -> ServiceMode {
        self.mode
    }

    /// Kicks that reached [`notify`](Self::notify) since creation, whether or not there was work.
    pub fn kicks(&self) -> u64 {
        self.kicks.load(Ordering::Relaxed)
    }

    /// What the worker panicked with, if it did since the last start.
    pub fn failed(&self) -> Option<String> {
        if !self.shared.failed.load(Ordering::Acquire) {
            return None;
        }
        lock(&self.shared.failure).clone()
    }

    /// Starts to serve. `interrupt` is told (as a configuration change) if the worker panics.
    ///
    /// # Errors
    /// When it is running already, or no thread can be started.
    pub fn start(
        &self,
        worker: Box<dyn QueueWorker>,
        interrupt: Arc<dyn Interrupt>,
    ) -> Result<(), ServiceError> {
        let mut thread = lock(&self.thread);
        if thread.is_some() || self.inline.occupied() {
            return Err(ServiceError::Running { name: self.name.clone() });
        }
        self.shared.revive();
        if self.mode == ServiceMode::Inline {
            self.inline.put(worker, interrupt);
            return Ok(());
        }
        let (shared, mode) = (Arc::clone(&self.shared), self.mode);
        let body = move || threaded::serve(&shared, mode, worker, &*interrupt);
        let spawned = std::thread::Builder::new().name(self.name.clone()).spawn(body);
        *thread = Some(spawned.map_err(|source| ServiceError::Spawn { name: self.name.clone(), source })?);
        Ok(())
    }

    /// The driver kicked. Never blocks but for the work itself in [`ServiceMode::Inline`]; may be called before start
    /// and after stop.
    #[inline]
    pub fn notify(&self) {
        self.kicks.fetch_add(1, Ordering::Relaxed);
        match self.mode {
            ServiceMode::Inline => self.inline.kick(&self.shared),
            ServiceMode::Thread => self.shared.wake(),
            ServiceMode::Poll => (),
        }
    }

    /// Ends the service: when it returns, the worker is gone and no queue is touched any more.
    ///
    /// Not to be called from within the worker: a thread cannot wait for itself.
    pub fn stop(&self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.wake();
        self.inline.take();
        if let Some(thread) = lock(&self.thread).take() {
            // The thread's panics are caught inside; what is left could only be a panic in the worker's Drop.
            if let Err(panic) = thread.join() {
                self.shared.fail(&*panic);
            }
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn revive(&self) {
        *lock(&self.failure) = None;
        self.failed.store(false, Ordering::Release);
        self.stop.store(false, Ordering::Release);
    }

    fn stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    fn wake(&self) {
        if let Some(wake) = &self.wake
            && let Err(error) = wake.write(1)
        {
            // Only a counter at its maximum refuses, and then the worker is awake.
            tracing::debug!(%error, "eventfd");
        }
    }

    /// Runs `f`; a panic becomes the service's failure.
    fn guarded<T>(&self, f: impl FnOnce() -> T) -> Option<T> {
        match catch_unwind(AssertUnwindSafe(f)) {
            Ok(value) => Some(value),
            Err(panic) => {
                self.fail(&*panic);
                None
            }
        }
    }

    fn fail(&self, panic: &(dyn Any + Send)) {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let cause = text.or_else(|| panic.downcast_ref::<String>().cloned());
        let cause = cause.unwrap_or_else(|| "panic of an unknown type".to_owned());
        crate::complain!(error, %cause, "queue worker panicked");
        *lock(&self.failure) = Some(cause);
        // Release pairs with the Acquire in `failed`.
        self.failed.store(true, Ordering::Release);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // The values are replaced whole, so a panic elsewhere leaves nothing half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
