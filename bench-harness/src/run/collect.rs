//! Gathers what the worker reports, slice by slice.

use std::{collections::BTreeMap, time::Duration};

use iommu_results::{
    Histogram, Param, SliceValue,
    artefacts::{SliceHeat, latency_buckets},
    names,
};

use crate::{
    machine::{Recording, Slice},
    plan::Step,
};

/// Everything measured of one case; the warm-up is not in it.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    /// Parameters only the machine knew.
    pub(crate) params: BTreeMap<String, Param>,
    /// Sums of the slices' counts.
    pub(crate) counts: BTreeMap<String, u64>,
    /// The slices' histograms, merged.
    pub(crate) histograms: BTreeMap<String, Histogram>,
    /// The slices' rates by metric, and their mean latencies by histogram.
    pub(crate) series: BTreeMap<String, Vec<SliceValue>>,
    /// The slices' latencies in coarse buckets; none in virtual time.
    pub(crate) heat: Vec<SliceHeat>,
    /// Its accesses, recorded in a pass of their own, or why there are none; nothing before that pass.
    pub(crate) recording: Option<Result<Recording, String>>,
    /// Why a metric made of a hardware counter, or of what the kernel alone sees, has no values.
    pub(crate) uncounted: BTreeMap<String, String>,
    /// Why nothing can be measured here.
    pub(crate) missing: Option<String>,
    /// Slices in it.
    pub(crate) slices: u32,
}

impl Gathered {
    /// Adds a slice that began at `began` from the start of measuring; a warm-up is passed over.
    pub(crate) fn add(&mut self, step: Step, began: Duration, slice: Slice) {
        let Some(round) = step.round else { return };
        self.slices += 1;
        let at_ns = u64::try_from(began.as_nanos()).unwrap_or(u64::MAX);
        let rates = rates(&slice).map(|(name, value)| (name.to_owned(), value));
        for (name, value) in rates.chain(slice.means_ns.clone()) {
            self.series.entry(name).or_default().push(SliceValue { round, at_ns, value });
        }
        for (event, name) in names::HARDWARE {
            let Some(counted) = slice.counted.get(event) else { continue };
            let name = name.to_owned();
            match counted {
                Ok(n) if slice.packets > 0 => {
                    let value = n / slice.packets as f64;
                    self.series.entry(name).or_default().push(SliceValue { round, at_ns, value });
                }
                Ok(_) => {
                    self.uncounted.insert(name, "no packet was moved".to_owned());
                }
                Err(reason) => {
                    self.uncounted.insert(name, reason.clone());
                }
            }
        }
        for (name, figure) in &slice.further {
            match figure {
                Ok(value) => {
                    let value = SliceValue { round, at_ns, value: *value };
                    self.series.entry((*name).to_owned()).or_default().push(value);
                }
                Err(reason) => {
                    self.uncounted.insert((*name).to_owned(), reason.clone());
                }
            }
        }
        self.missing = slice.missing.or(self.missing.take());
        if slice.elapsed_ns.is_some() {
            let latency = slice.histograms.iter().map(|(name, h)| (name.clone(), latency_buckets(h)));
            self.heat.push(SliceHeat { round, at_ns, latency: latency.collect() });
        }
        for (name, n) in slice.counts {
            *self.counts.entry(name).or_default() += n;
        }
        for (name, histogram) in slice.histograms {
            self.histograms.entry(name).or_default().merge(&histogram);
        }
    }
}

/// A slice's metrics, as far as it has them.
fn rates(slice: &Slice) -> impl Iterator<Item = (&'static str, f64)> {
    use iommu_results::names::{
        CPU_PER_PACKET, IOTLB_RATES, MEMCPY_CPU_PER_PACKET, MEMCPY_THROUGHPUT, THROUGHPUT, TRANSACTIONS,
    };
    let per_second = |n: u64| {
        let elapsed_ns = slice.elapsed_ns.filter(|ns| *ns > 0 && n > 0)?;
        Some(n as f64 * 1e9 / elapsed_ns as f64)
    };
    let cpu = slice.cpu_ns.filter(|_| slice.packets > 0).map(|ns| ns as f64 / slice.packets as f64);
    let memcpy = slice.memcpy.filter(|memcpy| memcpy.bytes > 0 && memcpy.elapsed_ns > 0);
    let copy_cpu = memcpy.filter(|memcpy| memcpy.copies > 0);
    let copy_cpu = copy_cpu.map(|memcpy| slice.memcpy_cpu_ns as f64 / memcpy.copies as f64);
    let memcpy = memcpy.map(|memcpy| memcpy.bytes as f64 * 1e9 / memcpy.elapsed_ns as f64);
    let found = [
        (MEMCPY_THROUGHPUT, memcpy),
        (MEMCPY_CPU_PER_PACKET, copy_cpu),
        (THROUGHPUT, per_second(slice.payload_bytes)),
        (TRANSACTIONS, per_second(slice.transactions)),
        (CPU_PER_PACKET, cpu),
    ];
    let iotlb = IOTLB_RATES.into_iter().flat_map(move |rate| {
        let n = slice.counts.get(rate.count).copied();
        let per_packet = n.filter(|_| slice.packets > 0).map(|n| n as f64 / slice.packets as f64);
        let seconds = slice.elapsed_ns.filter(|ns| *ns > 0).map(|ns| ns as f64 / 1e9);
        let per_second = n.zip(seconds).map(|(n, seconds)| n as f64 / seconds);
        [(rate.per_packet, per_packet), (rate.per_second, per_second)]
    });
    found.into_iter().chain(iotlb).filter_map(|(name, rate)| rate.map(|rate| (name, rate)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice() -> Slice {
        Slice {
            served: None,
            elapsed_ns: Some(500_000_000),
            cpu_ns: Some(1_000_000),
            packets: 1000,
            payload_bytes: 1_000_000,
            counts: BTreeMap::from([("packets".to_owned(), 1000)]),
            means_ns: BTreeMap::from([(names::GRACE_WAIT.to_owned(), 12.5)]),
            ..Slice::default()
        }
    }

    #[test]
    fn warm_up_is_thrown_away() {
        let mut gathered = Gathered::default();
        gathered.add(Step { round: None, case: 0 }, Duration::ZERO, slice());
        assert!(gathered.counts.is_empty() && gathered.series.is_empty());
    }

    #[test]
    fn counts_add_up_and_rates_keep_their_round() {
        let mut gathered = Gathered::default();
        gathered.add(Step { round: Some(0), case: 0 }, Duration::from_millis(5), slice());
        gathered.add(Step { round: Some(1), case: 0 }, Duration::from_millis(9), slice());
        assert_eq!(gathered.counts["packets"], 2000);
        let both = |value: f64| {
            [(0, 5_000_000), (1, 9_000_000)].map(|(round, at_ns)| SliceValue { round, at_ns, value })
        };
        assert_eq!(gathered.series[names::THROUGHPUT], both(2e6));
        assert_eq!(gathered.series[names::CPU_PER_PACKET], both(1000.0));
        assert_eq!(gathered.series[names::GRACE_WAIT], both(12.5));
        assert!(!gathered.series.contains_key(names::TRANSACTIONS), "nothing was transacted");
    }

    #[test]
    fn hardware_counts_are_by_packet_or_have_a_reason() {
        let counted = BTreeMap::from([("cycles", Ok(5000.0)), ("llc_misses", Err("no PMU".to_owned()))]);
        let mut gathered = Gathered::default();
        gathered.add(Step { round: Some(0), case: 0 }, Duration::ZERO, Slice { counted, ..slice() });
        assert_eq!(gathered.series["cycles_per_packet"][0].value, 5.0);
        assert_eq!(gathered.uncounted["llc_misses_per_packet"], "no PMU");
    }

    #[test]
    fn virtual_time_has_no_rates() {
        let mut gathered = Gathered::default();
        let slice = Slice { elapsed_ns: None, cpu_ns: None, means_ns: BTreeMap::new(), ..slice() };
        gathered.add(Step { round: Some(0), case: 0 }, Duration::ZERO, slice);
        assert!(gathered.series.is_empty());
        assert_eq!(gathered.counts["packets"], 1000);
    }
}
