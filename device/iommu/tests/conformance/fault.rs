//! "Fault reporting".

use virtio_iommu::spec::{
    Status,
    fault::{F_ADDRESS, F_READ, F_WRITE, Reason},
};

use super::support::*;

/// Endpoint 8, attached, has missed a read at 0x1234 and a write at 2^40; endpoint 9 is not attached.
fn faulted() -> Rig {
    let mut rig = Rig::default();
    rig.give_event_buffers(8, 24);
    assert_eq!(rig.attach(1, 8), Status::Ok);
    assert_eq!(dma_read(&rig.port(8), 0x1234, 4), None);
    assert!(!dma_write(&rig.port(8), 1 << 40, b"x"));
    assert!(!dma_write(&rig.port(9), 0x5678, b"x"));
    rig
}

/// clause: fault_1 "The device SHOULD set reserved and reserved1 to zero."
#[test]
fn fault_1_reserved_fields_are_zero() {
    let mut rig = faulted();
    for _ in 0..3 {
        let (len, bytes) = rig.next_event().unwrap();
        assert_eq!((len, &bytes[1..4], &bytes[12..16]), (24, &[0u8; 3][..], &[0u8; 4][..]));
    }
}

/// clause: fault_2 "The device SHOULD set undefined flags to zero."
#[test]
fn fault_2_undefined_flags_are_zero() {
    let mut rig = faulted();
    for direction in [F_READ, F_WRITE, F_WRITE] {
        assert_eq!(rig.next_fault().unwrap().flags, direction | F_ADDRESS);
    }
}

/// clause: fault_3 "The device SHOULD write a valid endpoint ID in endpoint."
#[test]
fn fault_3_the_endpoint_is_named() {
    let mut rig = faulted();
    let endpoints: Vec<u32> = std::iter::from_fn(|| rig.next_fault()).map(|fault| fault.endpoint).collect();
    assert_eq!(endpoints, [8, 8, 9]);
}

/// clause: fault_4 "The device MAY omit setting VIRTIO_IOMMU_FAULT_F_ADDRESS and writing address in any fault report, regardless of the reason."
#[test]
fn fault_4_the_address_is_always_given() {
    let mut rig = faulted();
    let faults: Vec<_> = std::iter::from_fn(|| rig.next_fault()).map(|f| (f.reason, f.address)).collect();
    assert_eq!(faults, [(Reason::Mapping, 0x1234), (Reason::Mapping, 1 << 40), (Reason::Domain, 0x5678)]);
}

/// clause: fault_5 "If a buffer is too small to contain the fault report, the device SHOULD NOT use multiple buffers to describe it."
#[test]
fn fault_5_a_small_buffer_is_returned_unused_and_no_other_taken() {
    let mut rig = Rig::default();
    rig.give_event_buffers(1, 23);
    rig.give_event_buffers(2, 24);
    assert!(!dma_write(&rig.port(8), 0x1000, b"x"));
    let (len, bytes) = rig.next_event().unwrap();
    assert_eq!((len, bytes), (0, [FILL; 64]));
    assert!(rig.next_event().is_none());
    let faults = rig.counters().faults;
    assert_eq!((faults.dropped_bad_buffer, faults.delivered), (1, 0));
    // The next fault finds the next buffer.
    assert!(!dma_write(&rig.port(8), 0x2000, b"x"));
    assert_eq!(rig.next_fault().unwrap().address, 0x2000);
}

/// clause: fault_6 "The device MAY fall back to using an older fault report format that fits in the buffer."
#[test]
fn fault_6_there_is_no_older_format_to_fall_back_to() {
    let mut rig = Rig::default();
    for len in [1u32, 8, 16, 23] {
        rig.give_event_buffers(1, len);
        assert!(!dma_write(&rig.port(8), 0x1000, b"x"));
        assert_eq!(rig.next_event().map(|(len, _)| len), Some(0));
    }
    assert_eq!(rig.counters().faults.dropped(), 4);
}
