//! A real network card behind the virtio-iommu: frames that arrive after UNMAP go nowhere.

use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use iommu_passthrough::{
    Container, Endpoint, PciDevice, VfioFunction,
    bind::{Bound, Plan},
    endpoint::properties,
    usage::Host,
};
use iommu_workloads::{
    Bus, Mode, MonotonicClock, NullRecorder, Scenario,
    dma::{Dma, DmaSettings},
    frame::{Header, Kind},
    iommu::IommuDriver,
    net::{NetDriver, NetSettings},
    pages::PageAllocator,
    pattern::Pattern,
    pci::PciBus,
};
use virtio_iommu::{
    passthrough::{Backend, BackendError},
    spec::{EndpointId, IovaRange, request::Unmap},
    table::Mapping,
};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::{
    guests::{ENDPOINT, iommu},
    rig::{JOURNALS, KernelLog, net_cards},
};

/// The card's page tables, and what is mapped in them.
struct Watched {
    endpoint: Endpoint,
    live: Mutex<Vec<Mapping>>,
}

impl Backend for Watched {
    fn show_all(&self) -> Result<(), BackendError> {
        self.endpoint.show_all()
    }

    fn show(&self, mappings: &[Mapping]) -> Result<(), BackendError> {
        self.endpoint.show(mappings)
    }

    fn show_nothing(&self) -> Result<(), BackendError> {
        self.endpoint.show_nothing()
    }

    fn map(&self, mapping: &Mapping) -> Result<(), BackendError> {
        self.live.lock().unwrap().push(*mapping);
        self.endpoint.map(mapping)
    }

    fn unmap(&self, range: IovaRange) -> Result<(), BackendError> {
        self.live.lock().unwrap().retain(|mapping| !range.covers(&mapping.range));
        self.endpoint.unmap(range)
    }
}

fn taken(card: &PciDevice) -> (Bound, Arc<Container>) {
    let bound = Bound::new(card, Plan::new(card, &Host::default()).unwrap(), Path::new(JOURNALS)).unwrap();
    (bound, Arc::new(Container::open(card).unwrap()))
}

fn memory() -> (Arc<GuestMemoryMmap>, PageAllocator) {
    let memory = Arc::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 16 << 20)]).unwrap());
    (Arc::clone(&memory), PageAllocator::new(memory))
}

fn driver(
    container: &Arc<Container>,
    pages: &PageAllocator,
    mode: Mode,
    iommu: Option<(Arc<IommuDriver>, EndpointId)>,
) -> NetDriver {
    let case = Scenario::built_in("netperf-strict").unwrap().expand().unwrap().remove(0);
    let payload = u32::from(case.params.mss());
    let settings =
        NetSettings { queue_pairs: 1, ..NetSettings::new(&case.params, payload, Duration::from_secs(10)) };
    let dma_settings = DmaSettings::new(mode);
    let dma =
        Dma::new(dma_settings, iommu, Arc::new(MonotonicClock::default()), Arc::new(NullRecorder)).unwrap();
    let function = VfioFunction::new(Arc::clone(container)).unwrap();
    let bus: Arc<dyn Bus> = Arc::new(PciBus::new(function).unwrap());
    NetDriver::probe(bus, pages, dma, dma_settings, &settings).unwrap().remove(0)
}

/// Sends one frame with payload.
fn send(from: &mut NetDriver, to: [u8; 6], seq: u32) {
    let mut pattern = Pattern::new(1, 1024);
    let (payload, crc) = pattern.payload(u64::from(seq), 1024);
    let slot = from.slot().unwrap();
    from.fill(&slot, 0, payload);
    let header = Header {
        destination: to,
        source: from.mac(),
        kind: Kind::Data,
        flow: 0,
        seq,
        payload_len: 1024,
        crc,
        reply_len: 0,
        ack_every: 0,
        mss: 1448,
    };
    from.send(slot, &header).unwrap();
    from.kick();
}

pub(crate) fn a_frame_after_unmap_changes_nothing() {
    let [near, far] = net_cards();
    let (_bound_near, near_container) = taken(&near);
    let (_bound_far, far_container) = taken(&far);
    let (far_memory, far_pages) = memory();
    let far_endpoint = Endpoint::new(Arc::clone(&far_container), far_memory, None);
    far_endpoint.show_all().unwrap();
    let mut sender = driver(&far_container, &far_pages, Mode::Off, None);

    let (memory, pages) = memory();
    let endpoint = Endpoint::new(Arc::clone(&near_container), Arc::clone(&memory), None);
    let watched = Arc::new(Watched { endpoint, live: Mutex::default() });
    let allowed = properties(&near, &near_container).unwrap();
    let (first, last) = allowed.input_range.unwrap();
    let (device, probe) = iommu(&memory, &pages, IovaRange::new(first, last).unwrap());
    device.add_passthrough_endpoint(ENDPOINT, allowed, Arc::clone(&watched) as Arc<dyn Backend>).unwrap();
    let iommu = probe();
    let mut receiver = driver(&near_container, &pages, Mode::Strict, Some((Arc::clone(&iommu), ENDPOINT)));

    // First the way it should be.
    send(&mut sender, receiver.mac(), 1);
    let (since, mut frames) = (Instant::now(), 0);
    while frames == 0 {
        frames = receiver.poll(1, |header| assert_eq!((header.seq, header.payload_len), (1, 1024))).unwrap();
        assert!(since.elapsed() < Duration::from_secs(10), "the frame does not arrive");
    }

    // Receive buffers are what the card may only write.
    let buffers: Vec<Mapping> = watched.live.lock().unwrap().clone();
    let buffers: Vec<Mapping> =
        buffers.into_iter().filter(|mapping| mapping.perms.write && !mapping.perms.read).collect();
    assert!(buffers.len() > 1, "{buffers:?}");
    for mapping in &buffers {
        memory.write_slice(&[0xee].repeat(len(mapping)), GuestAddress(mapping.gpa.0)).unwrap();
        let mut requests = iommu.requests(0);
        let (virt_start, virt_end) = (mapping.range.start(), mapping.range.end());
        let domain = iommu.config().domain_start;
        requests.unmap(&Unmap { domain, virt_start, virt_end, reserved: [0; 4] }).unwrap();
        requests.sync().unwrap();
    }
    let mut log = KernelLog::from_now();
    send(&mut sender, receiver.mac(), 2);
    let address = near.address().to_string();
    let words = ["DMAR", "DMA Write", address.trim_start_matches("0000:")];
    log.wait_for(&words, || send(&mut sender, receiver.mac(), 3));
    for mapping in &buffers {
        let mut found = vec![0; len(mapping)];
        memory.read_slice(&mut found, GuestAddress(mapping.gpa.0)).unwrap();
        assert!(found.iter().all(|byte| *byte == 0xee), "a frame went to {mapping:?}, which is unmapped");
    }
    NetDriver::shutdown(vec![receiver]).unwrap();
    NetDriver::shutdown(vec![sender]).unwrap();
    assert_eq!(watched.endpoint.live_bytes(), 0);
}

fn len(mapping: &Mapping) -> usize {
    usize::try_from(mapping.range.end() - mapping.range.start()).unwrap() + 1
}
