//! Why a request fails, and the one place that turns the reason into a status.

use thiserror::Error;
use virtio_iommu_spec::{DomainId, EndpointId, Gpa, IovaRange, Status};

use crate::{
    epoch::Stuck,
    passthrough::BackendError,
    properties::Incompatible,
    table::{MapError, UnmapError},
};

/// A request that is answered with a status other than OK.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RequestError {
    /// The readable part ends before the request does.
    #[error("the readable part has {have} bytes, the request needs {need}")]
    Short {
        /// Readable bytes found.
        have: u64,
        /// Readable bytes needed.
        need: usize,
    },
    /// A reserved field that must be zero is not.
    #[error("reserved bytes {found:02x?} must be zero")]
    Reserved {
        /// The bytes found.
        found: [u8; 4],
    },
    /// Flag bits the device does not recognise, or that depend on a feature that was not negotiated.
    #[error("unknown flags {unknown:#x}")]
    Flags {
        /// The offending bits.
        unknown: u32,
    },
    /// There is no such endpoint.
    #[error("endpoint {endpoint} does not exist")]
    NoEndpoint {
        /// The endpoint asked for.
        endpoint: EndpointId,
    },
    /// The domain lies outside `domain_range`.
    #[error("domain {domain} is outside domain_range")]
    DomainRange {
        /// The domain asked for.
        domain: DomainId,
    },
    /// There is no such domain.
    #[error("domain {domain} does not exist")]
    NoDomain {
        /// The domain asked for.
        domain: DomainId,
    },
    /// The endpoint is not attached to the domain it should be detached from.
    #[error("endpoint {endpoint} is not attached to domain {domain}")]
    NotAttached {
        /// The endpoint.
        endpoint: EndpointId,
        /// The domain.
        domain: DomainId,
    },
    /// MAP or UNMAP on a bypass domain.
    #[error("domain {domain} is a bypass domain")]
    BypassDomain {
        /// The domain.
        domain: DomainId,
    },
    /// ATTACH with a BYPASS flag that does not match the existing domain.
    #[error("the BYPASS flag does not match domain {domain}")]
    BypassMismatch {
        /// The domain.
        domain: DomainId,
    },
    /// The last address lies before the first.
    #[error("virt_end {end:#x} lies before virt_start {start:#x}")]
    Backwards {
        /// First address.
        start: u64,
        /// Last address.
        end: u64,
    },
    /// An address is not aligned on the page granularity.
    #[error("{range} to {gpa} is not aligned on {granule_shift} bits")]
    Misaligned {
        /// The I/O virtual range.
        range: IovaRange,
        /// Where it should be mapped to.
        gpa: Gpa,
        /// log2 of the granule.
        granule_shift: u32,
    },
    /// The range leaves what the domain can translate.
    #[error("{range} leaves the input range {limit}")]
    InputRange {
        /// The range asked for.
        range: IovaRange,
        /// What can be translated.
        limit: IovaRange,
    },
    /// The guest-physical range wraps or leaves the guest-physical address space.
    #[error("{range} to {gpa} leaves the guest-physical address space")]
    PhysRange {
        /// The I/O virtual range.
        range: IovaRange,
        /// Where it should be mapped to.
        gpa: Gpa,
    },
    /// MAP over a reserved region of an endpoint of the domain.
    #[error("{range} overlaps the reserved region {region}")]
    ReservedRegion {
        /// The range asked for.
        range: IovaRange,
        /// The region in the way.
        region: IovaRange,
    },
    /// The mapping table refused a MAP.
    #[error(transparent)]
    Map(#[from] MapError),
    /// The mapping table refused an UNMAP.
    #[error(transparent)]
    Unmap(#[from] UnmapError),
    /// The endpoint does not fit in with the domain.
    #[error("endpoint {endpoint} does not fit domain {domain}: {why}")]
    Incompatible {
        /// The endpoint.
        endpoint: EndpointId,
        /// The domain.
        domain: DomainId,
        /// The property in the way.
        why: Incompatible,
    },
    /// The properties buffer of a PROBE is smaller than `probe_size`.
    #[error("the properties buffer has {have} bytes, probe_size is {need}")]
    ProbeTooSmall {
        /// Bytes before the tail.
        have: u64,
        /// `probe_size`.
        need: u32,
    },
    /// The cap on domains is reached.
    #[error("no more than {cap} domains")]
    TooManyDomains {
        /// The cap.
        cap: usize,
    },
    /// The cap on mappings is reached.
    #[error("no more than {cap} mappings")]
    TooManyMappings {
        /// The cap.
        cap: u64,
    },
    /// The host cannot do it to a real device's page tables.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The host cannot take mappings away from a real device, which may still reach them.
    #[error("a real device may still see what was taken away: {error}")]
    Remains {
        /// Why.
        error: BackendError,
    },
    /// An access to what the request removed does not end.
    #[error(transparent)]
    Stuck(#[from] Stuck),
}

/// The status a failed request is answered with; success is [`Status::Ok`].
///
/// The only place where errors become wire values. The order in which the causes are looked for is in
/// `docs/error-precedence.md`.
pub const fn status(error: &RequestError) -> Status {
    match error {
        RequestError::Short { .. }
        | RequestError::Reserved { .. }
        | RequestError::Flags { .. }
        | RequestError::NotAttached { .. }
        | RequestError::BypassDomain { .. }
        | RequestError::BypassMismatch { .. }
        | RequestError::ReservedRegion { .. }
        | RequestError::Map(MapError::Overlap { .. })
        | RequestError::ProbeTooSmall { .. } => Status::Inval,
        RequestError::NoEndpoint { .. } | RequestError::NoDomain { .. } => Status::NoEnt,
        RequestError::DomainRange { .. }
        | RequestError::Backwards { .. }
        | RequestError::Misaligned { .. }
        | RequestError::InputRange { .. }
        | RequestError::PhysRange { .. }
        | RequestError::Unmap(UnmapError::Split { .. }) => Status::Range,
        RequestError::Incompatible { .. } => Status::Unsupp,
        RequestError::TooManyDomains { .. }
        | RequestError::TooManyMappings { .. }
        | RequestError::Map(MapError::OutOfMemory) => Status::NoMem,
        RequestError::Backend(error) => error.status(),
        RequestError::Remains { .. } | RequestError::Stuck(_) => Status::DevErr,
    }
}

/// A chain that cannot be answered: returned with used length 0, nothing written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ChainError {
    /// Fewer than four writable bytes.
    #[error("{writable} writable bytes leave no room for a tail")]
    NoTail {
        /// Writable bytes found.
        writable: u64,
    },
    /// More writable bytes than any request may have.
    #[error("{writable} writable bytes are more than any request needs")]
    Oversized {
        /// Writable bytes found.
        writable: u64,
    },
    /// The type is unknown, or belongs to a feature that is not there.
    #[error("unknown request type {kind}")]
    UnknownType {
        /// The type byte.
        kind: u8,
    },
}

/// Kinds of garbled request, for counting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ChainErrorKind {
    /// No room for a tail.
    NoTail,
    /// Far too many writable bytes.
    Oversized,
    /// Unknown request type.
    UnknownType,
    /// Readable part shorter than a head.
    ShortHead,
    /// Readable part shorter than the request of its type.
    ShortRequest,
    /// Descriptors that cannot be followed or reached: a loop, an index outside the table, memory that is not RAM.
    Descriptors,
}

impl ChainErrorKind {
    /// Every kind, in order.
    pub const ALL: [Self; 6] = [
        Self::NoTail,
        Self::Oversized,
        Self::UnknownType,
        Self::ShortHead,
        Self::ShortRequest,
        Self::Descriptors,
    ];

    /// Its name in counters.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoTail => "no_tail",
            Self::Oversized => "oversized",
            Self::UnknownType => "unknown_type",
            Self::ShortHead => "short_head",
            Self::ShortRequest => "short_request",
            Self::Descriptors => "descriptors",
        }
    }
}

impl From<ChainError> for ChainErrorKind {
    fn from(error: ChainError) -> Self {
        match error {
            ChainError::NoTail { .. } => Self::NoTail,
            ChainError::Oversized { .. } => Self::Oversized,
            ChainError::UnknownType { .. } => Self::UnknownType,
        }
    }
}
