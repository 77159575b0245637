//! The program at the sites of our own device and driver; `iommu_probes_common::site` says what it keeps.
//!
//! One program for all sites: the uprobe's cookie says which one it is. uprobes are preemptible, so whatever another task
//! on the same processor could touch is added to atomically.

#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod record;
mod runtime;

use core::ffi::c_void;

use aya_ebpf::{
    EbpfContext as _,
    helpers::{bpf_get_attach_cookie, bpf_ktime_get_ns, generated::bpf_loop},
    macros::{map, uprobe},
    maps::{Array, HashMap, PerCpuHashMap},
    programs::ProbeContext,
};
use iommu_probes_common::{
    Histogram, Key,
    site::{POSITION_MASK, Part, RingTimes, SITES, Site, Timeline, counter, earlier, slot_of, stage},
};

#[map]
static COUNTERS: Array<u64> = Array::with_max_entries(counter::ALL, 0);
#[map]
static REQUESTS: HashMap<u64, Timeline> = HashMap::with_max_entries(16384, 0);
#[map]
static RINGS: HashMap<u64, RingTimes> = HashMap::with_max_entries(1024, 0);
#[map]
static PARTS: PerCpuHashMap<Key, Histogram> = PerCpuHashMap::with_max_entries(128, 0);

const SUBMIT: u64 = Site::Submit as u64;
const KICK: u64 = Site::Kick as u64;
const DECODED: u64 = Site::Decoded as u64;
const TABLE_DONE: u64 = Site::TableDone as u64;
const GRACE_DONE: u64 = Site::GraceDone as u64;
const COMPLETED: u64 = Site::Completed as u64;
const ANSWERED: u64 = Site::Answered as u64;

/// A batch, for the loop over its requests.
#[repr(C)]
struct Batch {
    last: u64,
    now_ns: u64,
    /// When the batch's last request passed `table_done`; 0 if it did not.
    last_table_ns: u64,
    /// When the batch's grace period was over; 0 if there was none.
    grace_ns: u64,
}

#[inline(always)]
fn count(index: u32, by: u64) {
    if let Some(counter) = COUNTERS.get_ptr_mut(index) {
        // SAFETY: the map's value.
        unsafe { record::bump::<true>(counter, by) };
    }
}

#[uprobe]
pub fn site(ctx: ProbeContext) -> u32 {
    // SAFETY: available to uprobes; the loader attaches with a cookie only.
    let site = unsafe { bpf_get_attach_cookie(ctx.as_ptr()) };
    if site >= SITES as u64 {
        count(counter::UNKNOWN, 1);
        return 0;
    }
    // SAFETY: always available.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    let key: u64 = ctx.arg(0).unwrap_or(0);
    let second: u64 = ctx.arg(1).unwrap_or(0);
    let is_batch = matches!(site, KICK | GRACE_DONE | COMPLETED | ANSWERED);
    let requests = if is_batch { second & POSITION_MASK } else { 1 };
    count(counter::HITS + site as u32, 1);
    count(counter::REQUESTS + site as u32, requests);
    match site {
        SUBMIT => submit(key, second, now_ns),
        DECODED | TABLE_DONE => passed(key, site, now_ns),
        GRACE_DONE => grace(key, now_ns),
        KICK => each(kicked, requests, Batch { last: key, now_ns, last_table_ns: 0, grace_ns: 0 }),
        COMPLETED => completed(key, requests, now_ns),
        ANSWERED => each(answered_one, requests, Batch { last: key, now_ns, last_table_ns: 0, grace_ns: 0 }),
        _ => {}
    }
    0
}

#[inline(always)]
fn submit(key: u64, kind: u64, now_ns: u64) {
    let timeline = Timeline {
        key,
        kind: kind & 0xff,
        stage: stage::OPEN,
        submit_ns: now_ns,
        ..const { empty_timeline() }
    };
    let slot = slot_of(key);
    if let Some(old) = REQUESTS.get_ptr_mut(&slot) {
        // SAFETY: the map's value; the driver submits a ring's requests one after the other.
        let before = unsafe { core::mem::replace(&mut *old, timeline) };
        if before.stage == stage::OPEN {
            count(counter::REOPENED, 1);
        }
    } else if REQUESTS.insert(&slot, &timeline, 0).is_err() {
        count(counter::OPEN_FULL, 1);
    }
}

const fn empty_timeline() -> Timeline {
    Timeline {
        key: 0,
        kind: 0,
        stage: 0,
        submit_ns: 0,
        kick_ns: 0,
        decoded_ns: 0,
        table_ns: 0,
        completed_ns: 0,
    }
}

/// The request of `key`, if its submission was seen.
#[inline(always)]
fn request(key: u64) -> Option<*mut Timeline> {
    let timeline = REQUESTS.get_ptr_mut(&slot_of(key))?;
    // SAFETY: the map's value.
    if unsafe { (*timeline).key } == key { Some(timeline) } else { None }
}

#[inline(always)]
fn passed(key: u64, site: u64, now_ns: u64) {
    let Some(timeline) = request(key) else { return };
    // SAFETY: the map's value; one thread serves the request.
    unsafe {
        if site == DECODED {
            (*timeline).decoded_ns = now_ns;
        } else {
            (*timeline).table_ns = now_ns;
        }
    }
}

#[inline(always)]
fn grace(last: u64, now_ns: u64) {
    let ring = last & !POSITION_MASK;
    if let Some(times) = RINGS.get_ptr_mut(&ring) {
        // SAFETY: the map's value; one thread serves the ring.
        unsafe { (*times).grace_ns = now_ns };
    } else if RINGS.insert(&ring, &RingTimes { grace_ns: now_ns }, 0).is_err() {
        count(counter::OPEN_FULL, 1);
    }
}

#[inline(always)]
fn each(one: unsafe extern "C" fn(u64, *mut c_void) -> i64, requests: u64, mut batch: Batch) {
    // SAFETY: the callback has the type that the helper calls, and `batch` outlives the call.
    unsafe { bpf_loop(requests as u32, one as *mut c_void, (&raw mut batch).cast(), 0) };
}

#[inline(never)]
unsafe extern "C" fn kicked(back: u64, batch: *mut c_void) -> i64 {
    // SAFETY: the helper passes on what `each` gave it.
    let batch = unsafe { &*batch.cast::<Batch>() };
    if let Some(timeline) = request(earlier(batch.last, back)) {
        // SAFETY: the map's value; the device does not touch it before the doorbell, and only other fields after.
        unsafe { (*timeline).kick_ns = batch.now_ns };
    }
    0
}

#[inline(always)]
fn completed(last: u64, requests: u64, now_ns: u64) {
    let mut batch = Batch { last, now_ns, last_table_ns: 0, grace_ns: 0 };
    if let Some(timeline) = request(last) {
        // SAFETY: the map's value.
        batch.last_table_ns = unsafe { (*timeline).table_ns };
    }
    if let Some(times) = RINGS.get_ptr_mut(&(last & !POSITION_MASK)) {
        // SAFETY: the map's value.
        batch.grace_ns = unsafe { (*times).grace_ns };
    }
    each(completed_one, requests, batch);
}

#[inline(never)]
unsafe extern "C" fn completed_one(back: u64, batch: *mut c_void) -> i64 {
    // SAFETY: the helper passes on what `each` gave it.
    let batch = unsafe { &*batch.cast::<Batch>() };
    let Some(open) = request(earlier(batch.last, back)) else {
        count(counter::UNOPENED, 1);
        return 0;
    };
    // SAFETY: the map's value; one thread serves the ring.
    let timeline = unsafe {
        if (*open).stage != stage::OPEN {
            count(counter::UNOPENED, 1);
            return 0;
        }
        (*open).stage = stage::COMPLETED;
        (*open).completed_ns = batch.now_ns;
        *open
    };
    let kind = timeline.kind;
    let mut at = timeline.submit_ns;
    let recorded = until(kind, Part::Queued, &mut at, timeline.kick_ns)
        & until(kind, Part::Doorbell, &mut at, timeline.decoded_ns)
        & until(kind, Part::Table, &mut at, timeline.table_ns)
        & until(kind, Part::Batch, &mut at, batch.last_table_ns)
        & until(kind, Part::Grace, &mut at, batch.grace_ns)
        & until(kind, Part::Publication, &mut at, batch.now_ns)
        & part(kind, Part::Whole, batch.now_ns.saturating_sub(timeline.submit_ns));
    count(if recorded { counter::WHOLE } else { counter::PARTS_FULL }, 1);
    0
}

#[inline(never)]
unsafe extern "C" fn answered_one(back: u64, batch: *mut c_void) -> i64 {
    // SAFETY: the helper passes on what `each` gave it.
    let batch = unsafe { &*batch.cast::<Batch>() };
    let Some(timeline) = request(earlier(batch.last, back)) else { return 0 };
    // SAFETY: the map's value; the driver takes an answer once.
    unsafe {
        if (*timeline).stage == stage::COMPLETED {
            (*timeline).stage = stage::FREE;
            part((*timeline).kind, Part::Noticed, batch.now_ns.saturating_sub((*timeline).completed_ns));
        }
    }
    0
}

/// Records the part that ends at `end_ns` and moves on to there; nothing if the request did not pass there (0), or not
/// since `at` (the time of an earlier batch). False if there was no room.
#[inline(always)]
fn until(kind: u64, which: Part, at: &mut u64, end_ns: u64) -> bool {
    if end_ns <= *at {
        return true;
    }
    let took_ns = end_ns - *at;
    *at = end_ns;
    part(kind, which, took_ns)
}

#[inline(always)]
fn part(kind: u64, which: Part, took_ns: u64) -> bool {
    let Some(histogram) = record::histogram(&PARTS, &Key { id: kind, sub: which as u64 }) else {
        return false;
    };
    // SAFETY: the map's value.
    unsafe { record::add::<true>(histogram, took_ns, 0) };
    true
}
