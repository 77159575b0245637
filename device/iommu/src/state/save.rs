//! Taking the state down.

use thiserror::Error;
use virtio_iommu_spec::private::lane_of;
use virtio_transport::QueueLayout;

use super::{DomainState, EndpointRecord, Identity, MappingState, QueueState, State};
use crate::{
    device::{Core, DeviceOptions},
    domain::Domain,
    epoch::Participant,
    table::MappingTable,
};

/// Why a state cannot be saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SaveError {
    /// Requests are being served.
    #[error("the device must be paused before its state is saved")]
    Running,
    /// What a real device holds is not part of any state.
    #[error("a device with passthrough endpoints cannot be saved; remove them first")]
    Passthrough,
}

impl Identity {
    pub(crate) fn of(options: &DeviceOptions) -> Self {
        Self {
            features: options.features(),
            page_size_mask: options.page_size_mask,
            input_range: (options.input_range.start(), options.input_range.end()),
            domain_range: options.domain_range,
            probe_size: options.probe_size,
            request_queues: options.request_queues,
        }
    }
}

pub(crate) fn save(core: &Core, layouts: &[QueueLayout]) -> State {
    let control = core.control();
    let endpoints = control.endpoints.iter().map(|(id, slot)| EndpointRecord {
        id: id.0,
        properties: slot.state.properties.clone(),
        domain: slot.domain.map(|domain| domain.0),
    });
    State {
        identity: Identity::of(&core.options),
        bypass: core.bypass_field(),
        negotiated: core.negotiated(),
        queues: layouts.iter().filter_map(|layout| queue(core, layout)).collect(),
        domains: control.domains.values().map(|slot| domain(&control.participant, &slot.domain)).collect(),
        endpoints: endpoints.collect(),
    }
}

fn queue(core: &Core, layout: &QueueLayout) -> Option<QueueState> {
    let (next_avail, next_used) = match lane_of(layout.index) {
        Some(lane) => core.lanes.get(usize::from(lane))?.indices()?,
        None => core.faults.indices()?,
    };
    let QueueLayout { index, size, desc, avail, used } = *layout;
    Some(QueueState { index, size, desc, avail, used, next_avail, next_used })
}

fn domain(participant: &Participant, domain: &Domain) -> DomainState {
    let limits = domain.limits();
    let mut mappings = Vec::new();
    if let Ok(table) = domain.table() {
        table.for_each(&participant.pin(), &mut |mapping| {
            mappings.push(MappingState {
                start: mapping.range.start(),
                end: mapping.range.end(),
                gpa: mapping.gpa.0,
                flags: mapping.perms.to_flags(),
            });
        });
    }
    DomainState {
        id: domain.id().0,
        bypass: domain.is_bypass(),
        granule_shift: limits.granule_shift,
        input_range: (limits.input_range.start(), limits.input_range.end()),
        mappings,
    }
}
