//! Kernel probes: eBPF programs on KVM, the IOMMU layer, the DMA API and VFIO.
//!
//! [`ProbeSet`] is the way in: choose groups, [`Builder::start`], take [`Snapshot`]s. Users need no compiler for eBPF: the
//! programs are a committed object, which `cargo xtask probes` builds.
//!
//! Every probe is an entry of the [`catalogue`], which is data: it names a tracepoint or a function, and which fields or
//! arguments to keep. At start each entry is matched against the running kernel ([`KernelTypes`], [`Tracefs`]); offsets are
//! read there and never assumed. Of the kinds of hooks that could serve it, the best that the kernel accepts is used, in
//! the order of [`Kind`]; a probe for which there is none is skipped, with the reason and the remedy ([`ProbeError`]).
//!
//! Nothing is lost silently: [`iommu_probes_common::Tally`] says where each event went.

pub mod btf;
pub mod catalogue;
mod data;
pub mod definition;
mod error;
mod instance;
mod kernel;
mod logger;
pub mod names;
mod resolve;
mod set;
mod sites;
pub mod tracefs;

pub use btf::{Function, KernelTypes};
pub use data::{LogHistogram, ProbeData, Snapshot};
pub use definition::{Definition, Group, Hook, Kind};
pub use error::{Attempt, ProbeError};
pub use iommu_probes_common as common;
pub use kernel::Kernel;
pub use set::{Attached, Builder, Filter, ProbeSet, Skipped};
pub use sites::{SiteProbes, SitesSeen};
pub use tracefs::Tracefs;
