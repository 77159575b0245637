//! What the driver can run into.

use std::{fmt, time::Duration};

use thiserror::Error;
use virtio_iommu_spec::{Status, config::Config};

use crate::{mmio::MmioError, pages::PagesError, ring::RingError};

/// Kinds of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RequestKind {
    /// ATTACH.
    Attach,
    /// DETACH.
    Detach,
    /// MAP.
    Map,
    /// UNMAP.
    Unmap,
    /// PROBE.
    Probe,
}

impl fmt::Display for RequestKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Attach => "ATTACH",
            Self::Detach => "DETACH",
            Self::Map => "MAP",
            Self::Unmap => "UNMAP",
            Self::Probe => "PROBE",
        })
    }
}

/// Why a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RequestFailure {
    /// The device says so.
    #[error("status {0:?}")]
    Status(Status),
    /// The device says something no specification has.
    #[error("unknown status {0}")]
    UnknownStatus(u8),
    /// The device did not write what it has to: the status cannot be believed.
    #[error("the device wrote {written} bytes of {expected}")]
    Length {
        /// The used length.
        written: u32,
        /// The size of the writable part.
        expected: u32,
    },
}

/// The driver cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum IommuError {
    /// The registers.
    #[error(transparent)]
    Mmio(#[from] MmioError),
    /// A ring.
    #[error("IOMMU: {0}")]
    Ring(#[from] RingError),
    /// Memory.
    #[error(transparent)]
    Pages(#[from] PagesError),
    /// The device's granule is larger than the guest's pages.
    #[error("page_size_mask {page_size_mask:#x} has no page size of at most 4 KiB")]
    Granule {
        /// The device's page sizes.
        page_size_mask: u64,
    },
    /// A range of the configuration is empty.
    #[error("the configuration has an empty range: {config:?}")]
    EmptyRange {
        /// The configuration.
        config: Config,
    },
    /// The properties of an endpoint cannot take that much.
    #[error("probe_size {probe_size} is more than any endpoint needs")]
    ProbeSize {
        /// What the configuration says, in bytes.
        probe_size: u32,
    },
    /// A bypass domain without the feature.
    #[error("the device does not offer bypass domains (BYPASS_CONFIG)")]
    NoBypass,
    /// Fewer request queues than wanted, or more than there can be.
    #[error("{wanted} request queues are wanted, the device says it has {offered}")]
    RequestQueues {
        /// How many are wanted.
        wanted: u16,
        /// What the configuration says.
        offered: u16,
    },
    /// A request failed.
    #[error("{kind} failed: {failure}")]
    Request {
        /// Which.
        kind: RequestKind,
        /// Why.
        failure: RequestFailure,
    },
    /// The device does not answer.
    #[error("the IOMMU left {outstanding} requests unanswered for {waited:?}")]
    Timeout {
        /// Requests waiting.
        outstanding: u16,
        /// How long.
        waited: Duration,
    },
}
