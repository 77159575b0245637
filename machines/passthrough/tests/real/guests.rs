//! A guest's driver, the virtio-iommu, and a real device behind it: what the guest asks for is what the kernel does.

use std::sync::Arc;

use iommu_passthrough::endpoint::{Counts, Forward, properties};
use iommu_workloads::{
    Bus,
    iommu::{IommuDriver, IommuSettings},
    pages::PageAllocator,
};
use virtio_iommu::{
    Device, DeviceOptions,
    device::RequestKind,
    memory::GuestRam,
    passthrough::Backend,
    spec::{
        DomainId, EndpointId, IovaRange,
        request::{MAP_F_READ, MAP_F_WRITE, Map, Unmap},
    },
};
use virtio_transport::{MmioTransport, NoInterrupt, ServiceMode};
use vm_memory::{GuestAddress, GuestMemoryMmap};

use crate::{
    rig::{CHUNK, IOVA, KernelLog, PAGE, Rig, edu, forwarding_rig, rig},
    trace::{Trace, Traced},
};

pub(crate) const ENDPOINT: EndpointId = EndpointId(8);
const DOMAIN: DomainId = DomainId(1);

struct MmioBus(MmioTransport);

impl Bus for MmioBus {
    fn read32(&self, offset: u32) -> u32 {
        self.0.read32(offset)
    }

    fn write32(&self, offset: u32, value: u32) {
        self.0.write32(offset, value);
    }

    fn read_config(&self, offset: u32, data: &mut [u8]) {
        self.0.read_config(u64::from(offset), data);
    }

    fn write_config(&self, offset: u32, data: &[u8]) {
        self.0.write_config(u64::from(offset), data);
    }
}

/// A virtio-iommu that offers a guest `input_range` and serves in its driver's thread, and the driver.
pub(crate) fn iommu(
    memory: &Arc<GuestMemoryMmap>,
    pages: &PageAllocator,
    input_range: IovaRange,
) -> (Arc<Device>, impl FnOnce() -> Arc<IommuDriver>) {
    let ram = GuestRam::new(Arc::clone(memory)).unwrap();
    let options = DeviceOptions {
        service: ServiceMode::Inline,
        boot_bypass: false,
        input_range,
        ..DeviceOptions::default()
    };
    let device = Arc::new(Device::new(options, ram).unwrap());
    let bus = Arc::new(MmioBus(MmioTransport::new(Arc::clone(&device) as _, Arc::new(NoInterrupt))));
    // Endpoints are added before the driver looks.
    (device, move || IommuDriver::probe(bus, pages, IommuSettings::default()).unwrap())
}

/// The teaching device behind a virtio-iommu, in a guest whose own rings are in memory the device never sees.
struct Guest {
    driver: Arc<IommuDriver>,
    device: Arc<Device>,
    rig: Rig,
}

fn guest() -> Guest {
    guest_on(rig())
}

fn guest_on(rig: Rig) -> Guest {
    let rings = Arc::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 4 << 20)]).unwrap());
    let pages = PageAllocator::new(Arc::clone(&rings));
    let (device, probe) = iommu(&rings, &pages, IovaRange::ALL);
    let properties = properties(&edu(), &rig.container).unwrap();
    device
        .add_passthrough_endpoint(ENDPOINT, properties, Arc::clone(&rig.endpoint) as Arc<dyn Backend>)
        .unwrap();
    let driver = probe();
    driver.attach(ENDPOINT, DOMAIN, false).unwrap();
    Guest { driver, device, rig }
}

impl Guest {
    fn map(&self, iova: u64, bytes: u64, gpa: u64) -> bool {
        let flags = MAP_F_READ | MAP_F_WRITE;
        let map =
            Map { domain: DOMAIN.0, virt_start: iova, virt_end: iova + bytes - 1, phys_start: gpa, flags };
        let mut requests = self.driver.requests(0);
        requests.map(&map).and_then(|()| requests.sync()).is_ok()
    }

    fn unmap(&self, iova: u64, bytes: u64) {
        let unmap =
            Unmap { domain: DOMAIN.0, virt_start: iova, virt_end: iova + bytes - 1, reserved: [0; 4] };
        let mut requests = self.driver.requests(0);
        requests.unmap(&unmap).and_then(|()| requests.sync()).unwrap();
    }
}

pub(crate) fn a_guests_bytes_are_those_of_vfio_and_the_kernel() {
    const MAPPINGS: u64 = 96;
    let guest = guest();
    let before = (guest.device.counters(), guest.rig.endpoint.counts());
    let trace = Trace::of(std::process::id());
    for n in 0..MAPPINGS {
        assert!(guest.map(IOVA + n * PAGE, PAGE, n * PAGE));
    }
    for n in 0..MAPPINGS {
        guest.unmap(IOVA + n * PAGE, PAGE);
    }
    let (traced, text) = trace.end();
    let (device, vfio) = (guest.device.counters(), guest.rig.endpoint.counts());
    // What the device counts are mappings, which are of a page each here.
    assert_eq!((device.mapped - before.0.mapped, device.unmapped - before.0.unmapped), (MAPPINGS, MAPPINGS));
    assert_eq!(device.requests_of(RequestKind::Map) - before.0.requests_of(RequestKind::Map), MAPPINGS);
    let bytes = MAPPINGS * PAGE;
    let done = Counts {
        maps: vfio.maps - before.1.maps,
        unmaps: vfio.unmaps - before.1.unmaps,
        bytes_mapped: vfio.bytes_mapped - before.1.bytes_mapped,
        bytes_unmapped: vfio.bytes_unmapped - before.1.bytes_unmapped,
    };
    assert_eq!(done, Counts { maps: MAPPINGS, unmaps: MAPPINGS, bytes_mapped: bytes, bytes_unmapped: bytes });
    let expected = Traced { maps: MAPPINGS, unmaps: MAPPINGS, bytes_mapped: bytes, bytes_unmapped: bytes };
    assert_eq!(traced, expected, "{text}");
}

pub(crate) fn unmaps_of_a_batch_are_forwarded_as_told() {
    const UNMAPS: u64 = 16;
    // Neighbours, and every second page.
    for (forward, step, calls) in [
        (Forward::Request, 1, UNMAPS),
        (Forward::Coalesced, 1, 1),
        (Forward::Coalesced, 2, UNMAPS),
        (Forward::Batched, 2, 1),
    ] {
        let guest = guest_on(forwarding_rig(forward));
        for n in 0..UNMAPS {
            assert!(guest.map(IOVA + step * n * PAGE, PAGE, n * PAGE));
        }
        let before = guest.rig.endpoint.counts();
        let trace = Trace::of(std::process::id());
        let mut requests = guest.driver.requests(0);
        for n in 0..UNMAPS {
            let virt_start = IOVA + step * n * PAGE;
            let virt_end = virt_start + PAGE - 1;
            requests.unmap(&Unmap { domain: DOMAIN.0, virt_start, virt_end, reserved: [0; 4] }).unwrap();
        }
        requests.sync().unwrap();
        let (traced, text) = trace.end();
        let after = guest.rig.endpoint.counts();
        assert_eq!(after.unmaps - before.unmaps, calls, "{forward:?}, step {step}");
        assert_eq!(after.bytes_unmapped - before.bytes_unmapped, UNMAPS * PAGE);
        assert_eq!(traced.bytes_unmapped, UNMAPS * PAGE, "gone when it is answered: {text}");
        drop(requests);
    }
}

pub(crate) fn a_dma_after_a_guests_unmap_is_blocked() {
    let guest = guest();
    guest.rig.fill(0, 0x5a);
    guest.rig.fill(PAGE, 0);
    assert!(guest.map(IOVA, PAGE, 0) && guest.map(IOVA + PAGE, PAGE, PAGE));
    guest.rig.copy(IOVA, false);
    guest.rig.copy(IOVA + PAGE, true);
    assert_eq!(guest.rig.chunk(PAGE), [0x5a; CHUNK]);
    guest.rig.fill(PAGE, 0xee);
    let mut log = KernelLog::from_now();
    guest.unmap(IOVA + PAGE, PAGE);
    guest.rig.copy(IOVA + PAGE, true);
    log.wait_for(&["DMAR", "DMA Write", "101000"], || guest.rig.copy(IOVA + PAGE, true));
    assert_eq!(guest.rig.chunk(PAGE), [0xee; CHUNK], "a DMA after UNMAP changes nothing");
    // The page beside it is still there.
    guest.rig.copy(IOVA, true);
    assert_eq!(guest.rig.chunk(0), [0x5a; CHUNK]);
    guest.driver.detach(ENDPOINT, DOMAIN).unwrap();
    assert_eq!(guest.rig.endpoint.live_bytes(), 0, "detaching leaves nothing");
}

pub(crate) fn attach_narrows_the_domain_to_the_hosts_iommu() {
    let guest = guest();
    let limits = guest.rig.container.limits().unwrap();
    let (_, last) = *limits.ranges.last().unwrap();
    assert!(last < u64::MAX, "the emulated IOMMU has fewer than 64 bits: {limits:?}");
    let maps = guest.rig.endpoint.counts().maps;
    assert!(!guest.map(last + 1, PAGE, 0), "beyond the address width");
    let reserved = guest.driver.reserved_regions(ENDPOINT).unwrap();
    for host in edu().reserved_regions().unwrap() {
        assert!(
            reserved.iter().any(|region| region.start <= host.start && host.end <= region.end),
            "PROBE reports {host:?}: {reserved:?}"
        );
        assert!(!guest.map(host.start & !(PAGE - 1), PAGE, 0), "{host:?} is not mapped over");
    }
    assert_eq!(guest.rig.endpoint.counts().maps, maps, "nothing of it reached VFIO");
    assert!(guest.map(last + 1 - PAGE, PAGE, 0), "the last page the IOMMU has");
    guest.driver.reset().unwrap();
    assert_eq!(guest.rig.endpoint.live_bytes(), 0, "a reset leaves nothing");
}
