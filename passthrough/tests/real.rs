//! VFIO for real: this program boots the lab with itself as the only program inside, and there drives a device through the
//! kernel's VFIO and IOMMU.
//!
//! It is its own test runner: outside it boots, inside it runs the checks.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a test runner")]

use std::{
    fs,
    io::Read,
    os::unix::fs::OpenOptionsExt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use iommu_lab::{Event, Job, Machine, Sources, guest, job};
use iommu_passthrough::{
    Container, ContainerError, Endpoint, PciDevice, VfioFunction,
    bind::{self, Bound, Plan},
    endpoint::{Counts, properties},
    sysfs::{SYSFS, VFIO_DRIVER},
};
use iommu_workloads::pci::PciFunction;
use virtio_iommu::{
    passthrough::{Backend, BackendError},
    properties::ResvKind,
    spec::{Gpa, IovaRange},
    table::{Mapping, Perms},
};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

fn main() -> ExitCode {
    if guest::is_first_process() {
        guest::main();
    }
    if job::inside().is_some() { inside() } else { outside() }
}

fn outside() -> ExitCode {
    let lab = match iommu_lab::prepare(&Sources::default(), &mut |what| eprintln!("lab: {what}")) {
        Ok(lab) => lab,
        Err(error) => {
            eprintln!("SKIPPED: no lab here: {error}; see docs/lab.md");
            return ExitCode::SUCCESS;
        }
    };
    let folder = tempfile::tempdir().unwrap();
    let program = std::env::current_exe().unwrap();
    let job = Job { args: vec!["inside".to_owned()], ..Job::default() };
    let ended = iommu_lab::session::run(
        &lab,
        &Machine::default(),
        &program,
        &job,
        folder.path(),
        &|| false,
        &mut |event| {
            if let Event::Stderr(bytes) = event {
                eprint!("{}", String::from_utf8_lossy(bytes));
            }
        },
    );
    match ended {
        Ok(ended) => {
            print!("{}", String::from_utf8_lossy(&ended.stdout));
            u8::try_from(ended.code).map_or(ExitCode::FAILURE, ExitCode::from)
        }
        Err(error) => {
            println!("test booting ... FAILED\n{error}\n\ntest result: FAILED. 0 passed; 1 failed;");
            ExitCode::FAILURE
        }
    }
}

/// A check and its name.
type Check = (&'static str, fn());

const CHECKS: [Check; 8] = [
    ("an_unbound_device_is_not_taken", an_unbound_device_is_not_taken),
    ("binding_is_done_and_undone", binding_is_done_and_undone),
    ("the_host_says_what_is_reserved", the_host_says_what_is_reserved),
    (
        "a_device_reaches_what_is_mapped_and_nothing_after_unmap",
        a_device_reaches_what_is_mapped_and_nothing_after_unmap,
    ),
    ("read_only_stays_read_only", read_only_stays_read_only),
    ("bytes_are_those_of_the_kernels_tracepoints", bytes_are_those_of_the_kernels_tracepoints),
    ("the_limit_of_mappings_is_met_with_no_memory", the_limit_of_mappings_is_met_with_no_memory),
    ("a_second_owner_is_refused", a_second_owner_is_refused),
];

fn inside() -> ExitCode {
    let mut failed = 0;
    println!("running {} tests", CHECKS.len());
    for (name, check) in CHECKS {
        let passed = catch_unwind(AssertUnwindSafe(check)).is_ok();
        failed += usize::from(!passed);
        println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
    }
    let word = if failed == 0 { "ok" } else { "FAILED" };
    println!("\ntest result: {word}. {} passed; {failed} failed;", CHECKS.len() - failed);
    ExitCode::from(u8::from(failed > 0))
}

const JOURNALS: &str = "/run/bindings";
/// QEMU's teaching device: a DMA engine between memory and a buffer of its own.
const EDU: (u16, u16) = (0x1234, 0x11e8);
/// Where its buffer is, in its own addresses.
const EDU_BUFFER: u32 = 0x4_0000;
const IOVA: u64 = 0x10_0000;
const PAGE: u64 = 4096;

fn edu() -> PciDevice {
    let all = PciDevice::all(Path::new(SYSFS)).unwrap();
    all.into_iter().find(|device| device.id().unwrap() == EDU).expect("the lab has QEMU's edu device")
}

fn bound() -> Bound {
    Bound::new(&edu(), Plan::new(&edu(), "", "").unwrap(), Path::new(JOURNALS)).unwrap()
}

/// The device, its memory, and what it sees of it. Dropped in this order.
struct Rig {
    function: VfioFunction,
    endpoint: Endpoint,
    memory: Arc<GuestMemoryMmap>,
    container: Arc<Container>,
    _bound: Bound,
}

fn rig() -> Rig {
    let bound = bound();
    let container = Arc::new(Container::open(&edu()).unwrap());
    let memory = Arc::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap());
    let endpoint = Endpoint::new(Arc::clone(&container), Arc::clone(&memory), None);
    let function = VfioFunction::new(Arc::clone(&container)).unwrap();
    Rig { function, endpoint, memory, container, _bound: bound }
}

fn mapping(iova: u64, bytes: u64, gpa: u64, write: bool) -> Mapping {
    let perms = Perms { read: true, write, mmio: false };
    Mapping { range: IovaRange::new(iova, iova + bytes - 1).unwrap(), gpa: Gpa(gpa), perms }
}

impl Rig {
    /// Copies `bytes` between I/O virtual address `iova` and the device's buffer.
    fn copy(&self, iova: u64, bytes: u32, to_memory: bool) {
        const SOURCE: u64 = 0x80;
        const TARGET: u64 = 0x88;
        const COUNT: u64 = 0x90;
        const COMMAND: u64 = 0x98;
        let iova = u32::try_from(iova).unwrap();
        let (source, target) = if to_memory { (EDU_BUFFER, iova) } else { (iova, EDU_BUFFER) };
        let put = |register, value: u32| self.function.bar_write(0, register, &value.to_le_bytes());
        put(SOURCE, source);
        put(TARGET, target);
        put(COUNT, bytes);
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

    fn fill(&self, gpa: u64, byte: u8) {
        self.memory.write_slice(&[byte; PAGE as usize], GuestAddress(gpa)).unwrap();
    }

    fn page(&self, gpa: u64) -> Vec<u8> {
        let mut page = vec![0; PAGE as usize];
        self.memory.read_slice(&mut page, GuestAddress(gpa)).unwrap();
        page
    }
}

/// The kernel's messages from now on.
struct KernelLog(fs::File);

impl KernelLog {
    fn from_now() -> Self {
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

    /// Waits for a message; faults are logged by an interrupt.
    fn wait_for(&mut self, words: &[&str]) {
        let (since, mut seen) = (Instant::now(), String::new());
        while since.elapsed() < Duration::from_secs(10) {
            seen += &self.rest();
            if words.iter().all(|word| seen.contains(word)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("the kernel does not say {words:?} but {seen}");
    }
}

fn an_unbound_device_is_not_taken() {
    let error = Container::open(&edu()).err().expect("it is bound to nothing");
    assert!(matches!(error, ContainerError::NotBound { .. }), "{error}");
    assert!(error.to_string().contains("--bind"), "{error}");
}

fn binding_is_done_and_undone() {
    let device = edu();
    let held = bound();
    assert_eq!(device.driver().as_deref(), Some(VFIO_DRIVER));
    assert_eq!(fs::read_dir(JOURNALS).unwrap().count(), 1);
    drop(held);
    assert_eq!(device.driver(), None);
    assert_eq!(fs::read_dir(JOURNALS).unwrap().count(), 0);
    // A run that died: its journal is there and its lock is not.
    let held = bound();
    let journal = Path::new(JOURNALS).join(format!("{}.json", device.address()));
    let copy = fs::read(&journal).unwrap();
    drop(held);
    let again = bound();
    std::mem::forget(again);
    fs::remove_file(&journal).unwrap();
    fs::write(&journal, copy).unwrap();
    assert_eq!(bind::recover(Path::new(JOURNALS)).unwrap(), [device.address().to_string()]);
    assert_eq!(device.driver(), None);
}

fn the_host_says_what_is_reserved() {
    let rig = rig();
    let limits = rig.container.limits().unwrap();
    assert_eq!(limits.page_sizes & 0xfff, 0, "{limits:?}");
    assert_ne!(limits.page_sizes & PAGE, 0, "{limits:?}");
    assert!(!limits.ranges.is_empty() && limits.mappings_left.is_some(), "{limits:?}");
    let found = properties(&edu(), &rig.container).unwrap();
    let regions: Vec<_> = found.regions.clone().into();
    assert!(regions.iter().any(|r| r.start == 0xfee0_0000 && r.kind == ResvKind::Msi), "{regions:?}");
    let host = edu().reserved_regions().unwrap();
    for region in &host {
        assert!(regions.iter().any(|r| r.start <= region.start && region.end <= r.end), "{region:?}");
    }
}

fn a_device_reaches_what_is_mapped_and_nothing_after_unmap() {
    let rig = rig();
    rig.fill(0, 0x5a);
    rig.fill(PAGE, 0);
    rig.endpoint.show(&[mapping(IOVA, 2 * PAGE, 0, true)]).unwrap();
    rig.copy(IOVA, PAGE as u32, false);
    rig.copy(IOVA + PAGE, PAGE as u32, true);
    assert_eq!(rig.page(PAGE), rig.page(0), "through the device and back");
    rig.fill(PAGE, 0xee);
    let mut log = KernelLog::from_now();
    rig.endpoint.unmap(IovaRange::new(IOVA, IOVA + 2 * PAGE - 1).unwrap()).unwrap();
    rig.copy(IOVA + PAGE, PAGE as u32, true);
    assert_eq!(rig.page(PAGE), [0xee; PAGE as usize], "a DMA after UNMAP changes nothing");
    log.wait_for(&["DMAR", "DMA Write", "101000"]);
    assert_eq!(rig.endpoint.live_bytes(), 0);
}

fn read_only_stays_read_only() {
    let rig = rig();
    rig.fill(0, 0x77);
    rig.endpoint.show(&[mapping(IOVA, PAGE, 0, false)]).unwrap();
    rig.copy(IOVA, PAGE as u32, false);
    rig.fill(0, 0x11);
    let mut log = KernelLog::from_now();
    rig.copy(IOVA, PAGE as u32, true);
    assert_eq!(rig.page(0), [0x11; PAGE as usize], "the device may not write");
    log.wait_for(&["DMAR", "DMA Write"]);
    // Reading was allowed: what it has comes out where it may write.
    rig.endpoint.show(&[mapping(IOVA, PAGE, 0, true)]).unwrap();
    rig.copy(IOVA, PAGE as u32, true);
    assert_eq!(rig.page(0), [0x77; PAGE as usize]);
}

fn bytes_are_those_of_the_kernels_tracepoints() {
    const TRACING: &str = "/sys/kernel/tracing";
    let rig = rig();
    rig.endpoint.show(&[]).unwrap();
    let before = rig.endpoint.counts();
    let put = |file: &str, text: &str| fs::write(format!("{TRACING}/{file}"), text).unwrap();
    put("trace", "");
    put("events/iommu/map/enable", "1");
    put("events/iommu/unmap/enable", "1");
    for n in 0..16 {
        // Every second page, so that no two are one run in the host.
        rig.endpoint.map(&mapping(IOVA + n * PAGE, PAGE, 2 * n * PAGE, true)).unwrap();
    }
    for n in 0..16 {
        let start = IOVA + n * PAGE;
        rig.endpoint.unmap(IovaRange::new(start, start + PAGE - 1).unwrap()).unwrap();
    }
    put("events/iommu/enable", "0");
    let trace = fs::read_to_string(format!("{TRACING}/trace")).unwrap();
    let after = rig.endpoint.counts();
    let done = Counts {
        maps: after.maps - before.maps,
        unmaps: after.unmaps - before.unmaps,
        bytes_mapped: after.bytes_mapped - before.bytes_mapped,
        bytes_unmapped: after.bytes_unmapped - before.bytes_unmapped,
    };
    assert_eq!(done, Counts { maps: 16, unmaps: 16, bytes_mapped: 16 * PAGE, bytes_unmapped: 16 * PAGE });
    assert_eq!(events(&trace, " map: ", "size="), (16, 16 * PAGE), "{trace}");
    let (_, unmapped) = events(&trace, " unmap: ", "unmapped_size=");
    assert_eq!(unmapped, 16 * PAGE, "{trace}");
}

/// How many events of a kind there are, and the sum of a field.
fn events(trace: &str, kind: &str, field: &str) -> (u64, u64) {
    let lines = trace.lines().filter(|line| line.contains(kind));
    let value = |line: &str| -> u64 {
        let text = line.split(' ').find_map(|word| word.strip_prefix(field)).expect("the field is there");
        text.parse().unwrap()
    };
    lines.fold((0, 0), |(count, sum), line| (count + 1, sum + value(line)))
}

fn the_limit_of_mappings_is_met_with_no_memory() {
    const LIMIT: &str = "/sys/module/vfio_iommu_type1/parameters/dma_entry_limit";
    let usual = fs::read_to_string(LIMIT).unwrap();
    fs::write(LIMIT, "4").unwrap();
    let rig = rig();
    fs::write(LIMIT, usual).unwrap();
    assert_eq!(rig.container.limits().unwrap().mappings_left, Some(4));
    for n in 0..4 {
        rig.endpoint.map(&mapping(IOVA + n * PAGE, PAGE, n * PAGE, true)).unwrap();
    }
    let fifth = mapping(IOVA + 4 * PAGE, PAGE, 4 * PAGE, true);
    assert_eq!(rig.endpoint.map(&fifth), Err(BackendError::NoMemory));
    rig.endpoint.unmap(IovaRange::new(IOVA, IOVA + PAGE - 1).unwrap()).unwrap();
    assert_eq!(rig.endpoint.map(&fifth), Ok(()), "there is room again");
    rig.endpoint.show_nothing().unwrap();
    assert_eq!(rig.container.limits().unwrap().mappings_left, Some(4));
}

fn a_second_owner_is_refused() {
    let _rig = rig();
    let error = Container::open(&edu()).err().expect("the group has an owner");
    assert!(matches!(error, ContainerError::Group { .. }), "{error}");
}
