//! A look at the service from outside: the device knows no clock, whoever measures brings one.

use virtio_iommu_spec::{DomainId, EndpointId, IovaRange};

use crate::table::Removed;

/// Told when a batch and the grace period in it begin and end, on the thread that serves; and, if it wants to, of
/// translations that cease to hold.
pub trait ServiceObserver: Send {
    /// A batch is about to be served.
    fn batch_begin(&mut self) {}
    /// The batch removed something; the wait for accesses under it begins.
    fn grace_begin(&mut self) {}
    /// The wait is over.
    fn grace_end(&mut self) {}
    /// The used ring was published. `requests` chains were returned.
    fn batch_end(&mut self, requests: u32) {
        let _ = requests;
    }

    /// Whether to call [`mapped`](Self::mapped), [`unmapped`](Self::unmapped), [`removed`](Self::removed) and
    /// [`attached`](Self::attached). Asked once, when the driver starts
    /// the device, so that an observer that only times costs nothing there.
    fn follows_translations(&self) -> bool {
        false
    }
    /// A MAP made a mapping of this range in a domain.
    fn mapped(&mut self, domain: DomainId, range: IovaRange) {
        let _ = (domain, range);
    }
    /// An UNMAP of this range removed mappings of a domain. They are gone; accesses that began before may still run.
    fn unmapped(&mut self, domain: DomainId, range: IovaRange) {
        let _ = (domain, range);
    }
    /// So much was removed by that UNMAP.
    fn removed(&mut self, removed: Removed) {
        let _ = removed;
    }
    /// An endpoint is now attached to this domain, or to none. What was translated for it holds no longer.
    fn attached(&mut self, endpoint: EndpointId, domain: Option<DomainId>) {
        let _ = (endpoint, domain);
    }
}
