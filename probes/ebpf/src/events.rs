//! One probe: an opening and, for a pair, a closing program, each once for every kind of hook.
//!
//! All of them run the same code; they differ in what their context is, which [`Config`] describes by offsets. The loader
//! loads this object once for each probe, with the probe's own configuration and maps, and of the programs only the one or
//! two that it attaches.

#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod record;
mod runtime;

use aya_ebpf::{
    EbpfContext,
    helpers::{
        bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_ktime_get_ns, generated::bpf_probe_read_kernel,
    },
    macros::{btf_tracepoint, fentry, fexit, kprobe, kretprobe, map, tracepoint},
    maps::{HashMap, PerCpuArray, PerCpuHashMap, RingBuf},
    programs::{
        BtfTracePointContext, FEntryContext, FExitContext, ProbeContext, RetProbeContext, TracePointContext,
    },
};
use aya_log_ebpf::{info, warn};
use iommu_probes_common::{
    Config, Count, Field, Histogram, Key, Record, Start, Tally,
    config::{LOGGED, flags},
};

/// What this probe does; the loader sets it, the kernel freezes it.
#[unsafe(no_mangle)]
static CONFIG: Config = Config {
    flags: 0,
    tgid: 0,
    tid: 0,
    comm_len: 0,
    comm: [0; 16],
    key: Field::NONE,
    sub: Field::NONE,
    value: Field::NONE,
    open_when: Field::NONE,
    close_when: Field::NONE,
    close_value: Field::NONE,
    open_equals: 0,
    close_equals: 0,
};

// The loader gives each map the size that the probe needs.
#[map]
static TALLY: PerCpuArray<Tally> = PerCpuArray::with_max_entries(1, 0);
#[map]
static COUNTS: PerCpuHashMap<Key, Count> = PerCpuHashMap::with_max_entries(1, 0);
#[map]
static HISTOGRAMS: PerCpuHashMap<Key, Histogram> = PerCpuHashMap::with_max_entries(1, 0);
#[map]
static STARTS: HashMap<u64, Start> = HashMap::with_max_entries(1, 0);
#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(4096, 0);

static NO_COUNT: Count = Count { count: 0, sum: 0 };

/// A value of the configuration. Volatile: the compiler must not take it for the zero that is written here.
macro_rules! config {
    ($($field:tt)+) => {
        // SAFETY: a static that nobody writes.
        unsafe { core::ptr::read_volatile(&raw const CONFIG.$($field)+) }
    };
}

/// Adds one to a field of this processor's tally.
macro_rules! count {
    ($tally:expr, $field:ident) => {
        // SAFETY: a pointer to the map's value.
        unsafe { record::bump::<false>(&raw mut (*$tally).$field, 1) }
    };
}

/// Reads what `$field` of the configuration describes.
macro_rules! field {
    ($ctx:expr, $field:ident) => {
        read($ctx, config!($field.offset), config!($field.deref), config!($field.size))
    };
}

#[inline(always)]
fn read<C: EbpfContext>(ctx: &C, offset: u16, deref: u16, size: u8) -> u64 {
    if size == 0 {
        return 0;
    }
    let mut value = 0u64;
    let at = ctx.as_ptr().cast::<u8>().wrapping_add(offset as usize);
    // SAFETY: the helper reads kernel memory and fails, rather than faults, where there is none; `value` holds 8 bytes, and
    // the loader gives sizes up to 8. A failure leaves the value 0.
    unsafe {
        if deref == Field::DIRECT {
            bpf_probe_read_kernel((&raw mut value).cast(), u32::from(size), at.cast());
        } else {
            let mut base = 0u64;
            bpf_probe_read_kernel((&raw mut base).cast(), 8, at.cast());
            let at = base.wrapping_add(u64::from(deref));
            bpf_probe_read_kernel((&raw mut value).cast(), u32::from(size), at as *const _);
        }
    }
    value
}

/// Whether the running thread is to be watched.
#[inline(always)]
fn watched(who: u64) -> bool {
    let (tgid, tid, comm_len) = (config!(tgid), config!(tid), config!(comm_len));
    if tgid != 0 && tgid != (who >> 32) as u32 || tid != 0 && tid != who as u32 {
        return false;
    }
    if comm_len != 0 {
        let Ok(comm) = bpf_get_current_comm() else { return false };
        for at in 0..16 {
            if (at as u32) < comm_len && comm[at] != config!(comm[at]) {
                return false;
            }
        }
    }
    true
}

/// An event, or the opening one of a pair.
#[inline(always)]
fn open<C: EbpfContext>(ctx: &C) {
    let Some(tally) = TALLY.get_ptr_mut(0) else { return };
    let who = bpf_get_current_pid_tgid();
    if config!(open_when.size) != 0 && field!(ctx, open_when) != config!(open_equals) {
        return;
    }
    if !watched(who) {
        count!(tally, filtered);
        return;
    }
    count!(tally, opened);
    let key = Key { id: field!(ctx, key), sub: field!(ctx, sub) };
    let value = field!(ctx, value);
    // SAFETY: always available.
    let at_ns = unsafe { bpf_ktime_get_ns() };
    if config!(flags) & flags::PAIR == 0 {
        if single(tally, &key, value) {
            finish(
                ctx,
                tally,
                &Record { at_ns, latency_ns: 0, key, value, tid: who as u32, tgid: (who >> 32) as u32 },
            );
        } else {
            full(ctx, tally);
        }
        return;
    }
    let start = Start { at_ns, key, value };
    match STARTS.get_ptr_mut(&who) {
        Some(open) => {
            // SAFETY: the map's value; only this thread uses its own.
            let before = unsafe { core::mem::replace(&mut *open, start) };
            if before.at_ns != 0 {
                count!(tally, reopened);
            }
        }
        None => {
            if STARTS.insert(&who, &start, 0).is_err() {
                count!(tally, starts_full);
            }
        }
    }
}

/// Records an event that is complete in itself; false if there is no room for its key.
#[inline(always)]
fn single(tally: *mut Tally, key: &Key, value: u64) -> bool {
    let Some(cell) = record::cell(&COUNTS, key, &NO_COUNT) else {
        count!(tally, keys_full);
        return false;
    };
    if config!(flags) & flags::VALUES != 0 {
        let Some(histogram) = record::histogram(&HISTOGRAMS, key) else {
            count!(tally, keys_full);
            return false;
        };
        // SAFETY: the map's value.
        unsafe { record::add::<false>(histogram, value, 0) };
    }
    // SAFETY: the map's value.
    unsafe {
        record::bump::<false>(&raw mut (*cell).count, 1);
        record::bump::<false>(&raw mut (*cell).sum, value);
    }
    count!(tally, seen);
    true
}

/// The closing event of a pair.
#[inline(always)]
fn close<C: EbpfContext>(ctx: &C) {
    let Some(tally) = TALLY.get_ptr_mut(0) else { return };
    let who = bpf_get_current_pid_tgid();
    if config!(close_when.size) != 0 && field!(ctx, close_when) != config!(close_equals) {
        return;
    }
    if !watched(who) {
        return;
    }
    // SAFETY: always available.
    let at_ns = unsafe { bpf_ktime_get_ns() };
    count!(tally, closed);
    let open = STARTS.get_ptr_mut(&who);
    let Some(open) = open else {
        count!(tally, unopened);
        return;
    };
    // SAFETY: the map's value; only this thread uses its own. The entry stays, closed, for the thread's next pair.
    let start = unsafe {
        let start = *open;
        (*open).at_ns = 0;
        start
    };
    if start.at_ns == 0 {
        count!(tally, unopened);
        return;
    }
    let latency_ns = at_ns.saturating_sub(start.at_ns);
    let value = if config!(close_value.size) != 0 { field!(ctx, close_value) } else { start.value };
    let Some(histogram) = record::histogram(&HISTOGRAMS, &start.key) else {
        count!(tally, keys_full);
        full(ctx, tally);
        return;
    };
    // SAFETY: the map's value.
    unsafe { record::add::<false>(histogram, latency_ns, value) };
    count!(tally, seen);
    let record =
        Record { at_ns, latency_ns, key: start.key, value, tid: who as u32, tgid: (who >> 32) as u32 };
    finish(ctx, tally, &record);
}

/// Passes a recorded event on, as far as somebody wants to read it.
#[inline(always)]
fn finish<C: EbpfContext>(ctx: &C, tally: *mut Tally, record: &Record) {
    if config!(flags) & flags::RING != 0 {
        if let Some(mut entry) = EVENTS.reserve::<Record>(0) {
            entry.write(*record);
            entry.submit(0);
            count!(tally, ring_sent);
        } else {
            count!(tally, ring_full);
        }
    }
    // SAFETY: the map's value.
    if config!(flags) & flags::LOG != 0 && unsafe { (*tally).seen } <= LOGGED {
        let Record { key, value, latency_ns, tid, .. } = *record;
        info!(ctx, "thread {}: key {:x}/{:x}, value {}, {} ns", tid, key.id, key.sub, value, latency_ns);
    }
}

/// Says that the map of keys is full, the first times.
#[inline(always)]
fn full<C: EbpfContext>(ctx: &C, tally: *mut Tally) {
    // SAFETY: the map's value.
    let lost = unsafe { (*tally).keys_full };
    if config!(flags) & flags::LOG != 0 && lost <= LOGGED {
        warn!(ctx, "no room for another key: {} events lost on this processor", lost);
    }
}

#[btf_tracepoint]
pub fn open_tp_btf(ctx: BtfTracePointContext) -> i32 {
    open(&ctx);
    0
}

#[fentry]
pub fn open_fentry(ctx: FEntryContext) -> i32 {
    open(&ctx);
    0
}

#[tracepoint]
pub fn open_tracepoint(ctx: TracePointContext) -> u32 {
    open(&ctx);
    0
}

#[kprobe]
pub fn open_kprobe(ctx: ProbeContext) -> u32 {
    open(&ctx);
    0
}

#[btf_tracepoint]
pub fn close_tp_btf(ctx: BtfTracePointContext) -> i32 {
    close(&ctx);
    0
}

#[fexit]
pub fn close_fexit(ctx: FExitContext) -> i32 {
    close(&ctx);
    0
}

#[tracepoint]
pub fn close_tracepoint(ctx: TracePointContext) -> u32 {
    close(&ctx);
    0
}

#[kretprobe]
pub fn close_kretprobe(ctx: RetProbeContext) -> u32 {
    close(&ctx);
    0
}
