//! Dead domains whose mappings are not removed yet, and memory that is found when there seems to be none.

use std::sync::{Arc, Mutex, PoisonError, TryLockError};

use virtio_iommu_spec::IovaRange;

use super::Core;
use crate::{
    domain::Domain,
    epoch::Participant,
    sync::{AtomicBool, Ordering},
    table::MappingTable,
};

/// Dead domains, after their grace period, whose mappings were not all removed because a reset waited.
#[derive(Default)]
pub(crate) struct Remains {
    domains: Mutex<Vec<Arc<Domain>>>,
    /// There may be some. Relaxed: a hint, the lock orders what it stands for.
    any: AtomicBool,
}

impl Remains {
    /// There may be some.
    #[inline]
    pub(crate) fn any(&self) -> bool {
        self.any.load(Ordering::Relaxed)
    }

    /// Removes what is mapped in `dead` domains, no longer than until a reset waits, and returns the room to the pool.
    pub(super) fn clear(
        &self,
        core: &Core,
        participant: &Participant,
        dead: impl Iterator<Item = Arc<Domain>>,
    ) {
        let left: Vec<_> = dead.filter(|domain| !clear(core, participant, domain)).collect();
        if !left.is_empty() {
            self.domains.lock().unwrap_or_else(PoisonError::into_inner).extend(left);
            self.any.store(true, Ordering::Relaxed);
        }
    }

    /// Goes on where a reset cut it short; says whether something was there. One thread at a time, the others go on.
    #[cold]
    pub(super) fn go_on(&self, core: &Core, participant: &Participant) -> bool {
        let mut domains = match self.domains.try_lock() {
            Ok(domains) => domains,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return false,
        };
        let found = !domains.is_empty();
        domains.retain(|domain| !clear(core, participant, domain));
        self.any.store(!domains.is_empty(), Ordering::Relaxed);
        found
    }
}

/// Removes all mappings of a dead domain and gives back its tables; `false` when a reset cut it short.
fn clear(core: &Core, participant: &Participant, domain: &Domain) -> bool {
    let Ok(table) = domain.table() else { return true };
    let guard = participant.pin();
    let mappings = table.unmap(&guard, IovaRange::ALL).map_or(0, |removed| removed.mappings);
    core.pool.give_back(mappings);
    if core.halt.is_stopped() {
        return false;
    }
    // Not when the last reference goes: a queue that is idle keeps the domain in its cache.
    table.give_up(&guard);
    true
}

impl Core {
    /// Looks for memory and room that nothing uses: in dead domains, and in tables that became empty, whatever their
    /// domain. Says whether there may be more than before. No more work than what made it necessary: a table is looked
    /// through if something was unmapped in it since the last time.
    #[cold]
    pub(super) fn reclaim(&self, participant: &Participant) -> bool {
        let mut found = self.remains.go_on(self, participant);
        let domains: Vec<_> = self.control().domains.values().map(|slot| slot.domain.clone()).collect();
        for domain in domains {
            if let Ok(table) = domain.table() {
                found |= table.reclaim(&participant.pin());
            }
        }
        found
    }
}
