//! How much one burst does.

/// Most chains one burst takes from the guest's rings.
pub const BURST_CHAINS: u32 = 32;
/// Payload after which a burst ends, in bytes. The IOMMU's UNMAPs wait for a burst, so that it must be short; a frame
/// is never cut.
pub const BURST_BYTES: u64 = 65536;

/// What is left of a burst.
pub(super) struct Budget {
    chains: u32,
    bytes: u64,
}

impl Budget {
    pub(super) fn new() -> Self {
        Self { chains: BURST_CHAINS, bytes: BURST_BYTES }
    }

    #[inline]
    pub(super) fn is_open(&self) -> bool {
        self.chains > 0 && self.bytes > 0
    }

    #[inline]
    pub(super) fn chain(&mut self) {
        self.chains = self.chains.saturating_sub(1);
    }

    #[inline]
    pub(super) fn bytes(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    /// Whether anything was taken from a ring.
    pub(super) fn used(&self) -> bool {
        self.chains < BURST_CHAINS
    }
}
