//! An NVMe disk, driven from here: one admin queue, one pair of I/O queues, polled.
//!
//! Two seams: registers through [`PciFunction`](crate::pci::PciFunction), memory through [`Dma`](crate::dma::Dma). So the same
//! driver works on a disk behind VFIO and on one in a test, and in every mode of the DMA API. Queues and lists stay mapped
//! while the driver lives, data as whoever issues commands maps them.
//!
//! - [`wire`], [`prp`]: bytes of commands, completions and answers; pages of a transfer. Pure.
//! - [`controller`]: registers; ready, not ready, broken, gone.
//! - [`queue`]: a pair of rings.
//! - [`driver`]: a disk that is ready for commands.
//! - [`load`]: the tests that move data to and from a disk.

pub mod controller;
pub mod driver;
#[cfg(test)]
mod fake;
pub mod load;
pub mod prp;
pub mod queue;
#[cfg(test)]
mod tests;
pub mod wire;

use std::time::Duration;

use thiserror::Error;

pub use driver::Nvme;
pub use load::{Contents, Drive, Load};
use prp::PrpError;
use wire::Status;

use crate::{dma::DmaError, pages::PagesError};

/// The disk, or the way to it, failed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NvmeError {
    /// Another kind of device.
    #[error("PCI class {class:06x} is no NVMe disk (010802)")]
    Class {
        /// Class, subclass and programming interface.
        class: u32,
    },
    /// All registers read ones.
    #[error("the disk does not answer any more: it was removed, lost power, or its link is down")]
    Gone,
    /// "Controller Fatal Status".
    #[error(
        "the disk reports a fatal error (CSTS.CFS); it is reset when it is given back, and needs a power cycle if that does not help"
    )]
    Fatal,
    /// It does not become ready, or does not stop.
    #[error("the disk is not {wanted} after {waited:?}; it is reset when it is given back")]
    NotReady {
        /// What it should have become.
        wanted: &'static str,
        /// How long that was waited for.
        waited: Duration,
    },
    /// It lacks something that the driver needs.
    #[error("the disk {0}, which this driver cannot use")]
    Unsupported(&'static str),
    /// There is no namespace 1 with blocks.
    #[error("the disk has no namespace 1 that can be used; `nvme list-ns` shows those it has")]
    NoNamespace,
    /// A command failed.
    #[error("{what} failed: {status}")]
    Status {
        /// Which command.
        what: &'static str,
        /// How.
        status: Status,
    },
    /// A command does not end.
    #[error("{what} does not end within {waited:?}; the disk is reset when it is given back")]
    TimedOut {
        /// Which command.
        what: &'static str,
        /// How long that was waited for.
        waited: Duration,
    },
    /// A completion of a command that was never given.
    #[error("the disk completed command {id}, which it was not given")]
    Stray {
        /// The number it named.
        id: u16,
    },
    /// More at once than the queues hold.
    #[error("the queue holds {0} commands, and all are in use")]
    Full(u16),
    /// The data's pages.
    #[error(transparent)]
    Prp(#[from] PrpError),
    /// Memory for the queues.
    #[error(transparent)]
    Pages(#[from] PagesError),
    /// The DMA API.
    #[error(transparent)]
    Dma(#[from] DmaError),
}
