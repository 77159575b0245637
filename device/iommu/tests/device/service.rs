//! Service modes, batches, grace periods.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use virtio_iommu::{
    DeviceOptions, ServiceObserver,
    dma::{Access, DmaMemory},
    epoch::Patience,
    spec::{DomainId, EndpointId, IovaRange, Status, request as wire},
    table::Removed,
};
use virtio_transport::{ServiceMode, VirtioDevice};

use crate::support::*;

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    fn push(&self, what: impl Into<String>) {
        self.0.lock().unwrap().push(what.into());
    }
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl ServiceObserver for Log {
    fn batch_begin(&mut self) {
        self.push("begin");
    }
    fn grace_begin(&mut self) {
        self.push("grace");
    }
    fn grace_end(&mut self) {
        self.push("graced");
    }
    fn batch_end(&mut self, requests: u32) {
        self.push(format!("end {requests}"));
    }
}

/// Queues MAP or UNMAP of page `i` in descriptors of its own, without a kick.
fn queue_request(rig: &mut Rig, i: u16, bytes: &[u8]) -> u64 {
    let at = 0x10_0000 + 0x100 * u64::from(i);
    rig.poke(at, bytes);
    rig.poke(at + 0x80, &[FILL; 4]);
    rig.requests.put_chain(2 * i, &[(at, bytes.len() as u32, 0), (at + 0x80, 4, WRITE)]);
    rig.requests.make_available(2 * i);
    at + 0x80
}

fn map_page(i: u64) -> Vec<u8> {
    let map = wire::Map {
        domain: 1,
        virt_start: i << 12,
        virt_end: (i << 12) + 0xfff,
        phys_start: 0x5000,
        flags: 3,
    };
    map.encode().to_vec()
}

fn unmap_page(i: u64) -> Vec<u8> {
    let unmap = wire::Unmap { domain: 1, virt_start: i << 12, virt_end: (i << 12) + 0xfff, reserved: [0; 4] };
    unmap.encode().to_vec()
}

#[test]
fn a_batch_is_published_once_and_waits_once() {
    let mut rig = Rig::idle(options());
    let log = Log::default();
    rig.device.set_observers(|_| Box::new(log.clone()));
    rig.device.add_emulated_endpoint(EndpointId(8)).unwrap();
    rig.activate(rig.device.features() & !virtio_iommu::device::F_EVENT_IDX);
    assert_eq!(rig.attach(1, 8), Status::Ok);
    log.take();
    for i in 0..40 {
        queue_request(&mut rig, i, &map_page(u64::from(i)));
    }
    for i in 40..80 {
        queue_request(&mut rig, i, &unmap_page(u64::from(i - 40)));
    }
    let interrupts = rig.irq.queues[0].load(Ordering::Relaxed);
    rig.kick();
    assert_eq!(log.take(), ["begin", "grace", "graced", "end 80"]);
    assert_eq!(rig.irq.queues[0].load(Ordering::Relaxed), interrupts + 1);
    let counters = rig.counters();
    assert_eq!((counters.grace_periods, counters.invalidations), (1, 40));
    for i in 0..80 {
        assert_eq!(rig.requests.pop_used(), Some((2 * i, 4)));
        assert_eq!(rig.peek(0x10_0080 + 0x100 * u64::from(i)), [0; 4]);
    }
    // A batch that removes nothing does not wait.
    queue_request(&mut rig, 0, &unmap_page(0));
    rig.kick();
    assert_eq!(log.take(), ["begin", "end 1"]);
    rig.device.reset();
    assert!(rig.device.take_observer().is_some());
}

/// As [`Log`], of translations that cease to hold.
struct Follower(Log);

impl ServiceObserver for Follower {
    fn follows_translations(&self) -> bool {
        true
    }
    fn mapped(&mut self, domain: DomainId, range: IovaRange) {
        self.0.push(format!("{} maps {:#x} {:#x}", domain.0, range.start(), range.end()));
    }
    fn unmapped(&mut self, domain: DomainId, range: IovaRange) {
        self.0.push(format!("{} {:#x} {:#x}", domain.0, range.start(), range.end()));
    }
    fn removed(&mut self, removed: Removed) {
        self.0.push(format!("removed {} of {:#x}", removed.mappings, removed.bytes));
    }
    fn attached(&mut self, endpoint: EndpointId, domain: Option<DomainId>) {
        self.0.push(format!("{} in {:?}", endpoint.0, domain.map(|domain| domain.0)));
    }
}

#[test]
fn an_observer_that_asks_is_told_of_translations() {
    let mut rig = Rig::idle(options());
    let log = Log::default();
    rig.device.set_observers(|_| Box::new(Follower(log.clone())));
    rig.device.add_emulated_endpoint(EndpointId(8)).unwrap();
    rig.activate(rig.device.features());
    assert_eq!(rig.attach(1, 8), Status::Ok);
    assert_eq!(rig.map(1, 0x1000, 0x1fff, 0x5000), Status::Ok);
    assert_eq!(rig.map(1, 0x4000, 0x6fff, 0x5000), Status::Ok);
    assert_ne!(rig.map(1, 0x4000, 0x4fff, 0x5000), Status::Ok);
    assert_eq!(log.take(), ["8 in Some(1)", "1 maps 0x1000 0x1fff", "1 maps 0x4000 0x6fff"]);
    // Nothing is mapped there, so nothing ceases to hold; nor does a refused request change anything.
    assert_eq!(rig.unmap(1, 0x8000, 0x8fff), Status::Ok);
    assert_ne!(rig.unmap(2, 0x1000, 0x1fff), Status::Ok);
    assert_ne!(rig.attach(1, 99), Status::Ok);
    assert_eq!(log.take(), Vec::<String>::new());
    assert_eq!(rig.unmap(1, 0x0, 0xffff), Status::Ok);
    assert_eq!(rig.detach(1, 8), Status::Ok);
    assert_eq!(log.take(), ["1 0x0 0xffff", "removed 2 of 0x4000", "8 in None"]);
}

#[test]
fn unmap_waits_for_the_access_and_not_for_the_next_one() {
    let patience = Patience { spins: 10, yields: 1_000_000, naps: 100_000 };
    let mut rig = Rig::new(DeviceOptions { patience, ..options() });
    assert_eq!(rig.attach(1, 8), Status::Ok);
    assert_eq!(rig.map(1, 0, 0xfff, 0x5000), Status::Ok);
    let port = rig.port(8);
    let (pinned, released) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        let (pinned, released) = (&pinned, &released);
        scope.spawn(move || {
            let view = port.pin();
            let slice = view.slice(0, 1, Access::Write).unwrap();
            pinned.store(true, Ordering::Release);
            thread::sleep(Duration::from_millis(30));
            slice.copy_from(b"late");
            released.store(true, Ordering::Release);
        });
        while !pinned.load(Ordering::Acquire) {
            thread::yield_now();
        }
        assert_eq!(rig.unmap(1, 0, 0xfff), Status::Ok);
        assert!(released.load(Ordering::Acquire), "UNMAP completed before the access did");
    });
    assert_eq!(rig.counters().grace_stuck, 0);
}

#[test]
fn a_stuck_endpoint_gets_deverr_and_stops_nobody() {
    let mut rig = Rig::default();
    assert_eq!((rig.attach(1, 8), rig.attach(2, 9)), (Status::Ok, Status::Ok));
    assert_eq!(rig.map(1, 0, 0xfff, 0x5000), Status::Ok);
    let port = rig.port(8);
    let view = port.pin();
    assert_eq!(rig.unmap(1, 0, 0xfff), Status::DevErr);
    assert_eq!(rig.detach(2, 9), Status::DevErr);
    assert_eq!(rig.map(1, 0x1000, 0x1fff, 0x5000), Status::Ok, "what waits for nobody works");
    assert!(view.slice(0, 1, Access::Read).is_err(), "the mapping is gone all the same");
    assert_eq!(rig.counters().grace_stuck, 2);
    drop(view);
    assert_eq!(rig.unmap(1, 0x1000, 0x1fff), Status::Ok);
    assert_eq!(rig.detach(1, 8), Status::Ok);
    // Reset with a guard held gives up too.
    assert_eq!(rig.attach(1, 8), Status::Ok);
    let view = port.pin();
    rig.device.reset();
    assert_eq!(rig.counters().grace_stuck, 3);
    drop(view);
}

fn wait_for_used(rig: &mut Rig, count: usize) {
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut seen = 0;
    while seen < count {
        seen += usize::from(rig.requests.pop_used().is_some());
        assert!(Instant::now() < deadline, "{seen} of {count} came back");
        thread::yield_now();
    }
}

#[test]
fn threads_serve_as_inline_does() {
    for service in [ServiceMode::Thread, ServiceMode::Poll] {
        for mask in [!0, !virtio_iommu::device::F_EVENT_IDX] {
            let mut rig = Rig::negotiating(DeviceOptions { service, ..options() }, mask);
            let attach = wire::Attach { domain: 1, endpoint: 8, flags: 0, reserved: [0; 4] }.encode();
            queue_request(&mut rig, 0, &attach);
            rig.kick();
            wait_for_used(&mut rig, 1);
            for round in 0..200 {
                for i in 0..8 {
                    queue_request(&mut rig, i, &map_page(u64::from(i)));
                }
                for i in 8..16 {
                    queue_request(&mut rig, i, &unmap_page(u64::from(i - 8)));
                }
                rig.kick();
                wait_for_used(&mut rig, 16);
                assert_eq!(rig.peek(0x10_0080), [0; 4], "round {round}");
            }
            let counters = rig.counters();
            assert_eq!((counters.mapped, counters.unmapped), (1600, 1600), "{service:?}");
            rig.device.reset();
            assert_eq!(rig.device.domains(), 0);
        }
    }
}

#[test]
fn event_idx_asks_for_the_next_kick() {
    let mut rig = Rig::negotiating(options(), !0);
    for expected in 0..5u16 {
        let event: u16 = {
            let at = rig.requests.layout.used + 4 + 8 * u64::from(QUEUE_SIZE);
            u16::from_le_bytes(rig.peek(at))
        };
        assert_eq!(event, expected, "kick when the index passes this");
        queue_request(&mut rig, 0, &map_page(0));
        rig.kick();
        assert!(rig.requests.pop_used().is_some());
    }
}

#[test]
fn attach_detach_and_reset_race_with_accesses() {
    let patience = Patience { spins: 10, yields: 1_000_000, naps: 100_000 };
    let mut rig = Rig::new(DeviceOptions { patience, ..options() });
    rig.poke(0x5000, &[1; 0x1000]);
    rig.poke(0x6000, &[2; 0x1000]);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        for endpoint in [8, 9] {
            let (port, stop) = (rig.port(endpoint), &stop);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let view = port.pin();
                    let mut bytes = [0; 64];
                    if view.read(0x1000, &mut bytes).is_ok() {
                        assert!(bytes == [1; 64] || bytes == [2; 64]);
                    }
                    drop(view);
                    thread::yield_now();
                }
            });
        }
        for round in 0..150u32 {
            for endpoint in [8, 9] {
                let domain = (round + endpoint) % 2 + 1;
                assert_eq!(rig.attach(domain, endpoint), Status::Ok);
                let mapped = rig.map(domain, 0x1000, 0x1fff, 0x4000 + 0x1000 * u64::from(domain));
                assert!(matches!(mapped, Status::Ok | Status::Inval));
            }
            assert_eq!(rig.unmap(round % 2 + 1, 0, u64::MAX), Status::Ok);
            if round % 10 == 9 {
                let features = rig.device.features() & !virtio_iommu::device::F_EVENT_IDX;
                rig.restart(features);
            }
        }
    });
    assert_eq!(rig.counters().grace_stuck, 0);
}

/// Ends the threads of a scope also when an assertion fails, so that the test fails rather than hangs.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
