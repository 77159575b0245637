//! This project's own guest drivers and workloads, over virtio-pci and vfio-user: memory shared as files, registers by
//! messages. Every count is what it is when driver and device are plugged together directly.

use std::{
    fs::File,
    os::fd::AsRawFd as _,
    path::Path,
    sync::{Arc, Mutex, atomic::AtomicBool},
    time::Duration,
};

use iommu_endpoints::{BlkConfig, Disk, NetConfig, VirtioBlk, VirtioNet};
use iommu_vfio_user::{PciDevice, Server, ServerOptions};
use iommu_workloads::{
    Attached, Bus, CaseSpec, NullRecorder, Platform, Scenario, Stop, VirtualClock, accounting,
    scenario::Device as Wanted, workload,
};
use rustix::fs::{MemfdFlags, memfd_create};
use tempfile::TempDir;
use vfio_user::Client;
use virtio_bindings::virtio_mmio as reg;
use virtio_iommu::{
    Device, DeviceOptions,
    device::RequestKind,
    memory::{AddressSpace, GuestRam},
    spec::EndpointId,
};
use virtio_transport::{ServiceMode, VirtioDevice, mmio};
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap};

const IDLE: EndpointId = EndpointId(7);
const ENDPOINT: EndpointId = EndpointId(8);

/// The registers that our driver knows, by their places in a virtio-pci function.
struct PciBus {
    client: Mutex<Client>,
    device_id: u32,
}

impl PciBus {
    fn get<const N: usize>(&self, at: u64) -> u32 {
        let mut data = [0; N];
        self.client.lock().unwrap().region_read(0, at, &mut data).unwrap();
        data.iter().rev().fold(0, |word, byte| word << 8 | u32::from(*byte))
    }

    fn put(&self, at: u64, value: u32, width: usize) {
        self.client.lock().unwrap().region_write(0, at, &value.to_le_bytes()[..width]).unwrap();
    }
}

impl Bus for PciBus {
    fn read32(&self, offset: u32) -> u32 {
        match offset {
            reg::VIRTIO_MMIO_MAGIC_VALUE => mmio::MAGIC,
            reg::VIRTIO_MMIO_VERSION => mmio::VERSION,
            reg::VIRTIO_MMIO_DEVICE_ID => self.device_id,
            reg::VIRTIO_MMIO_DEVICE_FEATURES => self.get::<4>(0x04),
            reg::VIRTIO_MMIO_QUEUE_NUM_MAX => self.get::<2>(0x18),
            reg::VIRTIO_MMIO_QUEUE_READY => self.get::<2>(0x1c),
            reg::VIRTIO_MMIO_STATUS => self.get::<1>(0x14),
            reg::VIRTIO_MMIO_CONFIG_GENERATION => self.get::<1>(0x15),
            _ => 0,
        }
    }

    fn write32(&self, offset: u32, value: u32) {
        match offset {
            reg::VIRTIO_MMIO_DEVICE_FEATURES_SEL => self.put(0x00, value, 4),
            reg::VIRTIO_MMIO_DRIVER_FEATURES_SEL => self.put(0x08, value, 4),
            reg::VIRTIO_MMIO_DRIVER_FEATURES => self.put(0x0c, value, 4),
            reg::VIRTIO_MMIO_STATUS => self.put(0x14, value, 1),
            reg::VIRTIO_MMIO_QUEUE_SEL => self.put(0x16, value, 2),
            reg::VIRTIO_MMIO_QUEUE_NUM => self.put(0x18, value, 2),
            reg::VIRTIO_MMIO_QUEUE_READY => self.put(0x1c, value, 2),
            reg::VIRTIO_MMIO_QUEUE_DESC_LOW => self.put(0x20, value, 4),
            reg::VIRTIO_MMIO_QUEUE_DESC_HIGH => self.put(0x24, value, 4),
            reg::VIRTIO_MMIO_QUEUE_AVAIL_LOW => self.put(0x28, value, 4),
            reg::VIRTIO_MMIO_QUEUE_AVAIL_HIGH => self.put(0x2c, value, 4),
            reg::VIRTIO_MMIO_QUEUE_USED_LOW => self.put(0x30, value, 4),
            reg::VIRTIO_MMIO_QUEUE_USED_HIGH => self.put(0x34, value, 4),
            reg::VIRTIO_MMIO_QUEUE_NOTIFY => self.put(0x3000 + 4 * u64::from(value), value, 2),
            _ => {}
        }
    }

    fn read_config(&self, offset: u32, data: &mut [u8]) {
        self.client.lock().unwrap().region_read(0, 0x2000 + u64::from(offset), data).unwrap();
    }

    fn write_config(&self, offset: u32, data: &[u8]) {
        self.client.lock().unwrap().region_write(0, 0x2000 + u64::from(offset), data).unwrap();
    }
}

/// One device on its socket, and its driver's bus.
struct Plugged {
    bus: Arc<dyn Bus>,
    // Dropped after the bus, which hangs up.
    server: Server,
}

fn space() -> Arc<AddressSpace> {
    Arc::new(AddressSpace::new(1 << 36).unwrap())
}

fn plug(
    folder: &Path,
    name: &str,
    device: Arc<dyn VirtioDevice>,
    space: Arc<AddressSpace>,
    ram: &File,
) -> Plugged {
    let device_id = device.device_id();
    let path = folder.join(name);
    let device = Arc::new(PciDevice::new(device, space));
    let server = Server::start(&path, device, ServerOptions::default()).unwrap();
    let mut client = Client::new(&path).unwrap();
    client.dma_map(0, 0, ram.metadata().unwrap().len(), ram.as_raw_fd()).unwrap();
    Plugged { bus: Arc::new(PciBus { client: Mutex::new(client), device_id }), server }
}

fn endpoint(case: &CaseSpec, mode: ServiceMode, iommu: &Device, ram: GuestRam) -> Arc<dyn VirtioDevice> {
    let port = iommu.endpoint_port_to(ENDPOINT, ram).unwrap();
    let queue_size = case.params.ring_size;
    match case.test.device() {
        Wanted::Disk => {
            let config = BlkConfig { queue_size, ..BlkConfig::default() };
            let disk = Disk::ram(u64::from(case.params.disk_mib) << 20);
            Arc::new(VirtioBlk::new(config, mode, &disk, [port]).unwrap())
        }
        _ => {
            let config = NetConfig { queue_size, ..NetConfig::default() };
            Arc::new(VirtioNet::new(config, mode, port).unwrap())
        }
    }
}

/// Runs the cases that have an IOMMU; returns how many.
fn run(scenario: &str, sets: &[&str], n: u64) -> usize {
    let mut scenario = Scenario::built_in(scenario).unwrap();
    for set in sets.iter().chain(&["guest_memory_mib=64", "flush_ms=10000"]) {
        scenario.set(set).unwrap();
    }
    let cases: Vec<_> = scenario.expand().unwrap().into_iter().filter(|case| case.mode.has_iommu()).collect();
    for case in &cases {
        let folder = TempDir::new().unwrap();
        let mode = ServiceMode::Inline;
        let file = File::from(memfd_create("ram", MemfdFlags::ALLOW_SEALING).unwrap());
        let bytes = 64 << 20;
        file.set_len(bytes as u64).unwrap();
        let shared = FileOffset::new(file.try_clone().unwrap(), 0);
        let memory =
            GuestMemoryMmap::from_ranges_with_files([(GuestAddress(0), bytes, Some(shared))]).unwrap();
        let (iommu_space, endpoint_space) = (space(), space());
        let queue_sizes = [case.params.iommu_ring_size, 64];
        let options = DeviceOptions { service: mode, queue_sizes, ..DeviceOptions::default() };
        let iommu = Arc::new(Device::new(options, GuestRam::of_space(iommu_space.clone())).unwrap());
        for id in [IDLE, ENDPOINT] {
            iommu.add_emulated_endpoint(id).unwrap();
        }
        let device = endpoint(case, mode, &iommu, GuestRam::of_space(endpoint_space.clone()));
        let units = [
            plug(folder.path(), "iommu", iommu.clone(), iommu_space, &file),
            plug(folder.path(), "endpoint", device, endpoint_space, &file),
        ];
        let platform = Platform {
            memory: Arc::new(memory),
            iommu_bus: Some(units[0].bus.clone()),
            devices: vec![Attached { bus: units[1].bus.clone(), endpoint: ENDPOINT }],
            idle: IDLE,
            clock: Arc::new(VirtualClock::default()),
            recorder: Arc::new(NullRecorder),
            seed: 1,
            watchdog: Duration::from_secs(60),
        };
        let mut run = workload::start(platform, case).unwrap();
        let stats = run.run_slice(Stop::Packets(n), &AtomicBool::new(false)).unwrap();
        let mut expected = accounting::expected(case, n, !0xfff).unwrap();
        expected.counts.kicks_endpoint = expected.kicks_endpoint.unwrap_or(stats.counts.kicks_endpoint);
        assert_eq!(stats.counts, expected.counts, "{}", case.id);
        let total = run.shutdown().unwrap();
        let counters = iommu.counters();
        let served = [RequestKind::Map, RequestKind::Unmap].map(|kind| counters.requests_of(kind));
        assert_eq!(served, [total.requests_map, total.requests_unmap], "{}", case.id);
        assert_eq!(counters.faults.faults(), 0, "{}", case.id);
        assert!(units.iter().all(|unit| unit.server.counters().refused == 0), "{}", case.id);
    }
    cases.len()
}

#[test]
fn netperf_counts_are_the_same_through_a_socket() {
    assert!(run("netperf-strict", &[], 300) > 0);
}

#[test]
fn disk_counts_are_the_same_through_a_socket() {
    assert!(run("fio-randread-4k", &["disk_mib=4"], 200) > 0);
}
