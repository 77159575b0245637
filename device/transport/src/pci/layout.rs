//! Where things lie: configuration space, capabilities and BARs of a modern virtio-pci function.

/// Size of configuration space, in bytes: a conventional function without extended space.
pub const CONFIG_BYTES: u64 = 256;
/// The BAR with the virtio structures (64-bit memory; BAR 1 is its upper half).
pub const STRUCTURES_BAR: u8 = 0;
/// Size of [`STRUCTURES_BAR`], in bytes.
pub const STRUCTURES_BYTES: u64 = 0x4000;
/// The BAR with MSI-X table and pending bits (64-bit memory; BAR 3 is its upper half).
pub const MSIX_BAR: u8 = 2;
/// Size of [`MSIX_BAR`], in bytes.
pub const MSIX_BYTES: u64 = 0x1000;
/// Offset of the common configuration in [`STRUCTURES_BAR`].
pub const COMMON_OFFSET: u64 = 0;
/// Size of the common configuration, in bytes: up to `queue_device` (virtio 4.1.4.3), of which the fields from
/// `queue_notify_data` on read as zero.
pub const COMMON_BYTES: u64 = 0x38;
/// Offset of the ISR status byte in [`STRUCTURES_BAR`].
pub const ISR_OFFSET: u64 = 0x1000;
/// Offset of device-specific configuration in [`STRUCTURES_BAR`].
pub const DEVICE_OFFSET: u64 = 0x2000;
/// Room for device-specific configuration, in bytes.
pub const DEVICE_BYTES: u64 = 0x1000;
/// Offset of the notification area in [`STRUCTURES_BAR`].
pub const NOTIFY_OFFSET: u64 = 0x3000;
/// Size of the notification area, in bytes.
pub const NOTIFY_BYTES: u64 = 0x1000;
/// Bytes between the notification addresses of two queues.
pub const NOTIFY_MULTIPLIER: u32 = 4;
/// Offset of the MSI-X table in [`MSIX_BAR`].
pub const TABLE_OFFSET: u64 = 0;
/// Offset of the pending bits in [`MSIX_BAR`].
pub const PBA_OFFSET: u64 = 0x800;
/// Most MSI-X vectors: as many as fit before the pending bits.
pub const MAX_VECTORS: u16 = 128;

/// Offsets of registers in configuration space.
pub(super) mod config {
    pub(crate) const COMMAND: usize = 0x04;
    pub(crate) const STATUS: usize = 0x06;
    pub(crate) const BAR0: usize = 0x10;
    pub(crate) const CAPABILITIES: usize = 0x34;
    pub(crate) const INTERRUPT_LINE: usize = 0x3c;
    pub(crate) const INTERRUPT_PIN: usize = 0x3d;
    pub(crate) const COMMON_CAP: usize = 0x40;
    pub(crate) const ISR_CAP: usize = 0x50;
    pub(crate) const DEVICE_CAP: usize = 0x60;
    pub(crate) const NOTIFY_CAP: usize = 0x70;
    pub(crate) const CFG_CAP: usize = 0x84;
    pub(crate) const MSIX_CAP: usize = 0x98;
    /// Message control of the MSI-X capability.
    pub(crate) const MSIX_CONTROL: usize = MSIX_CAP + 2;
    /// `cap.bar` of the configuration access capability (virtio 4.1.4.9).
    pub(crate) const CFG_CAP_BAR: usize = CFG_CAP + 4;
    pub(crate) const CFG_CAP_OFFSET: usize = CFG_CAP + 8;
    pub(crate) const CFG_CAP_LENGTH: usize = CFG_CAP + 12;
    pub(crate) const CFG_DATA: usize = CFG_CAP + 16;

    /// Memory space, bus master, interrupt disable.
    pub(crate) const COMMAND_WRITABLE: u16 = 0x0406;
    pub(crate) const COMMAND_INTX_DISABLE: u16 = 0x0400;
    /// Interrupt status of the status register, read-only.
    pub(crate) const STATUS_INTERRUPT: u16 = 0x0008;
    /// Capabilities list.
    pub(crate) const STATUS_CAPABILITIES: u16 = 0x0010;
    pub(crate) const MSIX_ENABLE: u16 = 0x8000;
    pub(crate) const MSIX_FUNCTION_MASK: u16 = 0x4000;
}
