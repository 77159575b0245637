//! How often each reuse distance occurred.

use serde::Serialize;

use crate::Reuse;

/// Counts of accesses by what they were.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ReuseHistogram {
    /// First uses of a page.
    pub first: u64,
    /// First uses since an invalidation of the page.
    pub invalidated: u64,
    /// First uses since everything was invalidated.
    pub flushed: u64,
    /// Accesses by distance.
    by_distance: Vec<u64>,
}

/// Accesses whose distances lie within a power of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Bucket {
    /// Smallest distance of the bucket: 0, or a power of two.
    pub from: u64,
    /// Largest.
    pub to: u64,
    /// Accesses.
    pub accesses: u64,
}

impl ReuseHistogram {
    pub(crate) fn add(&mut self, reuse: Reuse) {
        match reuse {
            Reuse::First => self.first += 1,
            Reuse::Invalidated => self.invalidated += 1,
            Reuse::Flushed => self.flushed += 1,
            Reuse::Distance(distance) => {
                let at = distance as usize;
                if at >= self.by_distance.len() {
                    self.by_distance.resize(at + 1, 0);
                }
                self.by_distance[at] += 1;
            }
        }
    }

    /// Adds the accesses of another stream, or of another stretch of the same.
    pub fn merge(&mut self, other: &Self) {
        self.first += other.first;
        self.invalidated += other.invalidated;
        self.flushed += other.flushed;
        if self.by_distance.len() < other.by_distance.len() {
            self.by_distance.resize(other.by_distance.len(), 0);
        }
        self.by_distance.iter_mut().zip(&other.by_distance).for_each(|(ours, theirs)| *ours += theirs);
    }

    /// All accesses.
    pub fn accesses(&self) -> u64 {
        self.always_missed() + self.by_distance.iter().sum::<u64>()
    }

    /// Accesses that miss at every capacity.
    pub fn always_missed(&self) -> u64 {
        self.first + self.invalidated + self.flushed
    }

    /// Accesses at exactly this distance.
    pub fn at(&self, distance: u64) -> u64 {
        usize::try_from(distance).ok().and_then(|at| self.by_distance.get(at)).copied().unwrap_or(0)
    }

    /// Accesses by distance, from 0 on.
    pub fn by_distance(&self) -> &[u64] {
        &self.by_distance
    }

    /// Distances 0, 1, 2 to 3, 4 to 7 …: for plots.
    pub fn buckets(&self) -> Vec<Bucket> {
        let mut buckets = Vec::new();
        let mut from = 0usize;
        while from < self.by_distance.len() {
            let end = (2 * from).max(1);
            let accesses = self.by_distance[from..end.min(self.by_distance.len())].iter().sum();
            buckets.push(Bucket { from: from as u64, to: end as u64 - 1, accesses });
            from = end;
        }
        buckets
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_double_and_lose_nothing() {
        let mut histogram = ReuseHistogram::default();
        for distance in 0..100 {
            for _ in 0..=distance {
                histogram.add(Reuse::Distance(distance));
            }
        }
        histogram.add(Reuse::First);
        histogram.add(Reuse::Invalidated);
        let buckets = histogram.buckets();
        let bounds: Vec<_> = buckets.iter().take(4).map(|bucket| (bucket.from, bucket.to)).collect();
        assert_eq!(bounds, [(0, 0), (1, 1), (2, 3), (4, 7)]);
        assert_eq!(buckets[2].accesses, 3 + 4);
        assert_eq!(buckets.iter().map(|bucket| bucket.accesses).sum::<u64>() + 2, histogram.accesses());
        assert_eq!((histogram.at(9), histogram.at(100)), (10, 0));
    }
}
