//! Reserved regions ("Property RESV_MEM").

use serde::{Deserialize, Serialize};
use thiserror::Error;
use virtio_iommu_spec::{IovaRange, probe};

/// What a region is reserved for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResvKind {
    /// Cannot be mapped; accesses fault.
    Reserved,
    /// Doorbell for message-signaled interrupts; cannot be mapped.
    Msi,
    /// Memory that firmware told the endpoint to use (RMRR on x86, IORT RMR on Arm): the device maps it one to one
    /// from the moment the endpoint is attached, and no UNMAP removes it.
    ///
    /// The wire has no subtype for it, so PROBE reports it as RESERVED. The standard asks that accesses to RESV_MEM
    /// regions affect nobody but endpoint and driver; this kind deviates from that by its nature.
    Identity,
}

impl ResvKind {
    /// The subtype PROBE reports.
    pub const fn on_the_wire(self) -> probe::ResvKind {
        match self {
            Self::Reserved | Self::Identity => probe::ResvKind::Reserved,
            Self::Msi => probe::ResvKind::Msi,
        }
    }
}

/// What to do when one endpoint has an IDENTITY region where another of the same domain has nothing: merging would
/// give the other access to firmware memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NPlusI {
    /// ATTACH is refused with UNSUPP.
    #[default]
    Refuse,
    /// The region becomes IDENTITY for every endpoint of the domain.
    Allow,
}

/// One reserved region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResvRegion {
    /// First address.
    pub start: u64,
    /// Last address (inclusive).
    pub end: u64,
    /// What it is reserved for.
    pub kind: ResvKind,
}

impl ResvRegion {
    /// Whether it shares an address with `range`.
    #[inline]
    pub const fn overlaps(&self, range: IovaRange) -> bool {
        self.start <= range.end() && range.start() <= self.end
    }

    /// As a range; the list it is part of has checked that it is one.
    pub(crate) fn range(&self) -> IovaRange {
        IovaRange::new(self.start, self.end).unwrap_or(IovaRange::ALL)
    }
}

/// Why a list of regions was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RegionsError {
    /// A region ends before it starts.
    #[error("region [{start:#x}, {end:#x}] ends before it starts")]
    Backwards {
        /// First address.
        start: u64,
        /// Last address.
        end: u64,
    },
    /// Two regions overlap: "The device SHOULD NOT present multiple RESV_MEM properties that overlap each other for
    /// the same endpoint".
    #[error("two regions overlap at {at:#x}")]
    Overlap {
        /// An address of both.
        at: u64,
    },
    /// More than one MSI region: "The device SHOULD NOT present more than one VIRTIO_IOMMU_RESV_MEM_T_MSI property per
    /// endpoint".
    #[error("{count} MSI regions, at most one is allowed")]
    SeveralMsi {
        /// How many.
        count: usize,
    },
}

/// The regions of one endpoint, or of all endpoints of a domain: disjoint and in ascending order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<ResvRegion>", into = "Vec<ResvRegion>")]
pub struct Regions(Vec<ResvRegion>);

impl Regions {
    /// The regions of one endpoint.
    ///
    /// # Errors
    /// When a region is empty, two overlap, or more than one is for MSIs.
    pub fn new(regions: Vec<ResvRegion>) -> Result<Self, RegionsError> {
        let count = regions.iter().filter(|region| region.kind == ResvKind::Msi).count();
        if count > 1 {
            return Err(RegionsError::SeveralMsi { count });
        }
        Self::disjoint(regions)
    }

    /// Any number of MSI regions, as a domain may have.
    pub(super) fn disjoint(mut regions: Vec<ResvRegion>) -> Result<Self, RegionsError> {
        if let Some(region) = regions.iter().find(|region| region.end < region.start) {
            return Err(RegionsError::Backwards { start: region.start, end: region.end });
        }
        regions.sort_by_key(|region| region.start);
        if let Some(pair) = regions.windows(2).find(|pair| pair[1].start <= pair[0].end) {
            return Err(RegionsError::Overlap { at: pair[1].start });
        }
        Ok(Self(regions))
    }

    /// The regions, in ascending order.
    pub fn iter(&self) -> std::slice::Iter<'_, ResvRegion> {
        self.0.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A region that shares an address with `range`.
    #[inline]
    pub fn overlapping(&self, range: IovaRange) -> Option<&ResvRegion> {
        self.0.iter().find(|region| region.overlaps(range))
    }

    /// The IDENTITY region that contains `addr`.
    pub fn identity_at(&self, addr: u64) -> Option<&ResvRegion> {
        self.0.iter().find(|r| r.kind == ResvKind::Identity && r.start <= addr && addr <= r.end)
    }

    /// Bytes of the properties PROBE reports for these regions.
    pub fn wire_bytes(&self) -> usize {
        self.0.len() * probe::RESV_MEM_BYTES
    }

    /// The properties PROBE reports, one after the other.
    pub fn encode(&self) -> impl Iterator<Item = [u8; probe::RESV_MEM_BYTES]> + '_ {
        self.0.iter().map(|region| {
            let subtype = region.kind.on_the_wire();
            probe::ResvMem { subtype, start: region.start, end: region.end }.encode()
        })
    }
}

impl TryFrom<Vec<ResvRegion>> for Regions {
    type Error = RegionsError;

    fn try_from(regions: Vec<ResvRegion>) -> Result<Self, RegionsError> {
        Self::new(regions)
    }
}

impl From<Regions> for Vec<ResvRegion> {
    fn from(regions: Regions) -> Self {
        regions.0
    }
}
