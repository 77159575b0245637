//! The NVMe driver, with a disk behind VFIO.

use std::{path::Path, sync::Arc, time::Duration};

use iommu_passthrough::{
    Container, Endpoint, PciDevice, VfioFunction,
    bind::{Bound, Plan},
    sysfs::SYSFS,
    usage::Host,
};
use iommu_workloads::{
    MonotonicClock, NullRecorder,
    dma::{Dma, DmaSettings, Mode},
    nvme::{Nvme, NvmeError, prp},
    pages::PageAllocator,
    pci::PciFunction,
};
use virtio_iommu::{passthrough::Backend, spec::IovaRange};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::rig::{JOURNALS, KernelLog, PAGE, mapping};

const NVME: u32 = 0x01_08_02;
const MEMORY: u64 = 4 << 20;
/// Where data are transferred to; what the driver takes for itself lies below.
const DATA: u64 = 3 << 20;
/// Blocks of the lab's disk, and how many of them a page has.
const BLOCK: usize = 512;
const BLOCKS: u16 = 8;
/// Block after block its number over and over, at first, for so many bytes.
const PATTERN: u64 = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(1);

fn disk() -> PciDevice {
    let mut all = PciDevice::all(Path::new(SYSFS)).unwrap().into_iter();
    all.find(|device| device.class().unwrap() == NVME).expect("the lab has an NVMe disk")
}

/// The driver, what its disk sees, and the memory. Dropped in this order.
struct Rig {
    nvme: Nvme,
    registers: Arc<VfioFunction>,
    endpoint: Endpoint,
    memory: Arc<GuestMemoryMmap>,
    container: Arc<Container>,
    _bound: Bound,
}

fn rig() -> Rig {
    let plan = Plan::new(&disk(), &Host::default()).unwrap();
    let bound = Bound::new(&disk(), plan, Path::new(JOURNALS)).unwrap();
    let container = Arc::new(Container::open(&disk()).unwrap());
    let memory = Arc::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY as usize)]).unwrap());
    let endpoint = Endpoint::new(Arc::clone(&container), Arc::clone(&memory), None);
    endpoint.show(&[mapping(0, DATA, 0, true), mapping(DATA, PAGE, DATA, true)]).unwrap();
    let registers = Arc::new(VfioFunction::new(Arc::clone(&container)).unwrap());
    let clock = Arc::new(MonotonicClock::default());
    let dma = Dma::new(DmaSettings::new(Mode::Off), None, clock, Arc::new(NullRecorder)).unwrap();
    let pages = PageAllocator::new(Arc::clone(&memory));
    let nvme = Nvme::open(Arc::clone(&registers) as _, 4, &pages, dma, PATIENCE).unwrap();
    Rig { nvme, registers, endpoint, memory, container, _bound: bound }
}

impl Rig {
    /// Moves a page of blocks between `lba` and [`DATA`].
    fn transfer(&mut self, writes: bool, lba: u64) -> Result<(), NvmeError> {
        let entries = prp::build([(DATA, PAGE)], 0).unwrap().entries;
        self.nvme.transfer(writes, lba, BLOCKS, entries)
    }

    fn put(&self, register: u64, value: u32) {
        self.registers.bar_write(0, register, &value.to_le_bytes());
    }

    fn page(&self) -> [u8; PAGE as usize] {
        let mut page = [0; PAGE as usize];
        self.memory.read_slice(&mut page, GuestAddress(DATA)).unwrap();
        page
    }

    fn fill(&self, byte: u8) {
        self.memory.write_slice(&[byte; PAGE as usize], GuestAddress(DATA)).unwrap();
    }
}

fn known(lba: u64) -> Vec<u8> {
    (lba..lba + u64::from(BLOCKS)).flat_map(|block| block.to_le_bytes().repeat(BLOCK / 8)).collect()
}

pub(crate) fn a_disk_holds_what_it_was_made_with_and_what_is_written() {
    let mut rig = rig();
    assert_eq!(
        (rig.nvme.identity().serial.as_str(), rig.nvme.namespace().block_bytes),
        ("lab", BLOCK as u32)
    );
    for lba in [0, 8, 1000, PATTERN / BLOCK as u64 - u64::from(BLOCKS)] {
        rig.transfer(false, lba).unwrap();
        assert_eq!(rig.page()[..], known(lba), "block {lba}");
    }
    rig.transfer(false, PATTERN / BLOCK as u64).unwrap();
    assert_eq!(rig.page(), [0; PAGE as usize], "and nothing behind that");
    rig.fill(0x3c);
    rig.transfer(true, 4096).unwrap();
    rig.nvme.flush().unwrap();
    rig.fill(0);
    rig.transfer(false, 4096).unwrap();
    assert_eq!(rig.page(), [0x3c; PAGE as usize]);
    rig.nvme.close().unwrap();
}

pub(crate) fn a_disks_dma_after_unmap_is_blocked() {
    let mut rig = rig();
    rig.transfer(false, 8).unwrap();
    rig.fill(0xee);
    let mut log = KernelLog::from_now();
    rig.endpoint.unmap(IovaRange::new(DATA, DATA + PAGE - 1).unwrap()).unwrap();
    // The disk may say that it failed, or not notice: what counts is the memory.
    drop(rig.transfer(false, 8));
    log.wait_for(&["DMAR", "DMA Write", "[00:10.0]", "300000"], || drop(rig.transfer(false, 8)));
    assert_eq!(rig.page(), [0xee; PAGE as usize], "a DMA after UNMAP changes nothing");
}

pub(crate) fn a_disk_that_stops_is_given_back_and_works_again() {
    const CC: u64 = 0x14;
    const AQA: u64 = 0x24;
    let mut first = rig();
    let left = first.container.limits().unwrap().mappings_left;
    // Behind the driver's back.
    first.put(CC, 0);
    let error = first.transfer(false, 0).unwrap_err();
    assert!(matches!(error, NvmeError::TimedOut { what: "a read", waited: PATIENCE }), "{error}");
    drop(first);
    assert_eq!(disk().driver(), None, "it was bound to nothing, and is again");
    let mut second = rig();
    assert_eq!(second.container.limits().unwrap().mappings_left, left, "nothing is left mapped");
    second.transfer(false, 0).unwrap();
    assert_eq!(second.page()[..], known(0));
    // Admin queues of one entry are none: the disk reports a fatal error.
    second.put(CC, 0);
    second.put(AQA, 0);
    second.put(CC, 1 | 6 << 16 | 4 << 20);
    assert_eq!(second.transfer(false, 0), Err(NvmeError::Fatal));
    drop(second);
    rig().transfer(false, 0).unwrap();
}
