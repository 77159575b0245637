//! What a guest can make the log say: a few lines, however often it does wrong.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use tracing::{
    Event, Level, Metadata, Subscriber,
    span::{Attributes, Id, Record},
};
use virtio_iommu::{
    dma::Access,
    passthrough::Backend,
    properties::EndpointProperties,
    spec::{EndpointId, Status},
};
use virtio_transport::VirtioDevice;

use crate::{
    backends::{ALWAYS, Call, EIO, Host},
    support::*,
};

const REAL: u32 = 30;

/// Lines of the log by the place in the code that they come from, of this thread.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<BTreeMap<&'static str, u64>>>);

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::INFO
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        *self.0.lock().unwrap().entry(event.metadata().name()).or_default() += 1;
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// Runs `wrong` so many times; no place may log each of them, and at least `places` are reached.
fn is_logged_rarely(times: u64, places: usize, mut wrong: impl FnMut()) {
    let lines = Lines::default();
    tracing::subscriber::with_default(lines.clone(), || (0..times).for_each(|_| wrong()));
    let lines = lines.0.lock().unwrap();
    assert!(lines.len() >= places, "{lines:?}");
    // A line for each power of two; a place may be reached up to four times each.
    let most = u64::from(u64::BITS - (4 * times).leading_zeros());
    assert!(lines.values().all(|count| (1..=most).contains(count)), "{lines:?}");
}

fn with_host() -> (Rig, Arc<Host>) {
    let (rig, host) = (Rig::default(), Arc::new(Host::putting_off()));
    let backend: Arc<dyn Backend> = host.clone();
    rig.device.add_passthrough_endpoint(EndpointId(REAL), EndpointProperties::default(), backend).unwrap();
    (rig, host)
}

#[test]
fn requests_that_the_host_refuses_give_few_lines() {
    let (mut rig, host) = with_host();
    assert_eq!((rig.attach(1, REAL), rig.map(1, 0x1000, 0x1fff, 0)), (Status::Ok, Status::Ok));
    host.refuse(Call::Flush, ALWAYS, EIO);
    is_logged_rarely(10_000, 1, || assert_eq!(rig.unmap(1, 0x1000, 0x1fff), Status::DevErr));
}

#[test]
fn moves_that_the_host_refuses_give_few_lines() {
    let (mut rig, host) = with_host();
    for call in [Call::ShowNothing, Call::Unmap, Call::Flush] {
        host.refuse(call, ALWAYS, EIO);
    }
    is_logged_rarely(5_000, 1, || {
        rig.attach(1, REAL);
        rig.detach(1, REAL);
        rig.device.write_config(36, &[1]);
        rig.device.write_config(36, &[0]);
    });
}

#[test]
fn accesses_that_do_not_end_give_few_lines() {
    let mut rig = Rig::default();
    let port = rig.port(8);
    is_logged_rarely(300, 2, || {
        rig.attach(1, 8);
        let view = port.pin();
        assert!(view.translate(0x1000, Access::Read).is_err());
        assert_eq!(rig.detach(1, 8), Status::DevErr);
        rig.device.write_config(36, &[1]);
        rig.device.write_config(36, &[0]);
        drop(view);
    });
}

#[test]
fn broken_queues_give_few_lines() {
    let mut rig = Rig::default();
    let features = rig.device.features() & !virtio_iommu::device::F_EVENT_IDX;
    is_logged_rarely(2_000, 3, || {
        rig.events.make_available(QUEUE_SIZE);
        assert!(!dma_write(&rig.port(8), 0x10, b"x"));
        rig.requests.make_available(QUEUE_SIZE);
        rig.kick();
        assert!(rig.device.needs_reset());
        rig.restart(features);
    });
}

#[test]
fn garbled_requests_give_few_lines() {
    let mut rig = Rig::default();
    is_logged_rarely(10_000, 1, || {
        rig.requests.put_chain(0, &[(0x80000, 3, 0)]);
        rig.requests.make_available(0);
        rig.kick();
        assert!(rig.requests.pop_used().is_some());
    });
}
