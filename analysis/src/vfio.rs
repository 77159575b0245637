//! VFIO's MAP and UNMAP, divided by what kernel probes saw inside them.

use iommu_results::{HistogramSummary, ProbeData};

/// Probe of VFIO's ioctls on a container, and its keys; their parts by name, and the probe of each.
const OPERATIONS: [Operation; 2] = [
    Operation {
        name: "MAP",
        key: "IOMMU_MAP_DMA",
        parts: &[("pinning", "vfio_pin_pages"), ("page tables", "iommu_map")],
    },
    Operation {
        name: "UNMAP",
        key: "IOMMU_UNMAP_DMA",
        parts: &[
            ("page tables", "iommu_unmap_fast"),
            ("IOTLB", "intel_iommu_tlb_sync"),
            ("unpinning", "vfio_unpin_pages"),
        ],
    },
];
const IOCTL: &str = "vfio_iommu_type1_ioctl";

struct Operation {
    name: &'static str,
    key: &'static str,
    parts: &'static [(&'static str, &'static str)],
}

/// An operation of VFIO's and where its time went.
#[derive(Clone, Debug, PartialEq)]
pub struct Divided {
    /// `MAP` or `UNMAP`.
    pub operation: &'static str,
    /// How many ioctls.
    pub count: u64,
    /// Mean time of one, ns.
    pub mean_ns: f64,
    /// Parts and their shares of the whole, the last of them the rest.
    pub parts: Vec<(&'static str, f64)>,
}

/// Divides the time of each operation that happened. One is left out if a part of it has no probe, or if its parts exceed
/// the whole: then the process reached the IOMMU in other ways too.
#[must_use]
pub fn divided(data: &[ProbeData]) -> Vec<Divided> {
    OPERATIONS.iter().filter_map(|operation| divide(data, operation)).collect()
}

fn divide(data: &[ProbeData], operation: &Operation) -> Option<Divided> {
    let whole = probe(data, IOCTL)?.histograms.get(operation.key)?;
    let whole_ns = sum_ns(whole);
    if whole.count == 0 || whole_ns <= 0.0 {
        return None;
    }
    let mut parts = Vec::new();
    for (name, part) in operation.parts {
        let ns: f64 = probe(data, part)?.histograms.values().map(sum_ns).sum();
        parts.push((*name, ns / whole_ns));
    }
    let rest = 1.0 - parts.iter().map(|(_, share)| share).sum::<f64>();
    if rest < 0.0 {
        return None;
    }
    parts.push(("rest", rest));
    Some(Divided { operation: operation.name, count: whole.count, mean_ns: whole.mean, parts })
}

fn probe<'d>(data: &'d [ProbeData], name: &str) -> Option<&'d ProbeData> {
    data.iter().find(|probe| probe.name == name)
}

/// Count and mean are exact, so this is.
fn sum_ns(histogram: &HistogramSummary) -> f64 {
    histogram.mean * histogram.count as f64
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn seen(name: &str, key: &str, count: u64, mean: f64) -> ProbeData {
        let histogram = HistogramSummary {
            unit: "ns".to_owned(),
            count,
            mean,
            min: 0,
            p50: 0,
            p90: 0,
            p99: 0,
            p999: 0,
            p9999: 0,
            max: 0,
        };
        ProbeData {
            name: name.to_owned(),
            kind: "kprobe".to_owned(),
            target: name.to_owned(),
            count,
            seen: count,
            unmatched: 0,
            lost: 0,
            missed: 0,
            counts: BTreeMap::new(),
            histograms: BTreeMap::from([(key.to_owned(), histogram)]),
            note: None,
        }
    }

    #[test]
    fn shares_add_up_to_the_whole() {
        let mut data = vec![
            seen("vfio_iommu_type1_ioctl", "IOMMU_MAP_DMA", 10, 1000.0),
            seen("vfio_pin_pages", "all", 20, 300.0),
            seen("iommu_map", "all", 10, 100.0),
        ];
        let found = divided(&data);
        let [map] = found.as_slice() else { panic!("no UNMAP happened: {found:?}") };
        assert_eq!((map.operation, map.count, map.mean_ns), ("MAP", 10, 1000.0));
        let names: Vec<_> = map.parts.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["pinning", "page tables", "rest"]);
        for ((_, share), expected) in map.parts.iter().zip([0.6, 0.1, 0.3]) {
            assert!((share - expected).abs() < 1e-12, "{map:?}");
        }
        // Somebody else mapped too, so that nobody knows whose part it is.
        data[2] = seen("iommu_map", "all", 1000, 100.0);
        assert_eq!(divided(&data), []);
    }

    #[test]
    fn without_a_part_nothing_is_divided() {
        assert_eq!(divided(&[seen("vfio_iommu_type1_ioctl", "IOMMU_MAP_DMA", 10, 1000.0)]), []);
        assert_eq!(divided(&[]), []);
    }
}
