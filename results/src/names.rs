//! The names that `run.json` uses for metrics, histograms and counts.
//!
//! Scripts rely on them: a name changes only with a new schema number.

/// Metric: payload bytes moved, bytes/s.
pub const THROUGHPUT: &str = "throughput";
/// Metric: completed round trips, 1/s.
pub const TRANSACTIONS: &str = "transactions";
/// Metric: processor time that the guest side, the device and the endpoint spend on one packet, ns.
pub const CPU_PER_PACKET: &str = "cpu_per_packet";

/// Metric: payload bytes that the guest's CPUs copy by themselves, by plain `memcpy` from or to the same buffers, bytes/s.
pub const MEMCPY_THROUGHPUT: &str = "memcpy_throughput";

/// Metric: processor time of one such copy, of as many bytes as a transfer has, ns.
pub const MEMCPY_CPU_PER_PACKET: &str = "memcpy_cpu_per_packet";

/// Unit of [`THROUGHPUT`].
pub const BYTES_PER_SECOND: &str = "bytes/s";
/// Unit of [`TRANSACTIONS`].
pub const PER_SECOND: &str = "1/s";
/// Unit of [`CPU_PER_PACKET`] and of every histogram.
pub const NANOSECONDS: &str = "ns";

/// Histogram: from the driver's decision to map a buffer until the IOVA may be used, ns.
pub const MAP_LATENCY: &str = "map_latency";
/// Histogram: from the driver's decision to unmap a buffer until the call returns, ns.
pub const UNMAP_LATENCY: &str = "unmap_latency";
/// Histogram: one DMA access of the endpoint, translation included, ns.
pub const DMA_LATENCY: &str = "dma_latency";
/// Histogram: the device's own work on one request, from decoding to the written status, ns.
pub const REQUEST_SERVICE: &str = "request_service";
/// Histogram: how long one batch waits until no endpoint uses a removed mapping any more, ns.
pub const GRACE_WAIT: &str = "grace_wait";

/// Histogram: one call into VFIO that maps memory for a real device, pinning included, ns.
pub const VFIO_MAP_LATENCY: &str = "vfio_map_latency";
/// Histogram: one call into VFIO that unmaps memory, unpinning included, ns.
pub const VFIO_UNMAP_LATENCY: &str = "vfio_unmap_latency";
/// Histogram: one unmap and one map of the same memory at another address through VFIO, ns.
pub const VFIO_REMAP_LATENCY: &str = "vfio_remap_latency";

/// Metric: time in which the kernel pins pages, by map call, ns. It and the three below are of cycles that probes watch.
pub const VFIO_PIN_TIME: &str = "vfio_pin_time";
/// Metric: time in which the kernel unpins pages, by unmap call, ns.
pub const VFIO_UNPIN_TIME: &str = "vfio_unpin_time";
/// Metric: pinning's part of the time of all map and unmap calls.
pub const VFIO_PIN_SHARE: &str = "vfio_pin_share";
/// Metric: unpinning's part of the same time.
pub const VFIO_UNPIN_SHARE: &str = "vfio_unpin_share";
/// The metrics of pinning, with their units.
pub const PINNING: [(&str, &str); 4] = [
    (VFIO_PIN_TIME, NANOSECONDS),
    (VFIO_UNPIN_TIME, NANOSECONDS),
    (VFIO_PIN_SHARE, ONE),
    (VFIO_UNPIN_SHARE, ONE),
];

/// Count: packets sent and received by the network endpoint.
pub const PACKETS: &str = "packets";
/// Count: MAP requests.
pub const REQUESTS_MAP: &str = "requests_map";
/// Count: UNMAP requests.
pub const REQUESTS_UNMAP: &str = "requests_unmap";
/// Count: writes to the IOMMU's doorbell.
pub const KICKS_IOMMU: &str = "kicks_iommu";
/// Count: writes to the endpoint's doorbell.
pub const KICKS_ENDPOINT: &str = "kicks_endpoint";
/// Count: invalidations that the guest waited for.
pub const INVALIDATIONS: &str = "invalidations";
/// Count: fault records delivered.
pub const FAULTS: &str = "faults";
/// Count: faults for which the event queue had no buffer.
pub const FAULTS_DROPPED: &str = "faults_dropped";
/// Count: mappings made through VFIO. It and the three below exist only for passthrough endpoints.
pub const VFIO_MAPS: &str = "vfio_maps";
/// Count: calls into VFIO that unmapped something.
pub const VFIO_UNMAPS: &str = "vfio_unmaps";
/// Count: bytes mapped through VFIO.
pub const VFIO_BYTES_MAPPED: &str = "vfio_bytes_mapped";
/// Count: bytes unmapped through VFIO.
pub const VFIO_BYTES_UNMAPPED: &str = "vfio_bytes_unmapped";
/// Count: payload bytes moved.
pub const BYTES_MOVED: &str = "bytes_moved";
/// Count: payload bytes whose checksum was verified at the receiver.
pub const BYTES_VERIFIED: &str = "bytes_verified";

/// Count: look-ups of the modelled IOTLB, hits and misses. It and the six below exist only where an IOTLB was modelled.
pub const IOTLB_LOOKUPS: &str = "iotlb_lookups";
/// Count: look-ups that an entry of the modelled IOTLB answered.
pub const IOTLB_HITS: &str = "iotlb_hits";
/// Count: look-ups that walked the mapping table.
pub const IOTLB_MISSES: &str = "iotlb_misses";
/// Count: entries made.
pub const IOTLB_FILLS: &str = "iotlb_fills";
/// Count: entries that made room for others.
pub const IOTLB_EVICTIONS: &str = "iotlb_evictions";
/// Count: entries dropped because an UNMAP covered them.
pub const IOTLB_INVALIDATIONS: &str = "iotlb_invalidations";
/// Count: times an IOTLB was dropped whole.
pub const IOTLB_FLUSHES: &str = "iotlb_flushes";

/// Unit of figures per packet: a plain number.
pub const PER_PACKET: &str = "1/packet";

/// Counts of the processor that become metrics per packet; see [`per_packet`].
pub const HARDWARE_COUNTS: [&str; 4] = ["cycles", "instructions", "dtlb_misses", "llc_misses"];

/// Metric: a count of the processor's by packet, in [`PER_PACKET`], such as `cycles_per_packet`.
pub fn per_packet(count: &str) -> String {
    format!("{count}_per_packet")
}

/// The metrics made of one count of the modelled IOTLB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IotlbRate {
    /// The count.
    pub count: &'static str,
    /// Metric: it by packet, in [`PER_PACKET`].
    pub per_packet: &'static str,
    /// Metric: it by second, in [`PER_SECOND`].
    pub per_second: &'static str,
}

macro_rules! iotlb_rates {
    ($($name:literal),* $(,)?) => {
        [$(IotlbRate {
            count: concat!("iotlb_", $name),
            per_packet: concat!("modelled_iotlb_", $name, "_per_packet"),
            per_second: concat!("modelled_iotlb_", $name, "_per_s"),
        }),*]
    };
}

/// Metric: pages accessed by a packet, in the recorded pass.
pub const RECORDED_ACCESSES: &str = "recorded_accesses_per_packet";
/// Metric: pages invalidated by a packet, in the recorded pass.
pub const RECORDED_INVALIDATIONS: &str = "recorded_invalidations_per_packet";
/// Metric: unique pages of a window of accesses, in the recorded pass.
pub const RECORDED_WORKING_SET: &str = "recorded_working_set_pages";
/// Metric: misses by access of a fully associative LRU IOTLB: modelled.
pub const MODELLED_MISS_RATIO: &str = "modelled_miss_ratio";
/// Metric: its misses by 4 KiB of payload: modelled.
pub const MODELLED_MISSES_PER_PAGE: &str = "modelled_misses_per_page";
/// Metric: memory reads of the walks behind them by 4 KiB of payload: modelled.
pub const MODELLED_READS_PER_PAGE: &str = "modelled_reads_per_page";
/// Metric: the throughput that these reads allow, by T = p / (l0 + M · lm): modelled.
pub const MODELLED_THROUGHPUT: &str = "modelled_throughput";

/// Unit of plain ratios.
pub const ONE: &str = "1";
/// Unit of numbers of pages.
pub const PAGES: &str = "pages";
/// Unit of figures by 4 KiB of payload.
pub const PER_PAGE: &str = "1/page";

/// The metrics of the recorded pass, with their units.
pub const CHURN: [(&str, &str); 7] = [
    (RECORDED_ACCESSES, PER_PACKET),
    (RECORDED_INVALIDATIONS, PER_PACKET),
    (RECORDED_WORKING_SET, PAGES),
    (MODELLED_MISS_RATIO, ONE),
    (MODELLED_MISSES_PER_PAGE, PER_PAGE),
    (MODELLED_READS_PER_PAGE, PER_PAGE),
    (MODELLED_THROUGHPUT, BYTES_PER_SECOND),
];

/// Whether a metric was measured, so that two runs may be judged by it; what is modelled or only recorded is not.
pub fn is_measured(name: &str) -> bool {
    !name.starts_with("modelled_") && !name.starts_with("recorded_")
}

/// Rates of the modelled IOTLB.
pub const IOTLB_RATES: [IotlbRate; 6] =
    iotlb_rates!["lookups", "hits", "misses", "fills", "evictions", "invalidations"];

/// The unit of a metric, or of a histogram's mean.
pub fn unit_of(name: &str) -> &'static str {
    match name {
        THROUGHPUT | MEMCPY_THROUGHPUT => BYTES_PER_SECOND,
        TRANSACTIONS => PER_SECOND,
        _ if IOTLB_RATES.iter().any(|rate| rate.per_packet == name) => PER_PACKET,
        _ if HARDWARE_COUNTS.iter().any(|count| per_packet(count) == name) => PER_PACKET,
        _ if IOTLB_RATES.iter().any(|rate| rate.per_second == name) => PER_SECOND,
        VFIO_PIN_SHARE | VFIO_UNPIN_SHARE => ONE,
        // What is no rate is a time.
        _ => NANOSECONDS,
    }
}
