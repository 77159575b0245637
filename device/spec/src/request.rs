//! Requests: a device-readable part (head and fields) and a device-writable part that ends in the tail.
//!
//! Each type encodes to and decodes from exactly its readable part; nothing is judged here, reserved fields are
//! kept as found.

use crate::wire::{field, put, u32_at, u64_at};

/// Size of `struct virtio_iommu_req_head`, in bytes.
pub const HEAD_BYTES: usize = 4;
/// Size of `struct virtio_iommu_req_tail`, in bytes.
pub const TAIL_BYTES: usize = 4;
/// The largest readable part of any request (PROBE), in bytes.
pub const MAX_READABLE_BYTES: usize = Probe::BYTES;

/// Request types (`VIRTIO_IOMMU_T_*`).
pub mod kind {
    /// Attach an endpoint to a domain.
    pub const ATTACH: u8 = 1;
    /// Detach an endpoint from a domain.
    pub const DETACH: u8 = 2;
    /// Create a mapping.
    pub const MAP: u8 = 3;
    /// Remove mappings.
    pub const UNMAP: u8 = 4;
    /// Read the properties of an endpoint.
    pub const PROBE: u8 = 5;
}

/// Flag of ATTACH: the domain is a bypass domain (`VIRTIO_IOMMU_ATTACH_F_BYPASS`).
pub const ATTACH_F_BYPASS: u32 = 1 << 0;
/// Flag of MAP: reads are allowed.
pub const MAP_F_READ: u32 = 1 << 0;
/// Flag of MAP: writes are allowed.
pub const MAP_F_WRITE: u32 = 1 << 1;
/// Flag of MAP: accesses are to memory-mapped I/O.
pub const MAP_F_MMIO: u32 = 1 << 2;

/// Readable part of ATTACH (`struct virtio_iommu_req_attach`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attach {
    /// Domain to attach to; created when it does not exist.
    pub domain: u32,
    /// Endpoint to attach.
    pub endpoint: u32,
    /// [`ATTACH_F_BYPASS`] or 0.
    pub flags: u32,
    /// Must be zero.
    pub reserved: [u8; 4],
}

impl Attach {
    /// Readable size, in bytes.
    pub const BYTES: usize = 20;

    /// The readable part as it lies in guest memory.
    pub const fn encode(&self) -> [u8; Self::BYTES] {
        let mut b = [0; Self::BYTES];
        b[0] = kind::ATTACH;
        put(&mut b, 4, self.domain.to_le_bytes());
        put(&mut b, 8, self.endpoint.to_le_bytes());
        put(&mut b, 12, self.flags.to_le_bytes());
        put(&mut b, 16, self.reserved);
        b
    }

    /// Reads the fields; the head's type is the caller's to check.
    pub const fn decode(b: &[u8; Self::BYTES]) -> Self {
        Self { domain: u32_at(b, 4), endpoint: u32_at(b, 8), flags: u32_at(b, 12), reserved: field(b, 16) }
    }
}

/// Readable part of DETACH (`struct virtio_iommu_req_detach`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Detach {
    /// Domain to detach from.
    pub domain: u32,
    /// Endpoint to detach.
    pub endpoint: u32,
    /// Ignored by the device.
    pub reserved: [u8; 8],
}

impl Detach {
    /// Readable size, in bytes.
    pub const BYTES: usize = 20;

    /// The readable part as it lies in guest memory.
    pub const fn encode(&self) -> [u8; Self::BYTES] {
        let mut b = [0; Self::BYTES];
        b[0] = kind::DETACH;
        put(&mut b, 4, self.domain.to_le_bytes());
        put(&mut b, 8, self.endpoint.to_le_bytes());
        put(&mut b, 12, self.reserved);
        b
    }

    /// Reads the fields; the head's type is the caller's to check.
    pub const fn decode(b: &[u8; Self::BYTES]) -> Self {
        Self { domain: u32_at(b, 4), endpoint: u32_at(b, 8), reserved: field(b, 12) }
    }
}

/// Readable part of MAP (`struct virtio_iommu_req_map`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Map {
    /// Domain to map in.
    pub domain: u32,
    /// First I/O virtual address.
    pub virt_start: u64,
    /// Last I/O virtual address (inclusive).
    pub virt_end: u64,
    /// Guest-physical address of `virt_start`.
    pub phys_start: u64,
    /// [`MAP_F_READ`], [`MAP_F_WRITE`], [`MAP_F_MMIO`].
    pub flags: u32,
}

impl Map {
    /// Readable size, in bytes.
    pub const BYTES: usize = 36;

    /// The readable part as it lies in guest memory.
    pub const fn encode(&self) -> [u8; Self::BYTES] {
        let mut b = [0; Self::BYTES];
        b[0] = kind::MAP;
        put(&mut b, 4, self.domain.to_le_bytes());
        put(&mut b, 8, self.virt_start.to_le_bytes());
        put(&mut b, 16, self.virt_end.to_le_bytes());
        put(&mut b, 24, self.phys_start.to_le_bytes());
        put(&mut b, 32, self.flags.to_le_bytes());
        b
    }

    /// Reads the fields; the head's type is the caller's to check.
    pub const fn decode(b: &[u8; Self::BYTES]) -> Self {
        Self {
            domain: u32_at(b, 4),
            virt_start: u64_at(b, 8),
            virt_end: u64_at(b, 16),
            phys_start: u64_at(b, 24),
            flags: u32_at(b, 32),
        }
    }
}

/// Readable part of UNMAP (`struct virtio_iommu_req_unmap`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unmap {
    /// Domain to unmap in.
    pub domain: u32,
    /// First I/O virtual address.
    pub virt_start: u64,
    /// Last I/O virtual address (inclusive).
    pub virt_end: u64,
    /// Should be zero; a nonzero value is accepted.
    pub reserved: [u8; 4],
}

impl Unmap {
    /// Readable size, in bytes.
    pub const BYTES: usize = 28;

    /// The readable part as it lies in guest memory.
    pub const fn encode(&self) -> [u8; Self::BYTES] {
        let mut b = [0; Self::BYTES];
        b[0] = kind::UNMAP;
        put(&mut b, 4, self.domain.to_le_bytes());
        put(&mut b, 8, self.virt_start.to_le_bytes());
        put(&mut b, 16, self.virt_end.to_le_bytes());
        put(&mut b, 24, self.reserved);
        b
    }

    /// Reads the fields; the head's type is the caller's to check.
    pub const fn decode(b: &[u8; Self::BYTES]) -> Self {
        Self {
            domain: u32_at(b, 4),
            virt_start: u64_at(b, 8),
            virt_end: u64_at(b, 16),
            reserved: field(b, 24),
        }
    }
}

/// Readable part of PROBE (`struct virtio_iommu_req_probe`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Endpoint to describe.
    pub endpoint: u32,
    /// Ignored by the device.
    pub reserved: [u8; 64],
}

impl Probe {
    /// Readable size, in bytes.
    pub const BYTES: usize = 72;

    /// The readable part as it lies in guest memory.
    pub const fn encode(&self) -> [u8; Self::BYTES] {
        let mut b = [0; Self::BYTES];
        b[0] = kind::PROBE;
        put(&mut b, 4, self.endpoint.to_le_bytes());
        put(&mut b, 8, self.reserved);
        b
    }

    /// Reads the fields; the head's type is the caller's to check.
    pub const fn decode(b: &[u8; Self::BYTES]) -> Self {
        Self { endpoint: u32_at(b, 4), reserved: field(b, 8) }
    }
}

/// The tail of every request (`struct virtio_iommu_req_tail`), reserved bytes zero.
pub const fn tail(status: crate::Status) -> [u8; TAIL_BYTES] {
    [status as u8, 0, 0, 0]
}
