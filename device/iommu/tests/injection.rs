//! Failures of every kind at random: hosts that refuse any call, caps and table memory that run out, resets in between.
//! After every answer the real devices reach what their domain's table has, and after a request that was answered
//! DEVERR never more than before it.
//!
//! `INJECTION_OPERATIONS` sets the number of requests (thirty thousand by default; the soak asks for a hundred million).

#![allow(clippy::print_stdout, reason = "the soak keeps what it did")]

#[path = "support/backends.rs"]
mod backends;
#[path = "support/mod.rs"]
mod support;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use backends::{Call, EIO, Host};
use support::{Random, Rig, options};
use virtio_iommu::{
    DeviceOptions, EndpointPort,
    dma::Access,
    iotlb::IotlbOptions,
    passthrough::{Backend, BackendError},
    properties::EndpointProperties,
    spec::{EndpointId, Status, request::MAP_F_READ, request::MAP_F_WRITE},
};
use virtio_transport::VirtioDevice;

const PAGE: u64 = 4096;
/// IOVA pages in use: neighbours, and others a table apart, so that table memory runs out before mappings do.
const PAGES: [u64; 20] = {
    let mut pages = [0; 20];
    let mut n = 0;
    while n < 20 {
        pages[n] = if n < 10 { n as u64 } else { (n as u64 - 9) << 18 };
        n += 1;
    }
    pages
};
const DOMAINS: [u32; 3] = [1, 2, 3];
/// An emulated endpoint that stays in its domain shows what the domain's table has.
const WITNESS: u32 = 40;
/// The first real endpoint.
const REAL: u32 = 30;
/// No request takes longer than this.
const LIMIT: Duration = Duration::from_secs(5);

fn wanted_operations() -> u64 {
    std::env::var("INJECTION_OPERATIONS").ok().and_then(|n| n.parse().ok()).unwrap_or(30_000)
}

/// A real endpoint as its driver knows it.
struct Real {
    id: u32,
    host: Arc<Host>,
    domain: Option<u32>,
    /// A request about it was answered DEVERR: it may reach what it should not, and not reach what it should.
    failed: bool,
}

#[derive(Default, Debug)]
struct Tally {
    ok: u64,
    inval: u64,
    no_mem: u64,
    dev_err: u64,
    other: u64,
    resets: u64,
}

struct World {
    rig: Rig,
    witnesses: Vec<EndpointPort>,
    reals: Vec<Real>,
    random: Random,
    tally: Tally,
    /// Mappings that no UNMAP has removed but a reset.
    went_with_resets: u64,
}

impl World {
    fn new(seed: u64, iotlb: Option<IotlbOptions>) -> Self {
        let limits = DeviceOptions {
            max_mappings: 14,
            max_table_bytes: 120 << 10,
            max_domains: 3,
            iotlb,
            ..options()
        };
        let rig = Rig::new(limits);
        let witnesses = DOMAINS.iter().map(|domain| {
            rig.endpoint(WITNESS + domain, EndpointProperties::default());
            rig.port(WITNESS + domain)
        });
        let witnesses = witnesses.collect();
        let hosts = [Host::default(), Host::putting_off(), Host::putting_off()];
        let reals = hosts.into_iter().zip(REAL..).map(|(host, id)| {
            let host = Arc::new(host);
            let backend: Arc<dyn Backend> = Arc::clone(&host) as _;
            let properties = EndpointProperties::default();
            rig.device.add_passthrough_endpoint(EndpointId(id), properties, backend).unwrap();
            Real { id, host, domain: None, failed: false }
        });
        let reals = reals.collect();
        let mut world = Self {
            rig,
            witnesses,
            reals,
            random: Random(seed),
            tally: Tally::default(),
            went_with_resets: 0,
        };
        world.attach_witnesses();
        world
    }

    fn attach_witnesses(&mut self) {
        for domain in DOMAINS {
            assert_eq!(self.rig.attach(domain, WITNESS + domain), Status::Ok);
        }
    }

    /// Sends a request and counts its answer; it comes in time.
    fn ask(&mut self, request: impl FnOnce(&mut Rig) -> Status) -> Status {
        let began = Instant::now();
        let status = request(&mut self.rig);
        assert!(began.elapsed() < LIMIT, "{:?} for {status:?}", began.elapsed());
        match status {
            Status::Ok => self.tally.ok += 1,
            Status::Inval => self.tally.inval += 1,
            Status::NoMem => self.tally.no_mem += 1,
            Status::DevErr => self.tally.dev_err += 1,
            _ => self.tally.other += 1,
        }
        status
    }

    fn turn(&mut self) {
        match self.random.below(400) {
            0 => self.reset(),
            1..=20 => self.settle(),
            21..=60 => self.plant(),
            61..=90 => self.attach(),
            91..=110 => self.detach(),
            111..=270 => self.map(),
            _ => self.unmap(),
        }
        self.check();
    }

    /// Has a host refuse a call to come.
    fn plant(&mut self) {
        const CALLS: [Call; 6] =
            [Call::ShowAll, Call::Show, Call::ShowNothing, Call::Map, Call::Unmap, Call::Flush];
        const ERRORS: [BackendError; 3] = [EIO, BackendError::NoMemory, BackendError::NotRam];
        let (call, error) = (self.random.of(&CALLS), self.random.of(&ERRORS));
        let (after, times) = (self.random.below(4) as u32, 1 + self.random.below(3) as u32);
        let number = self.random.below(self.reals.len() as u64) as usize;
        self.reals[number].host.refuse_at(call, after, times, error);
    }

    fn attach(&mut self) {
        let number = self.random.below(self.reals.len() as u64) as usize;
        let (id, domain) = (self.reals[number].id, self.random.of(&DOMAINS));
        let status = self.ask(|rig| rig.attach(domain, id));
        let real = &mut self.reals[number];
        match status {
            Status::Ok => {
                // Staying where it is says nothing of what went wrong before.
                real.failed &= real.domain == Some(domain);
                real.domain = Some(domain);
            }
            // It stays where it was; a host that refused the old view as well leaves it dark.
            _ => real.failed = true,
        }
    }

    fn detach(&mut self) {
        let number = self.random.below(self.reals.len() as u64) as usize;
        let Some(domain) = self.reals[number].domain else { return };
        let id = self.reals[number].id;
        let status = self.ask(|rig| rig.detach(domain, id));
        let real = &mut self.reals[number];
        real.domain = None;
        match status {
            Status::Ok => {
                real.failed = false;
                assert!(real.host.is_dark(), "DETACH was answered OK");
            }
            Status::DevErr => real.failed = true,
            status => panic!("DETACH: {status:?}"),
        }
    }

    fn map(&mut self) {
        let (domain, page) = (self.random.of(&DOMAINS), self.random.of(&PAGES));
        let (start, pages) = (page * PAGE, 1 + self.random.below(2));
        let flags = self.random.of(&[MAP_F_READ, MAP_F_WRITE, MAP_F_READ | MAP_F_WRITE]);
        let before = self.table(domain);
        let status =
            self.ask(|rig| rig.map_flags(domain, start, start + pages * PAGE - 1, page << 12, flags));
        if status != Status::Ok {
            assert_eq!(self.table(domain), before, "a refused MAP ({status:?}) changes nothing");
        }
        if status == Status::DevErr {
            self.failed_in(domain);
        }
    }

    fn unmap(&mut self) {
        let domain = self.random.of(&DOMAINS);
        let start = self.random.of(&PAGES) * PAGE;
        let len = self.random.of(&[PAGE, 2 * PAGE, 16 * PAGE, 1 << 32]);
        let status = self.ask(|rig| rig.unmap(domain, start, start + len - 1));
        if status == Status::DevErr {
            self.failed_in(domain);
        } else if status == Status::Ok {
            for real in self.reals.iter().filter(|real| real.domain == Some(domain)) {
                let reached = PAGES.iter().find(|&page| {
                    (start..start + len).contains(&(page * PAGE)) && real.host.reaches(page * PAGE)
                });
                assert_eq!(reached, None, "UNMAP was answered OK, endpoint {} still reaches it", real.id);
            }
        }
    }

    fn failed_in(&mut self, domain: u32) {
        // One that left with mappings it should not have may be the cause as well.
        for real in &mut self.reals {
            real.failed |= real.domain == Some(domain) || real.domain.is_none();
        }
    }

    /// Hosts refuse nothing any more: one UNMAP of everything for each domain, and all is as it should be.
    fn settle(&mut self) {
        self.reals.iter().for_each(|real| real.host.relent());
        for domain in DOMAINS {
            assert_eq!(self.ask(|rig| rig.unmap(domain, 0, u64::MAX)), Status::Ok);
        }
        for real in &mut self.reals {
            real.failed &= real.domain.is_none() && !real.host.is_dark();
        }
        let counters = self.rig.counters();
        assert_eq!(counters.mapped - counters.unmapped, self.went_with_resets, "nothing is mapped");
    }

    fn reset(&mut self) {
        let refuses = self.random.below(2) == 0;
        if !refuses {
            self.reals.iter().for_each(|real| real.host.relent());
        }
        let began = Instant::now();
        VirtioDevice::reset(&self.rig.device);
        self.reals.iter().for_each(|real| real.host.relent());
        VirtioDevice::reset(&self.rig.device);
        assert!(began.elapsed() < LIMIT);
        assert_eq!((self.rig.device.domains(), self.rig.counters().mappings_reserved), (0, 0));
        assert_eq!(self.rig.device.table_bytes(), 0, "nothing is lost");
        let counters = self.rig.counters();
        self.went_with_resets = counters.mapped - counters.unmapped;
        let features = self.rig.device.features();
        self.rig.restart(features);
        for real in &mut self.reals {
            (real.domain, real.failed) = (None, false);
        }
        self.tally.resets += 1;
        self.attach_witnesses();
    }

    /// Pages that a domain's table has.
    fn table(&self, domain: u32) -> Vec<u64> {
        let port = &self.witnesses[domain as usize - 1];
        let view = port.pin();
        let has = |page: &u64| {
            [Access::Read, Access::Write].iter().any(|access| view.translate(page * PAGE, *access).is_ok())
        };
        PAGES.iter().copied().filter(has).collect()
    }

    /// Real devices reach what their domain's table has, and nothing without one.
    fn check(&self) {
        for real in self.reals.iter().filter(|real| !real.failed) {
            let reached: Vec<u64> =
                PAGES.iter().copied().filter(|page| real.host.reaches(page * PAGE)).collect();
            let expected = real.domain.map_or_else(Vec::new, |domain| self.table(domain));
            assert_eq!(reached, expected, "endpoint {} in domain {:?}", real.id, real.domain);
        }
        assert!(self.rig.counters().mappings_reserved <= 14);
    }
}

fn inject(seed: u64, iotlb: Option<IotlbOptions>) {
    let mut world = World::new(seed, iotlb);
    let operations = wanted_operations() / 2;
    for _ in 0..operations {
        world.turn();
    }
    println!("{operations} operations: {:?}", world.tally);
    let Tally { ok, no_mem, dev_err, resets, .. } = world.tally;
    assert!(
        ok > operations / 4 && no_mem > 0 && dev_err > operations / 1000 && resets > 0,
        "{:?}",
        world.tally
    );
}

#[test]
fn real_devices_reach_what_the_table_has_whatever_fails() {
    inject(0x5eed_5eed, None);
}

/// The witnesses look through IOTLBs, which keep nothing that is gone.
#[test]
fn with_iotlbs_real_devices_reach_what_the_table_has_whatever_fails() {
    inject(0x1071_b5ee, Some(IotlbOptions { entries: 8, ..IotlbOptions::default() }));
}
