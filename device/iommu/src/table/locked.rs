//! An ordered map behind a lock: the simplest thing that is right, at any granule.

use std::{
    collections::BTreeMap,
    sync::{PoisonError, RwLock},
};

use virtio_iommu_spec::{Gpa, Iova, IovaRange};

use super::{Budget, MapError, Mapping, MappingTable, Perms, Removed, Translation, UnmapError};
use crate::epoch::Guard;

#[derive(Clone, Copy, Debug)]
struct Entry {
    end: u64,
    gpa: u64,
    perms: Perms,
}

/// Approximate memory of one mapping in the tree, in bytes: key, value and the nodes' slack.
const BYTES_PER_MAPPING: u64 = 64;

/// `RwLock<BTreeMap>` keyed by the first address, as Cloud Hypervisor's table is, but with an UNMAP that visits only
/// what it removes. Serves granules under 4 KiB, where the radix table does not fit.
pub struct LockedTable {
    map: RwLock<BTreeMap<u64, Entry>>,
    budget: Budget,
}

impl LockedTable {
    /// An empty table that takes its memory from `budget`.
    pub fn new(budget: &Budget) -> Self {
        Self { map: RwLock::new(BTreeMap::new()), budget: budget.clone() }
    }
}

impl Drop for LockedTable {
    fn drop(&mut self) {
        self.budget.give(self.table_bytes());
    }
}

/// The last mapping that starts at or before `addr`.
fn at_or_before(map: &BTreeMap<u64, Entry>, addr: u64) -> Option<(u64, Entry)> {
    map.range(..=addr).next_back().map(|(start, entry)| (*start, *entry))
}

impl MappingTable for LockedTable {
    fn map(&self, _guard: &Guard<'_>, mapping: &Mapping) -> Result<(), MapError> {
        let range = mapping.range;
        let mut map = self.map.write().unwrap_or_else(PoisonError::into_inner);
        // Mappings are disjoint, so the last one that starts in or before the range decides.
        if at_or_before(&map, range.end()).is_some_and(|(_, entry)| entry.end >= range.start()) {
            return Err(MapError::Overlap { range });
        }
        if !self.budget.take(BYTES_PER_MAPPING) {
            return Err(MapError::OutOfMemory);
        }
        map.insert(range.start(), Entry { end: range.end(), gpa: mapping.gpa.0, perms: mapping.perms });
        Ok(())
    }

    fn unmap(&self, _guard: &Guard<'_>, range: IovaRange) -> Result<Removed, UnmapError> {
        let mut map = self.map.write().unwrap_or_else(PoisonError::into_inner);
        let splits_front = range
            .start()
            .checked_sub(1)
            .and_then(|before| at_or_before(&map, before))
            .is_some_and(|(_, entry)| entry.end >= range.start());
        let splits_back = at_or_before(&map, range.end()).is_some_and(|(_, entry)| entry.end > range.end());
        if splits_front || splits_back {
            return Err(UnmapError::Split { range });
        }
        let mut removed = Removed::default();
        while let Some((&start, &entry)) = map.range(range.start()..=range.end()).next() {
            map.remove(&start);
            removed.mappings += 1;
            removed.bytes = removed.bytes.saturating_add((entry.end - start).saturating_add(1));
            if self.budget.is_stopped() {
                break;
            }
        }
        self.budget.give(removed.mappings * BYTES_PER_MAPPING);
        Ok(removed)
    }

    fn translate(&self, _guard: &Guard<'_>, iova: Iova) -> Option<Translation> {
        let map = self.map.read().unwrap_or_else(PoisonError::into_inner);
        let (start, entry) = at_or_before(&map, iova.0).filter(|(_, entry)| entry.end >= iova.0)?;
        Some(Translation { gpa: Gpa(entry.gpa + (iova.0 - start)), run_end: entry.end, perms: entry.perms })
    }

    fn run_at(&self, _guard: &Guard<'_>, iova: Iova) -> Option<Mapping> {
        let map = self.map.read().unwrap_or_else(PoisonError::into_inner);
        let (start, entry) = at_or_before(&map, iova.0).filter(|(_, entry)| entry.end >= iova.0)?;
        Some(Mapping { range: IovaRange::new(start, entry.end)?, gpa: Gpa(entry.gpa), perms: entry.perms })
    }

    fn for_each(&self, _guard: &Guard<'_>, f: &mut dyn FnMut(Mapping)) {
        let map = self.map.read().unwrap_or_else(PoisonError::into_inner);
        for (&start, entry) in map.iter() {
            if let Some(range) = IovaRange::new(start, entry.end) {
                f(Mapping { range, gpa: Gpa(entry.gpa), perms: entry.perms });
            }
        }
    }

    fn table_bytes(&self) -> u64 {
        self.map.read().unwrap_or_else(PoisonError::into_inner).len() as u64 * BYTES_PER_MAPPING
    }
}
