//! ATTACH and DETACH, and what else changes who is attached to what. All under the control lock.

use std::sync::Arc;

use virtio_iommu_spec::{
    DomainId, EndpointId, IovaRange, feature,
    request::{ATTACH_F_BYPASS, Attach, Detach},
};

use super::{
    Core,
    core::{Control, DomainSlot},
};
use crate::{
    domain::{Domain, DomainLimits},
    endpoint::{Attachment, EndpointState},
    epoch::Participant,
    passthrough::{Mirror, Sees},
    properties::{Incompatible, NPlusI, Regions, merge},
    request::RequestError,
    table::MappingTable,
};

/// Domains that ceased to exist. Their mappings are counted back after the grace period, when no MAP that found them
/// alive still runs.
#[derive(Default)]
pub(crate) struct Graveyard(Vec<Arc<Domain>>);

impl Graveyard {
    /// No domain ceased to exist.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Removes what is left in the domains, tables included. To be called after a grace period. What a reset does not
    /// wait for goes to the device's [`Remains`].
    pub(crate) fn clear(&mut self, core: &Core, participant: &Participant) {
        core.remains.clear(core, participant, self.0.drain(..));
    }
}

/// The part of `range` that consists of whole pages.
pub(super) fn whole_pages(range: IovaRange, shift: u32) -> Option<IovaRange> {
    let mask = (1u64 << shift) - 1;
    let start = range.start().checked_add(mask)? & !mask;
    let end = if range.end() & mask == mask { range.end() } else { (range.end() & !mask).checked_sub(1)? };
    IovaRange::new(start, end)
}

impl Core {
    /// Refuses domain IDs outside `domain_range`.
    pub(crate) fn check_domain_id(&self, id: u32) -> Result<DomainId, RequestError> {
        let (domain, (start, end)) = (DomainId(id), self.options.domain_range);
        if start <= id && id <= end { Ok(domain) } else { Err(RequestError::DomainRange { domain }) }
    }

    /// ATTACH; `true` when something was taken away, which needs a grace period before it is answered.
    pub(crate) fn attach(
        &self,
        participant: &Participant,
        graveyard: &mut Graveyard,
        request: &Attach,
    ) -> Result<bool, RequestError> {
        let bypass = self.check_attach_fields(request)?;
        let endpoint = EndpointId(request.endpoint);
        let mut control = self.control();
        let slot = control.endpoints.get(&endpoint).ok_or(RequestError::NoEndpoint { endpoint })?;
        let (state, current) = (slot.state.clone(), slot.domain);
        let id = self.check_domain_id(request.domain)?;
        if let Some(slot) = control.domains.get(&id)
            && slot.domain.is_bypass() != bypass
        {
            return Err(RequestError::BypassMismatch { domain: id });
        }
        if current == Some(id) {
            // Attached already: nothing changes, and above all no mapping is lost.
            return Ok(false);
        }
        // Rejected requests change nothing: all that can fail comes before the endpoint leaves its domain.
        let (domain, regions) = match control.domains.get(&id) {
            Some(slot) => (slot.domain.clone(), self.check_join(participant, &slot.domain, &state)?),
            None => (self.create(&control, id, bypass, &state, current)?, None),
        };
        self.admit(&control, participant, &domain, &state, current, regions)?;
        // "The device SHOULD behave as if the driver issued a DETACH request with this endpoint, followed by the ATTACH
        // request."
        let left =
            current.is_some_and(|old| self.leave(&mut control, Some(participant), graveyard, endpoint, old));
        let slot = control
            .domains
            .entry(id)
            .or_insert_with(|| DomainSlot { domain: domain.clone(), members: Vec::new() });
        slot.members.push(endpoint);
        if let Some(slot) = control.endpoints.get_mut(&endpoint) {
            slot.domain = Some(id);
        }
        // An endpoint that was in bypass mode loses its view of all memory.
        let was_bypass = current.is_none() && self.bypass_unattached();
        state.attachment.replace(Attachment::Domain(domain), &participant.pin());
        self.bump();
        Ok(left || was_bypass)
    }

    fn check_attach_fields(&self, request: &Attach) -> Result<bool, RequestError> {
        if request.reserved != [0; 4] {
            return Err(RequestError::Reserved { found: request.reserved });
        }
        // "When the VIRTIO_IOMMU_F_BYPASS_CONFIG is negotiated, the driver can set the VIRTIO_IOMMU_ATTACH_F_BYPASS flag";
        // otherwise the device does not recognise it.
        let negotiated = self.negotiated() & feature::BYPASS_CONFIG != 0;
        let unknown = request.flags & if negotiated { !ATTACH_F_BYPASS } else { !0 };
        if unknown != 0 {
            return Err(RequestError::Flags { unknown });
        }
        Ok(request.flags & ATTACH_F_BYPASS != 0)
    }

    /// A new domain, shaped by its first endpoint; not in the set of domains yet.
    fn create(
        &self,
        control: &Control,
        id: DomainId,
        bypass: bool,
        first: &EndpointState,
        leaves: Option<DomainId>,
    ) -> Result<Arc<Domain>, RequestError> {
        // A domain that the endpoint leaves as its last member makes room.
        let freed =
            leaves.and_then(|old| control.domains.get(&old)).is_some_and(|slot| slot.members.len() == 1);
        let cap = self.options.max_domains;
        if control.domains.len() - usize::from(freed) >= cap {
            return Err(RequestError::TooManyDomains { cap });
        }
        let why = |why| RequestError::Incompatible { endpoint: first.id, domain: id, why };
        let limits = self.limits_of(first).map_err(why)?;
        let (regions, log) = (first.properties.regions.clone(), self.invalidation_log());
        Ok(Arc::new(Domain::new(&self.epoch, &self.budget, id, limits, bypass, regions, log)))
    }

    /// What the device and one endpoint can both do.
    pub(crate) fn limits_of(&self, endpoint: &EndpointState) -> Result<DomainLimits, Incompatible> {
        let options = &self.options;
        let shift = options.granule_shift();
        let granule_shift = endpoint.properties.granule_shift().map_or(shift, |own| own.max(shift));
        let own = endpoint.properties.range().unwrap_or(IovaRange::ALL);
        let input_range = options
            .input_range
            .intersection(&own)
            .and_then(|range| whole_pages(range, granule_shift))
            .ok_or(Incompatible::NoCommonAddress)?;
        Ok(DomainLimits { granule_shift, input_range })
    }

    /// Whether the endpoint may join an existing domain; the domain's regions with its own, if they differ from now.
    ///
    /// "If properties of the endpoint are compatible with properties of other endpoints already attached to the
    /// requested domain, then the device SHOULD attach the endpoint. Otherwise […] VIRTIO_IOMMU_S_UNSUPP."
    fn check_join(
        &self,
        participant: &Participant,
        domain: &Domain,
        new: &EndpointState,
    ) -> Result<Option<Regions>, RequestError> {
        if domain.is_bypass() {
            return Ok(None);
        }
        let refuse = |why| RequestError::Incompatible { endpoint: new.id, domain: domain.id(), why };
        let (limits, own) = (domain.limits(), self.limits_of(new).map_err(refuse)?);
        if own.granule_shift > limits.granule_shift {
            let (endpoint, domain) = (own.granule_shift, limits.granule_shift);
            return Err(refuse(Incompatible::Granule { endpoint, domain }));
        }
        if !own.input_range.covers(&limits.input_range) {
            let (endpoint, domain) = (own.input_range, limits.input_range);
            return Err(refuse(Incompatible::Range { endpoint, domain }));
        }
        let guard = participant.pin();
        let before = domain.regions.load(&guard);
        let merged = merge(before, &new.properties.regions, self.options.n_plus_i).map_err(refuse)?;
        Ok((merged != *before).then_some(merged))
    }

    /// Does the part of an ATTACH that can fail: new regions must not lie over mappings, and a real device must see what
    /// its new domain has. Refused, it leaves the domain, the endpoint and its device as they were.
    fn admit(
        &self,
        control: &Control,
        participant: &Participant,
        domain: &Arc<Domain>,
        state: &EndpointState,
        current: Option<DomainId>,
        regions: Option<Regions>,
    ) -> Result<(), RequestError> {
        let mirror = state.mirror.as_ref();
        if domain.is_bypass() {
            return mirror
                .map_or(Ok(()), |mirror| self.switch(control, participant, mirror, current, Sees::All));
        }
        if regions.is_none() && mirror.is_none() {
            return Ok(());
        }
        // Requests of other queues must neither see what may be refused yet nor map where it is looked at: those that have
        // not seen the announcement end within the grace period, the others wait for the lock.
        domain.mirrors.announce();
        let known = control.domains.contains_key(&domain.id());
        let waited = if known { participant.synchronize(self.options.patience) } else { Ok(()) };
        let admitted = waited.map_err(RequestError::from).and_then(|()| {
            let mut mirrors = domain.mirrors.lock();
            if let Some(merged) = &regions {
                let refuse =
                    |why| RequestError::Incompatible { endpoint: state.id, domain: domain.id(), why };
                let before = domain.regions.load(&participant.pin()).clone();
                mapped_within(participant, domain, merged, &before).map_err(refuse)?;
            }
            if let Some(mirror) = mirror {
                let mappings = domain.mappings(participant);
                self.switch(control, participant, mirror, current, Sees::Mappings(&mappings))?;
                mirrors.add(Arc::clone(mirror));
            }
            if let Some(merged) = regions {
                domain.regions.replace(merged, &participant.pin());
            }
            Ok(())
        });
        domain.mirrors.conclude();
        admitted
    }

    /// Turns a real device from what it sees now to what its new domain has; back again, if the host refuses.
    fn switch(
        &self,
        control: &Control,
        participant: &Participant,
        mirror: &Arc<Mirror>,
        current: Option<DomainId>,
        sees: Sees<'_>,
    ) -> Result<(), RequestError> {
        let old = current.and_then(|id| control.domains.get(&id)).map(|slot| &slot.domain);
        // The domain it leaves stands still meanwhile. Only the holder of the control lock ever has two of these locks.
        let mut left = old.map(|old| old.mirrors.lock());
        let Err(error) = mirror.present(sees) else {
            if let Some(left) = &mut left {
                left.remove(mirror);
            }
            return Ok(());
        };
        let back = match old {
            Some(old) if old.is_bypass() => mirror.present(Sees::All),
            Some(old) => mirror.present(Sees::Mappings(&old.mappings(participant))),
            None => self.present_resting(mirror),
        };
        match back {
            // The device may see more than it should: that is what the driver has to know.
            Err(remains) if mirror.is_blocked() => Err(remains),
            Err(dark) => {
                virtio_transport::complain!(error, error = %dark, "a device sees nothing until its domain's next request");
                Err(error)
            }
            Ok(()) => Err(error),
        }
    }

    /// DETACH. An outer error refuses it; otherwise the endpoint is detached, which needs a grace period, and an inner one
    /// says that the host has not taken everything away.
    pub(crate) fn detach(
        &self,
        participant: &Participant,
        graveyard: &mut Graveyard,
        request: &Detach,
    ) -> Result<Result<(), RequestError>, RequestError> {
        // "The device MUST ignore reserved."
        let endpoint = EndpointId(request.endpoint);
        let mut control = self.control();
        let slot = control.endpoints.get(&endpoint).ok_or(RequestError::NoEndpoint { endpoint })?;
        let (state, current) = (slot.state.clone(), slot.domain);
        let domain = self.check_domain_id(request.domain)?;
        if current != Some(domain) {
            // Whether that domain exists or not.
            return Err(RequestError::NotAttached { endpoint, domain });
        }
        let taken = self.dismiss(&control, &state, domain);
        self.leave(&mut control, Some(participant), graveyard, endpoint, domain);
        state.attachment.replace(Attachment::Detached, &participant.pin());
        Ok(taken)
    }

    /// Takes everything away from a real device that leaves its domain; then it sees what unattached devices see.
    pub(super) fn dismiss(
        &self,
        control: &Control,
        state: &EndpointState,
        id: DomainId,
    ) -> Result<(), RequestError> {
        let (Some(mirror), Some(slot)) = (&state.mirror, control.domains.get(&id)) else { return Ok(()) };
        let taken = slot.domain.mirrors.lock().dismiss(mirror);
        if let Err(error) = &taken {
            virtio_transport::complain!(error, endpoint = %state.id, %error, "a device still sees what its domain had");
        } else if self.bypass_unattached() {
            return self.rest(state);
        }
        taken
    }

    fn present_resting(&self, mirror: &Mirror) -> Result<(), RequestError> {
        if self.bypass_unattached() { mirror.present(Sees::All) } else { mirror.clear() }
    }

    /// Shows a real device that is in no domain what the device's bypass mode says.
    ///
    /// # Errors
    /// When it may see more than that. One that sees less is logged.
    pub(crate) fn rest(&self, endpoint: &EndpointState) -> Result<(), RequestError> {
        let Some(mirror) = &endpoint.mirror else { return Ok(()) };
        let shown = self.present_resting(mirror);
        if let Err(error) = &shown {
            virtio_transport::complain!(error, endpoint = %endpoint.id, %error, "an unattached device does not see what it should");
        }
        if mirror.is_blocked() { shown } else { Ok(()) }
    }

    /// The bypass mode has changed. The first device that may see more than it should is reported.
    pub(crate) fn rest_all(&self, control: &Control) -> Result<(), RequestError> {
        let unattached = control.endpoints.values().filter(|slot| slot.domain.is_none());
        unattached.map(|slot| self.rest(&slot.state)).fold(Ok(()), Result::and)
    }

    /// Takes the endpoint out of its domain, which ceases to exist with its last endpoint. The caller replaces the
    /// attachment and has taken care of a real device. Without a worker's participant the lock's own is used.
    pub(super) fn leave(
        &self,
        control: &mut Control,
        participant: Option<&Participant>,
        graveyard: &mut Graveyard,
        endpoint: EndpointId,
        id: DomainId,
    ) -> bool {
        if let Some(slot) = control.endpoints.get_mut(&endpoint) {
            slot.domain = None;
        }
        let Some(slot) = control.domains.get_mut(&id) else { return false };
        slot.members.retain(|member| *member != endpoint);
        if slot.members.is_empty() {
            slot.domain.kill();
            graveyard.0.extend(control.domains.remove(&id).map(|slot| slot.domain));
            self.bump();
        } else {
            shrink_regions(control, participant.unwrap_or(&control.participant), id);
        }
        true
    }

    /// Detaches every endpoint: "When the device is reset, endpoints are not attached to any domain." `false` when an
    /// access under what they had may still run, or a real device still see it.
    pub(crate) fn detach_all(&self) -> bool {
        let mut graveyard = Graveyard::default();
        let mut lock = self.control();
        let control = &mut *lock;
        let mut taken = Ok(());
        for slot in control.endpoints.values_mut() {
            let blocked = slot.state.mirror.as_ref().is_some_and(|mirror| mirror.is_blocked());
            let attached = slot.domain.take().is_some();
            if attached {
                slot.state.attachment.replace(Attachment::Detached, &control.participant.pin());
            }
            // With the legacy feature, bypass ends with what was negotiated.
            if attached || blocked || self.options.legacy_bypass {
                taken = taken.and(self.rest(&slot.state));
            }
        }
        for (_, slot) in std::mem::take(&mut control.domains) {
            slot.domain.kill();
            graveyard.0.push(slot.domain);
        }
        self.bump();
        let ended = self.settle(control, &mut graveyard);
        // No MAP can take the place of anything in these domains.
        self.lanes.iter().for_each(|lane| lane.unfinished.clear());
        self.remains.go_on(self, &control.participant);
        ended && taken.is_ok()
    }

    /// Waits for accesses under what a control operation took away; `false` when one may still run.
    pub(super) fn settle(&self, control: &Control, graveyard: &mut Graveyard) -> bool {
        let waited = control.participant.synchronize(self.options.patience);
        if let Err(error) = waited {
            // Of no queue; the first one's are the device's.
            self.lanes[0].counters.stuck();
            virtio_transport::complain!(error, %error, "an endpoint still accesses memory it no longer has");
        }
        graveyard.clear(self, &control.participant);
        waited.is_ok()
    }
}

/// The regions of the endpoints that are left.
fn shrink_regions(control: &Control, participant: &Participant, id: DomainId) {
    let Some(slot) = control.domains.get(&id) else { return };
    let regions = slot
        .members
        .iter()
        .filter_map(|member| control.endpoints.get(member))
        .map(|slot| slot.state.properties.regions.clone())
        // A subset of what was merged before: what the policy allowed then it allows now.
        .reduce(|a, b| merge(&a, &b, NPlusI::Allow).unwrap_or(a));
    let guard = participant.pin();
    let regions = regions.unwrap_or_default();
    if *slot.domain.regions.load(&guard) != regions {
        slot.domain.regions.replace(regions, &guard);
    }
}

/// A mapping in one of the regions that `merged` has and `before` had not.
fn mapped_within(
    participant: &Participant,
    domain: &Domain,
    merged: &Regions,
    before: &Regions,
) -> Result<(), Incompatible> {
    let Ok(table) = domain.table() else { return Ok(()) };
    let mut found = None;
    table.for_each(&participant.pin(), &mut |mapping| {
        let region =
            merged.overlapping(mapping.range).filter(|_| before.overlapping(mapping.range).is_none());
        found = found.or(region.map(|region| region.range()));
    });
    found.map_or(Ok(()), |region| Err(Incompatible::Mapped { region }))
}
