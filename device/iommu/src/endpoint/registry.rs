//! The device's side of an endpoint.

use std::sync::Arc;

use virtio_iommu_spec::EndpointId;

use crate::{
    domain::Domain,
    epoch_cell::EpochCell,
    iotlb::InvalidationLog,
    passthrough::{Backend, Mirror},
    properties::EndpointProperties,
};

/// What an endpoint is attached to.
pub(crate) enum Attachment {
    /// Nothing: bypass or refusal, as the device's state says at the time of the access.
    Detached,
    /// A domain.
    Domain(Arc<Domain>),
    /// The endpoint was removed.
    Gone,
}

impl Attachment {
    /// The log that keeps a port's IOTLB true. Nothing is ever unmapped from a bypass domain, nor cached.
    #[inline(always)]
    pub(crate) fn log(&self) -> Option<&InvalidationLog> {
        match self {
            Self::Domain(domain) => domain.log(),
            Self::Detached | Self::Gone => None,
        }
    }
}

/// One endpoint. Its ports reach it by pointer, without the device's lock.
pub(crate) struct EndpointState {
    pub(crate) id: EndpointId,
    pub(crate) properties: EndpointProperties,
    pub(crate) attachment: EpochCell<Attachment>,
    /// The page tables of a real device.
    pub(crate) mirror: Option<Arc<Mirror>>,
}

impl EndpointState {
    pub(crate) fn new(
        id: EndpointId,
        properties: EndpointProperties,
        backend: Option<Arc<dyn Backend>>,
    ) -> Self {
        let mirror = backend.map(|backend| Arc::new(Mirror::new(backend)));
        Self { id, properties, attachment: EpochCell::new(Attachment::Detached), mirror }
    }
}
