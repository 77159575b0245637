//! A request queue: slots in guest memory, a ring, and the wait.

use std::time::Duration;

use iommu_sites::{self as sites, RequestKey, RingKey};
use virtio_iommu_spec::{
    Status,
    request::{MAX_READABLE_BYTES, TAIL_BYTES},
};

use super::{IommuCounts, IommuError, RequestFailure, RequestKind};
use crate::{
    memory::Span,
    mmio::MmioDevice,
    pages::PageAllocator,
    ring::{Segment, SplitRing, Used},
    wait::{Pause, Wait},
};

/// Bytes of guest memory one request takes: two cache lines.
pub const SLOT_BYTES: usize = 128;
/// Where in its slot the writable part lies.
const TAIL: usize = 96;
/// Token of the one request whose writable part is not in its slot.
const PROBE: u32 = u32::MAX;
/// What a tail says before the device has written it: no status.
const UNWRITTEN: [u8; TAIL_BYTES] = [0xff; TAIL_BYTES];

const _: () = assert!(MAX_READABLE_BYTES <= TAIL && TAIL + TAIL_BYTES <= SLOT_BYTES);

#[derive(Debug)]
pub(super) struct RequestQueue {
    ring: SplitRing,
    /// Of the virtqueue.
    index: u16,
    key: RingKey,
    slots: Span,
    kinds: Box<[RequestKind]>,
    free: Vec<u16>,
    /// Request and properties of PROBE, the latter `probe_bytes` long.
    probe: Span,
    probe_bytes: u32,
    failed: Option<(RequestKind, RequestFailure)>,
    watchdog: Duration,
    pub(super) counts: IommuCounts,
}

impl RequestQueue {
    pub(super) fn new(
        pages: &PageAllocator,
        ring: SplitRing,
        index: u16,
        probe_bytes: u32,
        watchdog: Duration,
    ) -> Result<Self, IommuError> {
        let slots = ring.layout().size / 2;
        let memory = pages.alloc(u64::from(slots) * SLOT_BYTES as u64)?;
        let probe = pages.alloc((SLOT_BYTES + TAIL_BYTES) as u64 + u64::from(probe_bytes))?;
        Ok(Self {
            key: RingKey::new(ring.gpa().0 + ring.layout().desc),
            ring,
            index,
            slots: memory,
            kinds: vec![RequestKind::Probe; usize::from(slots)].into(),
            free: (0..slots).rev().collect(),
            probe,
            probe_bytes,
            failed: None,
            watchdog,
            counts: IommuCounts::default(),
        })
    }

    /// Queues a request; when there is no room, drains the queue first, as Linux does.
    #[inline]
    pub(super) fn add(
        &mut self,
        device: &MmioDevice,
        kind: RequestKind,
        request: &[u8],
    ) -> Result<(), IommuError> {
        if self.free.is_empty() {
            self.counts.ring_full += 1;
            self.sync(device)?;
        }
        // `sync` has emptied the ring, so that every slot is free; a ring has at least one.
        let Some(slot) = self.free.pop() else { return Ok(()) };
        let at = usize::from(slot) * SLOT_BYTES;
        self.slots.write(at, request);
        self.slots.write_array(at + TAIL, UNWRITTEN);
        let gpa = self.slots.gpa().0 + at as u64;
        let readable = Segment { addr: gpa, len: request.len() as u32 };
        let writable = Segment { addr: gpa + TAIL as u64, len: TAIL_BYTES as u32 };
        self.queue_chain(readable, writable, u32::from(slot), request)?;
        self.kinds[usize::from(slot)] = kind;
        match kind {
            RequestKind::Map => self.counts.requests_map += 1,
            RequestKind::Unmap => self.counts.requests_unmap += 1,
            RequestKind::Attach | RequestKind::Detach | RequestKind::Probe => {}
        }
        Ok(())
    }

    #[inline]
    fn queue_chain(
        &mut self,
        readable: Segment,
        writable: Segment,
        token: u32,
        request: &[u8],
    ) -> Result<(), IommuError> {
        let key = self.key.request(self.ring.position());
        self.ring.add(&[readable], &[writable], token)?;
        sites::submit(key, request.first().copied().unwrap_or(0));
        Ok(())
    }

    /// What the request added last is called where probes attach.
    #[inline]
    fn last(&self) -> RequestKey {
        self.key.request(self.ring.position().wrapping_sub(1))
    }

    /// Sends PROBE and returns the properties.
    pub(super) fn probe(&mut self, device: &MmioDevice, request: &[u8]) -> Result<Vec<u8>, IommuError> {
        self.sync(device)?;
        self.probe.zero(0, self.probe.len());
        self.probe.write(0, request);
        self.probe.write_array(SLOT_BYTES + self.probe_bytes as usize, UNWRITTEN);
        let gpa = self.probe.gpa().0;
        let readable = Segment { addr: gpa, len: request.len() as u32 };
        let writable = Segment { addr: gpa + SLOT_BYTES as u64, len: self.probe_bytes + TAIL_BYTES as u32 };
        self.queue_chain(readable, writable, PROBE, request)?;
        self.sync(device)?;
        let mut properties = vec![0; self.probe_bytes as usize];
        self.probe.read(SLOT_BYTES, &mut properties);
        Ok(properties)
    }

    /// Kicks, and waits until the ring is empty.
    #[inline]
    pub(super) fn sync(&mut self, device: &MmioDevice) -> Result<(), IommuError> {
        let fresh = self.ring.unpublished();
        if self.ring.publish() {
            self.counts.kicks += 1;
            sites::kick(self.last(), u32::from(fresh));
            device.kick(self.index);
        }
        let waited_for = self.ring.outstanding();
        let mut wait = Wait::new(self.watchdog);
        while self.ring.outstanding() > 0 {
            match self.ring.pop()? {
                Some(used) => {
                    wait.progress();
                    self.finish(used);
                }
                None => self.pause(device, &mut wait)?,
            }
        }
        sites::answered(self.last(), u32::from(waited_for));
        match self.failed.take() {
            None => Ok(()),
            Some((kind, failure)) => Err(IommuError::Request { kind, failure }),
        }
    }

    fn pause(&self, device: &MmioDevice, wait: &mut Wait) -> Result<(), IommuError> {
        match wait.pause() {
            Pause::Again => Ok(()),
            Pause::CheckDevice => Ok(device.check()?),
            Pause::Expired => {
                Err(IommuError::Timeout { outstanding: self.ring.outstanding(), waited: self.watchdog })
            }
        }
    }

    /// Reads the status, remembers the first failure, frees the slot.
    #[inline]
    fn finish(&mut self, used: Used) {
        let (kind, tail, expected) = if used.token == PROBE {
            let tail = self.probe.read_array::<TAIL_BYTES>(SLOT_BYTES + self.probe_bytes as usize);
            (RequestKind::Probe, tail, self.probe_bytes + TAIL_BYTES as u32)
        } else {
            // The token is the ring's private copy of the slot that `add` gave it.
            let slot = used.token as usize;
            self.free.push(used.token as u16);
            (
                self.kinds[slot],
                self.slots.read_array::<TAIL_BYTES>(slot * SLOT_BYTES + TAIL),
                TAIL_BYTES as u32,
            )
        };
        if let Err(failure) = judge(used.written, expected, tail[0]) {
            self.failed.get_or_insert((kind, failure));
        }
    }
}

/// Linux takes the status from memory only if the used length is the size of the writable part, exactly.
#[inline]
fn judge(written: u32, expected: u32, status: u8) -> Result<(), RequestFailure> {
    if written != expected {
        return Err(RequestFailure::Length { written, expected });
    }
    match Status::from_wire(status) {
        Some(Status::Ok) => Ok(()),
        Some(status) => Err(RequestFailure::Status(status)),
        None => Err(RequestFailure::UnknownStatus(status)),
    }
}
