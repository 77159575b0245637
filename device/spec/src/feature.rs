//! Feature bits ("Feature bits"), as masks.

/// `input_range` is valid.
pub const INPUT_RANGE: u64 = 1 << 0;
/// `domain_range` is valid.
pub const DOMAIN_RANGE: u64 = 1 << 1;
/// MAP and UNMAP requests are available.
pub const MAP_UNMAP: u64 = 1 << 2;
/// Legacy: endpoints that are not attached to a domain are in bypass mode. Superseded by [`BYPASS_CONFIG`].
pub const BYPASS: u64 = 1 << 3;
/// The PROBE request is available.
pub const PROBE: u64 = 1 << 4;
/// The MMIO flag of MAP is available.
pub const MMIO: u64 = 1 << 5;
/// The `bypass` field and the BYPASS flag of ATTACH are available.
pub const BYPASS_CONFIG: u64 = 1 << 6;
