//! Clocks: the time-stamp counter where it ticks evenly, CLOCK_MONOTONIC elsewhere, and a virtual one.

#![allow(unsafe_code, reason = "reading the time-stamp counter and the process's CPU clock")]

use std::{
    fs,
    time::{Duration, Instant},
};

/// How long the time-stamp counter is compared with CLOCK_MONOTONIC.
const CALIBRATION: Duration = Duration::from_millis(50);

/// A source of wall time.
#[derive(Clone, Copy, Debug)]
pub(crate) enum WallClock {
    /// The time-stamp counter, scaled.
    #[cfg(target_arch = "x86_64")]
    Tsc {
        /// Counter at the origin.
        origin: u64,
        /// Nanoseconds a tick, as a fixed-point number with 32 fractional bits.
        ns_per_tick_q32: u64,
    },
    /// `clock_gettime(CLOCK_MONOTONIC)`.
    Monotonic {
        /// The origin.
        origin: Instant,
    },
}

impl WallClock {
    /// The cheapest clock that can be trusted here; takes [`CALIBRATION`].
    pub(crate) fn best() -> Self {
        #[cfg(target_arch = "x86_64")]
        if tsc_is_steady() {
            return calibrated_tsc();
        }
        Self::Monotonic { origin: Instant::now() }
    }

    /// Nanoseconds since the origin.
    #[inline]
    pub(crate) fn now_ns(&self) -> u64 {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Tsc { origin, ns_per_tick_q32 } => {
                let ticks = rdtsc().saturating_sub(*origin);
                ((u128::from(ticks) * u128::from(*ns_per_tick_q32)) >> 32) as u64
            }
            Self::Monotonic { origin } => origin.elapsed().as_nanos() as u64,
        }
    }

    /// What it is, for the record: `tsc` is calibrated against CLOCK_MONOTONIC.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Tsc { .. } => "tsc",
            Self::Monotonic { .. } => "monotonic",
        }
    }
}

/// Whether the counter ticks at one rate in all power states (Intel SDM 18.17.1).
#[cfg(target_arch = "x86_64")]
fn tsc_is_steady() -> bool {
    let Ok(info) = fs::read_to_string("/proc/cpuinfo") else { return false };
    info.lines().find(|line| line.starts_with("flags")).is_some_and(|flags| {
        let has = |name| flags.split_whitespace().any(|flag| flag == name);
        has("constant_tsc") && has("nonstop_tsc")
    })
}

#[cfg(target_arch = "x86_64")]
#[inline]
fn rdtsc() -> u64 {
    // SAFETY: every x86-64 CPU has RDTSC; were it disabled for user space, /proc/cpuinfo would not list `tsc`.
    unsafe { core::arch::x86_64::_rdtsc() }
}

#[cfg(target_arch = "x86_64")]
fn calibrated_tsc() -> WallClock {
    let (start_tsc, start) = (rdtsc(), Instant::now());
    std::thread::sleep(CALIBRATION);
    let (end_tsc, elapsed) = (rdtsc(), start.elapsed());
    let ticks = end_tsc.saturating_sub(start_tsc).max(1);
    let ns_per_tick_q32 = ((elapsed.as_nanos() << 32) / u128::from(ticks)) as u64;
    WallClock::Tsc { origin: end_tsc, ns_per_tick_q32 }
}

/// CPU time of this whole process, all threads, user and system, in nanoseconds.
pub(crate) fn process_cpu_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid timespec that clock_gettime fills.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) } != 0;
    if failed { 0 } else { (time.tv_sec as u64).saturating_mul(1_000_000_000) + time.tv_nsec as u64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wall_clock_never_goes_back() {
        let clock = WallClock::best();
        let mut last = 0;
        for _ in 0..10_000 {
            let now = clock.now_ns();
            assert!(now >= last);
            last = now;
        }
        assert!(last > 0);
    }

    #[test]
    fn cpu_clock_advances_with_work() {
        let before = process_cpu_ns();
        let mut x = 1_u64;
        for i in 0..2_000_000_u64 {
            x = std::hint::black_box(x.wrapping_mul(i | 1));
        }
        assert!(process_cpu_ns() > before);
    }
}
