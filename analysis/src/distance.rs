//! How far two whole latency distributions lie apart, where a mean or a percentile would hide it.

use iommu_results::Histogram;

/// Distances between two distributions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Distance {
    /// Wasserstein's distance W₁ in nanoseconds: how far, on average, the values of one would have to be moved to become
    /// those of the other. The area between the cumulative curves.
    pub wasserstein_ns: f64,
    /// Kolmogorov's and Smirnov's distance: the largest difference between the cumulative curves, 0 to 1.
    pub kolmogorov_smirnov: f64,
    /// Where that difference is, ns.
    pub at_ns: u64,
}

/// The distances between two histograms; `None` where either is empty.
///
/// Within a histogram's steps (1 ns below 2048 ns, three significant digits above) values are not told apart.
pub fn between(base: &Histogram, head: &Histogram) -> Option<Distance> {
    if base.is_empty() || head.is_empty() {
        return None;
    }
    let (totals, mut seen) = ((base.count() as f64, head.count() as f64), (0_u64, 0_u64));
    let mut found = Distance { wasserstein_ns: 0.0, kolmogorov_smirnov: 0.0, at_ns: 0 };
    let mut previous: Option<(u64, f64)> = None;
    for (value, in_base, in_head) in merged(base, head) {
        if let Some((before, difference)) = previous {
            found.wasserstein_ns += difference.abs() * (value - before) as f64;
        }
        seen = (seen.0 + in_base, seen.1 + in_head);
        let difference = seen.0 as f64 / totals.0 - seen.1 as f64 / totals.1;
        if difference.abs() > found.kolmogorov_smirnov {
            (found.kolmogorov_smirnov, found.at_ns) = (difference.abs(), value);
        }
        previous = Some((value, difference));
    }
    Some(found)
}

/// Every value of either, ascending, with its counts in both.
fn merged(base: &Histogram, head: &Histogram) -> Vec<(u64, u64, u64)> {
    let mut all: Vec<(u64, u64, u64)> = base.recorded().map(|(value, count)| (value, count, 0)).collect();
    all.extend(head.recorded().map(|(value, count)| (value, 0, count)));
    all.sort_unstable();
    all.dedup_by(|next, kept| {
        let same = next.0 == kept.0;
        if same {
            (kept.1, kept.2) = (kept.1 + next.1, kept.2 + next.2);
        }
        same
    });
    all
}
