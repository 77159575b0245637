//! Sampling profiles and hardware counters of a process, through `perf_event_open(2)`.
//!
//! [`Recorder`] samples every thread of a process, those to come included, with kernel and user call chains;
//! [`Background`] does so on a thread of its own, and [`Profile`] is what comes out: folded stacks and a flame graph.
//! Without privileges only the caller's own processes can be profiled, and user stacks are all there is; the profile says
//! so. [`CounterSet`] counts instead of sampling.
//!
//! Call chains are found by frame pointers: a program that was built without them has stacks of one or two frames.
//!
//! `perf-event2` is used rather than the bare `perf-event-open-sys2`: it parses the ring buffer's records, which would be
//! the larger part of the `unsafe` code here, and knows uprobes and the PMUs of sysfs.

mod background;
mod counters;
mod error;
mod maps;
mod profile;
mod record;
mod symbols;
mod system;

pub use background::Background;
pub use counters::{CounterSet, Event, Reading, Value};
pub use error::{CountersError, ProfileError};
pub use maps::{Mapping, MapsError, parse_maps};
pub use profile::{KernelStacks, Profile};
pub use record::{Recorder, Settings};
pub use system::{cpu_list, online_cpus, threads};
