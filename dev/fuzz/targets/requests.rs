//! Sequences of requests through the ring, each answer compared with the oracle's, and so is every address after it.
#![no_main]

#[path = "../../../device/iommu/tests/support/oracle.rs"]
mod oracle;
#[path = "../../../device/iommu/tests/support/mod.rs"]
mod support;

use libfuzzer_sys::fuzz_target;
use oracle::{Expected, Oracle};
use support::{Rig, byte_granule, options};
use virtio_iommu::{DeviceOptions, dma::Access, spec::IovaRange};

/// Bytes of each request type; the seventh is anything.
const SIZES: [usize; 7] = [36, 20, 20, 36, 28, 72, 7];

/// One request: type, then fields. Small numbers are likelier than large ones, so that requests meet.
fn request<'a>(input: &mut &'a [u8]) -> Option<(Vec<u8>, usize)> {
    let (&kind, rest) = input.split_first()?;
    let size = SIZES[usize::from(kind) % SIZES.len()];
    let take = |rest: &mut &'a [u8]| {
        let (&byte, tail) = rest.split_first()?;
        *rest = tail;
        Some(byte)
    };
    let mut rest = rest;
    let mut bytes = vec![0; size];
    bytes[0] = kind % 8;
    let wide: &[(usize, usize)] = match kind % 8 {
        1 => &[(4, 4), (8, 4), (12, 4)],
        2 => &[(4, 4), (8, 4)],
        3 => &[(4, 4), (8, 8), (16, 8), (24, 8), (32, 4)],
        4 => &[(4, 4), (8, 8), (16, 8)],
        5 => &[(4, 4)],
        _ => &[],
    };
    for &(at, len) in wide.iter().filter(|(at, len)| at + len <= size) {
        let value = field(take(&mut rest)?, len);
        bytes[at..at + len].copy_from_slice(&value.to_le_bytes()[..len]);
    }
    let writable = match take(&mut rest)? {
        byte if kind % 8 == 5 => 508 + usize::from(byte % 16),
        byte if byte < 240 => 4,
        byte => usize::from(byte - 240),
    };
    *input = rest;
    Some((bytes, writable))
}

/// A field from a byte: small numbers, page bounds, extremes.
fn field(byte: u8, len: usize) -> u64 {
    let n = u64::from(byte);
    match byte {
        0..96 => n % 12,
        96..160 => (n - 96) << 12,
        160..224 => ((n - 160) << 12) + 0xfff,
        224..232 => u64::MAX - (n - 224),
        232..240 => 0xfee0_0000 + ((n - 232) << 18),
        240..248 => (1 << 52) - (n - 240),
        _ => 1 << (len as u64 * (n - 248)).min(63),
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((&shape, mut input)) = input.split_first() else { return };
    let options = match shape % 4 {
        0 => options(),
        1 => byte_granule(),
        2 => DeviceOptions { max_domains: 2, max_mappings: 4, domain_range: (1, 6), ..options() },
        _ => DeviceOptions { input_range: IovaRange::ALL, page_size_mask: 1 << 12 | 1 << 21, ..options() },
    };
    let unit = 1u64 << options.page_size_mask.trailing_zeros();
    let mut rig = Rig::new(options.clone());
    let mut oracle = Oracle::of(&options, &[8, 9]);
    while let Some((bytes, writable)) = request(&mut input) {
        let answer = rig.send(&bytes, writable);
        match oracle.answer(&bytes, writable) {
            Expected::Untouched => assert!(answer.is_untouched(), "{bytes:02x?}"),
            Expected::Answered(status) => assert_eq!(answer.status(), status, "{bytes:02x?}"),
        }
    }
    for endpoint in [8, 9] {
        let port = rig.port(endpoint);
        for page in 0..16 {
            let found = port.pin().translate(page * unit, Access::Read).ok().map(|found| found.gpa.0);
            assert_eq!(found, oracle.translate(endpoint, page * unit, false), "{endpoint} page {page}");
        }
    }
});
