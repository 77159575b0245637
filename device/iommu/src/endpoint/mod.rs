//! Endpoints: who they are, what they are attached to, and their way to memory.

mod port;
mod registry;

pub use port::{EndpointDma, EndpointPort, PortError};
pub(crate) use registry::{Attachment, EndpointState};

use serde::{Deserialize, Serialize};

/// What an endpoint that is neither attached nor in bypass mode may do with its IDENTITY regions.
///
/// The RFC thread leaves it open ("the device MAY abort the transaction"); here it is said. Everything else such an
/// endpoint does is refused: "The device SHOULD NOT let unattached endpoints that are not in bypass mode access the
/// guest-physical address space."
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnattachedPolicy {
    /// Accesses are refused like any other.
    #[default]
    Abort,
    /// Accesses within its own IDENTITY regions pass one to one.
    AllowIdentity,
}
