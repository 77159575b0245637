//! Putting a state into a device: everything is checked and built aside, then put in place at once.

use std::{collections::BTreeMap, sync::Arc};

use thiserror::Error;
use virtio_iommu_spec::{DomainId, EndpointId, IovaRange, feature, request};

use super::{DomainState, Identity, State};
use crate::{
    device::{Control, Core, DomainSlot, F_VERSION_1},
    domain::{Domain, DomainLimits},
    endpoint::Attachment,
    properties::{Incompatible, Regions, merge},
    queue::QueueError,
    request::RequestError,
};

/// Why a state does not fit the device. The device is as it was.
#[derive(Debug, Error)]
pub enum RestoreError {
    /// The device is in use.
    #[error("a state can only be restored into a device that is not in use")]
    InUse,
    /// What a real device sees is not part of any state, and a state must not change it.
    #[error(
        "endpoint {endpoint} is a passthrough endpoint: remove it, restore the state, then add and attach it again"
    )]
    Passthrough {
        /// The endpoint.
        endpoint: EndpointId,
    },
    /// Domains, but no driver that could have made them.
    #[error("the state has domains, but no driver has negotiated what it takes to make or fill them")]
    NotNegotiated,
    /// The state is another device's.
    #[error("the state is of a device with {found:?}, this one has {expected:?}")]
    Identity {
        /// What the state says.
        found: Box<Identity>,
        /// What the device is.
        expected: Box<Identity>,
    },
    /// Features were negotiated that are not offered.
    #[error("features {features:#x} were negotiated but are not offered")]
    Features {
        /// The features.
        features: u64,
    },
    /// Bypass is on, although there is no such field.
    #[error("bypass is on in a device without the bypass field")]
    Bypass,
    /// An endpoint is missing, too many, or has other properties.
    #[error("endpoint {endpoint} of the state and of the device differ")]
    Endpoint {
        /// The endpoint.
        endpoint: EndpointId,
    },
    /// A domain is listed twice, has no endpoint, or is referred to but not listed.
    #[error("domain {domain} is listed twice, has no endpoint, or is missing")]
    Domain {
        /// The domain.
        domain: DomainId,
    },
    /// A domain translates what the device or its endpoints cannot.
    #[error("domain {domain} is wider than the device or its endpoints")]
    Limits {
        /// The domain.
        domain: DomainId,
    },
    /// The endpoints of a domain do not go together.
    #[error("the endpoints of domain {domain} do not go together: {why}")]
    Incompatible {
        /// The domain.
        domain: DomainId,
        /// Why not.
        why: Incompatible,
    },
    /// A mapping that the device would not have made.
    #[error("a mapping of domain {domain} is not valid: {why}")]
    Mapping {
        /// The domain.
        domain: DomainId,
        /// Why not.
        why: RequestError,
    },
    /// More domains or mappings than the device's caps.
    #[error("{count} {what}, at most {cap} are allowed")]
    Cap {
        /// Domains or mappings.
        what: &'static str,
        /// How many.
        count: u64,
        /// The cap.
        cap: u64,
    },
    /// A queue does not lie where it could be served, or is listed twice, or larger than the device's maximum.
    #[error("queue {index} cannot be served")]
    Queue {
        /// Its index.
        index: u16,
        /// Why, when it is the layout.
        #[source]
        source: Option<QueueError>,
    },
    /// The service could not be started; the device has been reset.
    #[error("the device cannot be started: {0}")]
    Start(#[from] virtio_transport::ActivateError),
}

/// What a checked state becomes.
pub(crate) struct Restored {
    domains: BTreeMap<DomainId, DomainSlot>,
    mappings: u64,
}

/// Checks everything but the queues and builds the domains. Nothing of the device changes.
pub(crate) fn build(core: &Core, state: &State) -> Result<Restored, RestoreError> {
    check_head(core, state)?;
    check_endpoints(&core.control(), state)?;
    let mut members: BTreeMap<DomainId, Vec<EndpointId>> = BTreeMap::new();
    for endpoint in &state.endpoints {
        if let Some(domain) = endpoint.domain {
            members.entry(DomainId(domain)).or_default().push(EndpointId(endpoint.id));
        }
    }
    let mut restored = Restored { domains: BTreeMap::new(), mappings: 0 };
    for saved in &state.domains {
        let id = DomainId(saved.id);
        let members = members.remove(&id).ok_or(RestoreError::Domain { domain: id })?;
        let domain = build_domain(core, state, saved, &members)?;
        restored.mappings += saved.mappings.len() as u64;
        restored.domains.insert(id, DomainSlot { domain: Arc::new(domain), members });
    }
    match members.keys().next() {
        Some(&domain) => Err(RestoreError::Domain { domain }),
        None => Ok(restored),
    }
}

fn check_head(core: &Core, state: &State) -> Result<(), RestoreError> {
    let expected = Identity::of(&core.options);
    if state.identity != expected {
        let (found, expected) = (Box::new(state.identity), Box::new(expected));
        return Err(RestoreError::Identity { found, expected });
    }
    let features = state.negotiated & !expected.features;
    if features != 0 {
        return Err(RestoreError::Features { features });
    }
    // A driver that has set DRIVER_OK has accepted VERSION_1, or FEATURES_OK would have been refused.
    let unversioned = state.negotiated != 0 && state.negotiated & F_VERSION_1 == 0;
    if unversioned {
        return Err(RestoreError::Features { features: state.negotiated });
    }
    let mapped = state.domains.iter().any(|domain| !domain.mappings.is_empty());
    if (state.negotiated == 0 && !state.domains.is_empty())
        || (mapped && state.negotiated & feature::MAP_UNMAP == 0)
    {
        return Err(RestoreError::NotNegotiated);
    }
    if state.bypass && core.options.legacy_bypass {
        return Err(RestoreError::Bypass);
    }
    let mappings = state.domains.iter().map(|domain| domain.mappings.len() as u64).sum();
    let caps = [
        ("domains", state.domains.len() as u64, core.options.max_domains as u64),
        ("mappings", mappings, core.options.max_mappings),
    ];
    match caps.into_iter().find(|(_, count, cap)| count > cap) {
        Some((what, count, cap)) => Err(RestoreError::Cap { what, count, cap }),
        None => Ok(()),
    }
}

fn check_endpoints(control: &Control, state: &State) -> Result<(), RestoreError> {
    if let Some((&endpoint, _)) = control.endpoints.iter().find(|(_, slot)| slot.state.mirror.is_some()) {
        return Err(RestoreError::Passthrough { endpoint });
    }
    let mut seen = BTreeMap::new();
    for saved in &state.endpoints {
        let endpoint = EndpointId(saved.id);
        let same =
            control.endpoints.get(&endpoint).is_some_and(|slot| slot.state.properties == saved.properties);
        if !same || seen.insert(endpoint, ()).is_some() {
            return Err(RestoreError::Endpoint { endpoint });
        }
    }
    match control.endpoints.keys().find(|id| !seen.contains_key(id)) {
        Some(&endpoint) => Err(RestoreError::Endpoint { endpoint }),
        None => Ok(()),
    }
}

fn build_domain(
    core: &Core,
    state: &State,
    saved: &DomainState,
    members: &[EndpointId],
) -> Result<Domain, RestoreError> {
    let id =
        core.check_domain_id(saved.id).map_err(|_| RestoreError::Limits { domain: DomainId(saved.id) })?;
    let limits = check_limits(core, saved, members)?;
    let wrong_kind = saved.bypass && state.negotiated & feature::BYPASS_CONFIG == 0;
    if wrong_kind || (saved.bypass && !saved.mappings.is_empty()) {
        return Err(RestoreError::Domain { domain: id });
    }
    let regions = merged_regions(core, members, saved.bypass)
        .map_err(|why| RestoreError::Incompatible { domain: id, why })?;
    let domain =
        Domain::new(&core.epoch, &core.budget, id, limits, saved.bypass, regions, core.invalidation_log());
    let control = core.control();
    let guard = control.participant.pin();
    let allowed = core.map_flags(state.negotiated);
    for mapping in &saved.mappings {
        let map = request::Map {
            domain: id.0,
            virt_start: mapping.start,
            virt_end: mapping.end,
            phys_start: mapping.gpa,
            flags: mapping.flags,
        };
        let unknown = mapping.flags & !allowed;
        let result =
            if unknown == 0 { domain.map(&guard, &map) } else { Err(RequestError::Flags { unknown }) };
        result.map_err(|why| RestoreError::Mapping { domain: id, why })?;
    }
    Ok(domain)
}

fn check_limits(
    core: &Core,
    saved: &DomainState,
    members: &[EndpointId],
) -> Result<DomainLimits, RestoreError> {
    let refuse = RestoreError::Limits { domain: DomainId(saved.id) };
    let Some(input_range) = IovaRange::new(saved.input_range.0, saved.input_range.1) else {
        return Err(refuse);
    };
    let limits = DomainLimits { granule_shift: saved.granule_shift, input_range };
    let whole = limits.granule_shift < u64::BITS && input_range.is_aligned(limits.granule_shift);
    let device = &core.options;
    let fits = whole
        && limits.granule_shift >= device.granule_shift()
        && device.input_range.covers(&input_range)
        && (saved.bypass || members.iter().all(|member| core.member_fits(*member, &limits)));
    if fits { Ok(limits) } else { Err(refuse) }
}

fn merged_regions(core: &Core, members: &[EndpointId], bypass: bool) -> Result<Regions, Incompatible> {
    let control = core.control();
    let mut lists =
        members.iter().filter_map(|id| control.endpoints.get(id)).map(|slot| &slot.state.properties.regions);
    let first = lists.next().cloned().unwrap_or_default();
    if bypass {
        return Ok(first);
    }
    lists.try_fold(first, |merged, regions| merge(&merged, regions, core.options.n_plus_i))
}

impl Restored {
    /// Puts the domains in place. The caller has made sure that the device is not in use.
    pub(crate) fn install(self, core: &Core, state: &State) -> Result<(), RestoreError> {
        let taken = core.pool.take(self.mappings);
        if taken < self.mappings {
            core.pool.give_back(taken);
            let cap = core.pool.cap();
            return Err(RestoreError::Cap { what: "mappings", count: self.mappings, cap });
        }
        let mut lock = core.control();
        let control = &mut *lock;
        // Endpoints come and go at any time, also since the state was checked.
        if let Err(error) = check_endpoints(control, state) {
            core.pool.give_back(taken);
            return Err(error);
        }
        for (id, slot) in &self.domains {
            for member in &slot.members {
                let Some(endpoint) = control.endpoints.get_mut(member) else { continue };
                endpoint.domain = Some(*id);
                let attachment = Attachment::Domain(slot.domain.clone());
                endpoint.state.attachment.replace(attachment, &control.participant.pin());
            }
        }
        control.domains = self.domains;
        core.set_bypass_field(state.bypass);
        core.bump();
        Ok(())
    }
}

impl Core {
    fn member_fits(&self, member: EndpointId, limits: &DomainLimits) -> bool {
        let control = self.control();
        let own = control.endpoints.get(&member).and_then(|slot| self.limits_of(&slot.state).ok());
        own.is_some_and(|own| {
            own.granule_shift <= limits.granule_shift && own.input_range.covers(&limits.input_range)
        })
    }
}
