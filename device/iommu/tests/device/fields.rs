//! Every request with every field at 0, 1, granule ± 1 and its maximum, in every combination of two fields: no panic,
//! and the status the oracle works out.

use virtio_iommu::{
    DeviceOptions,
    spec::{IovaRange, request as wire},
};

use crate::{
    oracle::{Expected, Oracle},
    support::*,
};

const VALUES: [u64; 12] = [
    0,
    1,
    8,
    0xffe,
    0xfff,
    0x1000,
    0x1001,
    0xfee0_0000,
    (1 << 52) - 0x1000,
    u32::MAX as u64,
    u64::MAX - 0xfff,
    u64::MAX,
];

/// (offset, bytes) of a field.
type Field = (usize, usize);

/// The fields of each request type, reserved ones included.
const FIELDS: [(u8, &[Field]); 5] = [
    (1, &[(1, 1), (4, 4), (8, 4), (12, 4), (16, 4)]),
    (2, &[(1, 1), (4, 4), (8, 4), (12, 8)]),
    (3, &[(1, 1), (4, 4), (8, 8), (16, 8), (24, 8), (32, 4)]),
    (4, &[(1, 1), (4, 4), (8, 8), (16, 8), (24, 4)]),
    (5, &[(1, 1), (4, 4), (8, 8), (64, 8)]),
];

fn base(kind: u8) -> Vec<u8> {
    match kind {
        1 => wire::Attach { domain: 1, endpoint: 9, flags: 0, reserved: [0; 4] }.encode().to_vec(),
        2 => wire::Detach { domain: 1, endpoint: 9, reserved: [0; 8] }.encode().to_vec(),
        3 => {
            let map =
                wire::Map { domain: 1, virt_start: 0x1000, virt_end: 0x1fff, phys_start: 0x5000, flags: 3 };
            map.encode().to_vec()
        }
        4 => wire::Unmap { domain: 1, virt_start: 0x1000, virt_end: 0x1fff, reserved: [0; 4] }
            .encode()
            .to_vec(),
        _ => wire::Probe { endpoint: 8, reserved: [0; 64] }.encode().to_vec(),
    }
}

fn sweep(options: DeviceOptions) {
    let mut rig = Rig::new(options.clone());
    let mut oracle = Oracle::of(&options, &[8, 9]);
    let mut send = |bytes: &[u8], writable: usize| {
        let answer = rig.send(bytes, writable);
        match oracle.answer(bytes, writable) {
            Expected::Untouched => assert!(answer.is_untouched(), "{bytes:02x?}"),
            Expected::Answered(status) => assert_eq!(answer.status(), status, "{bytes:02x?}"),
        }
    };
    let attach = wire::Attach { domain: 1, endpoint: 8, flags: 0, reserved: [0; 4] }.encode();
    let clear = wire::Unmap { domain: 1, virt_start: 0, virt_end: u64::MAX, reserved: [0; 4] }.encode();
    for (kind, fields) in FIELDS {
        let writable = if kind == 5 { 516 } else { 4 };
        for &(at, len) in fields {
            for &(other_at, other_len) in fields {
                for value in VALUES {
                    for other in VALUES {
                        let mut bytes = base(kind);
                        bytes[at..at + len].copy_from_slice(&value.to_le_bytes()[..len]);
                        bytes[other_at..other_at + other_len]
                            .copy_from_slice(&other.to_le_bytes()[..other_len]);
                        send(&attach, 4);
                        send(&bytes, writable);
                    }
                }
                send(&clear, 4);
            }
        }
    }
    // Other types, other sizes.
    for kind in 0..=255 {
        for len in [1, 3, 4, 19, 20, 28, 36, 72, 100] {
            let mut bytes = vec![0; len];
            bytes[0] = kind;
            send(&bytes, 4);
        }
    }
}

#[test]
fn pages_of_4k() {
    sweep(options());
}

#[test]
fn single_bytes_and_64_bits() {
    sweep(DeviceOptions { input_range: IovaRange::ALL, ..byte_granule() });
}

#[test]
fn pages_of_64k_narrow_ranges() {
    let input_range = IovaRange::new(0x1_0000, 0xffff_ffff).unwrap();
    sweep(DeviceOptions { page_size_mask: !0xffff, input_range, domain_range: (1, 8), ..options() });
}
