//! Backends of passthrough endpoints that do what real hosts do at their worst: put off what they may, refuse a call at
//! will, fail to take mappings away, take long. What the device would reach is known at every moment.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]

use std::sync::{
    Condvar, Mutex, MutexGuard,
    atomic::{AtomicU32, Ordering},
};

use virtio_iommu::{
    passthrough::{Backend, BackendError},
    spec::IovaRange,
    table::Mapping,
};

/// A call of the trait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    ShowAll,
    Show,
    ShowNothing,
    Map,
    Unmap,
    Flush,
}

/// Calls to refuse.
#[derive(Clone, Copy, Debug)]
struct Refusal {
    call: Call,
    /// Calls of this kind that still succeed before.
    after: u32,
    /// Calls that are refused then.
    times: u32,
    error: BackendError,
}

#[derive(Default)]
struct Inner {
    all: bool,
    /// What the device should see.
    live: Vec<Mapping>,
    /// What it sees besides: put off, or not taken away.
    stale: Vec<Mapping>,
    refusals: Vec<Refusal>,
    /// Calls of each kind.
    calls: [usize; 6],
    /// MAP waits while this is set.
    held: bool,
}

impl Inner {
    fn refuses(&mut self, call: Call) -> Result<(), BackendError> {
        self.calls[call as usize] += 1;
        let Some(at) = self.refusals.iter().position(|refusal| refusal.call == call) else { return Ok(()) };
        let refusal = &mut self.refusals[at];
        if refusal.after > 0 {
            refusal.after -= 1;
            return Ok(());
        }
        let error = refusal.error;
        refusal.times -= 1;
        if refusal.times == 0 {
            self.refusals.remove(at);
        }
        Err(error)
    }

    /// Everything becomes what should go.
    fn retire(&mut self) {
        let live = std::mem::take(&mut self.live);
        self.stale.extend(live);
    }
}

/// Page tables in which every failure can be had.
#[derive(Default)]
pub struct Host {
    inner: Mutex<Inner>,
    moved: Condvar,
    /// UNMAPs wait for the end of the batch.
    puts_off: bool,
    waiting: AtomicU32,
}

pub const EIO: BackendError = BackendError::Refused { errno: 5 };
pub const ALWAYS: u32 = u32::MAX;

impl Host {
    /// One that takes mappings away only when it is flushed.
    pub fn putting_off() -> Self {
        Self { puts_off: true, ..Self::default() }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    /// Refuses the next `times` calls of a kind.
    pub fn refuse(&self, call: Call, times: u32, error: BackendError) {
        self.refuse_at(call, 0, times, error);
    }

    /// Lets `after` calls of a kind pass, and refuses `times` then.
    pub fn refuse_at(&self, call: Call, after: u32, times: u32, error: BackendError) {
        self.inner().refusals.push(Refusal { call, after, times, error });
    }

    /// Refuses nothing any more.
    pub fn relent(&self) {
        self.inner().refusals.clear();
    }

    /// Calls so far.
    pub fn calls(&self, call: Call) -> usize {
        self.inner().calls[call as usize]
    }

    /// Whether the device reaches an address, rightly or not.
    pub fn reaches(&self, iova: u64) -> bool {
        let inner = self.inner();
        let at = |mapping: &Mapping| mapping.range.start() <= iova && iova <= mapping.range.end();
        inner.all || inner.live.iter().chain(&inner.stale).any(at)
    }

    /// Whether it reaches all memory.
    pub fn reaches_all(&self) -> bool {
        self.inner().all
    }

    /// Whether it reaches nothing.
    pub fn is_dark(&self) -> bool {
        let inner = self.inner();
        !inner.all && inner.live.is_empty() && inner.stale.is_empty()
    }

    /// Lets MAPs wait until [`release`](Self::release).
    pub fn hold(&self) {
        self.inner().held = true;
    }

    /// Waits until a MAP waits.
    pub fn wait_for_map(&self) {
        while self.waiting.load(Ordering::Acquire) == 0 {
            std::thread::yield_now();
        }
    }

    pub fn release(&self) {
        self.inner().held = false;
        self.moved.notify_all();
    }

    fn show_these(&self, call: Call, all: bool, mappings: &[Mapping]) -> Result<(), BackendError> {
        let mut inner = self.inner();
        let refused = inner.refuses(call);
        // The old view goes first, as it does in a real host.
        (inner.all, inner.live, inner.stale) = (false, Vec::new(), Vec::new());
        refused?;
        inner.all = all;
        inner.live = mappings.to_vec();
        Ok(())
    }
}

impl Backend for Host {
    fn show_all(&self) -> Result<(), BackendError> {
        self.show_these(Call::ShowAll, true, &[])
    }

    fn show(&self, mappings: &[Mapping]) -> Result<(), BackendError> {
        assert!(mappings.iter().all(|mapping| mapping.perms.read || mapping.perms.write), "{mappings:?}");
        self.show_these(Call::Show, false, mappings)
    }

    fn show_nothing(&self) -> Result<(), BackendError> {
        let mut inner = self.inner();
        if let Err(error) = inner.refuses(Call::ShowNothing) {
            inner.retire();
            return Err(error);
        }
        (inner.all, inner.live, inner.stale) = (false, Vec::new(), Vec::new());
        Ok(())
    }

    fn map(&self, mapping: &Mapping) -> Result<(), BackendError> {
        let mut inner = self.inner();
        while inner.held {
            self.waiting.fetch_add(1, Ordering::AcqRel);
            inner = self.moved.wait(inner).unwrap();
            self.waiting.fetch_sub(1, Ordering::AcqRel);
        }
        // As VFIO: there are no mappings that allow nothing.
        if !(mapping.perms.read || mapping.perms.write) {
            return Err(BackendError::Refused { errno: 22 });
        }
        inner.refuses(Call::Map)?;
        let overlaps = |other: &Mapping| mapping.range.intersection(&other.range).is_some();
        assert!(!inner.live.iter().any(overlaps), "{mapping:?}");
        inner.stale.retain(|other| !overlaps(other));
        inner.live.push(*mapping);
        Ok(())
    }

    fn unmap(&self, range: IovaRange) -> Result<(), BackendError> {
        let mut inner = self.inner();
        let refused = inner.refuses(Call::Unmap);
        let (gone, kept) = std::mem::take(&mut inner.live).into_iter().partition(|m| range.covers(&m.range));
        let crossed = |mapping: &Mapping| range.intersection(&mapping.range).is_some();
        inner.live = kept;
        assert!(!inner.live.iter().any(crossed), "{range} splits a mapping");
        inner.stale.extend::<Vec<Mapping>>(gone);
        refused?;
        if !self.puts_off {
            inner.stale.retain(|mapping| !crossed(mapping));
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), BackendError> {
        let mut inner = self.inner();
        inner.refuses(Call::Flush)?;
        inner.stale.clear();
        Ok(())
    }

    fn shown(&self) -> Option<Vec<IovaRange>> {
        let mut live: Vec<_> = self.inner().live.iter().map(|mapping| mapping.range).collect();
        live.sort_by_key(IovaRange::start);
        Some(live)
    }
}
