//! What probes counted: typed, added up over processors, with differences between two moments.

use std::{collections::BTreeMap, time::Instant};

use iommu_probes_common::{BUCKETS, Count, Histogram, Key, Tally, bucket_low, bucket_width};

use crate::{Definition, catalogue, definition::Unit, names};

/// What all attached probes had counted at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// When it was taken.
    pub at: Instant,
    /// One entry a probe, in the catalogue's order.
    pub probes: Vec<ProbeData>,
}

impl Snapshot {
    /// What was counted since `earlier`, a snapshot of the same set. Probes are matched by name.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let probes = self
            .probes
            .iter()
            .map(|now| match earlier.probe(now.definition.name) {
                Some(before) => now.since(before),
                None => now.clone(),
            })
            .collect();
        Self { at: self.at, probes }
    }

    /// What to know about a probe's figures on this machine: that another stands in for it, or it for another.
    #[must_use]
    pub fn note(&self, name: &str) -> Option<&'static str> {
        let total = |name| self.probe(name).map_or(0, ProbeData::total);
        let silent = total(catalogue::ROUND_TRIP) == 0 && total(catalogue::STAND_IN) > 0;
        match name {
            catalogue::ROUND_TRIP if silent => Some(
                "never fired, though guests ran: this KVM does not pass here; kvm_userspace_round_trip stands in",
            ),
            catalogue::STAND_IN if silent => Some(
                "stands in for kvm_exit, which does not fire on this KVM: only the VMM's part of a round trip",
            ),
            _ => None,
        }
    }

    /// The probe of that name.
    #[must_use]
    pub fn probe(&self, name: &str) -> Option<&ProbeData> {
        self.probes.iter().find(|probe| probe.definition.name == name)
    }
}

/// What one probe has counted.
#[derive(Clone, Debug)]
pub struct ProbeData {
    /// The probe.
    pub definition: &'static Definition,
    /// How often its programs ran and what they lost.
    pub tally: Tally,
    /// Pairs that are open.
    pub open: u64,
    /// Events that the kernel skipped because a program of this probe was running on that processor. They are in no other
    /// count.
    pub missed: u64,
    /// Single events by key.
    pub counts: BTreeMap<Key, Count>,
    /// Latencies of pairs, ns, or values of single events, by key.
    pub histograms: BTreeMap<Key, LogHistogram>,
}

impl ProbeData {
    pub(crate) const fn new(definition: &'static Definition, missed: u64) -> Self {
        Self {
            definition,
            tally: Tally {
                filtered: 0,
                opened: 0,
                closed: 0,
                seen: 0,
                reopened: 0,
                unopened: 0,
                starts_full: 0,
                keys_full: 0,
                ring_full: 0,
                ring_sent: 0,
            },
            open: 0,
            missed,
            counts: BTreeMap::new(),
            histograms: BTreeMap::new(),
        }
    }

    pub(crate) fn add_counts<'a>(&mut self, key: Key, each: impl Iterator<Item = &'a Count>) {
        let total = self.counts.entry(key).or_default();
        for count in each {
            total.count = total.count.wrapping_add(count.count);
            total.sum = total.sum.wrapping_add(count.sum);
        }
    }

    pub(crate) fn add_histograms<'a>(&mut self, key: Key, each: impl Iterator<Item = &'a Histogram>) {
        let total = self.histograms.entry(key).or_default();
        for histogram in each {
            total.add(histogram);
        }
    }

    /// Events, or openings of pairs: the total that everything else is a part of.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.tally.opened
    }

    /// Openings without a closing: replaced by another of the same thread, or still open.
    #[must_use]
    pub const fn unmatched(&self) -> u64 {
        self.tally.reopened.wrapping_add(self.open)
    }

    /// Events or pairs lost because a map was full.
    #[must_use]
    pub const fn lost(&self) -> u64 {
        self.tally.lost()
    }

    /// All histograms as one.
    #[must_use]
    pub fn whole(&self) -> LogHistogram {
        self.histograms.values().fold(LogHistogram::default(), |mut sum, one| {
            sum.merge(one);
            sum
        })
    }

    /// A key in words: `EPT_MISCONFIG`, `0x3f8 out`.
    #[must_use]
    pub fn key_name(&self, key: &Key) -> String {
        names::key(self.definition.keys, key)
    }

    /// The unit of the histograms.
    #[must_use]
    pub const fn histogram_unit(&self) -> &'static str {
        match (self.definition.is_pair(), self.definition.unit) {
            (true, _) => "ns",
            (false, Unit::Bytes) => "bytes",
            (false, _) => "1",
        }
    }

    /// What was counted since `earlier`. `open` stays what it is now.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut difference = self.clone();
        difference.tally = self.tally.since(earlier.tally);
        difference.missed = self.missed.wrapping_sub(earlier.missed);
        for (key, count) in &mut difference.counts {
            if let Some(before) = earlier.counts.get(key) {
                count.count = count.count.wrapping_sub(before.count);
                count.sum = count.sum.wrapping_sub(before.sum);
            }
        }
        difference.counts.retain(|_, count| count.count != 0);
        for (key, histogram) in &mut difference.histograms {
            if let Some(before) = earlier.histograms.get(key) {
                histogram.subtract(before);
            }
        }
        difference.histograms.retain(|_, histogram| histogram.count() != 0);
        difference
    }
}

/// A log-linear histogram: count, sum and maximum are exact, percentiles to 6.25 %.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogHistogram(Histogram);

impl LogHistogram {
    /// Adds what one processor counted.
    pub(crate) fn add(&mut self, other: &Histogram) {
        self.0.count = self.0.count.wrapping_add(other.count);
        self.0.sum = self.0.sum.wrapping_add(other.sum);
        self.0.carried = self.0.carried.wrapping_add(other.carried);
        self.0.max = self.0.max.max(other.max);
        for (total, more) in self.0.buckets.iter_mut().zip(&other.buckets) {
            *total = total.wrapping_add(*more);
        }
    }

    /// Adds another histogram's values.
    pub fn merge(&mut self, other: &Self) {
        self.add(&other.0);
    }

    /// Takes away what was counted before. The maximum becomes that of the highest bucket that is left, if it is less.
    pub(crate) fn subtract(&mut self, before: &Self) {
        self.0.count = self.0.count.wrapping_sub(before.0.count);
        self.0.sum = self.0.sum.wrapping_sub(before.0.sum);
        self.0.carried = self.0.carried.wrapping_sub(before.0.carried);
        for (total, less) in self.0.buckets.iter_mut().zip(&before.0.buckets) {
            *total = total.wrapping_sub(*less);
        }
        let highest = self.0.buckets.iter().rposition(|&count| count != 0);
        if let Some(highest) = highest.filter(|&highest| highest < BUCKETS - 1) {
            self.0.max = self.0.max.min(bucket_low(highest) + bucket_width(highest) - 1);
        }
    }

    /// Number of values.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.0.count
    }

    /// Their sum.
    #[must_use]
    pub const fn sum(&self) -> u64 {
        self.0.sum
    }

    /// Sum of what the pairs carried, for example bytes.
    #[must_use]
    pub const fn carried(&self) -> u64 {
        self.0.carried
    }

    /// The mean; 0 if there is no value.
    #[must_use]
    pub fn mean(&self) -> f64 {
        if self.0.count == 0 { 0.0 } else { self.0.sum as f64 / self.0.count as f64 }
    }

    /// The largest value.
    #[must_use]
    pub const fn max(&self) -> u64 {
        self.0.max
    }

    /// The smallest value, to the bucket; 0 if there is none.
    #[must_use]
    pub fn min(&self) -> u64 {
        self.0.buckets.iter().position(|&count| count != 0).map_or(0, bucket_low)
    }

    /// The value that a share `quantile` (0 to 1) of the values do not exceed: the middle of its bucket, and not above the
    /// maximum. 0 if there is no value.
    #[must_use]
    pub fn quantile(&self, quantile: f64) -> u64 {
        let wanted = (quantile.clamp(0.0, 1.0) * self.0.count as f64).ceil().max(1.0) as u64;
        let mut passed = 0u64;
        for (index, &count) in self.0.buckets.iter().enumerate() {
            passed = passed.saturating_add(count);
            if passed >= wanted {
                if index == BUCKETS - 1 {
                    return self.0.max;
                }
                return (bucket_low(index) + (bucket_width(index) - 1) / 2).min(self.0.max);
            }
        }
        0
    }

    /// Non-empty buckets: smallest value, width, count.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64, u64)> + '_ {
        let filled = self.0.buckets.iter().enumerate().filter(|(_, count)| **count != 0);
        filled.map(|(index, &count)| (bucket_low(index), bucket_width(index), count))
    }
}

impl From<Histogram> for LogHistogram {
    fn from(histogram: Histogram) -> Self {
        Self(histogram)
    }
}

#[cfg(test)]
mod tests {
    use iommu_probes_common::bucket;
    use proptest::prelude::*;

    use super::*;

    fn histogram(values: &[u64]) -> LogHistogram {
        let mut histogram = Histogram::EMPTY;
        for &value in values {
            histogram.count += 1;
            histogram.sum += value;
            histogram.max = histogram.max.max(value);
            histogram.buckets[bucket(value)] += 1;
        }
        LogHistogram(histogram)
    }

    proptest! {
        /// The oracle is the sorted list.
        #[test]
        fn a_quantile_is_within_a_bucket_of_the_exact_one(
            mut values in proptest::collection::vec(0u64..1 << 33, 1..200),
            quantile in 0.0f64..=1.0,
        ) {
            let found = histogram(&values).quantile(quantile) as f64;
            values.sort_unstable();
            let rank = (quantile * values.len() as f64).ceil().max(1.0) as usize;
            let exact = values[rank - 1] as f64;
            prop_assert!((found - exact).abs() <= exact * 0.0625 + 0.5, "{found} for {exact}");
        }

        #[test]
        fn a_difference_is_what_came_after(
            first in proptest::collection::vec(0u64..1 << 40, 0..50),
            second in proptest::collection::vec(0u64..1 << 40, 1..50),
        ) {
            let mut both = histogram(&first);
            both.add(&histogram(&second).0);
            let maximum = both.max();
            both.subtract(&histogram(&first));
            let expected = histogram(&second);
            prop_assert_eq!(both.count(), expected.count());
            prop_assert_eq!(both.sum(), expected.sum());
            prop_assert_eq!(both.0.buckets, expected.0.buckets);
            prop_assert!(both.max() >= expected.max() && both.max() <= maximum);
        }
    }

    #[test]
    fn no_values_have_no_quantiles() {
        let empty = LogHistogram::default();
        assert_eq!((empty.quantile(0.5), empty.min(), empty.max(), empty.mean()), (0, 0, 0, 0.0));
    }
}
