//! Permissions of mappings, whether a walk or an IOTLB answers.

use virtio_iommu::{
    DeviceOptions,
    dma::{Access, DmaMemory},
    iotlb::IotlbOptions,
    spec::{
        Status,
        request::{MAP_F_READ, MAP_F_WRITE},
    },
};

use crate::support::*;

const IOVA: u64 = 0x10_0000;
const GPA: u64 = 0x5_0000;
const LAST: u64 = 0x1f_ffff;

/// Every kind of access to a mapping, after each kind that fills an IOTLB, and more than once.
fn accesses_are_allowed_by(flags: u32, iotlb: Option<IotlbOptions>) {
    let mut rig = Rig::new(DeviceOptions { iotlb, ..options() });
    rig.poke(GPA, &[0x11; 64]);
    assert_eq!(rig.attach(1, 8), Status::Ok);
    assert_eq!(rig.map_flags(1, IOVA, LAST, GPA, flags), Status::Ok);
    let (read, write) = (flags & MAP_F_READ != 0, flags & MAP_F_WRITE != 0);
    let mut refused = 0;
    for fill in [Access::Read, Access::Write] {
        let port = rig.port(8);
        let allowed = if fill == Access::Read { read } else { write };
        // Nothing is cached yet: a translation, and on another port the memory itself.
        assert_eq!(
            port.pin().translate(IOVA, fill).is_ok(),
            allowed,
            "{fill:?}, flags {flags:#x}, {iotlb:?}"
        );
        let fresh = rig.port(8);
        assert_eq!(
            fresh.pin().slice(IOVA, 8, fill).is_ok(),
            allowed,
            "{fill:?}, flags {flags:#x}, {iotlb:?}"
        );
        refused += 2 * u64::from(!allowed);
        for round in 0u8..3 {
            let context = format!("flags {flags:#x}, {iotlb:?}, after {fill:?}, round {round}");
            for (access, allowed) in [(Access::Read, read), (Access::Write, write)] {
                let view = port.pin();
                assert_eq!(view.translate(IOVA + 8, access).is_ok(), allowed, "{access:?}, {context}");
                assert_eq!(view.slice(IOVA + 8, 8, access).is_ok(), allowed, "{access:?}, {context}");
                refused += 2 * u64::from(!allowed);
            }
            let before: [u8; 64] = rig.peek(GPA);
            assert_eq!(dma_write(&port, IOVA, &[round; 64]), write, "{context}");
            let expected = if write { [round; 64] } else { before };
            assert_eq!(rig.peek::<64>(GPA), expected, "{context}: memory behind the mapping");
            assert_eq!(dma_read(&port, IOVA, 64).is_some(), read, "{context}");
            refused += u64::from(!write) + u64::from(!read);
        }
    }
    assert_eq!(
        rig.counters().faults.permission,
        refused,
        "flags {flags:#x}, {iotlb:?}: each refusal is a fault"
    );
}

#[test]
fn an_access_needs_its_permission_whoever_answers_the_look_up() {
    let small = IotlbOptions { entries: 1, ways: 1, ..IotlbOptions::default() };
    for iotlb in [None, Some(IotlbOptions::default()), Some(small)] {
        for flags in [0, MAP_F_READ, MAP_F_WRITE, MAP_F_READ | MAP_F_WRITE] {
            accesses_are_allowed_by(flags, iotlb);
        }
    }
}
