//! The correlation key.

/// A ring of a virtqueue: what the keys of all its requests have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct RingKey(u64);

impl RingKey {
    /// The ring whose descriptor table the driver programmed to lie at `desc`, an address as the device sees it.
    ///
    /// Descriptor tables are aligned to 16 bytes (virtio 2.7) and addresses are at most 52 bits wide on x86-64, so the
    /// address fits above the position.
    #[inline(always)]
    pub const fn new(desc: u64) -> Self {
        Self(desc << 12 & !0xffff)
    }

    /// The request that has, or will have, the given position in the available ring: the available index before the
    /// request was made available.
    #[inline(always)]
    pub const fn request(self, position: u16) -> RequestKey {
        RequestKey(self.0 | position as u64)
    }
}

/// A request on a ring, as driver and device both know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct RequestKey(u64);

impl RequestKey {
    /// The ring it is on.
    pub const fn ring(self) -> RingKey {
        RingKey(self.0 & !0xffff)
    }

    /// Its position, modulo 2^16.
    pub const fn position(self) -> u16 {
        self.0 as u16
    }

    /// The request made available `n` before this one on the same ring.
    ///
    /// ```
    /// let ring = iommu_sites::RingKey::new(0x4_0000);
    /// assert_eq!(ring.request(2).back(3), ring.request(0xffff));
    /// ```
    #[must_use]
    pub const fn back(self, n: u16) -> Self {
        self.ring().request(self.position().wrapping_sub(n))
    }

    /// A key as a probe found it in `rdi`.
    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }
}

impl From<RequestKey> for u64 {
    #[inline(always)]
    fn from(key: RequestKey) -> Self {
        key.0
    }
}

/// An endpoint's ID where a request's key would be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct EndpointKey(pub u32);

impl From<EndpointKey> for u64 {
    #[inline(always)]
    fn from(key: EndpointKey) -> Self {
        u64::from(key.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_rings_and_positions_have_their_own_keys() {
        let (a, b) = (RingKey::new(0x10), RingKey::new(0x20));
        assert_ne!(a.request(u16::MAX), b.request(0));
        assert_ne!(a.request(0), a.request(1));
        assert_eq!(a.request(7).ring(), a);
        assert_eq!(a.request(7).position(), 7);
        let top = RingKey::new((1 << 52) - 16);
        assert_eq!(u64::from(top.request(1)), 0xffff_ffff_ffff_0001);
        assert_eq!(RequestKey::from_raw(u64::from(b.request(3))), b.request(3));
    }
}
