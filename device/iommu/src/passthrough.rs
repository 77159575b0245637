//! Endpoints that no emulation serves: a real device, whose accesses go through real page tables.
//!
//! A domain with such an endpoint does all it does twice, in its own table and in the endpoint's [`Backend`], one request
//! after the other; a domain without one pays a look at a flag.
//!
//! A backend that fails to take mappings away leaves its device *blocked*: the request is answered DEVERR, and the device
//! joins no domain, and no later UNMAP of the domain it was in is answered OK, until a repeated
//! [`show_nothing`](Backend::show_nothing) has succeeded.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use thiserror::Error;
use virtio_iommu_spec::{IovaRange, Status};

use crate::{
    request::RequestError,
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
    /// When the host cannot; the device sees nothing then, which the caller makes sure of by
    /// [`show_nothing`](Self::show_nothing).
    fn show_all(&self) -> Result<(), BackendError>;

    /// Shows the device these mappings, and nothing else. They do not overlap, and each allows something.
    ///
    /// # Errors
    /// As [`show_all`](Self::show_all).
    fn show(&self, mappings: &[Mapping]) -> Result<(), BackendError>;

    /// Shows the device nothing.
    ///
    /// # Errors
    /// When something cannot be taken away.
    fn show_nothing(&self) -> Result<(), BackendError>;

    /// Adds a mapping, which overlaps none that the device is to see and allows something. What an earlier call failed to
    /// take away there goes first.
    ///
    /// # Errors
    /// When the host cannot; nothing of it is mapped then.
    fn map(&self, mapping: &Mapping) -> Result<(), BackendError>;

    /// Takes away all mappings in `range`; none that the device is to see crosses its ends, one that an earlier call failed
    /// to take away may. When it returns, no access under them still runs, unless it is put off until
    /// [`flush`](Self::flush).
    ///
    /// # Errors
    /// When something cannot be taken away.
    fn unmap(&self, range: IovaRange) -> Result<(), BackendError>;

    /// Does what [`unmap`](Self::unmap) has put off or failed to do. Called at the end of each batch of requests with an
    /// UNMAP, and after a refused MAP, before any of them is answered.
    ///
    /// # Errors
    /// When something cannot be taken away: all requests of the batch that removed something are answered DEVERR.
    fn flush(&self) -> Result<(), BackendError> {
        Ok(())
    }

    /// Addresses the device is to see, ascending, where the backend keeps a list: debug builds compare it with the
    /// domain's table at the end of each batch.
    fn shown(&self) -> Option<Vec<IovaRange>> {
        None
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

/// The addresses a real device reaches, compared with those it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sight {
    /// As last told.
    InStep,
    /// None.
    Dark,
    /// Not known: something could not be taken away.
    Blocked,
}

/// The memory a real device is to see.
#[derive(Clone, Copy)]
pub(crate) enum Sees<'a> {
    /// All, one to one.
    All,
    /// These mappings.
    Mappings(&'a [Mapping]),
}

/// The backend of one endpoint, and whether it has done as told.
pub(crate) struct Mirror {
    backend: Arc<dyn Backend>,
    /// Locked while the backend is told: a retry for one domain must not meet the ATTACH to another.
    sight: Mutex<Sight>,
}

impl Mirror {
    pub(crate) fn new(backend: Arc<dyn Backend>) -> Self {
        Self { backend, sight: Mutex::new(Sight::Dark) }
    }

    fn sight(&self) -> MutexGuard<'_, Sight> {
        // Replaced whole: a panic elsewhere leaves nothing half done.
        self.sight.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_in_step(&self) -> bool {
        *self.sight() == Sight::InStep
    }

    /// Whether the device may still see what it should not.
    pub(crate) fn is_blocked(&self) -> bool {
        *self.sight() == Sight::Blocked
    }

    fn take_all(&self, sight: &mut Sight) -> Result<(), RequestError> {
        let taken = self.backend.show_nothing();
        *sight = if taken.is_ok() { Sight::Dark } else { Sight::Blocked };
        taken.map_err(|error| RequestError::Remains { error })
    }

    /// Takes everything away.
    pub(crate) fn clear(&self) -> Result<(), RequestError> {
        self.take_all(&mut self.sight())
    }

    /// Takes everything away if that has failed before.
    pub(crate) fn unblock(&self) -> Result<(), RequestError> {
        let mut sight = self.sight();
        if *sight == Sight::Blocked { self.take_all(&mut sight) } else { Ok(()) }
    }

    /// Shows the device this and nothing else; after a failure it sees nothing, or is blocked.
    pub(crate) fn present(&self, sees: Sees<'_>) -> Result<(), RequestError> {
        let mut sight = self.sight();
        if *sight == Sight::Blocked {
            self.take_all(&mut sight)?;
        }
        let shown = match sees {
            Sees::All => self.backend.show_all(),
            Sees::Mappings(mappings) => self.backend.show(mappings),
        };
        match shown {
            Ok(()) => {
                *sight = Sight::InStep;
                Ok(())
            }
            Err(error) => {
                self.take_all(&mut sight)?;
                Err(error.into())
            }
        }
    }
}

/// The backends of a domain's endpoints.
#[derive(Default)]
pub(crate) struct Mirrors {
    /// Set before the first backend comes, or while an ATTACH must have the domain to itself: a request that has read it
    /// unset under a guard is waited for.
    any: AtomicBool,
    backends: Mutex<Backends>,
}

#[derive(Default)]
struct Backends {
    /// Of the endpoints attached.
    members: Vec<Arc<Mirror>>,
    /// Of endpoints that have left and may still see what they had here.
    departed: Vec<Arc<Mirror>>,
}

impl Mirrors {
    /// Whether requests must go through [`lock`](Self::lock).
    #[inline(always)]
    pub(crate) fn any(&self) -> bool {
        // Acquire pairs with the Release in `announce` and `conclude`; the order against the table is the grace period's.
        self.any.load(Ordering::Acquire)
    }

    /// From the next grace period on, every request goes through [`lock`](Self::lock), until
    /// [`conclude`](Self::conclude).
    pub(crate) fn announce(&self) {
        self.any.store(true, Ordering::Release);
    }

    /// Ends an [`announce`](Self::announce) if no backend has come. Requests that have seen it find an empty list behind
    /// the lock, which is the same as not to have looked.
    pub(crate) fn conclude(&self) {
        let backends = self.lock();
        if backends.0.members.is_empty() && backends.0.departed.is_empty() {
            self.any.store(false, Ordering::Release);
        }
    }

    /// Requests of this domain wait until the lock is given back.
    pub(crate) fn lock(&self) -> Locked<'_> {
        Locked(self.backends.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The backends of a domain, and the sole right to change it.
pub(crate) struct Locked<'a>(MutexGuard<'a, Backends>);

impl Locked<'_> {
    pub(crate) fn add(&mut self, mirror: Arc<Mirror>) {
        self.0.departed.retain(|other| !Arc::ptr_eq(other, &mirror));
        self.0.members.push(mirror);
    }

    /// Removes a backend that sees nothing of this domain any more.
    pub(crate) fn remove(&mut self, mirror: &Arc<Mirror>) {
        self.0.members.retain(|other| !Arc::ptr_eq(other, mirror));
    }

    /// Removes a backend and takes everything away from it. One that fails is remembered.
    pub(crate) fn dismiss(&mut self, mirror: &Arc<Mirror>) -> Result<(), RequestError> {
        let member = self.0.members.iter().any(|other| Arc::ptr_eq(other, mirror));
        self.remove(mirror);
        let taken = mirror.clear();
        if member && taken.is_err() {
            self.0.departed.push(Arc::clone(mirror));
        }
        taken
    }

    /// Shows backends that have fallen behind what the table has. The first failure is reported.
    pub(crate) fn catch_up(&self, mappings: impl FnOnce() -> Vec<Mapping>) -> Result<(), RequestError> {
        if self.0.members.iter().all(|mirror| mirror.is_in_step()) {
            return Ok(());
        }
        let mappings = mappings();
        let late = self.0.members.iter().filter(|mirror| !mirror.is_in_step());
        late.map(|mirror| mirror.present(Sees::Mappings(&mappings))).fold(Ok(()), Result::and)
    }

    /// Maps everywhere or nowhere; what a failure leaves behind is taken away before it returns.
    pub(crate) fn map(&self, mapping: &Mapping) -> Result<(), RequestError> {
        if !allows_something(mapping) {
            // No host has mappings that allow nothing. It takes its addresses, so nothing may be left there.
            return self.unmap(mapping.range).and_then(|()| self.flush());
        }
        for (done, mirror) in self.0.members.iter().enumerate() {
            if let Err(error) = mirror.backend.map(mapping) {
                let undone =
                    self.0.members[..done].iter().map(|earlier| earlier.backend.unmap(mapping.range));
                let undone = undone.fold(Ok(()), Result::and);
                // An UNMAP may be put off, and the guest is told that nothing is mapped.
                undone.map_err(|error| RequestError::Remains { error }).and(self.flush())?;
                return Err(error.into());
            }
        }
        Ok(())
    }

    /// Does what is put off, wherever it can; the first failure is reported.
    pub(crate) fn flush(&self) -> Result<(), RequestError> {
        let flush = |mirror: &Arc<Mirror>| {
            mirror.unblock()?;
            mirror.backend.flush().map_err(|error| RequestError::Remains { error })
        };
        let departed = self.0.departed.iter().map(|mirror| mirror.unblock()).fold(Ok(()), Result::and);
        self.0.members.iter().map(flush).fold(departed, Result::and)
    }

    /// Drops endpoints that have left and see nothing any more.
    pub(crate) fn tidy(&mut self) {
        self.0.departed.retain(|mirror| mirror.is_blocked());
    }

    /// Unmaps wherever it can; the first failure is reported.
    pub(crate) fn unmap(&self, range: IovaRange) -> Result<(), RequestError> {
        let unmap = |mirror: &Arc<Mirror>| {
            if mirror.is_in_step() {
                mirror.backend.unmap(range).map_err(|error| RequestError::Remains { error })
            } else {
                mirror.unblock()
            }
        };
        self.0.members.iter().map(unmap).fold(Ok(()), Result::and)
    }

    /// Compares backends with the table they follow.
    #[cfg(debug_assertions)]
    pub(crate) fn check(&self, mappings: &[Mapping]) {
        /// More would make a long sequence of small batches quadratic.
        const MOST: usize = 4096;
        if mappings.len() > MOST {
            return;
        }
        let expected = runs(mappings.iter().map(|mapping| mapping.range));
        for mirror in self.0.members.iter().filter(|mirror| mirror.is_in_step()) {
            if let Some(shown) = mirror.backend.shown() {
                assert_eq!(runs(shown.into_iter()), expected, "a backend and its domain's table differ");
            }
        }
    }
}

/// Whether a device may do anything with a mapping.
pub(crate) fn allows_something(mapping: &Mapping) -> bool {
    mapping.perms.read || mapping.perms.write
}

/// Ascending ranges, those that touch made one: a backend may need several pieces for a mapping.
#[cfg(debug_assertions)]
fn runs(ranges: impl Iterator<Item = IovaRange>) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for range in ranges {
        match runs.last_mut() {
            Some((_, end)) if end.checked_add(1) == Some(range.start()) => *end = range.end(),
            _ => runs.push((range.start(), range.end())),
        }
    }
    runs
}
