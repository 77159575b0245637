//! Device configuration space ("Device configuration layout").

use crate::wire::{put, u32_at, u64_at};

/// Size of `struct virtio_iommu_config`, in bytes.
pub const CONFIG_BYTES: usize = 40;
/// Offset of the `bypass` field, the only one a driver may write.
pub const BYPASS_OFFSET: usize = 36;

/// `struct virtio_iommu_config`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Page sizes that can be mapped; the least significant bit is the granule.
    pub page_size_mask: u64,
    /// First I/O virtual address that can be mapped.
    pub input_start: u64,
    /// Last I/O virtual address that can be mapped.
    pub input_end: u64,
    /// First domain ID.
    pub domain_start: u32,
    /// Last domain ID.
    pub domain_end: u32,
    /// Size of the properties of a PROBE request, in bytes.
    pub probe_size: u32,
    /// 1: endpoints that are not attached to a domain are in bypass mode; 0: they are not.
    pub bypass: u8,
}

impl Config {
    /// The structure as the driver reads it.
    pub const fn encode(&self) -> [u8; CONFIG_BYTES] {
        let mut b = [0; CONFIG_BYTES];
        put(&mut b, 0, self.page_size_mask.to_le_bytes());
        put(&mut b, 8, self.input_start.to_le_bytes());
        put(&mut b, 16, self.input_end.to_le_bytes());
        put(&mut b, 24, self.domain_start.to_le_bytes());
        put(&mut b, 28, self.domain_end.to_le_bytes());
        put(&mut b, 32, self.probe_size.to_le_bytes());
        b[BYPASS_OFFSET] = self.bypass;
        b
    }

    /// Reads the structure.
    pub const fn decode(b: &[u8; CONFIG_BYTES]) -> Self {
        Self {
            page_size_mask: u64_at(b, 0),
            input_start: u64_at(b, 8),
            input_end: u64_at(b, 16),
            domain_start: u32_at(b, 24),
            domain_end: u32_at(b, 28),
            probe_size: u32_at(b, 32),
            bypass: b[BYPASS_OFFSET],
        }
    }
}
