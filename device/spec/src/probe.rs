//! Properties returned by PROBE ("PROBE properties").

use crate::wire::{put, u16_at, u64_at};

/// Size of `struct virtio_iommu_probe_property`, in bytes.
pub const PROPERTY_HEAD_BYTES: usize = 4;
/// Size of `struct virtio_iommu_probe_resv_mem`, in bytes.
pub const RESV_MEM_BYTES: usize = 24;
/// Property type of a reserved region (`VIRTIO_IOMMU_PROBE_T_RESV_MEM`).
pub const T_RESV_MEM: u16 = 1;
/// The bits of the first half-word that hold the type; the other four are reserved.
pub const TYPE_MASK: u16 = 0x0fff;

/// Kinds of reserved region on the wire (`VIRTIO_IOMMU_RESV_MEM_T_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ResvKind {
    /// Cannot be mapped.
    Reserved = 0,
    /// Doorbell for message-signaled interrupts; cannot be mapped.
    Msi = 1,
}

/// `struct virtio_iommu_probe_resv_mem`, reserved fields zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResvMem {
    /// Kind of region.
    pub subtype: ResvKind,
    /// First address.
    pub start: u64,
    /// Last address (inclusive).
    pub end: u64,
}

impl ResvMem {
    /// The property as it lies in guest memory, header included.
    pub const fn encode(&self) -> [u8; RESV_MEM_BYTES] {
        let mut b = [0; RESV_MEM_BYTES];
        put(&mut b, 0, T_RESV_MEM.to_le_bytes());
        put(&mut b, 2, ((RESV_MEM_BYTES - PROPERTY_HEAD_BYTES) as u16).to_le_bytes());
        b[4] = self.subtype as u8;
        put(&mut b, 8, self.start.to_le_bytes());
        put(&mut b, 16, self.end.to_le_bytes());
        b
    }

    /// Reads a property of type [`T_RESV_MEM`]; an unknown subtype reads as [`ResvKind::Reserved`], as drivers
    /// should treat it. `None` when the header is not that of a RESV_MEM property.
    pub const fn decode(b: &[u8; RESV_MEM_BYTES]) -> Option<Self> {
        let head = u16_at(b, 0);
        if head != T_RESV_MEM || (u16_at(b, 2) as usize) < RESV_MEM_BYTES - PROPERTY_HEAD_BYTES {
            return None;
        }
        let subtype = if b[4] == ResvKind::Msi as u8 { ResvKind::Msi } else { ResvKind::Reserved };
        Some(Self { subtype, start: u64_at(b, 8), end: u64_at(b, 16) })
    }
}
