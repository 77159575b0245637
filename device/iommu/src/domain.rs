//! Domains: I/O address spaces that endpoints are attached to.

use virtio_iommu_spec::{DomainId, Gpa, Iova, IovaRange, request};

use crate::{
    dma::Access,
    epoch::{Epoch, Guard, Participant},
    epoch_cell::EpochCell,
    iotlb::{InvalidationLog, Unfinished},
    passthrough::{Mirrors, allows_something},
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

/// A MAP that real devices, or the checks before them, refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) error: RequestError,
    /// The table had it for a moment, so an access under it may run.
    pub(crate) seen: bool,
    /// Its share of the cap on mappings is still the caller's.
    pub(crate) unspent: bool,
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
    ) -> Result<(), Refusal> {
        let unseen = |error| Refusal { error, seen: false, unspent: true };
        let mirrors = self.mirrors.lock();
        let guard = participant.pin();
        let mapping = self.check_map(&guard, map).map_err(unseen)?;
        drop(guard);
        mirrors.catch_up(|| self.mappings(participant)).map_err(unseen)?;
        let table = self.table().map_err(unseen)?;
        table.map(&participant.pin(), &mapping).map_err(|error| unseen(error.into()))?;
        mirrors.map(&mapping).map_err(|error| {
            // Also in a domain that has died meanwhile. What its graveyard has removed, it has counted back.
            let removed = self.take_back(table, &participant.pin(), mapping.range, queue);
            Refusal { error, seen: true, unspent: removed.mappings != 0 }
        })
    }

    /// Removes a mapping that was just made; nothing else is in its range.
    fn take_back(
        &self,
        table: &DomainTable,
        guard: &Guard<'_>,
        range: IovaRange,
        queue: &Unfinished,
    ) -> Removed {
        if let Some(log) = &self.log {
            queue.announce(log, range);
        }
        let removed = table.unmap(guard, range).unwrap_or_else(|error| {
            virtio_transport::complain!(error, %error, "a mapping that the host refused stays in the table");
            Removed::default()
        });
        if let Some(log) = &self.log {
            log.append(range);
        }
        removed
    }

    /// UNMAP in such a domain. What the table removed is counted in any case. A range in which nothing is mapped goes to
    /// the devices, too: something may be left there from an UNMAP that failed.
    #[cold]
    pub(crate) fn unmap_mirrored(
        &self,
        participant: &Participant,
        unmap: &request::Unmap,
        queue: &Unfinished,
    ) -> (Result<(), RequestError>, Result<Removed, RequestError>) {
        let mirrors = self.mirrors.lock();
        let removed = self.unmap(&participant.pin(), unmap, queue);
        let range = IovaRange::new(unmap.virt_start, unmap.virt_end);
        let done = match (&removed, range) {
            (Ok(_), Some(range)) => mirrors.unmap(range),
            _ => Ok(()),
        };
        (done, removed)
    }

    /// The end of a batch: real devices' page tables do what they have put off, and have what the table has.
    #[cold]
    pub(crate) fn flush_mirrors(&self, participant: &Participant) -> Result<(), RequestError> {
        let mut mirrors = self.mirrors.lock();
        let flushed = mirrors.flush();
        mirrors.tidy();
        if let Err(error) = mirrors.catch_up(|| self.mappings(participant)) {
            virtio_transport::complain!(error, domain = %self.id, %error, "a real device sees less than its domain has");
        }
        #[cfg(debug_assertions)]
        mirrors.check(&self.mappings(participant));
        flushed
    }

    /// Its mappings, as far as they allow anything.
    pub(crate) fn mappings(&self, participant: &Participant) -> Vec<Mapping> {
        let mut mappings = Vec::new();
        if let Ok(table) = self.table() {
            table.for_each(&participant.pin(), &mut |mapping| {
                if allows_something(&mapping) {
                    mappings.push(mapping);
                }
            });
        }
        mappings
    }

    /// Where an access that the table does not allow may go all the same: into an IDENTITY region.
    #[cold]
    pub(crate) fn identity(&self, guard: &Guard<'_>, iova: u64, _access: Access) -> Option<Translation> {
        let region = self.regions.load(guard).identity_at(iova)?;
        Some(Translation { gpa: Gpa(iova), run_end: region.end, perms: Perms::RW })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::epoch::Fences;

    /// A queue that found the domain before it died is refused, however it looks: the graveyard would not count the
    /// mapping.
    #[test]
    fn a_dead_domain_takes_no_request() {
        let epoch = Epoch::new(Fences::Symmetric);
        let participant = epoch.register().unwrap();
        let input_range = IovaRange::new(0, (1 << 48) - 1).unwrap();
        let limits = DomainLimits { granule_shift: 12, input_range };
        let new = || {
            let (budget, regions) = (Budget::new(1 << 20), Regions::default());
            Domain::new(&epoch, &budget, DomainId(1), limits, false, regions, None)
        };
        let map = request::Map { domain: 1, virt_start: 0x1000, virt_end: 0x1fff, phys_start: 0, flags: 3 };
        let unmap = request::Unmap { domain: 1, virt_start: 0, virt_end: u64::MAX, reserved: [0; 4] };
        let refused = RequestError::NoDomain { domain: DomainId(1) };
        let (domain, queue) = (new(), Unfinished::default());
        assert_eq!(domain.map(&participant.pin(), &map), Ok(()));
        domain.kill();
        assert_eq!(
            domain.map(&participant.pin(), &request::Map { virt_start: 0x2000, virt_end: 0x2fff, ..map }),
            Err(refused)
        );
        assert_eq!(domain.check_map(&participant.pin(), &map), Err(refused));
        assert_eq!(domain.unmap(&participant.pin(), &unmap, &queue), Err(refused));
        let refusal = Refusal { error: refused, seen: false, unspent: true };
        assert_eq!(domain.map_mirrored(&participant, &map, &queue), Err(refusal));
        assert_eq!(domain.unmap_mirrored(&participant, &unmap, &queue), (Ok(()), Err(refused)));
        assert_eq!(domain.mappings(&participant).len(), 1, "the graveyard's");
    }
}
