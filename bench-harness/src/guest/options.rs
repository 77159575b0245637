//! What `--machine guest` can be told.

use std::{fmt, path::PathBuf};

use clap::{Args, ValueEnum, ValueHint};

use crate::serve::Doorbell;

/// Memory of a guest in MiB, unless the user says otherwise.
const DEFAULT_MEMORY_MIB: u32 = 512;
/// Linux and netperf need no more.
const LEAST_MEMORY_MIB: i64 = 256;

/// How the guest is made.
#[derive(Clone, Debug, Args)]
#[command(
    next_help_heading = "Guest (the Linux guest of --machine guest; --kernel, --kernel-args and --qemu hold too)"
)]
pub(crate) struct GuestOptions {
    /// The IOMMU in front of the cards, comma-separated; rows with QEMU's own have QEMU's own cards [default: reference]
    #[arg(long, value_enum, value_name = "WHICH,…", value_delimiter = ',')]
    pub(crate) viommu: Vec<Viommu>,
    /// How devices hear of work, comma-separated: exit, poll [default: exit]
    #[arg(long, value_enum, value_name = "HOW,…", value_delimiter = ',')]
    pub(crate) doorbell: Vec<Doorbell>,
    /// Series of the guest's kernel
    #[arg(long, value_enum, default_value_t = Linux::Stable)]
    pub(crate) linux: Linux,
    /// Memory of each guest in MiB
    #[arg(long = "guest-memory", value_name = "MIB", default_value_t = DEFAULT_MEMORY_MIB,
          value_parser = clap::value_parser!(u32).range(LEAST_MEMORY_MIB..=1 << 20))]
    pub(crate) memory_mib: u32,
    /// Where QEMU, kernels and tools are kept [default: ~/.cache/iommu-bench/guest]
    #[arg(long = "guest-cache", value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) cache: Option<PathBuf>,
}

/// Which IOMMU the guest has, and with it whose cards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Viommu {
    /// This project's, with this project's cards behind it, over vfio-user
    Reference,
    /// QEMU's virtio-iommu-pci, with QEMU's virtio-net-pci behind it: a comparison of its own
    QemuVirtio,
    /// None: only mode `off`, with this project's cards
    None,
}

impl Viommu {
    /// Its name in results.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Reference => "reference",
            Self::QemuVirtio => "qemu-virtio",
            Self::None => "none",
        }
    }

    /// What implements the cards.
    pub(crate) const fn cards(self) -> &'static str {
        match self {
            Self::Reference | Self::None => "iommu-bench nic over vfio-user",
            Self::QemuVirtio => "QEMU virtio-net-pci",
        }
    }
}

/// A series of kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Linux {
    /// That of Debian 13
    #[value(name = "6.12")]
    Stable,
    /// That of its backports
    #[value(name = "7")]
    Backports,
}

impl Linux {
    /// Where it is in the cache.
    pub(super) const fn folder(self) -> &'static str {
        match self {
            Self::Stable => "kernel-6",
            Self::Backports => "kernel-7",
        }
    }
}

impl fmt::Display for Linux {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stable => "6.12",
            Self::Backports => "7",
        })
    }
}
