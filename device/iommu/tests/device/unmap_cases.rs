//! The seven examples of "UNMAP request", byte granule, as the specification writes them; and the same with pages.

use virtio_iommu::{DeviceOptions, spec::Status};

use crate::support::*;

/// A device with domain 1 and a scale: addresses of the examples times `unit`.
struct Case {
    rig: Rig,
    unit: u64,
}

impl Case {
    fn map(&mut self, start: u64, end: u64) {
        let (start, end) = (start * self.unit, (end + 1) * self.unit - 1);
        assert_eq!(self.rig.map(1, start, end, 0x10_0000 + start), Status::Ok);
    }

    fn unmap(&mut self, start: u64, end: u64) -> Status {
        self.rig.unmap(1, start * self.unit, (end + 1) * self.unit - 1)
    }

    /// Which of the addresses 0 to 14 are mapped.
    fn mapped(&self) -> Vec<u64> {
        let port = self.rig.port(8);
        (0..15).filter(|address| dma_read(&port, address * self.unit, 1).is_some()).collect()
    }
}

fn each_granule(mut test: impl FnMut(&mut Case)) {
    for (options, unit) in [(byte_granule(), 1), (options(), 0x1000)] {
        let mut rig = Rig::new(options);
        assert_eq!(rig.attach(1, 8), Status::Ok);
        test(&mut Case { rig, unit });
    }
}

#[test]
fn case_1_nothing_mapped() {
    each_granule(|case| assert_eq!(case.unmap(0, 4), Status::Ok));
}

#[test]
fn case_2_one_mapping_exactly() {
    each_granule(|case| {
        case.map(0, 9);
        assert_eq!(case.unmap(0, 9), Status::Ok);
        assert!(case.mapped().is_empty());
    });
}

#[test]
fn case_3_two_adjacent_mappings() {
    each_granule(|case| {
        case.map(0, 4);
        case.map(5, 9);
        assert_eq!(case.unmap(0, 9), Status::Ok);
        assert!(case.mapped().is_empty());
    });
}

#[test]
fn case_4_a_part_fails_and_removes_nothing() {
    each_granule(|case| {
        case.map(0, 9);
        assert_eq!(case.unmap(0, 4), Status::Range);
        assert_eq!(case.mapped(), (0..10).collect::<Vec<_>>());
    });
}

#[test]
fn case_5_the_first_of_two() {
    each_granule(|case| {
        case.map(0, 4);
        case.map(5, 9);
        assert_eq!(case.unmap(0, 4), Status::Ok);
        assert_eq!(case.mapped(), (5..10).collect::<Vec<_>>());
    });
}

#[test]
fn case_6_a_range_larger_than_the_mapping() {
    each_granule(|case| {
        case.map(0, 4);
        assert_eq!(case.unmap(0, 9), Status::Ok);
        assert!(case.mapped().is_empty());
    });
}

#[test]
fn case_7_a_gap_between() {
    each_granule(|case| {
        case.map(0, 4);
        case.map(10, 14);
        assert_eq!(case.unmap(0, 14), Status::Ok);
        assert!(case.mapped().is_empty());
    });
}

#[test]
fn the_whole_space_goes_at_once_whatever_input_range_is() {
    let range = |start, end| virtio_iommu::spec::IovaRange::new(start, end).unwrap();
    for input_range in [range(0, u64::MAX), range(0x1_0000, 0xffff_ffff), range(0, (1 << 39) - 1)] {
        let mut rig = Rig::new(DeviceOptions { input_range, ..options() });
        assert_eq!(rig.attach(1, 8), Status::Ok);
        let last = input_range.end() - 0xfff;
        assert_eq!(rig.map(1, input_range.start(), input_range.start() + 0xfff, 0), Status::Ok);
        assert_eq!(rig.map(1, last, input_range.end(), 0x1000), Status::Ok);
        assert!(dma_write(&rig.port(8), input_range.end(), b"x"), "the last byte of {input_range}");
        assert_eq!(rig.unmap(1, 0, u64::MAX), Status::Ok);
        assert_eq!(rig.counters().unmapped, 2);
        assert!(!dma_write(&rig.port(8), last, b"x"));
    }
}
