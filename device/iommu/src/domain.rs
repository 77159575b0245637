//! Domains: I/O address spaces that endpoints are attached to.

use virtio_iommu_spec::{DomainId, Gpa, Iova, IovaRange, request};

use crate::{
    dma::Access,
    epoch::{Epoch, Guard, Participant},
    epoch_cell::EpochCell,
    iotlb::{InvalidationLog, Unfinished},
    passthrough::{BackendError, Mirrors},
    properties::Regions,
    request::RequestError,
    sync::{AtomicBool, Ordering},
    table::{
        BadGranule, Budget, LockedTable, MapError, Mapping, MappingTable, Perms, RadixTable, Removed,
        Translation, UnmapError,
    },
};

/// Bits of a guest-physical address. A MAP whose physical range leaves them gets RANGE: no CPU addresses more, and the
/// mapping table needs the other bits.
pub const GPA_BITS: u32 = 52;

/// The mapping table of a domain: by granule, as the domain was created.
#[allow(clippy::large_enum_variant, reason = "one per domain, and the large one is the one that is used")]
pub(crate) enum DomainTable {
    /// Granules of 4 KiB to 1 GiB, lock-free.
    Radix(RadixTable),
    /// Any granule, behind a lock.
    Ordered(LockedTable),
}

impl DomainTable {
    fn new(epoch: &Epoch, budget: &Budget, limits: &DomainLimits) -> Self {
        let address_bits = (u64::BITS - limits.input_range.end().leading_zeros()).max(1);
        match RadixTable::new(epoch, limits.granule_shift, address_bits, budget) {
            Ok(table) => Self::Radix(table),
            Err(BadGranule { .. }) => Self::Ordered(LockedTable::new(budget)),
        }
    }

    /// Unlinks what is empty, if there may be something; says whether it looked.
    pub(crate) fn reclaim(&self, guard: &Guard<'_>) -> bool {
        match self {
            Self::Radix(table) => table.reclaim(guard),
            // Holds nothing that is empty.
            Self::Ordered(_) => false,
        }
    }

    /// Gives back the memory of a dead domain's table, in which nothing is mapped any more and nothing will be. The
    /// table itself lives on in the caches of idle request queues.
    pub(crate) fn give_up(&self, guard: &Guard<'_>) {
        match self {
            Self::Radix(table) => table.give_up(guard),
            // Its charge went with its mappings.
            Self::Ordered(_) => {}
        }
    }
}

macro_rules! each {
    ($self:ident, $table:ident => $do:expr) => {
        match $self {
            DomainTable::Radix($table) => $do,
            DomainTable::Ordered($table) => $do,
        }
    };
}

impl MappingTable for DomainTable {
    #[inline]
    fn map(&self, guard: &Guard<'_>, mapping: &Mapping) -> Result<(), MapError> {
        each!(self, table => table.map(guard, mapping))
    }

    #[inline]
    fn unmap(&self, guard: &Guard<'_>, range: IovaRange) -> Result<Removed, UnmapError> {
        each!(self, table => table.unmap(guard, range))
    }

    #[inline]
    fn translate(&self, guard: &Guard<'_>, iova: Iova) -> Option<Translation> {
        each!(self, table => table.translate(guard, iova))
    }

    fn run_at(&self, guard: &Guard<'_>, iova: Iova) -> Option<Mapping> {
        each!(self, table => table.run_at(guard, iova))
    }

    #[inline]
    fn prefetch(&self, guard: &Guard<'_>, iova: Iova) {
        each!(self, table => table.prefetch(guard, iova));
    }

    fn for_each(&self, guard: &Guard<'_>, f: &mut dyn FnMut(Mapping)) {
        each!(self, table => table.for_each(guard, f));
    }

    fn table_bytes(&self) -> u64 {
        each!(self, table => table.table_bytes())
    }
}

/// What a domain can translate: the device's limits, narrowed by its first endpoint's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DomainLimits {
    /// log2 of the page granularity.
    pub granule_shift: u32,
    /// Addresses that can be mapped.
    pub input_range: IovaRange,
}

/// How the endpoints of a domain see memory.
#[allow(clippy::large_enum_variant, reason = "one per domain, reached without another pointer")]
pub(crate) enum View {
    /// One to one.
    Bypass,
    /// Through mappings.
    Mapped(DomainTable),
}

/// A domain. It lives as long as a worker or an endpoint may still use it; `dead` says that no request may.
pub(crate) struct Domain {
    id: DomainId,
    limits: DomainLimits,
    pub(crate) view: View,
    /// The merged reserved regions of its endpoints.
    pub(crate) regions: EpochCell<Regions>,
    dead: AtomicBool,
    /// Tells ports' IOTLBs what has been unmapped; there is one when the device has IOTLBs.
    log: Option<InvalidationLog>,
    /// Where its mappings go besides.
    pub(crate) mirrors: Mirrors,
}

impl Domain {
    pub(crate) fn new(
        epoch: &Epoch,
        budget: &Budget,
        id: DomainId,
        limits: DomainLimits,
        bypass: bool,
        regions: Regions,
        log: Option<InvalidationLog>,
    ) -> Self {
        let view = if bypass { View::Bypass } else { View::Mapped(DomainTable::new(epoch, budget, &limits)) };
        Self {
            id,
            limits,
            view,
            regions: EpochCell::new(regions),
            dead: AtomicBool::new(false),
            log,
            mirrors: Mirrors::default(),
        }
    }

    /// Its ID.
    pub(crate) fn id(&self) -> DomainId {
        self.id
    }

    /// What it can translate.
    pub(crate) fn limits(&self) -> &DomainLimits {
        &self.limits
    }

    /// Whether it is a bypass domain.
    pub(crate) fn is_bypass(&self) -> bool {
        matches!(self.view, View::Bypass)
    }

    /// Its table.
    ///
    /// # Errors
    /// When it is a bypass domain: "the device SHOULD reject the request and set status to INVAL".
    #[inline]
    pub(crate) fn table(&self) -> Result<&DomainTable, RequestError> {
        match &self.view {
            View::Mapped(table) => Ok(table),
            View::Bypass => Err(RequestError::BypassDomain { domain: self.id }),
        }
    }

    /// What keeps IOTLBs true, where there are any.
    #[inline(always)]
    pub(crate) fn log(&self) -> Option<&InvalidationLog> {
        self.log.as_ref()
    }

    /// No request may use the domain from now on.
    pub(crate) fn kill(&self) {
        // Release, as Acquire below: a worker that sees it has everything that came before.
        self.dead.store(true, Ordering::Release);
    }

    #[inline]
    pub(crate) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }

    /// MAP, once the flags are known to be good. Order of checks: `docs/error-precedence.md`.
    #[inline]
    pub(crate) fn map(&self, guard: &Guard<'_>, map: &request::Map) -> Result<(), RequestError> {
        let mapping = self.check_map(guard, map)?;
        Ok(self.table()?.map(guard, &mapping)?)
    }

    /// Everything that can be wrong with a MAP but for what the table knows.
    #[inline]
    pub(crate) fn check_map(&self, guard: &Guard<'_>, map: &request::Map) -> Result<Mapping, RequestError> {
        if self.is_dead() {
            return Err(RequestError::NoDomain { domain: self.id });
        }
        self.table()?;
        let mapping = self.check_ranges(map)?;
        if let Some(region) = self.regions.load(guard).overlapping(mapping.range) {
            // "The device SHOULD reject a MAP request that overlaps a RESV_MEM region."
            return Err(RequestError::ReservedRegion { range: mapping.range, region: region.range() });
        }
        Ok(mapping)
    }

    /// Alignment and ranges of a MAP.
    #[inline]
    pub(crate) fn check_ranges(&self, map: &request::Map) -> Result<Mapping, RequestError> {
        let (start, end) = (map.virt_start, map.virt_end);
        let range = IovaRange::new(start, end).ok_or(RequestError::Backwards { start, end })?;
        let gpa = Gpa(map.phys_start);
        let shift = self.limits.granule_shift;
        // "If virt_start, phys_start or (virt_end + 1) is not aligned on the page granularity, the device SHOULD
        // reject the request and set status to VIRTIO_IOMMU_S_RANGE." With a granule of one byte everything is.
        if !range.is_aligned(shift) || gpa.0 & ((1 << shift) - 1) != 0 {
            return Err(RequestError::Misaligned { range, gpa, granule_shift: shift });
        }
        if !self.limits.input_range.covers(&range) {
            // "Any mapping request to virtual addresses outside of this range fails."
            return Err(RequestError::InputRange { range, limit: self.limits.input_range });
        }
        match gpa.0.checked_add(range.end() - range.start()) {
            Some(last) if last >> GPA_BITS == 0 => {}
            _ => return Err(RequestError::PhysRange { range, gpa }),
        }
        Ok(Mapping { range, gpa, perms: Perms::from_flags(map.flags) })
    }

    /// UNMAP. The range is cut to what can be mapped at all, so that `[0, u64::MAX]` removes everything whatever
    /// `input_range` is. Where there are IOTLBs, `queue` announces the removal until its grace period is over.
    #[inline]
    pub(crate) fn unmap(
        &self,
        guard: &Guard<'_>,
        unmap: &request::Unmap,
        queue: &Unfinished,
    ) -> Result<Removed, RequestError> {
        if self.is_dead() {
            return Err(RequestError::NoDomain { domain: self.id });
        }
        let table = self.table()?;
        let (start, end) = (unmap.virt_start, unmap.virt_end);
        let range = IovaRange::new(start, end).ok_or(RequestError::Backwards { start, end })?;
        match range.intersection(&self.limits.input_range) {
            Some(range) => {
                let Some(log) = &self.log else { return Ok(table.unmap(guard, range)?) };
                queue.announce(log, range);
                let removed = table.unmap(guard, range)?;
                if removed.mappings != 0 {
                    log.append(range);
                }
                Ok(removed)
            }
            None => Ok(Removed::default()),
        }
    }

    /// MAP in a domain whose mappings real devices share. Outside any guard: the host may take long, and no grace period
    /// shall wait for it. After a failure of the host the mapping is gone again, which needs a grace period.
    #[cold]
    pub(crate) fn map_mirrored(
        &self,
        participant: &Participant,
        map: &request::Map,
        queue: &Unfinished,
    ) -> Result<(), RequestError> {
        let mirrors = self.mirrors.lock();
        let guard = participant.pin();
        let mapping = self.check_map(&guard, map)?;
        self.table()?.map(&guard, &mapping)?;
        drop(guard);
        mirrors.map(&mapping).map_err(|error| {
            let unmap = request::Unmap {
                domain: self.id.0,
                virt_start: mapping.range.start(),
                virt_end: mapping.range.end(),
                reserved: [0; 4],
            };
            if let Err(error) = self.unmap(&participant.pin(), &unmap, queue) {
                tracing::error!(%error, "a mapping that the host refused stays in the table");
            }
            error.into()
        })
    }

    /// UNMAP in such a domain. What the table removed is counted in any case.
    #[cold]
    pub(crate) fn unmap_mirrored(
        &self,
        participant: &Participant,
        unmap: &request::Unmap,
        queue: &Unfinished,
    ) -> (Result<(), BackendError>, Result<Removed, RequestError>) {
        let mirrors = self.mirrors.lock();
        let removed = self.unmap(&participant.pin(), unmap, queue);
        let range = IovaRange::new(unmap.virt_start, unmap.virt_end);
        let done = match (&removed, range) {
            (Ok(removed), Some(range)) if removed.mappings != 0 => mirrors.unmap(range),
            _ => Ok(()),
        };
        (done, removed)
    }

    /// Where an access that the table does not allow may go all the same: into an IDENTITY region.
    #[cold]
    pub(crate) fn identity(&self, guard: &Guard<'_>, iova: u64, _access: Access) -> Option<Translation> {
        let region = self.regions.load(guard).identity_at(iova)?;
        Some(Translation { gpa: Gpa(iova), run_end: region.end, perms: Perms::RW })
    }
}
