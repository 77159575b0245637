//! What the modes send, and when; against the real device they are tested in the harness.

use super::*;
use crate::{
    clock::{NullRecorder, VirtualClock},
    iommu::{IommuSettings, RequestFailure, RequestKind},
    pages::PageAllocator,
    scripted::{Answer, Scripted, Seen, memory},
};
use virtio_iommu_spec::Status;

struct Bench {
    device: Arc<Scripted>,
    dma: Dma,
}

fn bench(settings: DmaSettings, ring_size: u16, edit: impl FnOnce(Scripted) -> Scripted) -> Bench {
    let memory = memory();
    let device = Arc::new(edit(Scripted::new(&memory)));
    let pages = PageAllocator::new(memory);
    let iommu = IommuSettings {
        ring_size,
        watchdog: std::time::Duration::from_millis(1),
        ..IommuSettings::default()
    };
    let driver = IommuDriver::probe(Arc::clone(&device) as _, &pages, iommu).unwrap();
    let clock = Arc::new(VirtualClock::default());
    let dma = Dma::new(settings, Some((driver, EndpointId(8))), clock, Arc::new(NullRecorder)).unwrap();
    device.seen();
    Bench { device, dma }
}

fn of(mode: Mode) -> Bench {
    bench(DmaSettings::new(mode), 256, |device| device)
}

fn map(dma: &mut Dma, gpa: u64, len: u32) -> Mapping {
    dma.map(Gpa(gpa), len, Direction::ToDevice).unwrap()
}

#[test]
fn strict_waits_for_each_unmap_before_it_returns() {
    let Bench { device, mut dma } = of(Mode::Strict);
    let mapping = map(&mut dma, 0x12_3456, 100);
    let address = mapping.device_address();
    assert_eq!(address & 0xfff, 0x456);
    let (start, end) = (address & !0xfff, address | 0xfff);
    assert_eq!(device.seen(), [Seen::Kick, Seen::Map { start, end, phys: 0x12_3000 }]);
    dma.unmap(mapping).unwrap();
    assert_eq!(device.seen(), [Seen::Kick, Seen::Unmap { start, end }]);
    let counts = dma.counts();
    assert_eq!((counts.requests_map, counts.requests_unmap, counts.invalidations), (1, 1, 1));
    assert_eq!(map(&mut dma, 0x1000, 1).device_address(), start, "the address is free again at once");
}

#[test]
fn lazy_neither_kicks_nor_reuses_before_the_flush() {
    let settings = DmaSettings { flush_entries: 2, ..DmaSettings::new(Mode::Lazy) };
    let Bench { device, mut dma } = bench(settings, 256, |device| device);
    let mappings: Vec<Mapping> = (1..=3).map(|page| map(&mut dma, page << 12, 4096)).collect();
    let starts: Vec<u64> = mappings.iter().map(Mapping::device_address).collect();
    device.seen();
    dma.unmap(mappings[0]).unwrap();
    dma.unmap(mappings[1]).unwrap();
    assert_eq!(device.seen(), [], "queued, not kicked");
    let other = map(&mut dma, 0x9000, 4096);
    assert!(!starts.contains(&other.device_address()), "held back until the flush");
    let unmap = |start: u64| Seen::Unmap { start, end: start + 0xfff };
    let seen = device.seen();
    assert_eq!(
        seen[..3],
        [Seen::Kick, unmap(starts[0]), unmap(starts[1])],
        "the kick of a MAP carries them along"
    );
    dma.unmap(mappings[2]).unwrap();
    assert_eq!(device.seen(), [Seen::Kick, unmap(starts[2])], "two were held back, so the third flushes");
    assert_eq!((dma.counts().invalidations, dma.counts().flushes_full), (1, 1));
    let again = map(&mut dma, 0x9000, 4096).device_address();
    assert!(starts[..2].contains(&again), "those of before the flush are free, the third is held back");
}

#[test]
fn the_timer_flushes_what_is_held_back() {
    let Bench { device, mut dma } = of(Mode::Lazy);
    dma.tick(1_000_000).unwrap();
    let mapping = map(&mut dma, 0x1000, 4096);
    device.seen();
    dma.unmap(mapping).unwrap();
    dma.tick(10_999_999).unwrap();
    assert_eq!(device.seen(), []);
    dma.tick(11_000_000).unwrap();
    assert_eq!(device.seen().len(), 2);
    assert_eq!((dma.counts().invalidations, dma.counts().flushes_timer), (1, 1));
    assert_eq!(map(&mut dma, 0x1000, 4096).device_address(), mapping.device_address());
}

#[test]
fn off_and_identity_use_guest_physical_addresses_and_send_nothing() {
    for mode in [Mode::Off, Mode::Identity] {
        let Bench { device, mut dma } = of(mode);
        let mapping = map(&mut dma, 0x12_3456, 100);
        assert_eq!(mapping.device_address(), 0x12_3456);
        dma.unmap(mapping).unwrap();
        assert_eq!(device.seen(), []);
        assert_eq!((dma.counts().dma_maps, dma.counts().dma_unmaps, dma.counts().invalidations), (1, 1, 0));
    }
}

#[test]
fn a_full_request_ring_is_drained_and_nothing_is_lost() {
    // Two descriptors: one request at a time.
    let Bench { device, mut dma } = bench(DmaSettings::new(Mode::Lazy), 2, |device| device);
    let mappings: Vec<Mapping> = (1..=4).map(|page| map(&mut dma, page << 12, 4096)).collect();
    device.seen();
    mappings.into_iter().for_each(|mapping| dma.unmap(mapping).unwrap());
    assert_eq!(dma.counts().ring_full, 3);
    dma.shutdown().unwrap();
    let unmaps = device.seen().iter().filter(|seen| matches!(seen, Seen::Unmap { .. })).count();
    assert_eq!(unmaps, 4);
}

#[test]
fn an_unmap_takes_whole_mappings_however_they_were_cut() {
    // Three pages whose two addresses are aligned differently: one MAP of three pages. The I/O virtual address alone
    // would be cut in two.
    let Bench { device, mut dma } = of(Mode::Strict);
    let mapping = map(&mut dma, 0x1_3000, 0x3000);
    let start = mapping.device_address();
    let end = start + 0x2fff;
    assert_eq!(device.seen(), [Seen::Kick, Seen::Map { start, end, phys: 0x1_3000 }]);
    dma.unmap(mapping).unwrap();
    assert_eq!(device.seen(), [Seen::Kick, Seen::Unmap { start, end }]);
}

#[test]
fn failures_of_the_device_are_typed_errors() {
    let Bench { device, mut dma } = of(Mode::Strict);
    let cases = [
        (Answer::Status(5), RequestFailure::Status(Status::Range)),
        (Answer::Status(99), RequestFailure::UnknownStatus(99)),
        (Answer::ShortLength, RequestFailure::Length { written: 0, expected: 4 }),
    ];
    for (answer, failure) in cases {
        device.answer(answer);
        let error = dma.map(Gpa(0x1000), 1, Direction::FromDevice).unwrap_err();
        assert_eq!(error, DmaError::Iommu(IommuError::Request { kind: RequestKind::Map, failure }));
    }
    device.answer(Answer::Ok);
    dma.map(Gpa(0x1000), 1, Direction::Both).map(drop).unwrap();
    device.answer(Answer::Silence);
    let error = dma.map(Gpa(0x1000), 1, Direction::Both).unwrap_err();
    assert!(matches!(error, DmaError::Iommu(IommuError::Timeout { outstanding: 1, .. })), "{error}");
}

#[test]
fn buffers_that_cannot_be_are_refused() {
    let Bench { mut dma, .. } = of(Mode::Strict);
    for (gpa, len) in [(0x1000, 0), (u64::MAX, 1), (u64::MAX - 0xfff, 0x1000)] {
        assert!(matches!(dma.map(Gpa(gpa), len, Direction::Both), Err(DmaError::Buffer { .. })));
    }
}

#[test]
fn devices_that_cannot_be_driven_are_refused() {
    use virtio_bindings::virtio_mmio::{VIRTIO_MMIO_MAGIC_VALUE, VIRTIO_MMIO_VERSION};
    use virtio_iommu_spec::feature;

    use crate::mmio::MmioError;
    let probe = |edit: fn(Scripted) -> Scripted| {
        let memory = memory();
        let device = Arc::new(edit(Scripted::new(&memory)));
        IommuDriver::probe(device, &PageAllocator::new(memory), IommuSettings::default()).unwrap_err()
    };
    assert_eq!(probe(|d| d.with_register(VIRTIO_MMIO_MAGIC_VALUE, 1)), IommuError::Mmio(MmioError::Magic(1)));
    assert_eq!(probe(|d| d.with_register(VIRTIO_MMIO_VERSION, 1)), IommuError::Mmio(MmioError::Version(1)));
    let missing = probe(|d| d.without(feature::MAP_UNMAP));
    assert!(matches!(missing, IommuError::Mmio(MmioError::Features { missing: feature::MAP_UNMAP, .. })));
    let granule = probe(|d| d.with_config(|config| config.page_size_mask = !0xffff));
    assert!(matches!(granule, IommuError::Granule { .. }));
    let empty =
        probe(|d| d.with_config(|config| config.input_end = 0).with_config(|config| config.input_start = 1));
    assert!(matches!(empty, IommuError::EmptyRange { .. }));
}

#[test]
fn identity_needs_bypass_domains_and_every_mode_but_off_an_iommu() {
    let memory = memory();
    let device = Arc::new(Scripted::new(&memory).without(virtio_iommu_spec::feature::BYPASS_CONFIG));
    let driver = IommuDriver::probe(device, &PageAllocator::new(memory), IommuSettings::default()).unwrap();
    let new = |mode, iommu| {
        let clock = Arc::new(VirtualClock::default());
        Dma::new(DmaSettings::new(mode), iommu, clock, Arc::new(NullRecorder)).err()
    };
    let refused = new(Mode::Identity, Some((driver, EndpointId(8))));
    assert_eq!(refused, Some(DmaError::Iommu(IommuError::NoBypass)));
    assert_eq!(new(Mode::Strict, None), Some(DmaError::NoIommu(Mode::Strict)));
    assert_eq!(new(Mode::Off, None), None);
}
