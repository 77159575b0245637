//! Faults of endpoints: recorded by the endpoint's thread, counted, logged, and put on the event queue ("Fault
//! reporting").

mod counts;
mod event_queue;

pub use counts::{FaultCause, FaultCounts};
pub(crate) use event_queue::FaultSink;

use virtio_iommu_spec::{
    EndpointId,
    fault::{F_ADDRESS, F_READ, F_WRITE, Fault},
};

use crate::dma::Access;

/// Hears of every fault, whether or not the driver does. Called on the endpoint's thread under its view of memory: it
/// neither waits nor accesses memory of the guest's.
pub trait FaultListener: Send + Sync {
    /// An access was refused.
    fn fault(&self, cause: FaultCause, endpoint: EndpointId, address: u64, access: Access);
}

/// A fault as the wire tells it. The cause is finer than the wire's reason: a missing mapping and a permission
/// violation are both `MAPPING` there.
pub(crate) fn record(cause: FaultCause, endpoint: EndpointId, address: u64, access: Access) -> Fault {
    let direction = match access {
        Access::Read => F_READ,
        Access::Write => F_WRITE,
    };
    Fault { reason: cause.reason(), flags: direction | F_ADDRESS, endpoint: endpoint.0, address }
}
