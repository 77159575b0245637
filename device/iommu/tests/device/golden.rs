//! Every structure of the wire, byte for byte.

use virtio_iommu::spec::{
    Status,
    config::Config,
    fault::{F_ADDRESS, F_WRITE, Fault, Reason},
    probe::{ResvKind, ResvMem},
    request::{self as wire, Attach, Detach, Map, Probe, Unmap},
};

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

macro_rules! golden {
    ($name:ident, $type:ident, $value:expr, $bytes:literal) => {
        #[test]
        fn $name() {
            let value = $value;
            let bytes = hex($bytes);
            assert_eq!(value.encode()[..], bytes[..]);
            assert_eq!($type::decode(bytes.first_chunk().unwrap()), value);
        }
    };
}

golden!(
    attach,
    Attach,
    Attach { domain: 0x0403_0201, endpoint: 0x0807_0605, flags: 1, reserved: [9, 10, 11, 12] },
    "01000000 01020304 05060708 01000000 090a0b0c"
);
golden!(
    detach,
    Detach,
    Detach { domain: 0x0403_0201, endpoint: 0x0807_0605, reserved: [1, 2, 3, 4, 5, 6, 7, 8] },
    "02000000 01020304 05060708 0102030405060708"
);
golden!(
    map,
    Map,
    Map {
        domain: 0x0403_0201,
        virt_start: 0x1122_3344_5566_7000,
        virt_end: 0x1122_3344_5566_7fff,
        phys_start: 0x000a_bcde_f012_3000,
        flags: 7
    },
    "03000000 01020304 0070665544332211 ff7f665544332211 003012f0debc0a00 07000000"
);
golden!(
    unmap,
    Unmap,
    Unmap { domain: 1, virt_start: 0, virt_end: u64::MAX, reserved: [0xde, 0xad, 0xbe, 0xef] },
    "04000000 01000000 0000000000000000 ffffffffffffffff deadbeef"
);
golden!(
    fault,
    Fault,
    Fault {
        reason: Reason::Mapping,
        flags: F_WRITE | F_ADDRESS,
        endpoint: 8,
        address: 0x1234_5678_9abc_def0
    },
    "02000000 02010000 08000000 00000000 f0debc9a78563412"
);
golden!(
    config,
    Config,
    Config {
        page_size_mask: !0xfff,
        input_start: 0x1000,
        input_end: 0xffff_ffff_ffff,
        domain_start: 1,
        domain_end: 0xffff,
        probe_size: 512,
        bypass: 1
    },
    "00f0ffffffffffff 0010000000000000 ffffffffffff0000 01000000 ffff0000 00020000 01 000000"
);

#[test]
fn probe() {
    let mut bytes = hex("05000000 08000000");
    bytes.resize(72, 0);
    assert_eq!(Probe { endpoint: 8, reserved: [0; 64] }.encode()[..], bytes[..]);
}

#[test]
fn resv_mem() {
    let bytes = hex("0100 1400 01 000000 0000e0fe00000000 ffffeffe00000000");
    let property = ResvMem { subtype: ResvKind::Msi, start: 0xfee0_0000, end: 0xfeef_ffff };
    assert_eq!(property.encode()[..], bytes[..]);
    assert_eq!(ResvMem::decode(bytes.first_chunk().unwrap()), Some(property));
}

#[test]
fn tail() {
    for (value, status) in Status::ALL.into_iter().enumerate() {
        assert_eq!(wire::tail(status), [value as u8, 0, 0, 0]);
        assert_eq!(Status::from_wire(value as u8), Some(status));
    }
    assert_eq!(Status::from_wire(9), None);
}
