//! The machine is reset, or its monitor goes away, while the device works: what the next driver finds is the initial state,
//! and nothing of the old one's requests happens any more.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use virtio_iommu::{
    DeviceOptions,
    spec::{config::Config, request as wire},
};
use virtio_transport::ServiceMode;

use crate::{
    driver::{PciDriver, Socket},
    generic::{QUEUE_SIZE, RigOn, WRITE, dma_write, options},
};

type Rig = RigOn<PciDriver<Socket>>;

/// Where requests lie, one every 64 bytes, each with its answer behind it.
const REQUESTS: u64 = 0x8_0000;

fn bypass(rig: &Rig) -> u8 {
    let mut bytes = [0; 40];
    rig.read_config(0, &mut bytes);
    Config::decode(&bytes).bypass
}

/// Fills the ring: ATTACH of endpoint 8 first, then MAPs to its end.
fn queue_requests(rig: &mut Rig) {
    let attach = wire::Attach { domain: 1, endpoint: 8, flags: 0, reserved: [0; 4] }.encode().to_vec();
    let map = |page: u64| {
        let (virt_start, virt_end) = (page << 12, page << 12 | 0xfff);
        wire::Map { domain: 1, virt_start, virt_end, phys_start: 0x20_0000, flags: 3 }.encode().to_vec()
    };
    let requests: Vec<Vec<u8>> =
        std::iter::once(attach).chain((1..u64::from(QUEUE_SIZE / 2)).map(map)).collect();
    for (number, request) in (0_u16..).zip(&requests) {
        let at = REQUESTS + 64 * u64::from(number);
        rig.poke(at, request);
        rig.requests.put_chain(2 * number, &[(at, request.len() as u32, 0), (at + 60, 4, WRITE)]);
        rig.requests.make_available(2 * number);
    }
    rig.kick();
}

/// Whether all of the ring comes back in time.
fn all_answered(rig: &Rig) -> bool {
    let since = Instant::now();
    while rig.requests.used_index() != QUEUE_SIZE / 2 {
        if since.elapsed() > Duration::from_secs(20) {
            return false;
        }
        std::thread::yield_now();
    }
    true
}

/// A second driver's life, from a machine reset on.
fn starts_afresh(rig: &mut Rig, features: u64) {
    assert_eq!((bypass(rig), rig.device.domains()), (1, 0));
    let used = rig.requests.used_index();
    assert!(dma_write(&rig.port(8), 0x30_0000, b"boot"), "firmware's disk works");
    assert_eq!(rig.peek(0x30_0000), *b"boot");
    std::thread::sleep(Duration::from_millis(2));
    assert_eq!((rig.requests.used_index(), rig.device.domains()), (used, 0), "nothing happens any more");
    rig.poke(0x30_0000, &[0; 4]);
    rig.zero_rings();
    rig.activate(features);
    queue_requests(rig);
    assert!(all_answered(rig));
    assert!(dma_write(&rig.port(8), 0x1000, b"mapped") && !dma_write(&rig.port(8), 0x30_0000, b"x"));
    assert_eq!(rig.peek(0x20_0000), *b"mapped");
}

#[test]
fn a_machine_reset_amid_requests_and_accesses_leaves_nothing() {
    for service in [ServiceMode::Inline, ServiceMode::Thread, ServiceMode::Poll] {
        let patience = DeviceOptions::default().patience;
        let mut rig = Rig::new(DeviceOptions { service, boot_bypass: true, patience, ..options() });
        let features = rig.features() & !virtio_iommu::device::F_EVENT_IDX;
        let (stop, port) = (&AtomicBool::new(false), rig.port(9));
        std::thread::scope(|scope| {
            // Another endpoint of the machine's, which bypasses or faults.
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    dma_write(&port, 0x40_0000, b"busy");
                }
            });
            let tried = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                for round in 0..8_u32 {
                    rig.write_config(36, &[0]);
                    assert_eq!(bypass(&rig), 0);
                    rig.reset();
                    assert_eq!(bypass(&rig), 0, "the driver's own reset keeps it");
                    rig.zero_rings();
                    rig.activate(features);
                    queue_requests(&mut rig);
                    std::thread::sleep(Duration::from_micros(u64::from(20 * round)));
                    let since = Instant::now();
                    rig.system_reset();
                    assert!(since.elapsed() < Duration::from_secs(5));
                    starts_afresh(&mut rig, features);
                }
            }));
            stop.store(true, Ordering::Relaxed);
            if let Err(panic) = tried {
                std::panic::resume_unwind(panic);
            }
        });
    }
}
