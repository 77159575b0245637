//! Serving a request queue: a batch a kick, one grace period and one publication a batch.

use std::{mem, sync::Arc};

use crossbeam_utils::CachePadded;
use iommu_sites::{self as sites, RequestKey, RingKey};
use virtio_iommu_spec::{
    DomainId, EndpointId, Iova, IovaRange, Status, feature, private,
    request::{self, MAX_READABLE_BYTES, TAIL_BYTES},
};
use virtio_transport::{Interrupt, Progress, QueueWorker};

use super::{
    Core, Lane, RequestKind, ServiceObserver, control::Graveyard, counters::LiveCounters, pool::Credits,
};
use crate::{
    dma::{Access, DmaError, DmaMemory},
    domain::{Domain, Refusal},
    epoch::Participant,
    iotlb::{self, InvalidationLog},
    memory::GuestRam,
    queue::{Chain, Queue, QueueError},
    request::{ChainErrorKind, Decoded, Offer, Readable, Request, RequestError, decode, status},
    sync::Ordering,
    table::{MapError, MappingTable, Removed},
};

/// Requests copied out of guest memory before the first of them is performed: long enough for the table entries they
/// need to arrive from memory meanwhile.
const AHEAD: usize = 8;

/// A request on its way from the ring to the table.
struct Waiting {
    chain: Chain,
    /// What it says, copied once; `Err` when it could not be read.
    readable: Result<Readable, DmaError>,
}

impl Waiting {
    fn new() -> Self {
        Self { chain: Chain::new(), readable: Ok(Readable { bytes: [0; MAX_READABLE_BYTES], len: 0 }) }
    }
}

/// Domains a worker remembers; a power of two.
const CACHED_DOMAINS: usize = 64;

/// Domains by ID, true for one generation of the set of domains.
struct DomainCache {
    generation: u64,
    domains: Box<[Option<Arc<Domain>>]>,
}

impl DomainCache {
    fn new() -> Self {
        Self { generation: u64::MAX, domains: vec![None; CACHED_DOMAINS].into() }
    }

    /// The domain. Takes no lock and touches no reference count when it is remembered.
    #[inline]
    fn find(&mut self, core: &Core, id: u32) -> Result<&Domain, RequestError> {
        if self.generation != core.generation() {
            self.forget(core);
        }
        let slot = &mut self.domains[id as usize % CACHED_DOMAINS];
        if slot.as_ref().is_none_or(|domain| domain.id().0 != id) {
            *slot = Some(look_up(core, id)?);
        }
        slot.as_deref().ok_or(RequestError::NoDomain { domain: DomainId(id) })
    }

    /// The domain, if it is remembered.
    #[inline]
    fn peek(&self, core: &Core, id: u32) -> Option<&Domain> {
        let domain = self.domains[id as usize % CACHED_DOMAINS].as_deref()?;
        (self.generation == core.generation() && domain.id().0 == id).then_some(domain)
    }

    /// The domain that was found last under this ID.
    fn shared(&self, id: u32) -> Option<&Arc<Domain>> {
        self.domains[id as usize % CACHED_DOMAINS].as_ref().filter(|domain| domain.id().0 == id)
    }

    #[cold]
    fn forget(&mut self, core: &Core) {
        // Read before the domains are, so that a change in between is noticed next time.
        self.generation = core.generation();
        self.domains.fill(None);
    }
}

/// Whether a MAP that queue number `own` has just performed must wait for removals that are not finished: those of other
/// queues, and its own ones of an earlier batch if their grace period was given up (`stuck`).
fn overtakes(
    log: &InvalidationLog,
    map: &request::Map,
    lanes: &[CachePadded<Lane>],
    own: u16,
    stuck: bool,
) -> bool {
    let Some(range) = IovaRange::new(map.virt_start, map.virt_end) else { return false };
    let others = lanes.iter().zip(0..).filter(|&(_, number)| number != own || stuck);
    iotlb::overtakes(log, range, others.map(|(lane, _)| &lane.unfinished))
}

#[cold]
fn look_up(core: &Core, id: u32) -> Result<Arc<Domain>, RequestError> {
    let domain = core.check_domain_id(id)?;
    let control = core.control();
    control.domains.get(&domain).map(|slot| slot.domain.clone()).ok_or(RequestError::NoDomain { domain })
}

/// A request that is answered after the grace period: should that be given up, its answer is changed.
struct Removal {
    /// Address of the status byte.
    status_gpa: u64,
    /// The status it has been counted with.
    status: Status,
}

/// One request queue and the thread that serves it.
pub(super) struct RequestWorker {
    core: Arc<Core>,
    /// Number of the request queue.
    lane: u16,
    ram: GuestRam,
    participant: Participant,
    queue: Queue,
    ring: RingKey,
    /// The chain being served.
    chain: Chain,
    /// What it is called where probes attach.
    key: RequestKey,
    waiting: [Waiting; AHEAD],
    interrupt: Arc<dyn Interrupt>,
    observer: Option<Box<dyn ServiceObserver>>,
    /// Whether the observer wants to be told of translations that cease to hold.
    follows: bool,
    cache: DomainCache,
    credits: Credits,
    graveyard: Graveyard,
    removals: Vec<Removal>,
    /// Those of them that are MAPs and took the place of what another queue is removing: how to undo them.
    overtaking: Vec<request::Unmap>,
    /// This queue's announcement of removals stands.
    announced: bool,
    /// The grace period of something announced was given up: the announcement stands until one has been waited for.
    stuck: bool,
    /// Domains whose real devices' page tables may have put something off, in this batch.
    put_off: Vec<Arc<Domain>>,
    /// Everything a chain's answer needs, tail included.
    reply: Vec<u8>,
    offer: Offer,
    map_flags: u32,
    event_idx: bool,
    broken: bool,
}

impl RequestWorker {
    pub(super) fn new(
        core: Arc<Core>,
        lane: u16,
        participant: Participant,
        queue: Queue,
        features: u64,
        interrupt: Arc<dyn Interrupt>,
    ) -> Self {
        let observer = core.lanes[usize::from(lane)].observer().take();
        let ring = RingKey::new(queue.layout().desc);
        // What the queue's last worker could not wait for, before it was paused.
        let left = core.lanes[usize::from(lane)].unfinished.stands();
        Self {
            ram: core.ram.clone(),
            offer: Offer { map_unmap: features & feature::MAP_UNMAP != 0, probe: core.options.probe },
            map_flags: core.map_flags(features),
            event_idx: features & super::F_EVENT_IDX != 0,
            removals: Vec::with_capacity(usize::from(queue.size())),
            overtaking: Vec::new(),
            announced: left,
            stuck: left,
            put_off: Vec::new(),
            reply: Vec::with_capacity(core.options.probe_size as usize + TAIL_BYTES),
            core,
            lane,
            participant,
            queue,
            ring,
            chain: Chain::new(),
            key: ring.request(0),
            waiting: std::array::from_fn(|_| Waiting::new()),
            interrupt,
            follows: observer.as_ref().is_some_and(|observer| observer.follows_translations()),
            observer,
            cache: DomainCache::new(),
            credits: Credits::default(),
            graveyard: Graveyard::default(),
            broken: false,
        }
    }

    fn lane(&self) -> &Lane {
        &self.core.lanes[usize::from(self.lane)]
    }

    #[inline]
    fn counters(&self) -> &LiveCounters {
        &self.lane().counters
    }

    fn observe(&mut self, f: impl FnOnce(&mut dyn ServiceObserver)) {
        if let Some(observer) = &mut self.observer {
            f(&mut **observer);
        }
    }

    /// Serves what is available, at most a ring of it. Returns the number of chains returned.
    fn batch(&mut self) -> Result<u32, QueueError> {
        if !self.more()? {
            return Ok(0);
        }
        if self.core.remains.any() {
            self.core.remains.go_on(&self.core, &self.participant);
        }
        self.observe(|observer| observer.batch_begin());
        let first = self.queue.indices().0;
        let mut served = 0;
        let result = self.drain(&mut served);
        let last = self.ring.request(first.wrapping_add(served as u16).wrapping_sub(1));
        if !self.removals.is_empty() {
            let removals = self.removals.len() as u32;
            self.grace();
            self.flush();
            sites::grace_done(last, served, removals);
        } else if self.announced && !self.stuck {
            // Nothing was removed.
            self.conclude();
        }
        let interrupt = self.queue.publish(&self.ram)?;
        sites::completed(last, served);
        if interrupt {
            self.interrupt.queue(private::request_queue(self.lane));
        }
        self.counters().batch();
        self.observe(|observer| observer.batch_end(served));
        result.map(|()| served)
    }

    /// Whether there is work; asks for the next kick if not.
    fn more(&mut self) -> Result<bool, QueueError> {
        if self.queue.has_work(&self.ram)? {
            return Ok(true);
        }
        if self.event_idx {
            self.queue.set_kicks(&self.ram, true)?;
            return self.queue.has_work(&self.ram);
        }
        Ok(false)
    }

    fn drain(&mut self, served: &mut u32) -> Result<(), QueueError> {
        let mut left = usize::from(self.queue.size());
        while left > 0 {
            let (taken, result) = self.take(left.min(AHEAD));
            if taken > 1 {
                self.waiting[..taken].iter().for_each(|waiting| self.hint(waiting));
            }
            let first = self.queue.indices().0.wrapping_sub(taken as u16);
            for number in 0..taken {
                self.key = self.ring.request(first.wrapping_add(number as u16));
                mem::swap(&mut self.chain, &mut self.waiting[number].chain);
                let readable = self.waiting[number].readable;
                let written = self.serve_chain(readable);
                let asked = self.core.halt.is_asked();
                if asked && self.core.halt.is_stopped() {
                    // Perhaps not done to its end, so it is not answered; the domains go with the reset.
                    return Ok(());
                }
                self.queue.push_used(&self.ram, self.chain.head(), written)?;
                *served += 1;
                if asked {
                    self.queue.unpop((taken - number - 1) as u16);
                    return Ok(());
                }
            }
            result?;
            if taken < AHEAD {
                break;
            }
            left -= taken;
        }
        Ok(())
    }

    /// Takes up to `most` chains off the ring and copies their requests; says how many, and whether the ring broke.
    #[inline]
    fn take(&mut self, most: usize) -> (usize, Result<(), QueueError>) {
        for number in 0..most {
            let waiting = &mut self.waiting[number];
            match self.queue.pop(&self.ram, &mut waiting.chain) {
                Ok(true) => {}
                Ok(false) => return (number, Ok(())),
                Err(error) => return (number, Err(error)),
            }
            let mut readable = Readable { bytes: [0; MAX_READABLE_BYTES], len: waiting.chain.readable_len() };
            waiting.readable = waiting.chain.read_at(&self.ram, 0, &mut readable.bytes).map(|_| readable);
        }
        (most, Ok(()))
    }

    /// Asks for the table entry that a MAP or UNMAP will need. A hint: nothing is believed, nothing is kept.
    #[inline]
    fn hint(&self, waiting: &Waiting) {
        if let Ok(readable) = &waiting.readable
            && matches!(readable.bytes[0], request::kind::MAP | request::kind::UNMAP)
            && let Some(head) = readable.bytes.first_chunk()
        {
            let unmap = request::Unmap::decode(head);
            if let Some(Ok(table)) = self.cache.peek(&self.core, unmap.domain).map(Domain::table) {
                table.prefetch(&self.participant.pin(), Iova(unmap.virt_start));
            }
        }
    }

    /// Serves one chain and returns its used length.
    #[inline]
    fn serve_chain(&mut self, readable: Result<Readable, DmaError>) -> u32 {
        #[cfg(feature = "planted-regression")]
        super::planted::planted_regression();
        let empty = Readable { bytes: [0; MAX_READABLE_BYTES], len: 0 };
        if let Some(fault) = self.chain.fault() {
            // What could be read helps whoever reads the log; whether it could be does not matter.
            return self.garbled(ChainErrorKind::Descriptors, &readable.unwrap_or(empty), &fault);
        }
        let readable = match readable {
            Ok(readable) => readable,
            Err(error) => return self.garbled(ChainErrorKind::Descriptors, &empty, &error),
        };
        let writable = self.chain.writable_len();
        let decoded = match decode(&readable, writable, self.offer) {
            Ok(decoded) => decoded,
            Err(error) => return self.garbled(error.into(), &readable, &error),
        };
        // Before anything is done: an answer that cannot be written must not leave its effect behind.
        if let Err(error) = self.check_writable() {
            return self.garbled(ChainErrorKind::Descriptors, &readable, &error);
        }
        if let Err(RequestError::Short { need, .. }) = &decoded {
            let head = *need == request::HEAD_BYTES;
            let kind = if head { ChainErrorKind::ShortHead } else { ChainErrorKind::ShortRequest };
            self.garbled(kind, &readable, &"short readable part");
        }
        self.reply.clear();
        sites::decoded(self.key, readable.bytes[0]);
        if writable == TAIL_BYTES as u64 {
            // All of an ATTACH, DETACH, MAP or UNMAP: a store instead of a call to fill memory.
            self.reply.extend_from_slice(&[0; TAIL_BYTES]);
        } else {
            self.reply.resize(writable as usize, 0);
        }
        let status = match self.perform(decoded) {
            Ok(()) => Status::Ok,
            Err(error) => self.refused(&error),
        };
        self.counters().status(status);
        let tail = self.reply.len() - TAIL_BYTES;
        self.reply[tail] = status as u8;
        // Right before a call, where the registers that its arguments take hold nothing else.
        sites::table_done(self.key, status as u8);
        match self.chain.write_at(&self.ram, 0, &self.reply) {
            Ok(written) => written as u32,
            // Memory that was there a moment ago: guest RAM does not go away while the device runs.
            Err(error) => self.garbled(ChainErrorKind::Descriptors, &readable, &error),
        }
    }

    fn check_writable(&self) -> Result<(), crate::dma::DmaError> {
        self.chain.writable().iter().try_for_each(|segment| {
            self.ram.for_each_piece(segment.addr, u64::from(segment.len), Access::Write, |_| ())
        })
    }

    #[cold]
    fn refused(&mut self, error: &RequestError) -> Status {
        tracing::debug!(%error, "request refused");
        status(error)
    }

    /// Counts a garbled request and, ever more rarely, logs it with its bytes. Returns the used length: nothing.
    #[cold]
    fn garbled(&self, kind: ChainErrorKind, readable: &Readable, cause: &dyn std::fmt::Display) -> u32 {
        let count = self.counters().garbled(kind);
        if count.is_power_of_two() {
            let bytes = &readable.bytes[..readable.bytes.len().min(readable.len as usize)];
            tracing::warn!(
                kind = kind.name(),
                count,
                head = self.chain.head(),
                readable = readable.len,
                writable = self.chain.writable_len(),
                bytes = format_args!("{bytes:02x?}"),
                %cause,
                "garbled request"
            );
        }
        0
    }

    #[inline]
    fn perform(&mut self, decoded: Decoded) -> Result<(), RequestError> {
        let request = decoded?;
        self.counters().request(RequestKind::from(&request));
        match request {
            Request::Map(map) => self.map(&map),
            Request::Unmap(unmap) => self.unmap(&unmap),
            Request::Attach(attach) => {
                let removed = self.core.attach(&self.participant, &mut self.graveyard, &attach)?;
                self.note_removal(removed, Status::Ok);
                self.tell_attached(attach.endpoint, Some(attach.domain));
                Ok(())
            }
            Request::Detach(detach) => {
                let taken = self.core.detach(&self.participant, &mut self.graveyard, &detach)?;
                self.note_removal(true, taken.as_ref().map_or_else(status, |()| Status::Ok));
                self.tell_attached(detach.endpoint, None);
                taken
            }
            Request::Probe(probe) => {
                let tail = self.reply.len() - TAIL_BYTES;
                self.core.probe(&probe, &mut self.reply[..tail])
            }
        }
    }

    #[inline(always)]
    fn map(&mut self, map: &request::Map) -> Result<(), RequestError> {
        match self.map_once(map) {
            Err(
                error @ (RequestError::TooManyMappings { .. } | RequestError::Map(MapError::OutOfMemory)),
            ) => self.map_after_reclaim(map, error),
            result => result,
        }
    }

    /// MAP for want of room: again, if there may be more of it than the tables at hand showed.
    #[cold]
    #[inline(never)]
    fn map_after_reclaim(&mut self, map: &request::Map, error: RequestError) -> Result<(), RequestError> {
        let mut found = self.core.reclaim(&self.participant);
        // Domains that this batch took away: their room comes back after a grace period.
        if !self.graveyard.is_empty() && self.participant.synchronize(self.core.options.patience).is_ok() {
            self.graveyard.clear(&self.core, &self.participant);
            found = true;
        }
        if found { self.map_once(map) } else { Err(error) }
    }

    #[inline(always)]
    fn map_once(&mut self, map: &request::Map) -> Result<(), RequestError> {
        let unknown = map.flags & !self.map_flags;
        if unknown != 0 {
            return Err(RequestError::Flags { unknown });
        }
        let core = &*self.core;
        let counters = &core.lanes[usize::from(self.lane)].counters;
        let domain = self.cache.find(core, map.domain)?;
        let guard = self.participant.pin();
        if !self.credits.spend(&core.pool) {
            // What is wrong with the request itself comes before the lack of room for it.
            domain.check_map(&guard, map)?;
            return Err(RequestError::TooManyMappings { cap: core.pool.cap() });
        }
        // Looked at under the guard: see `Mirrors`.
        if domain.mirrors.any() {
            drop(guard);
            return self.map_mirrored(map);
        }
        let result = domain.map(&guard, map);
        drop(guard);
        match result {
            Ok(()) => {
                counters.mapped();
                if let Some(log) = domain.log()
                    && overtakes(log, map, &core.lanes, self.lane, self.stuck)
                {
                    self.note_overtaking(map);
                }
                if self.follows {
                    self.tell_mapped(map);
                }
            }
            Err(_) => self.credits.refund(1, &core.pool),
        }
        result
    }

    /// MAP in a domain with real devices; room for the mapping has been taken.
    #[cold]
    #[inline(never)]
    fn map_mirrored(&mut self, map: &request::Map) -> Result<(), RequestError> {
        let core = &*self.core;
        let lane = &core.lanes[usize::from(self.lane)];
        let domain = match self.cache.find(core, map.domain) {
            Ok(domain) => domain,
            Err(error) => {
                self.credits.refund(1, &core.pool);
                return Err(error);
            }
        };
        match domain.map_mirrored(&self.participant, map, &lane.unfinished) {
            Ok(()) => {
                lane.counters.mapped();
                if domain.log().is_some_and(|log| overtakes(log, map, &core.lanes, self.lane, self.stuck)) {
                    self.note_overtaking(map);
                }
                if self.follows {
                    self.tell_mapped(map);
                }
                Ok(())
            }
            Err(Refusal { error, seen, unspent }) => {
                if unspent {
                    self.credits.refund(1, &core.pool);
                }
                if seen {
                    // Other endpoints may have seen the mapping, and a real device may still.
                    self.announced = true;
                    self.flush_later(map.domain);
                    self.note_removal(true, status(&error));
                }
                Err(error)
            }
        }
    }

    #[inline(always)]
    fn unmap(&mut self, unmap: &request::Unmap) -> Result<(), RequestError> {
        // A nonzero reserved field "MAY" be refused; clients in the field leave it uninitialised, so it is accepted.
        let core = &*self.core;
        let lane = &core.lanes[usize::from(self.lane)];
        let domain = self.cache.find(core, unmap.domain)?;
        let guard = self.participant.pin();
        if domain.mirrors.any() {
            drop(guard);
            return self.unmap_mirrored(unmap);
        }
        self.announced |= domain.log().is_some();
        let removed = domain.unmap(&guard, unmap, &lane.unfinished)?;
        drop(guard);
        if removed.mappings != 0 {
            self.credits.refund(removed.mappings, &core.pool);
            lane.counters.unmapped(removed.mappings);
            self.note_removal(true, Status::Ok);
            if self.follows {
                self.tell_unmapped(unmap, removed);
            }
        }
        Ok(())
    }

    /// UNMAP in a domain with real devices.
    #[cold]
    #[inline(never)]
    fn unmap_mirrored(&mut self, unmap: &request::Unmap) -> Result<(), RequestError> {
        let core = &*self.core;
        let domain = self.cache.find(core, unmap.domain)?;
        let lane = &core.lanes[usize::from(self.lane)];
        self.announced |= domain.log().is_some();
        let (done, removed) = domain.unmap_mirrored(&self.participant, unmap, &lane.unfinished);
        let removed = removed?;
        if removed.mappings != 0 {
            self.credits.refund(removed.mappings, &core.pool);
            lane.counters.unmapped(removed.mappings);
        }
        // Also where nothing was mapped: what an earlier request has left there may be reachable until it is flushed.
        self.flush_later(unmap.domain);
        self.note_removal(true, done.as_ref().map_or_else(status, |()| Status::Ok));
        if removed.mappings != 0 && self.follows {
            self.tell_unmapped(unmap, removed);
        }
        done
    }

    #[cold]
    #[inline(never)]
    fn tell_mapped(&mut self, map: &request::Map) {
        if let Some(range) = IovaRange::new(map.virt_start, map.virt_end) {
            self.observe(|observer| observer.mapped(DomainId(map.domain), range));
        }
    }

    #[cold]
    #[inline(never)]
    fn tell_unmapped(&mut self, unmap: &request::Unmap, removed: Removed) {
        if let Some(range) = IovaRange::new(unmap.virt_start, unmap.virt_end) {
            self.observe(|observer| {
                observer.unmapped(DomainId(unmap.domain), range);
                observer.removed(removed);
            });
        }
    }

    #[cold]
    #[inline(never)]
    fn tell_attached(&mut self, endpoint: u32, domain: Option<u32>) {
        if self.follows {
            self.observe(|observer| observer.attached(EndpointId(endpoint), domain.map(DomainId)));
        }
    }

    /// The MAP being served took the place of what another queue is removing: it is answered after a grace period, too.
    #[cold]
    #[inline(never)]
    fn note_overtaking(&mut self, map: &request::Map) {
        let request::Map { domain, virt_start, virt_end, .. } = *map;
        self.overtaking.push(request::Unmap { domain, virt_start, virt_end, reserved: [0; 4] });
        self.note_removal(true, Status::Ok);
    }

    /// The grace period that MAPs have waited for was given up: they are refused, and a refused MAP maps nothing.
    #[cold]
    fn undo_overtaking(&mut self) {
        let answers = self.removals.len();
        for unmap in mem::take(&mut self.overtaking) {
            if let Err(error) = self.unmap(&unmap) {
                virtio_transport::complain!(error, %error, "a refused mapping stays");
            }
        }
        // No request is being served, so none is to be answered.
        self.removals.truncate(answers);
    }

    /// The grace period of what was announced is over, or nothing was removed.
    fn conclude(&mut self) {
        self.lane().unfinished.clear();
        (self.announced, self.stuck) = (false, false);
    }

    /// The request being served, which is answered with `status`, needs the grace period.
    #[inline]
    fn note_removal(&mut self, removed: bool, status: Status) {
        if !removed {
            return;
        }
        let mut skip = self.chain.writable_len() - TAIL_BYTES as u64;
        for segment in self.chain.writable() {
            let len = u64::from(segment.len);
            if skip < len {
                self.removals.push(Removal { status_gpa: segment.addr + skip, status });
                return;
            }
            skip -= len;
        }
    }

    /// Waits until no access that began under what this batch removed still runs. If one does not end, the requests
    /// that removed something are answered DEVERR rather than never.
    fn grace(&mut self) {
        self.observe(|observer| observer.grace_begin());
        let result = self.participant.synchronize(self.core.options.patience);
        self.observe(|observer| observer.grace_end());
        let counters = &self.core.lanes[usize::from(self.lane)].counters;
        counters.grace(self.removals.len().saturating_sub(self.overtaking.len()) as u64);
        if let Err(error) = result {
            counters.stuck();
            self.undo_overtaking();
            virtio_transport::complain!(error, %error, requests = self.removals.len(), "grace period given up");
            self.stuck = self.announced;
            self.restate(status(&RequestError::from(error)));
        } else {
            self.overtaking.clear();
            if self.announced {
                self.conclude();
            }
            self.graveyard.clear(&self.core, &self.participant);
        }
    }

    /// Remembers that real devices of a domain may have put something off. The domain itself: it may be gone by the end
    /// of the batch, and its devices still see what they had.
    #[cold]
    fn flush_later(&mut self, id: u32) {
        if let Some(domain) = self.cache.shared(id)
            && !self.put_off.iter().any(|other| Arc::ptr_eq(other, domain))
        {
            self.put_off.push(Arc::clone(domain));
        }
    }

    /// Has real devices' page tables do what they have put off.
    fn flush(&mut self) {
        for domain in mem::take(&mut self.put_off) {
            if let Err(error) = domain.flush_mirrors(&self.participant) {
                virtio_transport::complain!(error, %error, requests = self.removals.len(), "a real device may still see what was unmapped");
                self.restate(status(&error));
            }
        }
        self.removals.clear();
    }

    /// Answers the requests that removed something otherwise than they were; only once, the first time counts.
    fn restate(&mut self, status: Status) {
        let counters = &self.core.lanes[usize::from(self.lane)].counters;
        for removal in self.removals.drain(..) {
            // Checked before the request was performed.
            let _ = self.ram.write(removal.status_gpa, &[status as u8]);
            counters.restate(removal.status, status);
        }
    }

    #[cold]
    fn fail(&mut self, error: &QueueError) {
        virtio_transport::complain!(error, %error, "request queue broken; the device needs a reset");
        self.broken = true;
        self.core.broken.store(true, Ordering::Release);
        self.interrupt.config();
    }
}

impl QueueWorker for RequestWorker {
    fn run(&mut self) -> Progress {
        if self.broken {
            return Progress::Idle;
        }
        self.core.faults.serve();
        match self.batch() {
            Ok(0) => Progress::Idle,
            Ok(_) => Progress::Worked,
            Err(error) => {
                self.fail(&error);
                Progress::Idle
            }
        }
    }

    fn suppress_kicks(&mut self, on: bool) {
        if !self.broken
            && let Err(error) = self.queue.set_kicks(&self.ram, !on)
        {
            self.fail(&error);
        }
    }
}

impl Drop for RequestWorker {
    fn drop(&mut self) {
        self.graveyard.clear(&self.core, &self.participant);
        self.credits.clear(&self.core.pool);
        let observer = mem::take(&mut self.observer);
        *self.lane().observer() = observer;
        self.lane().leave_at(self.queue.indices());
    }
}
