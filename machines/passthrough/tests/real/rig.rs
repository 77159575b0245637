//! The teaching device behind VFIO, and what the kernel says meanwhile.

use std::{
    fs,
    io::Read,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use iommu_passthrough::{
    Container, Endpoint, PciDevice, VfioFunction,
    bind::{Bound, Plan},
    endpoint::Forward,
    sysfs::SYSFS,
    usage::Host,
};
use iommu_workloads::pci::PciFunction;
use virtio_iommu::{
    spec::{Gpa, IovaRange},
    table::{Mapping, Perms},
};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

pub(crate) const JOURNALS: &str = "/run/bindings";
/// QEMU's teaching device: a DMA engine between memory and a buffer of its own.
const EDU: (u16, u16) = (0x1234, 0x11e8);
/// A modern virtio network card.
const VIRTIO_NET: (u16, u16) = (0x1af4, 0x1041);
/// Where the teaching device's buffer is, in its own addresses.
const EDU_BUFFER: u32 = 0x4_0000;
/// Bytes copied at once. The buffer has twice as many, but older QEMUs take its end for out of range and abort.
pub(crate) const CHUNK: usize = 2048;
pub(crate) const IOVA: u64 = 0x10_0000;
pub(crate) const PAGE: u64 = 4096;

pub(crate) fn edu() -> PciDevice {
    let all = PciDevice::all(Path::new(SYSFS)).unwrap();
    all.into_iter().find(|device| device.id().unwrap() == EDU).expect("the lab has QEMU's edu device")
}

/// The two network cards, which share a wire.
pub(crate) fn net_cards() -> [PciDevice; 2] {
    let all = PciDevice::all(Path::new(SYSFS)).unwrap().into_iter();
    let cards: Vec<_> = all.filter(|device| device.id().unwrap() == VIRTIO_NET).collect();
    cards.try_into().expect("the lab has two network cards")
}

pub(crate) fn bound() -> Bound {
    Bound::new(&edu(), Plan::new(&edu(), &Host::default()).unwrap(), Path::new(JOURNALS)).unwrap()
}

/// The device, its memory, and what it sees of it. Dropped in this order.
pub(crate) struct Rig {
    pub(crate) function: VfioFunction,
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) memory: Arc<GuestMemoryMmap>,
    pub(crate) container: Arc<Container>,
    _bound: Bound,
}

pub(crate) fn rig() -> Rig {
    forwarding_rig(Forward::default())
}

pub(crate) fn forwarding_rig(forward: Forward) -> Rig {
    let bound = bound();
    let container = Arc::new(Container::open(&edu()).unwrap());
    let memory = Arc::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap());
    let endpoint = Endpoint::new(Arc::clone(&container), Arc::clone(&memory), None).forwarding(forward);
    let endpoint = Arc::new(endpoint);
    let function = VfioFunction::new(Arc::clone(&container)).unwrap();
    Rig { function, endpoint, memory, container, _bound: bound }
}

pub(crate) fn mapping(iova: u64, bytes: u64, gpa: u64, write: bool) -> Mapping {
    let perms = Perms { read: true, write, mmio: false };
    Mapping { range: IovaRange::new(iova, iova + bytes - 1).unwrap(), gpa: Gpa(gpa), perms }
}

impl Rig {
    /// Copies a chunk between I/O virtual address `iova` and the device's buffer.
    pub(crate) fn copy(&self, iova: u64, to_memory: bool) {
        const SOURCE: u64 = 0x80;
        const TARGET: u64 = 0x88;
        const COUNT: u64 = 0x90;
        const COMMAND: u64 = 0x98;
        let iova = u32::try_from(iova).unwrap();
        let (source, target) = if to_memory { (EDU_BUFFER, iova) } else { (iova, EDU_BUFFER) };
        let put = |register, value: u32| self.function.bar_write(0, register, &value.to_le_bytes());
        put(SOURCE, source);
        put(TARGET, target);
        put(COUNT, CHUNK as u32);
        put(COMMAND, 1 | u32::from(to_memory) << 1);
        let since = Instant::now();
        let mut command = [0; 4];
        loop {
            self.function.bar_read(0, COMMAND, &mut command);
            if command[0] & 1 == 0 {
                return;
            }
            assert!(since.elapsed() < Duration::from_secs(20), "the device's DMA does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn fill(&self, gpa: u64, byte: u8) {
        self.memory.write_slice(&[byte; PAGE as usize], GuestAddress(gpa)).unwrap();
    }

    pub(crate) fn chunk(&self, gpa: u64) -> [u8; CHUNK] {
        let mut chunk = [0; CHUNK];
        self.memory.read_slice(&mut chunk, GuestAddress(gpa)).unwrap();
        chunk
    }
}

/// The kernel's messages from now on.
pub(crate) struct KernelLog(fs::File);

impl KernelLog {
    pub(crate) fn from_now() -> Self {
        let open = fs::File::options().read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg");
        let mut log = Self(open.unwrap());
        log.rest();
        log
    }

    fn rest(&mut self) -> String {
        let (mut text, mut record) = (String::new(), [0; 8192]);
        while let Ok(n @ 1..) = self.0.read(&mut record) {
            text += &String::from_utf8_lossy(&record[..n]);
        }
        text
    }

    /// Waits for a message about a fault, which an interrupt logs. The kernel logs a few faults in five seconds only, so now
    /// and then the fault is provoked `again`.
    pub(crate) fn wait_for(&mut self, words: &[&str], mut again: impl FnMut()) {
        let (since, mut repeated, mut seen) = (Instant::now(), Instant::now(), String::new());
        while since.elapsed() < Duration::from_secs(30) {
            seen += &self.rest();
            if words.iter().all(|word| seen.contains(word)) {
                return;
            }
            if repeated.elapsed() > Duration::from_secs(1) {
                again();
                repeated = Instant::now();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("the kernel does not say {words:?} but {seen}");
    }
}
