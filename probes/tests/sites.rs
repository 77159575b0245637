//! On a machine with root and uprobes: the program at the sites follows requests exactly. The sites are this test's own.

#![allow(clippy::print_stderr, reason = "a test that cannot run says so")]

use std::time::{Duration, Instant};

use iommu_probes::{
    ProbeError, SiteProbes, SitesSeen,
    common::site::{Part, Site},
};
use iommu_sites::{EndpointKey, RingKey};

const MAP: u8 = 3;
const UNMAP: u8 = 4;

/// The probes of this process, or `None`, loudly.
fn probes() -> Option<SiteProbes> {
    match SiteProbes::own() {
        Ok(probes) => Some(probes),
        Err(error @ ProbeError::NotPermitted) => {
            iommu_equipment::missing(iommu_equipment::Equipment::Ebpf, error);
            None
        }
        Err(error) => panic!("{error}"),
    }
}

fn wait(time: Duration) {
    let start = Instant::now();
    while start.elapsed() < time {
        std::hint::spin_loop();
    }
}

/// Each site in one place: attaching and detaching a place takes the kernel a tenth of a second.
mod at {
    use iommu_sites::RequestKey;

    #[inline(never)]
    pub(super) fn submit(key: RequestKey, kind: u8) {
        iommu_sites::submit(key, kind);
    }

    #[inline(never)]
    pub(super) fn decoded(key: RequestKey, kind: u8) {
        iommu_sites::decoded(key, kind);
    }

    #[inline(never)]
    pub(super) fn table_done(key: RequestKey) {
        iommu_sites::table_done(key, 0);
    }

    #[inline(never)]
    pub(super) fn completed(last: RequestKey, requests: u32) {
        iommu_sites::completed(last, requests);
    }
}

/// `batches` batches of `n` requests on a ring, as driver and device would pass the sites.
#[inline(never)]
fn serve(ring: RingKey, batches: u16, n: u16, kind: u8) {
    for batch in 0..batches {
        let first = batch.wrapping_mul(n);
        for request in 0..n {
            at::submit(ring.request(first.wrapping_add(request)), kind);
        }
        let last = ring.request(first.wrapping_add(n).wrapping_sub(1));
        iommu_sites::kick(last, u32::from(n));
        for request in 0..n {
            let key = ring.request(first.wrapping_add(request));
            at::decoded(key, kind);
            at::table_done(key);
        }
        if kind == UNMAP {
            wait(Duration::from_micros(50));
            iommu_sites::grace_done(last, u32::from(n), u32::from(n));
        }
        at::completed(last, u32::from(n));
        iommu_sites::answered(last, u32::from(n));
    }
}

/// All that a request's sites must add up to, with everything at rest.
fn adds_up(seen: &SitesSeen) {
    assert_eq!(seen.requests(Site::Submit), seen.whole() + seen.unmatched() + seen.open + seen.lost());
    for kind in [u64::from(MAP), u64::from(UNMAP)] {
        let (parts, whole) = seen.sums_ns(kind);
        assert_eq!(parts, whole, "type {kind}: to the nanosecond");
    }
}

/// One test: the sites are one process's, so tests in several threads would see each other.
#[test]
fn requests_are_followed_from_submission_to_completion() {
    let Some(mut probes) = probes() else { return };
    let attached = probes.attached();
    for site in Site::ALL {
        eprintln!("{}: {} places", site.name(), attached.get(&site).copied().unwrap_or(0));
    }

    // Positions pass 65535, and the window, many times.
    serve(RingKey::new(0x1000), 300, 256, MAP);
    serve(RingKey::new(0x2000), 40, 3, UNMAP);
    iommu_sites::backend_done(RingKey::new(0x3000).request(7), 1448, 12);
    iommu_sites::fault(EndpointKey(1), 0x1000, 1);
    let seen = probes.snapshot().expect("readable");
    let (maps, unmaps) = (300 * 256, 40 * 3);
    for site in [Site::Submit, Site::Kick, Site::Decoded, Site::TableDone, Site::Completed, Site::Answered] {
        assert_eq!(seen.requests(site), maps + unmaps, "{}", site.name());
        assert_eq!(seen.hits(site), if site.is_batch() { 340 } else { maps + unmaps }, "{}", site.name());
    }
    assert_eq!((seen.hits(Site::GraceDone), seen.requests(Site::GraceDone)), (40, unmaps));
    assert_eq!((seen.hits(Site::BackendDone), seen.hits(Site::Fault)), (1, 1));
    assert_eq!((seen.whole(), seen.unmatched(), seen.lost(), seen.open), (maps + unmaps, 0, 0, 0));
    adds_up(&seen);
    let count = |kind: u8, part| seen.parts.get(&(u64::from(kind), part)).map_or(0, |part| part.count());
    assert_eq!((count(MAP, Part::Whole), count(UNMAP, Part::Whole)), (maps, unmaps));
    assert_eq!((count(MAP, Part::Grace), count(UNMAP, Part::Grace)), (0, unmaps));
    assert_eq!(count(UNMAP, Part::Noticed), unmaps);
    let grace = &seen.parts[&(u64::from(UNMAP), Part::Grace)];
    assert!(grace.min() >= 45_000, "it was waited for 50 µs: {} ns", grace.min());

    // Submitted and never completed; completed and never submitted.
    let before = probes.snapshot().expect("readable");
    let ring = RingKey::new(0x4000);
    (0..10).for_each(|request| at::submit(ring.request(request), MAP));
    at::completed(RingKey::new(0x5000).request(4), 5);
    let seen = probes.snapshot().expect("readable").since(&before);
    assert_eq!((seen.open, seen.whole(), seen.unmatched()), (10, 0, 5));
    (0..10).for_each(|request| at::submit(ring.request(request), MAP));
    assert_eq!(probes.snapshot().expect("readable").since(&before).unmatched(), 15);

    // Detached, nothing is seen; attached again, everything is.
    probes.detach();
    let before = probes.snapshot().expect("readable");
    serve(RingKey::new(0x6000), 1, 10, MAP);
    assert_eq!(probes.snapshot().expect("readable").since(&before).requests(Site::Submit), 0);
    probes.attach().expect("as before");
    serve(RingKey::new(0x6000), 1, 10, MAP);
    assert_eq!(probes.snapshot().expect("readable").since(&before).whole(), 10);
}

#[test]
fn a_program_without_sites_is_refused_with_the_remedy() {
    match SiteProbes::of(std::path::Path::new("/bin/true"), None) {
        Err(error @ ProbeError::NotPermitted) => {
            iommu_equipment::missing(iommu_equipment::Equipment::Ebpf, error)
        }
        Err(error @ ProbeError::Target { .. }) => assert!(error.to_string().contains("/bin/true"), "{error}"),
        other => panic!("{other:?}"),
    }
}
