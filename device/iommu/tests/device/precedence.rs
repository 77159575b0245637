//! `docs/error-precedence.md`, row by row: each request is wrong in two ways, and the earlier one decides.

use virtio_iommu::{
    DeviceOptions,
    spec::{
        Status,
        request::{ATTACH_F_BYPASS, Attach, Detach, Map, Probe, Unmap},
    },
};

use crate::support::*;

/// Domain 1: endpoint 8, a mapping at [0x1000, 0x2fff]. Domain 2: bypass, endpoint 9. Domains 1 to 100 are valid, three
/// may exist, no more mappings fit.
fn rig() -> Rig {
    let mut rig =
        Rig::new(DeviceOptions { domain_range: (1, 100), max_domains: 2, max_mappings: 1, ..options() });
    rig.device.add_emulated_endpoint(virtio_iommu::spec::EndpointId(10)).unwrap();
    assert_eq!(rig.attach(1, 8), Status::Ok);
    assert_eq!(rig.attach_flags(2, 9, ATTACH_F_BYPASS), Status::Ok);
    assert_eq!(rig.map(1, 0x1000, 0x2fff, 0), Status::Ok);
    rig
}

fn attach(domain: u32, endpoint: u32, flags: u32, reserved: u8) -> Vec<u8> {
    Attach { domain, endpoint, flags, reserved: [reserved; 4] }.encode().to_vec()
}

fn map(domain: u32, virt_start: u64, virt_end: u64, phys_start: u64, flags: u32) -> Vec<u8> {
    Map { domain, virt_start, virt_end, phys_start, flags }.encode().to_vec()
}

fn unmap(domain: u32, virt_start: u64, virt_end: u64) -> Vec<u8> {
    Unmap { domain, virt_start, virt_end, reserved: [1; 4] }.encode().to_vec()
}

#[test]
fn malformed_before_type_before_fields() {
    let mut rig = rig();
    assert!(rig.send(&[99, 0, 0, 0], 3).is_untouched(), "no tail, unknown type");
    assert_eq!(rig.send(&[99, 0, 0], 4).status(), Status::Inval, "short head, unknown type");
    assert!(rig.send(&[99, 0, 0, 0], 4).is_untouched(), "unknown type, short request");
    assert_eq!(rig.send(&attach(0, 77, 9, 9)[..19], 4).status(), Status::Inval, "short request, bad fields");
}

#[test]
fn attach_rows() {
    let mut rig = rig();
    for (request, status, what) in [
        (attach(1, 77, 0, 1), Status::Inval, "reserved before endpoint"),
        (attach(1, 77, 2, 0), Status::Inval, "flags before endpoint"),
        (attach(101, 77, 0, 0), Status::NoEnt, "endpoint before domain range"),
        (attach(0, 8, 0, 0), Status::Range, "domain range"),
        (attach(2, 9, 0, 0), Status::Inval, "bypass mismatch, although attached there"),
        (attach(1, 9, ATTACH_F_BYPASS, 0), Status::Inval, "bypass mismatch"),
        (attach(3, 10, 0, 0), Status::NoMem, "cap on domains last"),
    ] {
        assert_eq!(rig.status(&request), status, "{what}");
    }
}

#[test]
fn detach_rows() {
    let mut rig = rig();
    let detach = |domain, endpoint| Detach { domain, endpoint, reserved: [7; 8] }.encode();
    assert_eq!(rig.status(&detach(101, 77)), Status::NoEnt, "endpoint before domain range");
    assert_eq!(rig.status(&detach(101, 8)), Status::Range, "domain range before attachment");
    assert_eq!(rig.status(&detach(50, 8)), Status::Inval, "no such domain");
    assert_eq!(rig.status(&detach(2, 8)), Status::Inval, "attached elsewhere");
}

#[test]
fn map_rows() {
    let mut rig = rig();
    let page = 0x10_0000;
    for (request, status, what) in [
        (map(101, 1, 0, 1, 8), Status::Inval, "flags before domain range"),
        (map(101, 1, 0, 1, 3), Status::Range, "domain range before existence"),
        (map(50, 1, 0, 1, 3), Status::NoEnt, "existence before bypass and alignment"),
        (map(2, 1, 0, 1, 3), Status::Inval, "bypass before alignment"),
        (map(1, 0x2000, 0x1fff, 0, 3), Status::Range, "backwards before overlap"),
        (map(1, 0x1001, 0x1fff, 0, 3), Status::Range, "alignment before overlap"),
        (map(1, 1 << 48, (1 << 48) + 0xfff, 0, 3), Status::Range, "input range before caps"),
        (map(1, 0x1000, 0x1fff, 1 << 52, 3), Status::Range, "physical range before overlap"),
        (
            map(1, page, page + 0xfff, (1 << 52) - 0x1000, 3),
            Status::NoMem,
            "the last page below 2^52 is fine",
        ),
        (
            map(1, page, page + 0x1fff, (1 << 52) - 0x1000, 3),
            Status::Range,
            "the physical range crosses 2^52",
        ),
        (map(1, 0x1000, 0x1fff, u64::MAX - 0xfff, 3), Status::Range, "the physical range wraps"),
        (map(1, 0xfee0_0000, 0xfee0_0fff, 0, 3), Status::Inval, "reserved region before caps"),
        (map(1, 0x1000, 0x1fff, 0, 3), Status::NoMem, "cap on mappings before overlap"),
    ] {
        assert_eq!(rig.status(&request), status, "{what}");
    }
}

#[test]
fn unmap_rows() {
    let mut rig = rig();
    for (request, status, what) in [
        (unmap(101, 1, 0), Status::Range, "domain range"),
        (unmap(50, 1, 0), Status::NoEnt, "existence before backwards"),
        (unmap(2, 1, 0), Status::Inval, "bypass before backwards"),
        (unmap(1, 0x2000, 0x1fff), Status::Range, "backwards"),
        (unmap(1, 1 << 60, u64::MAX), Status::Ok, "outside input_range nothing can be mapped"),
        (unmap(1, 0x1000, 0x1fff), Status::Range, "split"),
        (unmap(1, 0x3001, 0x3002), Status::Ok, "alignment does not matter"),
        (unmap(1, 0xfff, 0x3000), Status::Ok, "nor does it for a range that covers"),
    ] {
        assert_eq!(rig.status(&request), status, "{what}");
    }
}

#[test]
fn probe_rows() {
    let mut rig = rig();
    let probe = |endpoint| Probe { endpoint, reserved: [1; 64] }.encode();
    assert_eq!(rig.send(&probe(77), 4).status(), Status::NoEnt, "endpoint before buffer size");
    assert_eq!(rig.send(&probe(8), 4).status(), Status::Inval, "buffer size");
}
