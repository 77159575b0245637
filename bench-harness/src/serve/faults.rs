//! Faults for people: which device wanted what, where, and why it was refused.

use std::sync::Arc;

use virtio_iommu::{
    dma::Access,
    fault::{FaultCause, FaultListener},
    spec::EndpointId,
};
use virtio_transport::Complaints;

use super::address::Unit;

/// Prints faults to standard error: the first, second, fourth, eighth… of them.
#[derive(Clone, Default)]
pub(crate) struct FaultLog(Arc<Complaints>);

impl FaultListener for FaultLog {
    fn fault(&self, cause: FaultCause, endpoint: EndpointId, address: u64, access: Access) {
        if let Some(number) = self.0.admit() {
            anstream::eprintln!("fault {number}: {}", describe(cause, endpoint, address, access));
        }
    }
}

fn describe(cause: FaultCause, endpoint: EndpointId, address: u64, access: Access) -> String {
    let unit = Unit::ENDPOINTS.into_iter().find(|unit| unit.address().endpoint() == endpoint);
    let who = unit.map_or_else(
        || format!("endpoint {endpoint}"),
        |unit| format!("{} ({})", unit.name(), unit.address()),
    );
    let what = match access {
        Access::Read => "reads",
        Access::Write => "writes",
    };
    let why = match cause {
        FaultCause::NotMapped => "nothing is mapped there",
        FaultCause::Permission => "the mapping does not allow that",
        FaultCause::Unattached => "it is attached to no domain",
    };
    format!("{who} {what} IOVA {address:#x}: {why}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_says_who_what_where_and_why() {
        let text = describe(FaultCause::NotMapped, EndpointId(0x48), 0xdead_0000, Access::Write);
        assert_eq!(text, "nic0 (0000:00:09.0) writes IOVA 0xdead0000: nothing is mapped there");
        assert!(describe(FaultCause::Permission, EndpointId(7), 0, Access::Read).starts_with("endpoint "));
    }
}
