use crate::support::*;
use virtio_iommu::spec::Status;

#[test]
fn smoke() {
    let mut rig = Rig::default();
    assert_eq!(rig.attach(1, 8), Status::Ok);
    assert_eq!(rig.map(1, 0x1000, 0x2fff, 0x10_0000), Status::Ok);
    let port = rig.port(8);
    assert!(dma_write(&port, 0x1ffe, b"hello"));
    assert_eq!(rig.peek(0x10_0ffe), *b"hello");
    assert_eq!(rig.unmap(1, 0, u64::MAX), Status::Ok);
    assert!(!dma_write(&port, 0x1ffe, b"hello"));
    assert_eq!(rig.detach(1, 8), Status::Ok);
    assert_eq!(rig.counters().faults.not_mapped, 1);
}
