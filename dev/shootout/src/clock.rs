//! Time, CPUs, and batches that nobody disturbed.

#![allow(unsafe_code, reason = "affinity, resource usage and the time-stamp counter")]

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

/// How often a disturbed batch is measured again before it is taken as it is.
const RETRIES: u32 = 12;

/// Binds the calling thread to the `index`th CPU that this process may use (modulo their number). Where the kernel
/// refuses, threads stay where the scheduler puts them.
pub fn pin_to_cpu(index: usize) {
    let cpus = allowed_cpus();
    let Some(&cpu) = cpus.get(index % cpus.len().max(1)) else { return };
    // SAFETY: an all-zero set is valid; `cpu` came out of such a set, so it is below CPU_SETSIZE.
    let set = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        set
    };
    // SAFETY: the set is initialised and of the size named; 0 is the calling thread.
    let _ = unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) };
}

/// CPUs of the process's first thread: measuring threads narrow their own set.
fn allowed_cpus() -> Vec<usize> {
    // SAFETY: an all-zero set is valid.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set is of the size named and outlives the call; the ID of a process is that of its first thread.
    let failed =
        unsafe { libc::sched_getaffinity(libc::getpid(), size_of::<libc::cpu_set_t>(), &raw mut set) };
    if failed != 0 {
        return Vec::new();
    }
    // SAFETY: every index is below CPU_SETSIZE.
    (0..libc::CPU_SETSIZE as usize).filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) }).collect()
}

/// Number of CPUs this process may use.
pub fn cpus() -> usize {
    allowed_cpus().len().max(1)
}

/// How often the kernel took the CPU away from the calling thread.
fn preemptions() -> i64 {
    // SAFETY: an all-zero rusage is valid.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: `usage` outlives the call.
    let failed = unsafe { libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage) };
    if failed == 0 { usage.ru_nivcsw } else { 0 }
}

/// Runs `batch` until it was not preempted, a few times at most, and returns its result.
pub fn undisturbed<R>(mut batch: impl FnMut() -> R) -> R {
    for _ in 0..RETRIES {
        let before = preemptions();
        let result = batch();
        if preemptions() == before {
            return result;
        }
    }
    batch()
}

/// Nanoseconds that `f` takes.
#[inline]
pub fn time_ns(f: impl FnOnce()) -> f64 {
    let start = Instant::now();
    f();
    start.elapsed().as_nanos() as f64
}

/// CPU time in nanoseconds that `f` takes on this thread. For work that waits for nobody: then it is the wall time less what
/// others on a shared machine take away. Reading the clock costs a system call, so batches should take a millisecond.
#[inline]
pub fn cpu_time_ns(f: impl FnOnce()) -> f64 {
    let start = thread_cpu_ns();
    f();
    thread_cpu_ns() - start
}

fn thread_cpu_ns() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` outlives the call.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) } != 0;
    if failed { f64::NAN } else { time.tv_sec as f64 * 1e9 + time.tv_nsec as f64 }
}

/// A time stamp: ticks of the time-stamp counter, or nanoseconds where there is none.
#[inline(always)]
pub fn stamp() -> u64 {
    #[cfg(target_arch = "x86_64")]
    {
        let mut cpu = 0;
        // SAFETY: every x86-64 CPU that this is likely to run on has RDTSCP.
        unsafe { core::arch::x86_64::__rdtscp(&raw mut cpu) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        use std::sync::OnceLock;
        static ORIGIN: OnceLock<Instant> = OnceLock::new();
        ORIGIN.get_or_init(Instant::now).elapsed().as_nanos() as u64
    }
}

/// Runs `work` on `threads` threads at once, each on a CPU of its own, until one has done `operations`; returns the
/// nanoseconds one operation took its thread: the time all threads were at it, waiting for locks included, by the
/// number of operations all have done.
///
/// `make` is called on each thread, with the thread's number, and returns what does the next few operations and says how
/// many.
pub fn contend<W: FnMut() -> u64>(threads: usize, operations: u64, make: impl Fn(usize) -> W + Sync) -> f64 {
    for retry in 0.. {
        let (ns, disturbed) = contend_once(threads, operations, &make);
        if !disturbed || retry == RETRIES {
            return ns;
        }
    }
    f64::NAN
}

fn contend_once<W: FnMut() -> u64>(
    threads: usize,
    operations: u64,
    make: &(impl Fn(usize) -> W + Sync),
) -> (f64, bool) {
    let (ready, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let run = |number: usize| {
        pin_to_cpu(number);
        let mut work = make(number);
        work();
        ready.fetch_add(1, Ordering::AcqRel);
        while ready.load(Ordering::Acquire) < threads {
            std::hint::spin_loop();
        }
        let (before, start, mut done) = (preemptions(), Instant::now(), 0);
        while !stop.load(Ordering::Relaxed) {
            done += work();
            if done >= operations {
                stop.store(true, Ordering::Relaxed);
            }
        }
        (start.elapsed(), done, preemptions() != before)
    };
    let results: Vec<(Duration, u64, bool)> = thread::scope(|scope| {
        let run = &run;
        let handles: Vec<_> = (0..threads).map(|number| scope.spawn(move || run(number))).collect();
        handles
            .into_iter()
            .map(|handle| handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    let ns: u128 = results.iter().map(|(elapsed, _, _)| elapsed.as_nanos()).sum();
    let done: u64 = results.iter().map(|(_, done, _)| done).sum();
    (ns as f64 / done.max(1) as f64, results.iter().any(|(_, _, disturbed)| *disturbed))
}

/// A thread on the second CPU that works while it is told to.
pub fn with_background<W: FnMut(), R>(
    make: impl FnOnce() -> W + Send,
    measure: impl FnOnce(&Background) -> R,
) -> R {
    let background = Background::default();
    thread::scope(|scope| {
        let shared = &background;
        scope.spawn(move || {
            pin_to_cpu(1);
            let mut work = make();
            loop {
                match shared.state() {
                    State::Quit => return,
                    // Spinning keeps the CPU as awake as working does.
                    State::Pause => std::hint::spin_loop(),
                    State::Work => work(),
                }
            }
        });
        let _quit = Quit(shared);
        measure(shared)
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Pause,
    Work,
    Quit,
}

/// The switch of a background thread.
#[derive(Default)]
pub struct Background(AtomicUsize);

impl Background {
    fn state(&self) -> State {
        match self.0.load(Ordering::Acquire) {
            0 => State::Pause,
            1 => State::Work,
            _ => State::Quit,
        }
    }

    /// Starts or pauses the work.
    pub fn work(&self, on: bool) {
        self.0.store(usize::from(on), Ordering::Release);
        // Long enough for the thread to notice: it looks at the switch between pieces of work.
        let start = Instant::now();
        while start.elapsed() < Duration::from_micros(100) {
            std::hint::spin_loop();
        }
    }
}

struct Quit<'b>(&'b Background);

impl Drop for Quit<'_> {
    fn drop(&mut self) {
        self.0.0.store(2, Ordering::Release);
    }
}
