//! The stream of page accesses and invalidations of a case's endpoints, recorded in a pass of its own.
//!
//! The pass sets the case up anew, with inline service and a virtual clock, and moves a given number of packets: nothing of it
//! is timed, and nothing of it is there while slices are timed. It sees what the IOMMU of a machine would: each page that an
//! access touches, rings and headers included, in order; and each page of an UNMAP, when the device removes its mappings.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use iommu_churn::{Event, Profile, ProfileOptions, Stretch};
use iommu_endpoints::DmaPort;
use virtio_iommu::{
    ServiceObserver,
    dma::{Access, DmaError, DmaMemory},
    spec::{DomainId, EndpointId, IovaRange},
};
use vm_memory::VolatileSlice;

/// log2 of the bytes of a page.
const PAGE_SHIFT: u32 = 12;
/// Pages of an UNMAP that are invalidated one by one; a larger one counts as an invalidation of everything, which is what
/// drivers make of such ranges.
const MOST_PAGES: u64 = 1 << 18;

/// How long the pass is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordLimits {
    /// About so many accesses of pages.
    pub(crate) accesses: u64,
    /// At most so many packets.
    pub(crate) packets: u64,
}

/// What was recorded of a case.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recording {
    /// Streams: ports of endpoints, each with an IOTLB of its own.
    pub(crate) streams: u32,
    /// The pass, cut into slices.
    pub(crate) slices: Vec<RecordedSlice>,
}

/// A slice of the pass.
#[derive(Clone, Debug, Default)]
pub(crate) struct RecordedSlice {
    /// Packets in both directions.
    pub(crate) packets: u64,
    /// Payload bytes in both directions.
    pub(crate) payload_bytes: u64,
    /// What all streams did.
    pub(crate) stretch: Stretch,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A stream is whole after every event.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

type Stream = Arc<Mutex<Profile>>;

/// The streams of a case.
pub(super) struct Tape {
    options: ProfileOptions,
    streams: Mutex<Vec<(EndpointId, Stream)>>,
    attached: Mutex<BTreeMap<EndpointId, DomainId>>,
}

impl Tape {
    /// No streams yet.
    pub(super) fn new(options: ProfileOptions) -> Arc<Self> {
        Arc::new(Self { options, streams: Mutex::default(), attached: Mutex::default() })
    }

    /// A port of the endpoint that records.
    pub(super) fn port<P>(&self, endpoint: EndpointId, port: P) -> RecordingPort<P> {
        let stream = Arc::new(Mutex::new(Profile::new(self.options)));
        lock(&self.streams).push((endpoint, Arc::clone(&stream)));
        RecordingPort { port, stream }
    }

    /// Who tells the tape of invalidations.
    pub(super) fn observer(self: &Arc<Self>) -> Box<dyn ServiceObserver> {
        Box::new(Follower(Arc::clone(self)))
    }

    /// Number of streams.
    pub(super) fn streams(&self) -> u32 {
        u32::try_from(lock(&self.streams).len()).unwrap_or(u32::MAX)
    }

    /// What all streams did since the last call.
    pub(super) fn stretch(&self) -> Stretch {
        let mut all = Stretch::default();
        lock(&self.streams).iter().for_each(|(_, stream)| all.merge(&lock(stream).stretch()));
        all
    }

    fn tell(&self, concerns: impl Fn(EndpointId) -> bool, tell: impl Fn(&mut Profile)) {
        let streams = lock(&self.streams);
        streams
            .iter()
            .filter(|(endpoint, _)| concerns(*endpoint))
            .for_each(|(_, stream)| tell(&mut lock(stream)));
    }
}

/// On the threads that serve the IOMMU.
struct Follower(Arc<Tape>);

impl ServiceObserver for Follower {
    fn follows_translations(&self) -> bool {
        true
    }

    fn unmapped(&mut self, domain: DomainId, range: IovaRange) {
        let (first, last) = (range.start() >> PAGE_SHIFT, range.end() >> PAGE_SHIFT);
        let attached = lock(&self.0.attached).clone();
        self.0.tell(
            |endpoint| attached.get(&endpoint) == Some(&domain),
            |stream| {
                if last - first < MOST_PAGES {
                    (first..=last).for_each(|page| stream.event(Event::Invalidate(page)));
                } else {
                    stream.event(Event::Flush);
                }
            },
        );
    }

    fn attached(&mut self, endpoint: EndpointId, domain: Option<DomainId>) {
        match domain {
            Some(domain) => lock(&self.0.attached).insert(endpoint, domain),
            None => lock(&self.0.attached).remove(&endpoint),
        };
        self.0.tell(|other| other == endpoint, |stream| stream.event(Event::Flush));
    }
}

/// A port that writes down what goes through it.
pub(super) struct RecordingPort<P> {
    port: P,
    stream: Stream,
}

impl<P: DmaPort> DmaPort for RecordingPort<P> {
    type Memory<'a>
        = RecordingView<'a, P::Memory<'a>>
    where
        Self: 'a;

    fn pin(&self) -> Self::Memory<'_> {
        RecordingView { view: self.port.pin(), stream: &self.stream }
    }
}

/// The view of a [`RecordingPort`].
pub(super) struct RecordingView<'a, V> {
    view: V,
    stream: &'a Mutex<Profile>,
}

impl<V: DmaMemory> DmaMemory for RecordingView<'_, V> {
    fn slice(&self, addr: u64, len: u64, access: Access) -> Result<VolatileSlice<'_>, DmaError> {
        let slice = self.view.slice(addr, len, access)?;
        // The slice is not empty and lies within the address space.
        let last = addr + (slice.len().max(1) as u64 - 1);
        let mut stream = lock(self.stream);
        (addr >> PAGE_SHIFT..=last >> PAGE_SHIFT).for_each(|page| stream.event(Event::Access(page)));
        drop(stream);
        Ok(slice)
    }
}

#[cfg(test)]
mod tests {
    use iommu_endpoints::DirectPort;
    use virtio_iommu::memory::GuestRam;
    use vm_memory::{GuestAddress, GuestMemoryMmap};

    use super::*;

    const ENDPOINT: EndpointId = EndpointId(8);

    fn range(first_page: u64, pages: u64) -> IovaRange {
        IovaRange::new(first_page << 12, ((first_page + pages) << 12) - 1).unwrap()
    }

    fn port(tape: &Tape) -> RecordingPort<DirectPort> {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        tape.port(ENDPOINT, DirectPort::new(GuestRam::new(Arc::new(memory)).unwrap()))
    }

    #[test]
    fn an_access_is_one_for_each_page_that_it_touches() {
        let tape = Tape::new(ProfileOptions::default());
        let port = port(&tape);
        let view = port.pin();
        view.read(0x1ffc, &mut [0; 8]).unwrap();
        view.read(0x1ffc, &mut [0; 4]).unwrap();
        view.write(0x3000, &[0; 8192]).unwrap();
        assert!(view.read(1 << 20, &mut [0; 1]).is_err());
        let stretch = tape.stretch();
        assert_eq!((stretch.accesses, stretch.invalidations), (2 + 1 + 2, 0));
        let reuse = stretch.reuse().unwrap();
        assert_eq!((reuse.first, reuse.at(1)), (4, 1));
        assert_eq!(tape.stretch(), Profile::new(ProfileOptions::default()).stretch(), "taken out once");
    }

    #[test]
    fn invalidations_reach_the_streams_of_endpoints_in_that_domain() {
        let tape = Tape::new(ProfileOptions::default());
        let port = port(&tape);
        let mut device = tape.observer();
        let invalidations = |device: &mut Box<dyn ServiceObserver>, domain, range| {
            device.unmapped(DomainId(domain), range);
            tape.stretch().invalidations
        };
        assert_eq!(invalidations(&mut device, 1, range(0, 1)), 0, "attached to none");
        device.attached(ENDPOINT, Some(DomainId(1)));
        assert_eq!(tape.stretch().flushes, 1);
        assert_eq!(invalidations(&mut device, 1, range(0, 3)), 3);
        assert_eq!(invalidations(&mut device, 2, range(0, 3)), 0, "another's domain");
        device.unmapped(DomainId(1), range(0, MOST_PAGES + 1));
        let large = tape.stretch();
        assert_eq!((large.invalidations, large.flushes), (0, 1));
        port.pin().read(0x1000, &mut [0; 4]).unwrap();
        device.unmapped(DomainId(1), range(1, 1));
        port.pin().read(0x1000, &mut [0; 4]).unwrap();
        assert_eq!(tape.stretch().reuse().unwrap().invalidated, 1);
        device.attached(ENDPOINT, None);
        assert_eq!(invalidations(&mut device, 1, range(0, 1)), 0);
    }
}
