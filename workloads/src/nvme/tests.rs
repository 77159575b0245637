use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use virtio_iommu_spec::EndpointId;
use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::{
    Contents, Drive, Load, Nvme, NvmeError,
    fake::{BLOCK, FakeDisk, Fault},
};
use crate::{
    MonotonicClock, NullRecorder, Scenario,
    dma::{Counts, Dma, DmaSettings, Mode},
    netperf::Stop,
    pages::PageAllocator,
    scenario::CaseSpec,
    workload::{Platform, Workload, WorkloadError},
};

const PATIENCE: Duration = Duration::from_millis(200);

fn memory() -> Arc<GuestMemoryMmap> {
    Arc::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 32 << 20)]).unwrap())
}

fn open(memory: &Arc<GuestMemoryMmap>, disk: &Arc<FakeDisk>) -> Result<Nvme, NvmeError> {
    let settings = DmaSettings::new(Mode::Off);
    let dma = Dma::new(settings, None, Arc::new(MonotonicClock::default()), Arc::new(NullRecorder)).unwrap();
    let pages = PageAllocator::new(Arc::clone(memory));
    Nvme::open(Arc::clone(disk) as _, 4, &pages, dma, PATIENCE)
}

fn platform(memory: &Arc<GuestMemoryMmap>) -> Platform {
    Platform {
        memory: Arc::clone(memory),
        iommu_bus: None,
        devices: Vec::new(),
        idle: EndpointId(7),
        clock: Arc::new(MonotonicClock::default()),
        recorder: Arc::new(NullRecorder),
        seed: 1,
        watchdog: PATIENCE,
    }
}

fn case(scenario: &str, sets: &[&str]) -> CaseSpec {
    let mut scenario = Scenario::built_in(scenario).unwrap();
    let all = ["modes=off", "disk_mib=1", "guest_memory_mib=32", "queue_depth=8"];
    for set in all.iter().chain(sets) {
        scenario.set(set).unwrap();
    }
    scenario.expand().unwrap().remove(0)
}

fn drive(disk: &Arc<FakeDisk>, writable: bool) -> Drive {
    let function = Arc::clone(disk) as _;
    Drive { function, endpoint: EndpointId(8), writable, contents: Contents::default() }
}

/// Runs `n` transfers and shuts down; the slice's counts and those of everything.
fn run(
    memory: &Arc<GuestMemoryMmap>,
    drive: &Drive,
    case: &CaseSpec,
    n: u64,
) -> Result<(Counts, Counts), WorkloadError> {
    let mut load = Box::new(Load::new(&platform(memory), drive, case)?);
    let stats = load.run_slice(Stop::Packets(n), &AtomicBool::new(false))?;
    Ok((stats.counts, load.shutdown()?))
}

#[test]
fn a_disk_says_what_it_is_and_is_stopped_when_it_is_let_go() {
    let memory = memory();
    let disk = FakeDisk::new(&memory, 4096, None);
    let mut nvme = open(&memory, &disk).unwrap();
    assert_eq!((nvme.identity().serial.as_str(), nvme.identity().write_cache), ("fake", true));
    assert_eq!((nvme.namespace().blocks, nvme.namespace().block_bytes), (4096, BLOCK as u32));
    assert_eq!(nvme.longest(), 32 * 4096);
    assert!(disk.is_enabled());
    nvme.close().unwrap();
    assert!(!disk.is_enabled());
    drop(open(&memory, &disk).unwrap());
    assert!(!disk.is_enabled(), "also when nobody closed it");
}

#[test]
fn random_reads_are_verified_and_their_maps_undone() {
    let memory = memory();
    let disk = FakeDisk::new(&memory, 4096, None);
    let drive = drive(&disk, false);
    let case = case("fio-randread-4k", &[]);
    let (counts, total) = run(&memory, &drive, &case, 1000).unwrap();
    assert_eq!((counts.transactions, counts.bytes_moved), (1000, 1000 * 4096));
    // 256 blocks: each is learnt once and compared afterwards; 64 of them are read once more.
    assert!((744 + 64..1000).contains(&(counts.bytes_verified / 4096)), "{counts:?}");
    assert_eq!((total.dma_maps, disk.state().writes), (total.dma_unmaps, 0));
    // What is known of the disk outlives its driver.
    let (counts, _) = run(&memory, &drive, &case, 1000).unwrap();
    assert_eq!(counts.bytes_verified, counts.bytes_moved + 64 * 4096);
    disk.state().media[8 * BLOCK + 17] ^= 1;
    let error = run(&memory, &drive, &case, 1000).unwrap_err();
    assert_eq!(error, WorkloadError::Corrupt { what: "block", number: 1 });
}

#[test]
fn random_writes_are_read_back() {
    let memory = memory();
    let disk = FakeDisk::new(&memory, 4096, None);
    for sets in [&["block_bytes=64K", "frag_bytes=4096", "ring_size=512"][..], &["block_bytes=512"]] {
        let case = case("fio-randwrite-4k", sets);
        let (counts, total) = run(&memory, &drive(&disk, true), &case, 100).unwrap();
        assert_eq!((counts.tx_packets, total.dma_maps), (100, total.dma_unmaps));
        // Each block that was written is read back once.
        assert!(counts.bytes_verified > 0 && counts.bytes_verified <= counts.bytes_moved, "{counts:?}");
    }
    assert_eq!(disk.state().writes, 200);
}

#[test]
fn a_disk_that_may_not_be_written_to_is_not() {
    let memory = memory();
    let disk = FakeDisk::new(&memory, 4096, None);
    for (scenario, sets) in [
        ("fio-randwrite-4k", &[][..]),
        ("dma-throughput", &["transfer_bytes=4K", "engines=1", "neighbour=none", "dma_direction=read"]),
    ] {
        let error = run(&memory, &drive(&disk, false), &case(scenario, sets), 1).unwrap_err();
        assert_eq!(error, WorkloadError::ReadOnly, "{scenario}");
    }
    assert_eq!(disk.state().writes, 0);
}

#[test]
fn an_engines_working_set_is_mapped_once_but_for_what_is_remapped() {
    let memory = memory();
    let disk = FakeDisk::new(&memory, 4096, None);
    for (direction, pattern) in [("write", "random"), ("read", "sequential")] {
        let (direction, pattern) = (format!("dma_direction={direction}"), format!("pattern={pattern}"));
        let sets = ["transfer_bytes=4K", "working_set_pages=16", "remap_every=16", &direction, &pattern];
        let case = case("iotlb-churn", &sets);
        let (counts, total) = run(&memory, &drive(&disk, true), &case, 1024).unwrap();
        assert_eq!((counts.transactions, counts.dma_maps, counts.dma_unmaps), (1024, 64, 64), "{direction}");
        assert!(total.bytes_verified > 0 && total.dma_maps == total.dma_unmaps, "{total:?}");
    }
}

#[test]
fn a_working_set_smaller_than_the_depth_still_moves() {
    let memory = memory();
    let disk = FakeDisk::new(&memory, 4096, None);
    let sets = ["transfer_bytes=4K", "working_set_pages=2", "dma_direction=write", "remap_every=0"];
    let (counts, _) = run(&memory, &drive(&disk, false), &case("iotlb-churn", &sets), 100).unwrap();
    assert_eq!(counts.transactions, 100);
}

#[test]
fn what_fails_says_how_and_leaves_the_disk_stopped() {
    let memory = memory();
    let reads = case("fio-randread-4k", &[]);
    let failure = |fault| {
        let disk = FakeDisk::new(&memory, 4096, Some(fault));
        let error = run(&memory, &drive(&disk, false), &reads, 100).unwrap_err();
        assert!(!disk.is_enabled() || fault == Fault::Gone, "{fault:?}");
        match error {
            WorkloadError::Nvme(error) => error,
            other => panic!("{fault:?}: {other}"),
        }
    };
    assert!(matches!(failure(Fault::NeverReady), NvmeError::NotReady { wanted: "ready", .. }));
    assert!(matches!(failure(Fault::Silent), NvmeError::TimedOut { what: "a transfer", .. }));
    assert_eq!(failure(Fault::Fatal), NvmeError::Fatal);
    assert_eq!(failure(Fault::Gone), NvmeError::Gone);
    assert_eq!(failure(Fault::Stray), NvmeError::Stray { id: 0x7777 });
    let refused = failure(Fault::Refuses);
    assert!(refused.to_string().contains("an access to memory failed"), "{refused}");
}

#[test]
fn a_disk_that_lies_is_found_out() {
    let memory = memory();
    let disk = FakeDisk::new(&memory, 4096, None);
    let drive = drive(&disk, false);
    let reads = case("fio-randread-4k", &[]);
    run(&memory, &drive, &reads, 500).unwrap();
    disk.state().fault = Some(Fault::Lies);
    assert!(matches!(run(&memory, &drive, &reads, 100), Err(WorkloadError::Corrupt { .. })));
}

#[test]
fn transfers_that_are_no_blocks_of_the_disk() {
    let memory = memory();
    let disk = FakeDisk::new(&memory, 64, None);
    let error = run(&memory, &drive(&disk, false), &case("fio-randread-4k", &[]), 1).unwrap_err();
    assert_eq!(error, WorkloadError::TooSmall { blocks: 8, depth: 8 });
    let disk = FakeDisk::new(&memory, 4096, None);
    let error =
        run(&memory, &drive(&disk, false), &case("fio-randread-4k", &["block_bytes=256K", "disk_mib=4"]), 1);
    assert!(matches!(error, Err(WorkloadError::Blocks { longest: 0x20000, .. })), "{error:?}");
}
