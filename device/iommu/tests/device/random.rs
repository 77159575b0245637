//! Random sequences of requests through the ring, against the oracle; after each sequence every page of the small
//! address space in play is looked at through every endpoint.

use proptest::prelude::*;
use virtio_iommu::{
    DeviceOptions, EndpointPort,
    dma::Access,
    iotlb::IotlbOptions,
    spec::{Status, request as wire},
};

use crate::{
    oracle::{Expected, Oracle},
    support::*,
};

#[derive(Clone, Debug)]
pub(crate) enum Op {
    Attach { domain: u32, endpoint: u32, flags: u32 },
    Detach { domain: u32, endpoint: u32 },
    Map { domain: u32, page: u64, pages: u64, phys: u64, flags: u32 },
    Unmap { domain: u32, page: u64, pages: u64 },
    Probe { endpoint: u32, size: usize },
    Bytes(Vec<u8>, usize),
}

const PAGES: u64 = 24;

pub(crate) fn op() -> impl Strategy<Value = Op> {
    let domain = 0..4u32;
    let endpoint = 7..11u32;
    prop_oneof![
        4 => (domain.clone(), endpoint.clone(), prop_oneof![9 => Just(0u32), 1 => 0..3u32])
            .prop_map(|(domain, endpoint, flags)| Op::Attach { domain, endpoint, flags }),
        2 => (domain.clone(), endpoint.clone()).prop_map(|(domain, endpoint)| Op::Detach { domain, endpoint }),
        10 => (domain.clone(), 0..PAGES, 0..6u64, 0..64u64, 0..9u32)
            .prop_map(|(domain, page, pages, phys, flags)| Op::Map { domain, page, pages, phys, flags }),
        6 => (domain, 0..PAGES, prop_oneof![0..8u64, Just(1 << 40)])
            .prop_map(|(domain, page, pages)| Op::Unmap { domain, page, pages }),
        1 => (endpoint, 500..520usize).prop_map(|(endpoint, size)| Op::Probe { endpoint, size }),
        1 => (proptest::collection::vec(any::<u8>(), 0..80), 0..12usize).prop_map(|(b, w)| Op::Bytes(b, w)),
    ]
}

impl Op {
    pub(crate) fn bytes(&self, unit: u64) -> (Vec<u8>, usize) {
        match *self {
            Self::Attach { domain, endpoint, flags } => {
                (wire::Attach { domain, endpoint, flags, reserved: [0; 4] }.encode().to_vec(), 4)
            }
            Self::Detach { domain, endpoint } => {
                (wire::Detach { domain, endpoint, reserved: [0; 8] }.encode().to_vec(), 4)
            }
            Self::Map { domain, page, pages, phys, flags } => {
                let virt_start = page * unit;
                // No pages at all: a range that ends before it starts.
                let virt_end = (virt_start + pages * unit).wrapping_sub(1);
                let map = wire::Map { domain, virt_start, virt_end, phys_start: phys * unit, flags };
                (map.encode().to_vec(), 4)
            }
            Self::Unmap { domain, page, pages } => {
                let virt_start = page * unit;
                let virt_end = (virt_start + pages * unit).wrapping_sub(1);
                (wire::Unmap { domain, virt_start, virt_end, reserved: [0; 4] }.encode().to_vec(), 4)
            }
            Self::Probe { endpoint, size } => {
                (wire::Probe { endpoint, reserved: [0; 64] }.encode().to_vec(), size + 4)
            }
            Self::Bytes(ref bytes, writable) => (bytes.clone(), writable),
        }
    }
}

fn check(options: &DeviceOptions, ops: &[Op]) {
    let unit = 1 << options.page_size_mask.trailing_zeros();
    let mut rig = Rig::new(options.clone());
    let mut oracle = Oracle::of(options, &[8, 9]);
    // With IOTLBs, ports that live through it all and are looked at after each request.
    let kept = options.iotlb.map(|_| [8, 9].map(|endpoint| rig.port(endpoint)));
    for op in ops {
        let (bytes, writable) = op.bytes(unit);
        let answer = rig.send(&bytes, writable);
        match oracle.answer(&bytes, writable) {
            Expected::Untouched => assert!(answer.is_untouched(), "{op:?}"),
            Expected::Answered(status) => assert_eq!(answer.status(), status, "{op:?}"),
        }
        kept.iter().flatten().for_each(|port| look(port, &oracle, unit));
    }
    for endpoint in [8, 9] {
        look(&rig.port(endpoint), &oracle, unit);
    }
    // Everything goes away, and the caps are where they were.
    for endpoint in [8, 9] {
        if let Some(Some(domain)) = oracle.attached.get(&endpoint) {
            assert_eq!(rig.detach(*domain, endpoint), Status::Ok);
        }
    }
    rig.device.reset_for_test();
    assert_eq!(rig.counters().mappings_reserved, 0);
    assert_eq!((rig.device.domains(), rig.device.table_bytes()), (0, 0));
}

/// Looks at every page through a port.
pub(crate) fn look(port: &EndpointPort, oracle: &Oracle, unit: u64) {
    let endpoint = port.id().0;
    for page in 0..PAGES + 8 {
        for iova in [page * unit, page * unit + unit - 1] {
            for (access, write) in [(Access::Read, false), (Access::Write, true)] {
                let found = port.pin().translate(iova, access).ok().map(|found| found.gpa.0);
                assert_eq!(found, oracle.translate(endpoint, iova, write), "{endpoint} {iova:#x} {access:?}");
            }
        }
    }
}

trait ResetForTest {
    fn reset_for_test(&self);
}

impl ResetForTest for virtio_iommu::Device {
    fn reset_for_test(&self) {
        virtio_transport::VirtioDevice::reset(self);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn pages_agree_with_the_oracle(ops in proptest::collection::vec(op(), 1..60)) {
        check(&options(), &ops);
    }

    #[test]
    fn iotlbs_agree_with_the_oracle(
        ops in proptest::collection::vec(op(), 1..40),
        entries in prop_oneof![Just(4), Just(1024)],
        bytes in proptest::bool::weighted(0.2),
    ) {
        let iotlb = Some(IotlbOptions { entries, ..IotlbOptions::default() });
        let base = if bytes { byte_granule() } else { options() };
        check(&DeviceOptions { iotlb, ..base }, &ops);
    }

    #[test]
    fn bytes_agree_with_the_oracle(ops in proptest::collection::vec(op(), 1..60)) {
        check(&byte_granule(), &ops);
    }

    #[test]
    fn small_caps_agree_with_the_oracle(ops in proptest::collection::vec(op(), 1..60)) {
        check(&DeviceOptions { max_domains: 1, max_mappings: 3, domain_range: (1, 2), ..options() }, &ops);
    }
}
