//! The lab: an emulated host with a hardware IOMMU, for machines that have none to spare.
//!
//! QEMU boots a distribution's own kernel with an initramfs in which the caller's own program is the only program. There
//! it finds real kernel VFIO, a real IOMMU driver above an emulated VT-d, devices bound to nothing, and nested KVM. What
//! it counts there is exact; how long things take there says nothing about hardware.
//!
//! ```text
//! let lab = prepare::prepare(&Sources::default(), &mut |what| println!("{what}"))?;   // once: seconds; then cached
//! let job = Job { args: vec!["run".into(), "netperf-strict".into()], .. };
//! let ended = session::run(&lab, &Machine::default(), &job, folder, &interrupted, &mut |event| …)?;
//! ```
//!
//! [`guest::main`] is the other half: the program calls it when it finds itself to be the guest's first process.

pub mod accel;
pub mod cpio;
pub mod guest;
mod initramfs;
pub mod job;
pub mod machine;
pub mod prepare;
pub mod program;
pub mod session;
pub mod wire;

pub use job::Job;
pub use machine::Machine;
pub use prepare::{GuestKernel, Lab, PrepareError, Qemu, Sources, prepare};
pub use session::{Ended, Event, SessionError};
