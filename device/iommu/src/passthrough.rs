//! Endpoints that no emulation serves: a real device, whose accesses go through real page tables.
//!
//! A domain with such an endpoint does all it does twice, in its own table and in the endpoint's [`Backend`], one request
//! after the other; a domain without one pays a look at a flag.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use thiserror::Error;
use virtio_iommu_spec::{IovaRange, Status};

use crate::{
    sync::{AtomicBool, Ordering},
    table::Mapping,
};

/// The page tables of a real device, and what they show it.
///
/// An implementation logs what a user can do about a failure; the guest gets a status only.
pub trait Backend: Send + Sync {
    /// Shows the device guest memory one to one, and nothing else.
    ///
    /// # Errors
    /// When the host cannot; the device sees nothing then.
    fn show_all(&self) -> Result<(), BackendError>;

    /// Shows the device these mappings, and nothing else. They do not overlap.
    ///
    /// # Errors
    /// When the host cannot; the device sees nothing then.
    fn show(&self, mappings: &[Mapping]) -> Result<(), BackendError>;

    /// Shows the device nothing.
    ///
    /// # Errors
    /// When something cannot be taken away.
    fn show_nothing(&self) -> Result<(), BackendError>;

    /// Adds a mapping, which overlaps none.
    ///
    /// # Errors
    /// When the host cannot; nothing of it is mapped then.
    fn map(&self, mapping: &Mapping) -> Result<(), BackendError>;

    /// Takes away all mappings in `range`; none crosses its ends. When it returns, no access under them still runs, unless
    /// it is put off until [`flush`](Self::flush).
    ///
    /// # Errors
    /// When something cannot be taken away.
    fn unmap(&self, range: IovaRange) -> Result<(), BackendError>;

    /// Does what [`unmap`](Self::unmap) has put off. Called at the end of each batch of requests with an UNMAP, before
    /// any of them is answered.
    ///
    /// # Errors
    /// When something cannot be taken away: all requests of the batch that removed something are answered DEVERR.
    fn flush(&self) -> Result<(), BackendError> {
        Ok(())
    }
}

/// The host cannot do to a real device's page tables what the guest asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BackendError {
    /// Limits of the host: locked memory, mappings of a container.
    #[error("the host's limits leave no room for the mapping")]
    NoMemory,
    /// Memory that cannot be shown to a device.
    #[error("the mapping's memory is not guest RAM")]
    NotRam,
    /// Anything else.
    #[error("the host refused (errno {errno})")]
    Refused {
        /// Why.
        errno: i32,
    },
}

impl BackendError {
    /// What the guest is told.
    pub(crate) const fn status(self) -> Status {
        match self {
            Self::NoMemory => Status::NoMem,
            Self::NotRam => Status::Inval,
            Self::Refused { .. } => Status::DevErr,
        }
    }
}

/// The backends of a domain's endpoints.
#[derive(Default)]
pub(crate) struct Mirrors {
    /// Set with the first, never cleared: who has read it unset under a guard is waited for before the first is added.
    any: AtomicBool,
    backends: Mutex<Vec<Arc<dyn Backend>>>,
}

impl Mirrors {
    /// Whether requests must go through [`lock`](Self::lock).
    #[inline(always)]
    pub(crate) fn any(&self) -> bool {
        // Acquire pairs with the Release in `announce`; the order against the table is the grace period's.
        self.any.load(Ordering::Acquire)
    }

    /// From the next grace period on, every request goes through [`lock`](Self::lock).
    pub(crate) fn announce(&self) {
        self.any.store(true, Ordering::Release);
    }

    /// Requests of this domain wait until the lock is given back.
    pub(crate) fn lock(&self) -> Locked<'_> {
        Locked(self.backends.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The backends of a domain, and the sole right to change it.
pub(crate) struct Locked<'a>(MutexGuard<'a, Vec<Arc<dyn Backend>>>);

impl Locked<'_> {
    pub(crate) fn add(&mut self, backend: Arc<dyn Backend>) {
        self.0.push(backend);
    }

    pub(crate) fn remove(&mut self, backend: &Arc<dyn Backend>) {
        self.0.retain(|other| !Arc::ptr_eq(other, backend));
    }

    /// Maps everywhere or nowhere.
    pub(crate) fn map(&self, mapping: &Mapping) -> Result<(), BackendError> {
        for (done, backend) in self.0.iter().enumerate() {
            if let Err(error) = backend.map(mapping) {
                for earlier in &self.0[..done] {
                    // It was mapped a moment ago; a backend that fails here logs it and tries again later.
                    let _ = earlier.unmap(mapping.range);
                }
                return Err(error);
            }
        }
        Ok(())
    }

    /// Does what is put off, wherever it can; the first failure is reported.
    pub(crate) fn flush(&self) -> Result<(), BackendError> {
        self.0.iter().map(|backend| backend.flush()).fold(Ok(()), Result::and)
    }

    /// Unmaps wherever it can; the first failure is reported.
    pub(crate) fn unmap(&self, range: IovaRange) -> Result<(), BackendError> {
        self.0.iter().map(|backend| backend.unmap(range)).fold(Ok(()), Result::and)
    }
}
