//! The state of a device, to be saved and restored: domains, mappings, attachments, bypass, what was negotiated, and
//! where the queues stand.
//!
//! [`Device::pause`](crate::Device::pause), [`Device::save`](crate::Device::save), [`encode`]; on the other side
//! [`decode`] and [`Device::restore`](crate::Device::restore) into a device built with the same options and endpoints. A
//! state that is damaged, from a newer version, or does not fit the device is refused whole.

mod format;
mod restore;
mod save;

pub use format::{FormatError, VERSION, decode, encode};
pub use restore::RestoreError;
pub(crate) use restore::build;
pub use save::SaveError;
pub(crate) use save::save;

use serde::{Deserialize, Serialize};

use crate::properties::EndpointProperties;

/// Everything about a device that outlives it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// What the device is; it must be restored into one that is the same.
    pub identity: Identity,
    /// The `bypass` configuration field.
    pub bypass: bool,
    /// What the driver negotiated; 0 before DRIVER_OK.
    pub negotiated: u64,
    /// The queues in use.
    pub queues: Vec<QueueState>,
    /// The domains, by ascending ID.
    pub domains: Vec<DomainState>,
    /// The endpoints, by ascending ID.
    pub endpoints: Vec<EndpointRecord>,
}

/// What the driver sees of a device before it negotiates anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// Features offered.
    pub features: u64,
    /// `page_size_mask`.
    pub page_size_mask: u64,
    /// `input_range`: first and last address.
    pub input_range: (u64, u64),
    /// `domain_range`: first and last ID.
    pub domain_range: (u32, u32),
    /// `probe_size`, in bytes.
    pub probe_size: u32,
    /// Request queues. Written only where there are several (version 2): the standard device has one.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub request_queues: u16,
}

fn one() -> u16 {
    1
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_one(request_queues: &u16) -> bool {
    *request_queues == 1
}

/// A queue in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueueState {
    /// Its index.
    pub index: u16,
    /// Number of descriptors.
    pub size: u16,
    /// Guest-physical address of the descriptor table.
    pub desc: u64,
    /// Guest-physical address of the available ring.
    pub avail: u64,
    /// Guest-physical address of the used ring.
    pub used: u64,
    /// Next entry of the available ring the device reads.
    pub next_avail: u16,
    /// Used index as published.
    pub next_used: u16,
}

/// A domain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DomainState {
    /// Its ID.
    pub id: u32,
    /// Whether it is a bypass domain.
    pub bypass: bool,
    /// log2 of its page granularity.
    pub granule_shift: u32,
    /// First and last address it translates.
    pub input_range: (u64, u64),
    /// Its mappings, by ascending address.
    pub mappings: Vec<MappingState>,
}

/// A mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MappingState {
    /// First I/O virtual address.
    pub start: u64,
    /// Last I/O virtual address.
    pub end: u64,
    /// Guest-physical address of `start`.
    pub gpa: u64,
    /// Flags of the MAP request.
    pub flags: u32,
}

/// An endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointRecord {
    /// Its ID.
    pub id: u32,
    /// Its properties.
    pub properties: EndpointProperties,
    /// The domain it is attached to.
    pub domain: Option<u32>,
}
