//! `Mutex<BTreeMap>`, as crosvm has it.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use virtio_iommu::{
    epoch::Guard,
    spec::{Gpa, Iova, IovaRange},
    table::{MapError, Mapping, MappingTable, Removed, Translation, UnmapError},
};

/// Mappings by their first address, behind one mutex. Every operation is O(log n); an UNMAP visits what it removes.
#[derive(Debug, Default)]
pub struct MutexTable(Mutex<BTreeMap<u64, Mapping>>);

impl MutexTable {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Mapping>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The mapping that holds `addr`.
fn holding(map: &BTreeMap<u64, Mapping>, addr: u64) -> Option<&Mapping> {
    map.range(..=addr).next_back().map(|(_, mapping)| mapping).filter(|mapping| mapping.range.contains(addr))
}

impl MappingTable for MutexTable {
    fn map(&self, _guard: &Guard<'_>, mapping: &Mapping) -> Result<(), MapError> {
        let range = mapping.range;
        let mut map = self.lock();
        // Mappings are disjoint, so the last one that starts in or before the range decides.
        let before = map.range(..=range.end()).next_back();
        if before.is_some_and(|(_, other)| other.range.end() >= range.start()) {
            return Err(MapError::Overlap { range });
        }
        map.insert(range.start(), *mapping);
        Ok(())
    }

    fn unmap(&self, _guard: &Guard<'_>, range: IovaRange) -> Result<Removed, UnmapError> {
        let mut map = self.lock();
        let cut = |addr| holding(&map, addr).is_some_and(|mapping| !range.covers(&mapping.range));
        if cut(range.start()) || cut(range.end()) {
            return Err(UnmapError::Split { range });
        }
        let mut removed = Removed::default();
        while let Some((&start, &mapping)) = map.range(range.start()..=range.end()).next() {
            map.remove(&start);
            removed.mappings += 1;
            removed.bytes = removed.bytes.saturating_add(mapping.range.len().unwrap_or(u64::MAX));
        }
        Ok(removed)
    }

    fn translate(&self, _guard: &Guard<'_>, iova: Iova) -> Option<Translation> {
        let map = self.lock();
        let Mapping { range, gpa, perms } = *holding(&map, iova.0)?;
        Some(Translation { gpa: Gpa(gpa.0 + (iova.0 - range.start())), run_end: range.end(), perms })
    }

    fn for_each(&self, _guard: &Guard<'_>, f: &mut dyn FnMut(Mapping)) {
        self.lock().values().copied().for_each(f);
    }

    fn table_bytes(&self) -> u64 {
        self.lock().len() as u64 * (size_of::<u64>() + size_of::<Mapping>()) as u64
    }
}
