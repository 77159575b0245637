//! Everything at once under a use-after-unmap detector: each page of memory carries the number of the IOVA page it is
//! mapped at. Its owner writes that number before it maps the page, and a new one only after UNMAP, DETACH or reset
//! has completed: so an endpoint that reads any other number has used a mapping after it was gone.
//!
//! `STRESS_ACCESSES` sets the number of accesses (a million by default; the soak asks for a hundred million).

#[path = "support/mod.rs"]
mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};

use support::{HIGH_RAM, Random, Rig, options};
use virtio_iommu::{
    EndpointPort,
    dma::{Access, DmaMemory},
    epoch::{Epoch, Fences, Participant, Patience},
    iotlb::IotlbOptions,
    memory::GuestRam,
    spec::{Gpa, Iova, IovaRange, Status},
    table::{Budget, Mapping, MappingTable, Perms, RadixTable},
};
use virtio_transport::VirtioDevice;
use vm_memory::{Bytes, GuestAddress, VolatileMemory};

const PAGE: u64 = 4096;
const PAGES: u64 = 64;
/// IOVA pages in use: more than pages, so that many look-ups miss.
const SLOTS: u64 = 160;
const DOMAIN: u32 = 1;
const ENDPOINT: u32 = 8;

fn wanted_accesses() -> u64 {
    std::env::var("STRESS_ACCESSES").ok().and_then(|n| n.parse().ok()).unwrap_or(1_000_000)
}

/// What the endpoints found.
#[derive(Default)]
struct Detector {
    accesses: AtomicU64,
    hits: AtomicU64,
    late: AtomicU64,
    stop: AtomicBool,
}

impl Detector {
    /// Reads a few words of one IOVA page and checks whose they are.
    fn look(&self, memory: &impl DmaMemory, slot: u64) {
        self.accesses.fetch_add(1, Ordering::Relaxed);
        let Ok(piece) = memory.slice(slot * PAGE, PAGE, Access::Read) else { return };
        self.hits.fetch_add(1, Ordering::Relaxed);
        for at in [0, 1024, 4088] {
            if piece.get_ref::<u64>(at).unwrap().load() != slot {
                self.late.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn wait(&self, wanted: u64) {
        while self.accesses.load(Ordering::Relaxed) < wanted {
            thread::yield_now();
        }
    }

    fn verdict(&self) -> (u64, u64) {
        (self.hits.load(Ordering::Relaxed), self.late.load(Ordering::Relaxed))
    }
}

fn tag(rig: &Rig, page: u64, slot: u64) {
    for at in (0..PAGE).step_by(8) {
        rig.ram.write_obj(slot, GuestAddress(HIGH_RAM + page * PAGE + at)).unwrap();
    }
}

/// The driver: which IOVA page each page is mapped at.
struct Driver {
    rig: Rig,
    at: Vec<u64>,
    random: Random,
}

impl Driver {
    fn new(options: virtio_iommu::DeviceOptions) -> Self {
        let mut driver = Self { rig: Rig::new(options), at: Vec::new(), random: Random(0x5eed) };
        assert_eq!(driver.rig.attach(DOMAIN, ENDPOINT), Status::Ok);
        driver.map_all();
        driver
    }

    fn free_slot(&mut self) -> u64 {
        loop {
            let slot = self.random.below(SLOTS);
            if !self.at.contains(&slot) {
                return slot;
            }
        }
    }

    fn place(&mut self, page: u64) -> u64 {
        let slot = self.free_slot();
        tag(&self.rig, page, slot);
        let (start, gpa) = (slot * PAGE, HIGH_RAM + page * PAGE);
        assert_eq!(self.rig.map(DOMAIN, start, start + PAGE - 1, gpa), Status::Ok);
        slot
    }

    fn map_all(&mut self) {
        self.at.clear();
        for page in 0..PAGES {
            let slot = self.place(page);
            self.at.push(slot);
        }
    }

    fn unmap(&mut self, page: u64) -> Status {
        let start = self.at[page as usize] * PAGE;
        self.rig.unmap(DOMAIN, start, start + PAGE - 1)
    }

    fn turn(&mut self) {
        match self.random.below(1_000) {
            0 => {
                self.rig.restart(self.rig.device.features() & !virtio_iommu::device::F_EVENT_IDX);
                assert_eq!(self.rig.attach(DOMAIN, ENDPOINT), Status::Ok);
                self.map_all();
            }
            1..=4 => {
                assert_eq!(self.rig.detach(DOMAIN, ENDPOINT), Status::Ok);
                assert_eq!(self.rig.attach(DOMAIN, ENDPOINT), Status::Ok);
                self.map_all();
            }
            5..=8 => {
                assert_eq!(self.rig.unmap(DOMAIN, 0, u64::MAX), Status::Ok);
                self.map_all();
            }
            _ => {
                let page = self.random.below(PAGES);
                assert_eq!(self.unmap(page), Status::Ok);
                // The page belongs to nobody now; no endpoint may notice.
                tag(&self.rig, page, u64::MAX);
                self.at[page as usize] = self.place(page);
            }
        }
    }
}

fn endpoint(port: EndpointPort, detector: Arc<Detector>, seed: u64) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let mut random = Random(seed);
        while !detector.stop.load(Ordering::Relaxed) {
            let view = port.pin();
            for _ in 0..random.below(8) + 1 {
                detector.look(&view, random.below(SLOTS));
            }
            drop(view);
            // More threads than cores: the driver must get its turn.
            if random.below(16) == 0 {
                thread::yield_now();
            }
        }
    })
}

#[test]
fn no_endpoint_uses_a_mapping_after_it_is_gone() {
    // None, the usual one, and one that evicts all the time.
    let small = IotlbOptions { entries: 16, ways: 2, ..IotlbOptions::default() };
    for (fences, iotlb) in [Fences::Symmetric, Fences::Asymmetric]
        .into_iter()
        .flat_map(|fences| [None, Some(IotlbOptions::default()), Some(small)].map(|iotlb| (fences, iotlb)))
    {
        let patience = Patience::default();
        let mut driver = Driver::new(virtio_iommu::DeviceOptions { fences, patience, iotlb, ..options() });
        let detector = Arc::new(Detector::default());
        let endpoints: Vec<_> =
            (1..=2).map(|seed| endpoint(driver.rig.port(ENDPOINT), detector.clone(), seed)).collect();
        let mut turns = 0u64;
        while detector.accesses.load(Ordering::Relaxed) < wanted_accesses() / 6 || turns < 500 {
            driver.turn();
            turns += 1;
        }
        detector.stop.store(true, Ordering::Relaxed);
        endpoints.into_iter().for_each(|endpoint| endpoint.join().unwrap());
        let (hits, late) = detector.verdict();
        println!(
            "{fences:?}: {turns} turns, {} accesses, {hits} found, {:?}",
            detector.accesses.load(Ordering::Relaxed),
            driver.rig.counters().iotlb
        );
        assert_eq!(late, 0, "of {hits} hits");
        assert!(hits > 1_000, "the endpoints found almost nothing: {hits}");
        let counters = driver.rig.counters();
        assert_eq!(counters.grace_stuck, 0);
        if iotlb.is_some() {
            let iotlb = counters.iotlb;
            assert_eq!(iotlb.lookups, detector.accesses.load(Ordering::Relaxed) - counters.faults.unattached);
            assert!(iotlb.hits > 0 && iotlb.invalidations > 0 && iotlb.flushes > 0, "{iotlb:?}");
        }
    }
}

#[test]
fn the_detector_sees_a_reader_that_is_not_waited_for() {
    let impatient = Patience { spins: 0, yields: 0, naps: 0 };
    let mut driver = Driver::new(virtio_iommu::DeviceOptions { patience: impatient, ..options() });
    let detector = Detector::default();
    let port = driver.rig.port(ENDPOINT);
    let slot = driver.at[0];
    // Parked: the translation is in hand, the read comes late.
    let view = port.pin();
    let piece = view.slice(slot * PAGE, PAGE, Access::Read).unwrap();
    assert_eq!(driver.unmap(0), Status::DevErr, "the device must not claim that nobody reads any more");
    assert_eq!(driver.rig.counters().grace_stuck, 1);
    // A driver that takes no notice of the status.
    tag(&driver.rig, 0, u64::MAX);
    struct Parked<'a>(vm_memory::VolatileSlice<'a>);
    impl DmaMemory for Parked<'_> {
        fn slice(
            &self,
            _addr: u64,
            _len: u64,
            _access: Access,
        ) -> Result<vm_memory::VolatileSlice<'_>, virtio_iommu::dma::DmaError> {
            Ok(self.0)
        }
    }
    detector.look(&Parked(piece), slot);
    assert_eq!(detector.verdict(), (1, 3));
}

/// An endpoint of the table alone.
struct Translated<'a> {
    table: &'a RadixTable,
    guard: &'a virtio_iommu::epoch::Guard<'a>,
    ram: &'a GuestRam,
}

impl DmaMemory for Translated<'_> {
    fn slice(
        &self,
        addr: u64,
        len: u64,
        access: Access,
    ) -> Result<vm_memory::VolatileSlice<'_>, virtio_iommu::dma::DmaError> {
        let found = self
            .table
            .translate(self.guard, Iova(addr))
            .ok_or(virtio_iommu::dma::DmaError::Fault { addr })?;
        self.ram.slice(found.gpa.0, len, access)
    }
}

/// Runs of pages a writer has of its own.
const RUNS: u64 = 6;
/// Pages of a run at most.
const RUN_PAGES: u64 = 4;

/// A writer of the table: runs of one to four pages of its own memory, at IOVAs that it shares with the others.
fn writer(
    table: Arc<RadixTable>,
    me: Participant,
    ram: GuestRam,
    first: u64,
    detector: Arc<Detector>,
) -> thread::JoinHandle<u64> {
    thread::spawn(move || {
        let mut random = Random(first + 7);
        let mut mapped = 0;
        let mut live: [Option<IovaRange>; RUNS as usize] = [None; RUNS as usize];
        while !detector.stop.load(Ordering::Relaxed) {
            let run = random.below(RUNS);
            if let Some(range) = live[run as usize].take() {
                // Nobody else unmaps it, so it is still there, whole.
                assert_eq!(table.unmap(&me.pin(), range).unwrap().mappings, 1);
                me.synchronize(Patience::default()).unwrap();
            }
            let (pages, slot) = (random.below(RUN_PAGES) + 1, random.below(SLOTS - RUN_PAGES));
            let page = first + run * RUN_PAGES;
            for i in 0..pages {
                for at in [0, 1024, 4088] {
                    ram.memory().unwrap().write_obj(slot + i, GuestAddress((page + i) * PAGE + at)).unwrap();
                }
            }
            let range = IovaRange::with_len(slot * PAGE, pages * PAGE).unwrap();
            let mapping = Mapping { range, gpa: Gpa(page * PAGE), perms: Perms::RW };
            if table.map(&me.pin(), &mapping).is_ok() {
                live[run as usize] = Some(range);
                mapped += 1;
            }
        }
        mapped
    })
}

#[test]
fn several_writers_of_one_table_never_hand_a_reader_the_wrong_page() {
    let epoch = Epoch::new(Fences::best());
    let table = Arc::new(RadixTable::new(&epoch, 12, 48, &Budget::new(1 << 20)).unwrap());
    let ram = GuestRam::new(support::ram()).unwrap();
    let detector = Arc::new(Detector::default());
    let writers: Vec<_> = (0..2)
        .map(|n| {
            writer(
                table.clone(),
                epoch.register().unwrap(),
                ram.clone(),
                16 + RUNS * RUN_PAGES * n,
                detector.clone(),
            )
        })
        .collect();
    let reader = {
        let (table, detector, ram) = (table.clone(), detector.clone(), ram.clone());
        let me = epoch.register().unwrap();
        thread::spawn(move || {
            let mut random = Random(99);
            while !detector.stop.load(Ordering::Relaxed) {
                let guard = me.pin();
                let view = Translated { table: &table, guard: &guard, ram: &ram };
                for _ in 0..8 {
                    detector.look(&view, random.below(SLOTS));
                }
            }
        })
    };
    detector.wait(wanted_accesses());
    detector.stop.store(true, Ordering::Relaxed);
    reader.join().unwrap();
    let mapped: u64 = writers.into_iter().map(|writer| writer.join().unwrap()).sum();
    let (hits, late) = detector.verdict();
    println!("{mapped} mappings, {} accesses, {hits} hits", detector.accesses.load(Ordering::Relaxed));
    assert_eq!(late, 0, "of {hits} hits");
    assert!(mapped > 0 && hits > 0);
}
