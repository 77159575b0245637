//! What a measurement needs to know about a structure.

use virtio_iommu::{
    epoch::Epoch,
    table::{Budget, LockedTable, MappingTable, RadixTable},
};

use super::{MutexTable, PageMap, PerGranule};

/// What can be one mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Any range of granules.
    Ranges,
    /// One granule.
    Granules,
}

impl Scope {
    /// For a table's cell.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ranges => "ranges",
            Self::Granules => "4K only",
        }
    }
}

/// A structure that can be measured.
pub trait Shape: MappingTable + Sized {
    /// What to call it.
    const NAME: &'static str;
    /// What can be one mapping.
    const SCOPE: Scope;
    /// Whether each operation needs a guard of its own, as the device takes it; the others get one a batch, for free.
    const GUARDED: bool = false;

    /// An empty one for 48-bit addresses in granules of 4 KiB.
    fn make(epoch: &Epoch) -> Self;
}

impl Shape for RadixTable {
    const NAME: &'static str = "radix (ours)";
    const SCOPE: Scope = Scope::Ranges;
    const GUARDED: bool = true;

    fn make(epoch: &Epoch) -> Self {
        match Self::new(epoch, 12, 48, &Budget::new(1 << 30)) {
            Ok(table) => table,
            Err(error) => unreachable!("4 KiB is a granule of radix tables: {error}"),
        }
    }
}

impl Shape for LockedTable {
    const NAME: &'static str = "RwLock<BTreeMap>";
    const SCOPE: Scope = Scope::Ranges;

    fn make(_epoch: &Epoch) -> Self {
        Self::new(&Budget::new(u64::MAX))
    }
}

impl Shape for MutexTable {
    const NAME: &'static str = "Mutex<BTreeMap>";
    const SCOPE: Scope = Scope::Ranges;

    fn make(_epoch: &Epoch) -> Self {
        Self::default()
    }
}

impl<M: PageMap> Shape for PerGranule<M> {
    const NAME: &'static str = M::NAME;
    const SCOPE: Scope = Scope::Granules;

    fn make(_epoch: &Epoch) -> Self {
        Self::default()
    }
}
