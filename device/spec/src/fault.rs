//! Fault records on the event queue ("Fault reporting").

use crate::wire::{put, u32_at, u64_at};

/// Size of `struct virtio_iommu_fault`, in bytes.
pub const FAULT_BYTES: usize = 24;

/// Flag: the access was a read.
pub const F_READ: u32 = 1 << 0;
/// Flag: the access was a write.
pub const F_WRITE: u32 = 1 << 1;
/// Flag: `address` is valid.
pub const F_ADDRESS: u32 = 1 << 8;

/// Fault reasons (`VIRTIO_IOMMU_FAULT_R_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Reason {
    /// An internal error, or one the other reasons do not describe.
    Unknown = 0,
    /// The endpoint was not attached to a domain.
    Domain = 1,
    /// The address was not mapped, or not with these permissions.
    Mapping = 2,
}

impl Reason {
    /// The reason with this wire value; unknown values read as [`Reason::Unknown`], as the driver must treat them.
    pub const fn from_wire(value: u8) -> Self {
        match value {
            1 => Self::Domain,
            2 => Self::Mapping,
            _ => Self::Unknown,
        }
    }
}

/// `struct virtio_iommu_fault`, reserved fields zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Why the access failed.
    pub reason: Reason,
    /// [`F_READ`], [`F_WRITE`], [`F_ADDRESS`].
    pub flags: u32,
    /// The endpoint that made the access.
    pub endpoint: u32,
    /// The I/O virtual address, valid with [`F_ADDRESS`].
    pub address: u64,
}

impl Fault {
    /// The record as it lies in guest memory.
    pub const fn encode(&self) -> [u8; FAULT_BYTES] {
        let mut b = [0; FAULT_BYTES];
        b[0] = self.reason as u8;
        put(&mut b, 4, self.flags.to_le_bytes());
        put(&mut b, 8, self.endpoint.to_le_bytes());
        put(&mut b, 16, self.address.to_le_bytes());
        b
    }

    /// Reads the record.
    pub const fn decode(b: &[u8; FAULT_BYTES]) -> Self {
        Self {
            reason: Reason::from_wire(b[0]),
            flags: u32_at(b, 4),
            endpoint: u32_at(b, 8),
            address: u64_at(b, 16),
        }
    }
}
