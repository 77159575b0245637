//! Identifiers and addresses, each its own type so that an IOVA is never taken for a GPA.

use core::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty), $fmt:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, $fmt, self.0)
            }
        }
    };
}

id!(
    /// I/O virtual address: what an endpoint puts on the bus (the specification's "virtual address").
    Iova(u64), "{:#x}"
);
id!(
    /// Guest-physical address: what the IOMMU translates an [`Iova`] to.
    Gpa(u64), "{:#x}"
);
id!(
    /// Identifier of a domain, an I/O address space.
    DomainId(u32), "{}"
);
id!(
    /// Identifier of an endpoint, unique within one virtio-iommu device.
    EndpointId(u32), "{:#x}"
);

/// An inclusive, never empty range of I/O virtual addresses.
///
/// Inclusive so that a range that ends at `u64::MAX` can be written down.
///
/// ```
/// use virtio_iommu_spec::IovaRange;
/// let all = IovaRange::new(0, u64::MAX).unwrap();
/// assert_eq!(all.len(), None); // 2^64 bytes do not fit
/// assert!(IovaRange::new(1, 0).is_none());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IovaRange {
    start: u64,
    end: u64,
}

impl IovaRange {
    /// The whole 64-bit address space.
    pub const ALL: Self = Self { start: 0, end: u64::MAX };

    /// `[start, end]`, or `None` when `end < start`.
    #[inline]
    pub const fn new(start: u64, end: u64) -> Option<Self> {
        if end < start { None } else { Some(Self { start, end }) }
    }

    /// `len` bytes from `start`, or `None` when `len` is zero or the range wraps.
    #[inline]
    pub const fn with_len(start: u64, len: u64) -> Option<Self> {
        if len == 0 {
            return None;
        }
        match start.checked_add(len - 1) {
            Some(end) => Some(Self { start, end }),
            None => None,
        }
    }

    /// First address.
    #[inline]
    pub const fn start(&self) -> u64 {
        self.start
    }

    /// Last address.
    #[inline]
    pub const fn end(&self) -> u64 {
        self.end
    }

    /// Number of bytes; `None` for the whole 64-bit space, whose length does not fit.
    #[inline]
    #[allow(clippy::len_without_is_empty, reason = "a range is never empty")]
    pub const fn len(&self) -> Option<u64> {
        (self.end - self.start).checked_add(1)
    }

    /// Whether `addr` lies inside.
    #[inline]
    pub const fn contains(&self, addr: u64) -> bool {
        self.start <= addr && addr <= self.end
    }

    /// Whether all of `other` lies inside.
    #[inline]
    pub const fn covers(&self, other: &Self) -> bool {
        self.start <= other.start && other.end <= self.end
    }

    /// Whether the two share an address.
    #[inline]
    pub const fn overlaps(&self, other: &Self) -> bool {
        self.start <= other.end && other.start <= self.end
    }

    /// The shared part, if any.
    #[inline]
    pub const fn intersection(&self, other: &Self) -> Option<Self> {
        let start = if self.start > other.start { self.start } else { other.start };
        let end = if self.end < other.end { self.end } else { other.end };
        Self::new(start, end)
    }

    /// Whether `start` and `end + 1` are multiples of `1 << shift`.
    #[inline]
    pub const fn is_aligned(&self, shift: u32) -> bool {
        let mask = (1u64 << shift) - 1;
        self.start & mask == 0 && self.end & mask == mask
    }
}

impl fmt::Display for IovaRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{:#x}, {:#x}]", self.start, self.end)
    }
}
