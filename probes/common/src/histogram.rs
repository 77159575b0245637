//! Log-linear histogram, as HdrHistogram's: powers of two, each cut into eight equal buckets.
//!
//! A value is known to an eighth of its power of two, so a percentile taken from the middle of a bucket is at most 6.25 %
//! off; count, sum and maximum are exact.

/// Buckets of each power of two, as a power of two.
pub const SUB_BITS: u32 = 3;
/// Number of buckets; the last one also takes everything larger.
pub const BUCKETS: usize = 256;
/// Values from here on lie in the last bucket: 2³⁴, for nanoseconds 17 s.
pub const SATURATION: u64 = 1 << 34;

/// A histogram as the programs keep it, one for each processor.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Histogram {
    /// Number of values.
    pub count: u64,
    /// Their sum.
    pub sum: u64,
    /// The largest one.
    pub max: u64,
    /// Sum of the value that the pair carried beside its latency, for example bytes; 0 in histograms of values.
    pub carried: u64,
    /// How many values fell into each bucket.
    pub buckets: [u64; BUCKETS],
}

impl Histogram {
    /// An empty histogram.
    pub const EMPTY: Self = Self { count: 0, sum: 0, max: 0, carried: 0, buckets: [0; BUCKETS] };
}

impl Default for Histogram {
    fn default() -> Self {
        Self::EMPTY
    }
}

/// The bucket of `value`, below [`BUCKETS`].
///
/// No leading-zeros count: BPF has no instruction for it, and this takes six steps.
#[inline(always)]
#[must_use]
pub const fn bucket(value: u64) -> usize {
    if value < 1 << SUB_BITS {
        return value as usize;
    }
    if value >= SATURATION {
        return BUCKETS - 1;
    }
    let mut rest = value;
    let mut log = 0u32;
    if rest >= 1 << 32 {
        rest >>= 32;
        log += 32;
    }
    if rest >= 1 << 16 {
        rest >>= 16;
        log += 16;
    }
    if rest >= 1 << 8 {
        rest >>= 8;
        log += 8;
    }
    if rest >= 1 << 4 {
        rest >>= 4;
        log += 4;
    }
    if rest >= 1 << 2 {
        rest >>= 2;
        log += 2;
    }
    if rest >= 1 << 1 {
        log += 1;
    }
    let shift = log - SUB_BITS;
    ((shift << SUB_BITS) as u64 + (value >> shift)) as usize
}

/// The smallest value of bucket `index`.
#[must_use]
pub const fn bucket_low(index: usize) -> u64 {
    let index = if index < BUCKETS { index as u64 } else { BUCKETS as u64 - 1 };
    if index < 2 << SUB_BITS {
        return index;
    }
    let shift = (index >> SUB_BITS) - 1;
    (index - (shift << SUB_BITS)) << shift
}

/// How many values bucket `index` holds; the last one is counted as if it did not saturate.
#[must_use]
pub const fn bucket_width(index: usize) -> u64 {
    let index = if index < BUCKETS { index as u64 } else { BUCKETS as u64 - 1 };
    if index < 2 << SUB_BITS { 1 } else { 1 << ((index >> SUB_BITS) - 1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_tile_the_values_without_gap_or_overlap() {
        let mut next = 0;
        for index in 0..BUCKETS {
            assert_eq!(bucket_low(index), next, "bucket {index}");
            assert_eq!(bucket(next), index, "its first value");
            next += bucket_width(index);
            assert_eq!(bucket(next - 1), index, "its last value");
        }
        assert_eq!(next, SATURATION);
    }

    #[test]
    fn everything_larger_falls_into_the_last_bucket() {
        for value in [SATURATION - 1, SATURATION, SATURATION + 1, 1 << 63, u64::MAX] {
            assert_eq!(bucket(value), BUCKETS - 1, "{value}");
        }
    }

    /// The oracle: floating-point-free definition by search.
    #[test]
    fn a_bucket_is_where_a_search_finds_it() {
        let mut value = 1u64;
        for step in 0..20_000u64 {
            value =
                value.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407 + step);
            let value = value >> (step % 60);
            let searched = (0..BUCKETS).rev().find(|&index| bucket_low(index) <= value);
            assert_eq!(Some(bucket(value)), searched, "{value}");
        }
    }

    #[test]
    fn a_bucket_is_an_eighth_of_its_power_of_two_at_most() {
        for index in 16..BUCKETS {
            assert!(bucket_width(index) * 8 <= bucket_low(index), "bucket {index}");
        }
    }
}
