//! Driver of the virtio-iommu device.
/// Bytes of guest memory one request slot takes.
pub const SLOT_BYTES: usize = 128;
