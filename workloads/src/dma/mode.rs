//! The four ways the guest's DMA API can work.

use std::{fmt, str::FromStr};

use thiserror::Error;

/// How the DMA API works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mode {
    /// No IOMMU: a device address is a guest-physical address.
    Off,
    /// An IOMMU whose domain bypasses translation: device addresses are guest-physical too.
    Identity,
    /// Unmaps are queued and waited for together, [`flush_entries`](super::DmaSettings::flush_entries) at a time or
    /// after [`flush_ns`](super::DmaSettings::flush_ns).
    Lazy,
    /// Each unmap is waited for before the buffer is the driver's again.
    Strict,
}

/// Not the name of a mode.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("`{0}` is no mode: off, identity, lazy or strict")]
pub struct UnknownMode(pub String);

impl Mode {
    /// All modes.
    pub const ALL: [Self; 4] = [Self::Off, Self::Identity, Self::Lazy, Self::Strict];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Identity => "identity",
            Self::Lazy => "lazy",
            Self::Strict => "strict",
        }
    }

    /// Whether there is an IOMMU in the path.
    pub const fn has_iommu(self) -> bool {
        !matches!(self, Self::Off)
    }

    /// Whether buffers are mapped and unmapped.
    pub const fn translates(self) -> bool {
        matches!(self, Self::Lazy | Self::Strict)
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Mode {
    type Err = UnknownMode;

    fn from_str(text: &str) -> Result<Self, UnknownMode> {
        Self::ALL.into_iter().find(|mode| mode.name() == text).ok_or_else(|| UnknownMode(text.to_owned()))
    }
}
