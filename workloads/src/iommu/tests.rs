//! Parsing of properties. Requests are tested end to end, against the real device, in the harness.

use proptest::prelude::*;
use virtio_iommu_spec::probe::ResvKind;

use super::*;

fn region(subtype: ResvKind, start: u64, end: u64) -> ResvMem {
    ResvMem { subtype, start, end }
}

#[test]
fn regions_are_found_between_unknown_properties() {
    let msi = region(ResvKind::Msi, 0xfee0_0000, 0xfeef_ffff);
    let hole = region(ResvKind::Reserved, 0xa0000, 0xfffff);
    let mut bytes = msi.encode().to_vec();
    bytes.extend([0x77, 0, 3, 0, 1, 2, 3]);
    bytes.extend(hole.encode());
    bytes.extend([0; 40]);
    assert_eq!(parse_properties(&bytes), [msi, hole]);
}

#[test]
fn reserved_type_bits_are_masked_and_truncated_lists_end() {
    let msi = region(ResvKind::Msi, 0, 0xfff);
    let bytes = msi.encode();
    assert_eq!(parse_properties(&bytes[..20]), []);
    assert_eq!(parse_properties(&[]), []);
    let mut flagged = bytes;
    flagged[1] |= 0xf0;
    assert_eq!(parse_properties(&flagged), [msi]);
}

proptest! {
    #[test]
    fn any_properties_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(parse_properties(&bytes).len() <= bytes.len() / RESV_MEM_BYTES);
    }
}
