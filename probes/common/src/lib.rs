//! What the eBPF programs and their loader agree on.
//!
//! Both sides compile this crate: the kernel's side for `bpfel-unknown-none`, the loader's for the host. Everything that
//! crosses is `#[repr(C)]` without hidden padding; sizes and offsets are tested.
//!
//! - [`Config`] tells a program, through its read-only data, which fields of its context to read and whom to watch;
//! - [`Key`], [`Count`] and [`Histogram`] are what it leaves in its maps, [`Tally`] how often it did so and what it lost;
//! - [`Record`] is one raw event in the optional ring buffer;
//! - [`site`] is the ABI of the sites in our own device and driver.

#![no_std]

pub mod config;
pub mod histogram;
pub mod site;
pub mod tally;

pub use config::{Config, Field};
pub use histogram::{BUCKETS, Histogram, bucket, bucket_low, bucket_width};
pub use tally::Tally;

/// What a count or a histogram is kept by: for example an address and its direction, or an exit reason.
///
/// A part that a probe does not use is 0.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// The first field: an address, an exit reason, a vector.
    pub id: u64,
    /// The second field: a direction, the kind of virtualisation (`isa`).
    pub sub: u64,
}

/// Events of one key.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// How many.
    pub count: u64,
    /// Sum of the probe's value, for example bytes.
    pub sum: u64,
}

/// When and how a pair began; kept by thread until it ends.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Start {
    /// `CLOCK_MONOTONIC`, ns. Never 0 in a pair that is open.
    pub at_ns: u64,
    /// What the pair is kept by.
    pub key: Key,
    /// The opening's value, for example bytes.
    pub value: u64,
}

/// One raw event in the ring buffer.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// When the event happened or its pair ended: `CLOCK_MONOTONIC`, ns.
    pub at_ns: u64,
    /// How long the pair took, ns; 0 for a single event.
    pub latency_ns: u64,
    /// What it is kept by.
    pub key: Key,
    /// The probe's value.
    pub value: u64,
    /// The kernel's thread id.
    pub tid: u32,
    /// The kernel's process id.
    pub tgid: u32,
}

#[cfg(feature = "user")]
mod pod {
    #![allow(unsafe_code, reason = "aya copies only types that promise to be plain data")]

    use super::{Config, Count, Histogram, Key, Record, Start, Tally, site};

    macro_rules! pod {
        ($($type:ty),*) => {$(
            // SAFETY: `repr(C)`, made of integers only, no padding (`tests::no_hidden_padding`), every bit pattern valid.
            unsafe impl aya::Pod for $type {}
        )*};
    }
    pod!(Config, Count, Histogram, Key, Record, Start, Tally, site::Timeline, site::RingTimes);
}

#[cfg(test)]
mod tests {
    use core::mem::{offset_of, size_of};

    use super::*;

    /// The sum of the fields' sizes is the type's size.
    #[test]
    fn no_hidden_padding() {
        assert_eq!(size_of::<Key>(), 16);
        assert_eq!(size_of::<Count>(), 16);
        assert_eq!(size_of::<Start>(), 8 + 16 + 8);
        assert_eq!(size_of::<Record>(), 8 + 8 + 16 + 8 + 4 + 4);
        assert_eq!(size_of::<Field>(), 2 + 2 + 1 + 3);
        assert_eq!(size_of::<Config>(), 4 * 4 + 16 + 6 * 8 + 2 * 8);
        assert_eq!(size_of::<Tally>(), 10 * 8);
        assert_eq!(size_of::<Histogram>(), 4 * 8 + BUCKETS * 8);
        assert_eq!(size_of::<site::Timeline>(), 8 * 8);
        assert_eq!(size_of::<site::RingTimes>(), 8);
    }

    /// Where the fields lie is part of the committed object.
    #[test]
    fn offsets_are_pinned() {
        assert_eq!(offset_of!(Record, latency_ns), 8);
        assert_eq!(offset_of!(Record, key), 16);
        assert_eq!(offset_of!(Record, value), 32);
        assert_eq!(offset_of!(Record, tid), 40);
        assert_eq!(offset_of!(Config, comm), 16);
        assert_eq!(offset_of!(Config, key), 32);
        assert_eq!(offset_of!(Config, close_value), 72);
        assert_eq!(offset_of!(Config, open_equals), 80);
        assert_eq!(offset_of!(Histogram, buckets), 32);
        assert_eq!(offset_of!(Tally, ring_full), 64);
    }
}
