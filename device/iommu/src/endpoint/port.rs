//! An endpoint's way to memory: translated, permission-checked, faults reported.

use std::sync::Arc;

use thiserror::Error;
use virtio_iommu_spec::{EndpointId, Iova};
use vm_memory::VolatileSlice;

use super::{Attachment, EndpointState, UnattachedPolicy};
use crate::{
    device::Core,
    dma::{Access, DmaError, DmaMemory},
    domain::{Domain, DomainTable, View},
    epoch::{Guard, Participant, TooManyParticipants},
    fault::FaultCause,
    iotlb::{Iotlb, IotlbCounters},
    memory::GuestRam,
    table::{MappingTable, Translation},
};

/// Why an endpoint has no port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PortError {
    /// The device has no such endpoint.
    #[error("endpoint {endpoint} does not exist")]
    NoEndpoint {
        /// The endpoint asked for.
        endpoint: EndpointId,
    },
    /// Too many threads take part in the device's grace periods.
    #[error(transparent)]
    TooManyParticipants(#[from] TooManyParticipants),
}

/// One endpoint's access to memory. It may move between threads but is used by one at a time; an endpoint with
/// several DMA engines has a port for each.
pub struct EndpointPort {
    participant: Participant,
    endpoint: Arc<EndpointState>,
    core: Arc<Core>,
    ram: GuestRam,
    iotlb: Option<Iotlb>,
}

impl EndpointPort {
    pub(crate) fn new(
        core: Arc<Core>,
        endpoint: Arc<EndpointState>,
        ram: GuestRam,
    ) -> Result<Self, TooManyParticipants> {
        let participant = core.epoch.register()?;
        // The options were checked when the device was built.
        let iotlb = core.options.iotlb.and_then(|options| Iotlb::new(&options).ok());
        if let Some(iotlb) = &iotlb {
            core.iotlbs.enrol(iotlb.live_counters());
        }
        Ok(Self { participant, endpoint, core, ram, iotlb })
    }

    /// Which endpoint it is.
    pub fn id(&self) -> EndpointId {
        self.endpoint.id
    }

    /// Starts a stretch of accesses: what they translate to stays valid until the view is dropped. Keep it short,
    /// UNMAP waits for it; a view that is held for ever makes UNMAP fail. With inline service, a thread that kicks the
    /// request queue while it holds a view would wait for itself: drop the view first.
    #[inline(always)]
    pub fn pin(&self) -> EndpointDma<'_> {
        let view = EndpointDma { guard: self.participant.pin(), port: self };
        if let Some(iotlb) = &self.iotlb {
            iotlb.enter(self.endpoint.attachment.load(&view.guard).log());
        }
        view
    }

    /// Counters of this port's IOTLB; all 0 without one.
    pub fn iotlb_counters(&self) -> IotlbCounters {
        self.iotlb.as_ref().map(Iotlb::counters).unwrap_or_default()
    }
}

impl Drop for EndpointPort {
    fn drop(&mut self) {
        if let Some(iotlb) = &self.iotlb {
            self.core.iotlbs.retire(iotlb.live_counters());
        }
    }
}

/// Memory as an endpoint sees it. See [`EndpointPort::pin`].
pub struct EndpointDma<'p> {
    guard: Guard<'p>,
    port: &'p EndpointPort,
}

impl EndpointDma<'_> {
    /// Translates one address without touching memory: the answer of the table, of an IDENTITY region, or one to one
    /// in bypass mode. A fault is reported as for an access.
    ///
    /// # Errors
    /// [`DmaError::Fault`] when the access is refused.
    #[inline(always)]
    pub fn translate(&self, iova: u64, access: Access) -> Result<Translation, DmaError> {
        match &self.port.iotlb {
            None => self.walk(self.attachment(), iova, access),
            Some(iotlb) => match iotlb.find(iova) {
                Some(found) if found.perms.allows(access) => Ok(found),
                // The table says whether that is still so, and an IDENTITY region may allow it.
                Some(_) => self.walk(self.attachment(), iova, access),
                None => self.fill(iotlb, iova, access),
            },
        }
    }

    /// Walks, and remembers what it finds.
    fn fill(&self, iotlb: &Iotlb, iova: u64, access: Access) -> Result<Translation, DmaError> {
        let attachment = self.attachment();
        // The endpoint may have changed its domain under this guard; and the walk must come after the look at the log.
        iotlb.enter(attachment.log());
        if let Attachment::Domain(domain) = attachment
            && let View::Mapped(table) = &domain.view
        {
            match table.run_at(&self.guard, Iova(iova)) {
                Some(found) => {
                    iotlb.fill(iova, &found);
                    if found.perms.allows(access) {
                        return Ok(found.translation(iova));
                    }
                }
                None => iotlb.missed(),
            }
        }
        self.walk(attachment, iova, access)
    }

    #[inline(always)]
    fn attachment(&self) -> &Attachment {
        self.port.endpoint.attachment.load(&self.guard)
    }

    #[inline]
    fn walk(&self, attachment: &Attachment, iova: u64, access: Access) -> Result<Translation, DmaError> {
        match attachment {
            Attachment::Domain(domain) => match &domain.view {
                View::Mapped(table) => match table.translate(&self.guard, Iova(iova)) {
                    Some(found) if found.perms.allows(access) => Ok(found),
                    found => self.refused(domain, iova, access, found.is_some()),
                },
                View::Bypass => Ok(one_to_one(iova)),
            },
            Attachment::Detached => self.detached(iova, access),
            Attachment::Gone => Err(DmaError::Fault { addr: iova }),
        }
    }

    #[cold]
    fn refused(
        &self,
        domain: &Domain,
        iova: u64,
        access: Access,
        mapped: bool,
    ) -> Result<Translation, DmaError> {
        if let Some(found) = domain.identity(&self.guard, iova, access) {
            return Ok(found);
        }
        let cause = if mapped { FaultCause::Permission } else { FaultCause::NotMapped };
        self.fault(cause, iova, access)
    }

    #[cold]
    fn detached(&self, iova: u64, access: Access) -> Result<Translation, DmaError> {
        let EndpointPort { core, endpoint, .. } = self.port;
        if core.bypass_unattached() {
            return Ok(one_to_one(iova));
        }
        if core.options.unattached == UnattachedPolicy::AllowIdentity
            && let Some(region) = endpoint.properties.regions.identity_at(iova)
        {
            return Ok(Translation { run_end: region.end, ..one_to_one(iova) });
        }
        self.fault(FaultCause::Unattached, iova, access)
    }

    fn fault(&self, cause: FaultCause, iova: u64, access: Access) -> Result<Translation, DmaError> {
        self.port.core.faults.report(cause, self.port.endpoint.id, iova, access);
        Err(DmaError::Fault { addr: iova })
    }
}

/// "All accesses from an endpoint in bypass mode are allowed and translated by the IOMMU using the identity function."
fn one_to_one(iova: u64) -> Translation {
    use crate::table::Perms;
    Translation { gpa: virtio_iommu_spec::Gpa(iova), run_end: u64::MAX, perms: Perms::RW }
}

impl EndpointDma<'_> {
    /// The start of `[addr, addr + len)`, whose first byte is at `gpa`, as far as `run_end`.
    #[inline(always)]
    fn reach(
        &self,
        addr: u64,
        len: u64,
        access: Access,
        gpa: u64,
        run_end: u64,
    ) -> Result<VolatileSlice<'_>, DmaError> {
        // Bytes after the first that are translated alike, so that nothing here can overflow.
        let more = (run_end - addr).min(len.max(1) - 1);
        self.port.ram.slice(gpa, more + 1, access)
    }

    #[cold]
    #[inline(never)]
    fn slice_slowly(
        &self,
        addr: u64,
        len: u64,
        access: Access,
        cached: bool,
    ) -> Result<VolatileSlice<'_>, DmaError> {
        let found = match &self.port.iotlb {
            // The IOTLB has been asked already.
            Some(iotlb) if !cached => self.fill(iotlb, addr, access)?,
            _ => self.walk(self.attachment(), addr, access)?,
        };
        self.reach(addr, len, access, found.gpa.0, found.run_end)
    }
}

impl DmaMemory for EndpointDma<'_> {
    #[inline(always)]
    fn slice(&self, addr: u64, len: u64, access: Access) -> Result<VolatileSlice<'_>, DmaError> {
        // The common case by itself, so that the translation stays in registers. Through memory, its parts are stored one
        // by one and loaded together, which waits for all stores before, a whole copied buffer's, to leave the CPU.
        if let Some(iotlb) = &self.port.iotlb {
            return match iotlb.find(addr) {
                Some(found) if found.perms.allows(access) => {
                    self.reach(addr, len, access, found.gpa.0, found.run_end)
                }
                found => self.slice_slowly(addr, len, access, found.is_some()),
            };
        }
        if let Attachment::Domain(domain) = self.attachment()
            && let View::Mapped(DomainTable::Radix(table)) = &domain.view
            && let Some(found) = table.translate(&self.guard, Iova(addr))
            && found.perms.allows(access)
        {
            return self.reach(addr, len, access, found.gpa.0, found.run_end);
        }
        self.slice_slowly(addr, len, access, false)
    }
}
