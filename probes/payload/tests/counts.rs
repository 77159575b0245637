//! On a machine with KVM: the guest makes exactly the exits that were asked for.

use kvm_payload::{Exits, Payload, PayloadError};

#[test]
fn exits_are_exact() {
    let payload =
        Payload { cpuids: 12, halts: 3, port_writes: 123, mmio_writes: 45, mmio_reads: 67, doorbells: 89 };
    match payload.run() {
        Ok(exits) => {
            let expected =
                Exits { port_writes: 123, mmio_writes: 45, mmio_reads: 67, doorbells: 89, halts: 4 };
            assert_eq!(exits, expected);
            assert_eq!(exits.to_userspace(), 123 + 45 + 67 + 4);
        }
        Err(error @ PayloadError::NoKvm(_)) => {
            iommu_equipment::missing(iommu_equipment::Equipment::Kvm, error)
        }
        Err(error) => panic!("{error}"),
    }
}
