//! How many bytes a guest's driver mapped and unmapped.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use serde::Serialize;
use virtio_iommu::{
    device::ServiceObserver,
    spec::{DomainId, IovaRange},
    table::Removed,
};

/// The sums, shared with the device's observers. They wrap: a guest can map half of all addresses, often.
#[derive(Clone, Debug, Default)]
pub(super) struct Volume(Arc<Sums>);

#[derive(Debug, Default)]
struct Sums {
    mapped: AtomicU64,
    unmapped: AtomicU64,
}

/// Bytes since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Bytes {
    /// Of mappings made by MAP.
    pub(crate) mapped: u64,
    /// Of mappings removed by UNMAP.
    pub(crate) unmapped: u64,
}

impl Volume {
    /// Until now.
    pub(super) fn bytes(&self) -> Bytes {
        let Sums { mapped, unmapped } = &*self.0;
        Bytes { mapped: mapped.load(Ordering::Relaxed), unmapped: unmapped.load(Ordering::Relaxed) }
    }
}

impl ServiceObserver for Volume {
    fn follows_translations(&self) -> bool {
        true
    }

    fn mapped(&mut self, _: DomainId, range: IovaRange) {
        let bytes = (range.end() - range.start()).wrapping_add(1);
        self.0.mapped.fetch_add(bytes, Ordering::Relaxed);
    }

    fn removed(&mut self, removed: Removed) {
        self.0.unmapped.fetch_add(removed.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn observers_add_to_the_same_sums() {
        let volume = Volume::default();
        let (mut one, mut other) = (volume.clone(), volume.clone());
        for observer in [&mut one, &mut other] {
            observer.mapped(DomainId(1), IovaRange::new(0x1000, 0x2fff).unwrap());
        }
        one.removed(Removed { mappings: 1, bytes: 0x2000 });
        assert_eq!(volume.bytes(), Bytes { mapped: 0x4000, unmapped: 0x2000 });
    }
}
