//! Rings that lie: the device stops, says so, and is mended by a reset.

use std::sync::atomic::Ordering;

use virtio_iommu::spec::Status;
use virtio_transport::{Activation, VirtioDevice};
use vm_memory::{Bytes, GuestAddress};

use crate::support::*;

fn broken(rig: &mut Rig) {
    rig.kick();
    assert!(rig.device.needs_reset());
    assert_eq!(rig.irq.config.load(Ordering::Relaxed), 1);
    assert_eq!(rig.requests.used_index(), 0);
    rig.kick();
    let features = rig.device.features() & !virtio_iommu::device::F_EVENT_IDX;
    rig.restart(features);
    assert!(!rig.device.needs_reset());
    assert_eq!(rig.attach(1, 8), Status::Ok);
}

#[test]
fn an_available_index_that_jumps() {
    let mut rig = Rig::default();
    let index = rig.requests.layout.avail + 2;
    rig.ram.write_slice(&(QUEUE_SIZE + 1).to_le_bytes(), GuestAddress(index)).unwrap();
    broken(&mut rig);
}

#[test]
fn a_head_outside_the_table() {
    let mut rig = Rig::default();
    rig.requests.make_available(QUEUE_SIZE);
    broken(&mut rig);
}

#[test]
fn rings_outside_memory_are_refused_at_activation() {
    let rig = Rig::idle(options());
    let mut layout = rig.requests.layout;
    layout.used = 1 << 40;
    let activation = Activation { features: rig.device.features(), queues: vec![layout] };
    assert!(rig.device.activate(activation, rig.irq.clone()).is_err());
    // A second attempt with good rings works.
    rig.device.reset();
    rig.activate(rig.device.features());
}

#[test]
fn kicks_that_mean_nothing() {
    let mut rig = Rig::default();
    for queue in [0, 1, 2, u16::MAX] {
        rig.device.notify(queue);
    }
    assert_eq!(rig.attach(1, 8), Status::Ok);
    rig.device.reset();
    rig.device.notify(0);
    assert_eq!(rig.requests.used_index(), 1);
}

#[test]
fn both_indices_wrap() {
    let mut rig = Rig::default();
    assert_eq!(rig.attach(1, 8), Status::Ok);
    for _ in 0..70_000 {
        rig.requests.make_available(0);
        rig.kick();
        assert!(rig.requests.pop_used().is_some());
    }
    assert_eq!(rig.counters().status(Status::Ok), 70_001);
}
