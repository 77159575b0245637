//! Places in device and driver where a probe can be attached.
//!
//! Each site is one five-byte no-operation (`0f 1f 44 00 00`) in the instruction stream and one entry in the ELF section
//! `.note.stapsdt` ("USDT"), which says where it is, so that `iommu-bench`, bpftrace, perf or gdb find it in the running
//! program. Nothing is called, tested or loaded to see whether somebody watches; what is left of a site that nobody
//! watches is that instruction and the moves that put its arguments where probes look for them. Five bytes, because
//! Linux turns a uprobe on such an instruction into a call instead of a trap: 0.65 µs a hit instead of 11.7 µs.
//!
//! Arguments are in fixed registers, so one probe program reads every site: `rdi` is the correlation key, `rsi` and `rdx`
//! what the site says besides. [`SITES`] lists all of them with their arguments.
//!
//! # The correlation key
//!
//! A request on a virtqueue has one key, and driver and device compute the same one without telling each other:
//! [`RequestKey`] is the address of the queue's descriptor table as programmed into the device, with the position of the
//! request in the available ring (the free-running 16-bit available index) below it. A ring has at most 32768 entries, so
//! no two requests in flight share a key. Rings of different processes, or of two guests in one process, may lie at the
//! same address: tell them apart by process and by when they run.
//!
//! # Sites of a batch
//!
//! Some things happen once for several requests: a doorbell, a grace period, the publication of the used ring. Their sites
//! carry the key of the *last* request and the number of requests, `n`: they stand for the keys `key - n + 1 ..= key`, the
//! low 16 bits counting modulo 2^16 ([`RequestKey::back`]). The device performs requests in ring order, so the batch's last
//! request is also the one that was performed last. The time of each request therefore divides without a remainder:
//!
//! | part | from | to |
//! |---|---|---|
//! | queued by the driver | own [`submit`] | [`kick`] that covers it |
//! | doorbell, ring, requests before it | `kick` | own [`decoded`] |
//! | table | `decoded` | own [`table_done`] |
//! | rest of the batch | `table_done` | `table_done` of the batch's last request |
//! | grace period | that | [`grace_done`] that covers it; absent where nothing was removed |
//! | publication | the last of these | [`completed`] that covers it |
//! | noticed by the driver | `completed` | [`answered`] that covers it |
//!
//! Where the device polls there may be no kick; then the second part begins at `submit`. A chain that is no request
//! (malformed, too short for a status) is part of its batch but has no `decoded` and no `table_done`.
//!
//! # Where there are none
//!
//! Sites exist on x86-64 Linux. Elsewhere, under loom, shuttle and Miri, and with the feature `off`, the same calls compile
//! to nothing.

#![no_std]

mod emit;
mod key;
mod list;

pub use key::{EndpointKey, RequestKey, RingKey};
pub use list::*;

/// The provider's name in every note.
pub const PROVIDER: &str = "iommu_bench";

/// The instruction at a site while no probe is attached: `nopl 0x0(%rax,%rax,1)`.
pub const NOP: [u8; 5] = [0x0f, 0x1f, 0x44, 0x00, 0x00];

/// Whether this build has sites at all.
pub const COMPILED_IN: bool =
    cfg!(all(target_arch = "x86_64", target_os = "linux", not(any(feature = "off", loom, shuttle, miri))));

/// What a site is called and what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Site {
    /// Its name in the note.
    pub name: &'static str,
    /// What `rdi`, `rsi` and `rdx` hold, in this order; as many as the site has.
    pub arguments: &'static [&'static str],
    /// The site stands for `rsi` requests, of which `rdi` is the last.
    pub batch: bool,
}
