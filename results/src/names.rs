//! The metric table: every metric, histogram and count that a run may hold, one row each.
//!
//! A row makes a constant of the name, for the code that measures it, and its entry in [`metric::TABLE`](crate::metric::TABLE).
//! Scripts rely on the names: one changes only with a new schema number.

use crate::metric::{Direction::*, Kind::*, Of::*, Row};

/// Unit of rates of bytes.
pub const BYTES_PER_SECOND: &str = "bytes/s";
/// Unit of rates of events.
pub const PER_SECOND: &str = "1/s";
/// Unit of times and of every histogram.
pub const NANOSECONDS: &str = "ns";
/// Unit of figures per packet.
pub const PER_PACKET: &str = "1/packet";
/// Unit of figures per 4 KiB of payload.
pub const PER_PAGE: &str = "1/page";
/// Unit of plain ratios and of counted events.
pub const ONE: &str = "1";
/// Unit of numbers of pages.
pub const PAGES: &str = "pages";
/// Unit of counted bytes.
pub const BYTES: &str = "bytes";

macro_rules! table {
    ($($constant:ident = $name:literal, $unit:ident, $direction:ident, $kind:ident, $of:ident, $label:literal,
        $description:literal;)*) => {
        $(#[doc = $description] pub const $constant: &str = $name;)*

        pub(crate) const ROWS: &[Row] = &[$(Row {
            name: $name,
            unit: $unit,
            direction: $direction,
            kind: $kind,
            of: $of,
            label: $label,
            description: $description,
        }),*];
    };
}

table! {
    THROUGHPUT = "throughput", BYTES_PER_SECOND, Higher, Measured, Metric, "throughput",
        "Payload bytes moved per second.";
    TRANSACTIONS = "transactions", PER_SECOND, Higher, Measured, Metric, "transactions",
        "Round trips completed per second.";
    CPU_PER_PACKET = "cpu_per_packet", NANOSECONDS, Lower, Measured, Metric, "time per packet",
        "Processor time that driver, device and endpoint spend on one packet.";
    MEMCPY_THROUGHPUT = "memcpy_throughput", BYTES_PER_SECOND, Higher, Measured, Metric, "memcpy throughput",
        "Bytes per second that the guest's CPUs copy by plain memcpy from or to the same buffers.";
    MEMCPY_CPU_PER_PACKET = "memcpy_cpu_per_packet", NANOSECONDS, Lower, Measured, Metric, "memcpy time per packet",
        "Processor time of one such copy, of as many bytes as a transfer has.";
    CYCLES_PER_PACKET = "cycles_per_packet", PER_PACKET, Lower, Measured, Metric, "cycles per packet",
        "Processor cycles of the whole process per packet.";
    INSTRUCTIONS_PER_PACKET = "instructions_per_packet", PER_PACKET, Lower, Measured, Metric, "instructions per packet",
        "Instructions of the whole process per packet.";
    DTLB_MISSES_PER_PACKET = "dtlb_misses_per_packet", PER_PACKET, Lower, Measured, Metric, "dTLB misses per packet",
        "Data TLB misses of the whole process per packet.";
    LLC_MISSES_PER_PACKET = "llc_misses_per_packet", PER_PACKET, Lower, Measured, Metric, "LLC misses per packet",
        "Last-level cache misses of the whole process per packet.";
    VFIO_PIN_TIME = "vfio_pin_time", NANOSECONDS, Lower, Measured, Metric, "VFIO pin time",
        "Time in which the kernel pins pages, per map call that probes watch.";
    VFIO_UNPIN_TIME = "vfio_unpin_time", NANOSECONDS, Lower, Measured, Metric, "VFIO unpin time",
        "Time in which the kernel unpins pages, per unmap call that probes watch.";
    VFIO_PIN_SHARE = "vfio_pin_share", ONE, Lower, Measured, Metric, "VFIO pin share",
        "Share of pinning in the time of all map and unmap calls.";
    VFIO_UNPIN_SHARE = "vfio_unpin_share", ONE, Lower, Measured, Metric, "VFIO unpin share",
        "Share of unpinning in the time of all map and unmap calls.";
    RECORDED_ACCESSES = "recorded_accesses_per_packet", PER_PACKET, Neither, Counted, Metric, "page accesses per packet",
        "Pages accessed per packet, counted in the recorded pass.";
    RECORDED_INVALIDATIONS = "recorded_invalidations_per_packet", PER_PACKET, Neither, Counted, Metric, "page invalidations per packet",
        "Pages invalidated per packet, counted in the recorded pass.";
    RECORDED_WORKING_SET = "recorded_working_set_pages", PAGES, Neither, Counted, Metric, "working set",
        "Unique pages of a window of 1024 accesses, counted in the recorded pass.";
    MODELLED_MISS_RATIO = "modelled_miss_ratio", ONE, Lower, Modelled, Metric, "IOTLB misses per access (modelled)",
        "Misses per access of a fully associative LRU IOTLB.";
    MODELLED_MISSES_PER_PAGE = "modelled_misses_per_page", PER_PAGE, Lower, Modelled, Metric, "IOTLB misses per page (modelled)",
        "Misses of that IOTLB per 4 KiB of payload.";
    MODELLED_READS_PER_PAGE = "modelled_reads_per_page", PER_PAGE, Lower, Modelled, Metric, "walk reads per page (modelled)",
        "Memory reads of the walks behind these misses, per 4 KiB of payload.";
    MODELLED_THROUGHPUT = "modelled_throughput", BYTES_PER_SECOND, Higher, Modelled, Metric, "throughput by Fast & Safe (modelled)",
        "Throughput that these reads allow, by T = p / (l0 + M * lm).";
    MODELLED_IOTLB_LOOKUPS_PER_PACKET = "modelled_iotlb_lookups_per_packet", PER_PACKET, Neither, Modelled, Metric, "IOTLB look-ups per packet (modelled)",
        "Look-ups, hits and misses together in the modelled IOTLB, per packet.";
    MODELLED_IOTLB_LOOKUPS_PER_S = "modelled_iotlb_lookups_per_s", PER_SECOND, Neither, Modelled, Metric, "IOTLB look-ups per second (modelled)",
        "Look-ups, hits and misses together in the modelled IOTLB, per second.";
    MODELLED_IOTLB_HITS_PER_PACKET = "modelled_iotlb_hits_per_packet", PER_PACKET, Higher, Modelled, Metric, "IOTLB hits per packet (modelled)",
        "Look-ups answered by an entry in the modelled IOTLB, per packet.";
    MODELLED_IOTLB_HITS_PER_S = "modelled_iotlb_hits_per_s", PER_SECOND, Higher, Modelled, Metric, "IOTLB hits per second (modelled)",
        "Look-ups answered by an entry in the modelled IOTLB, per second.";
    MODELLED_IOTLB_MISSES_PER_PACKET = "modelled_iotlb_misses_per_packet", PER_PACKET, Lower, Modelled, Metric, "IOTLB misses per packet (modelled)",
        "Look-ups that walked the mapping table in the modelled IOTLB, per packet.";
    MODELLED_IOTLB_MISSES_PER_S = "modelled_iotlb_misses_per_s", PER_SECOND, Lower, Modelled, Metric, "IOTLB misses per second (modelled)",
        "Look-ups that walked the mapping table in the modelled IOTLB, per second.";
    MODELLED_IOTLB_FILLS_PER_PACKET = "modelled_iotlb_fills_per_packet", PER_PACKET, Neither, Modelled, Metric, "IOTLB fills per packet (modelled)",
        "Entries made in the modelled IOTLB, per packet.";
    MODELLED_IOTLB_FILLS_PER_S = "modelled_iotlb_fills_per_s", PER_SECOND, Neither, Modelled, Metric, "IOTLB fills per second (modelled)",
        "Entries made in the modelled IOTLB, per second.";
    MODELLED_IOTLB_EVICTIONS_PER_PACKET = "modelled_iotlb_evictions_per_packet", PER_PACKET, Lower, Modelled, Metric, "IOTLB evictions per packet (modelled)",
        "Entries evicted to make room for others in the modelled IOTLB, per packet.";
    MODELLED_IOTLB_EVICTIONS_PER_S = "modelled_iotlb_evictions_per_s", PER_SECOND, Lower, Modelled, Metric, "IOTLB evictions per second (modelled)",
        "Entries evicted to make room for others in the modelled IOTLB, per second.";
    MODELLED_IOTLB_INVALIDATIONS_PER_PACKET = "modelled_iotlb_invalidations_per_packet", PER_PACKET, Lower, Modelled, Metric, "IOTLB invalidations per packet (modelled)",
        "Entries dropped because an UNMAP covered them in the modelled IOTLB, per packet.";
    MODELLED_IOTLB_INVALIDATIONS_PER_S = "modelled_iotlb_invalidations_per_s", PER_SECOND, Lower, Modelled, Metric, "IOTLB invalidations per second (modelled)",
        "Entries dropped because an UNMAP covered them in the modelled IOTLB, per second.";
    MAP_LATENCY = "map_latency", NANOSECONDS, Lower, Measured, Histogram, "map latency",
        "From the driver's decision to map a buffer until its IOVA may be used.";
    UNMAP_LATENCY = "unmap_latency", NANOSECONDS, Lower, Measured, Histogram, "unmap latency",
        "From the driver's decision to unmap a buffer until the call returns.";
    DMA_LATENCY = "dma_latency", NANOSECONDS, Lower, Measured, Histogram, "DMA latency",
        "One DMA access of the endpoint, translation included.";
    REQUEST_SERVICE = "request_service", NANOSECONDS, Lower, Measured, Histogram, "request service",
        "The device's own work on one request, from decoding to the written status.";
    GRACE_WAIT = "grace_wait", NANOSECONDS, Lower, Measured, Histogram, "grace wait",
        "One batch's wait until no endpoint uses a removed mapping.";
    VFIO_MAP_LATENCY = "vfio_map_latency", NANOSECONDS, Lower, Measured, Histogram, "VFIO map latency",
        "One call into VFIO that maps memory for a real device, pinning included.";
    VFIO_UNMAP_LATENCY = "vfio_unmap_latency", NANOSECONDS, Lower, Measured, Histogram, "VFIO unmap latency",
        "One call into VFIO that unmaps memory, unpinning included.";
    VFIO_REMAP_LATENCY = "vfio_remap_latency", NANOSECONDS, Lower, Measured, Histogram, "VFIO remap latency",
        "One unmap and one map of the same memory at another address through VFIO.";
    PACKETS = "packets", ONE, Neither, Counted, Count, "packets",
        "Packets sent and received by the endpoint.";
    TX_PACKETS = "tx_packets", ONE, Neither, Counted, Count, "packets sent",
        "Packets whose transmission completed.";
    RX_PACKETS = "rx_packets", ONE, Neither, Counted, Count, "packets received",
        "Packets received.";
    RX_BUFFERS = "rx_buffers", ONE, Neither, Counted, Count, "receive buffers",
        "Receive buffers used; a long packet takes several.";
    RX_RECYCLED = "rx_recycled", ONE, Neither, Counted, Count, "receive buffers reused",
        "Receive buffers reused while they stayed mapped.";
    TX_SEGMENTS = "tx_segments", ONE, Neither, Counted, Count, "segments sent",
        "Segments on the wire that transmitted packets were cut into.";
    DMA_MAPS = "dma_maps", ONE, Neither, Counted, Count, "DMA API maps",
        "Calls of the DMA API's map, in every mode.";
    DMA_UNMAPS = "dma_unmaps", ONE, Neither, Counted, Count, "DMA API unmaps",
        "Calls of the DMA API's unmap, in every mode.";
    REQUESTS_MAP = "requests_map", ONE, Lower, Counted, Count, "MAP requests",
        "MAP requests sent.";
    REQUESTS_UNMAP = "requests_unmap", ONE, Lower, Counted, Count, "UNMAP requests",
        "UNMAP requests sent.";
    KICKS_IOMMU = "kicks_iommu", ONE, Lower, Counted, Count, "IOMMU kicks",
        "Writes to the IOMMU's doorbell.";
    KICKS_ENDPOINT = "kicks_endpoint", ONE, Lower, Counted, Count, "endpoint kicks",
        "Writes to the endpoint's doorbell.";
    INVALIDATIONS = "invalidations", ONE, Lower, Counted, Count, "invalidations waited for",
        "Invalidations that the guest waited for.";
    FLUSHES_FULL = "flushes_full", ONE, Lower, Counted, Count, "flushes of a full queue",
        "Lazy-mode flushes because the queue of held-back unmaps was full.";
    FLUSHES_TIMER = "flushes_timer", ONE, Lower, Counted, Count, "flushes by timer",
        "Lazy-mode flushes because the time was up.";
    RING_FULL = "ring_full", ONE, Lower, Counted, Count, "request ring full",
        "Times the driver waited for the full request ring to drain.";
    FAULTS = "faults", ONE, Lower, Counted, Count, "faults",
        "Fault records delivered.";
    FAULTS_DROPPED = "faults_dropped", ONE, Lower, Counted, Count, "faults dropped",
        "Faults for which the event queue had no buffer.";
    FAULTS_REPORTED = "faults_reported", ONE, Lower, Counted, Count, "faults reported",
        "Fault records that the driver took from the event queue.";
    TRANSACTION_COUNT = "transactions", ONE, Higher, Counted, Count, "transactions",
        "Round trips completed.";
    BYTES_MOVED = "bytes_moved", BYTES, Neither, Counted, Count, "bytes moved",
        "Payload bytes moved.";
    BYTES_VERIFIED = "bytes_verified", BYTES, Neither, Counted, Count, "bytes verified",
        "Payload bytes whose checksum the receiver verified.";
    VFIO_MAPS = "vfio_maps", ONE, Lower, Counted, Count, "VFIO maps",
        "Mappings made through VFIO.";
    VFIO_UNMAPS = "vfio_unmaps", ONE, Lower, Counted, Count, "VFIO unmaps",
        "Calls into VFIO that unmapped something.";
    VFIO_BYTES_MAPPED = "vfio_bytes_mapped", BYTES, Lower, Counted, Count, "VFIO bytes mapped",
        "Bytes mapped through VFIO.";
    VFIO_BYTES_UNMAPPED = "vfio_bytes_unmapped", BYTES, Lower, Counted, Count, "VFIO bytes unmapped",
        "Bytes unmapped through VFIO.";
    IOTLB_LOOKUPS = "iotlb_lookups", ONE, Neither, Counted, Count, "IOTLB look-ups",
        "Look-ups in the modelled IOTLB, hits and misses together.";
    IOTLB_HITS = "iotlb_hits", ONE, Higher, Counted, Count, "IOTLB hits",
        "Look-ups that an entry of the modelled IOTLB answered.";
    IOTLB_MISSES = "iotlb_misses", ONE, Lower, Counted, Count, "IOTLB misses",
        "Look-ups in the modelled IOTLB that walked the mapping table.";
    IOTLB_FILLS = "iotlb_fills", ONE, Neither, Counted, Count, "IOTLB fills",
        "Entries made in the modelled IOTLB.";
    IOTLB_EVICTIONS = "iotlb_evictions", ONE, Lower, Counted, Count, "IOTLB evictions",
        "Entries of the modelled IOTLB that made room for others.";
    IOTLB_INVALIDATIONS = "iotlb_invalidations", ONE, Lower, Counted, Count, "IOTLB invalidations",
        "Entries of the modelled IOTLB dropped because an UNMAP covered them.";
    IOTLB_FLUSHES = "iotlb_flushes", ONE, Lower, Counted, Count, "IOTLB flushes",
        "Times a modelled IOTLB was dropped whole.";
}

/// Metrics of pinning.
pub const PINNING: [&str; 4] = [VFIO_PIN_TIME, VFIO_UNPIN_TIME, VFIO_PIN_SHARE, VFIO_UNPIN_SHARE];

/// Counters of the processor, each with its metric per packet.
pub const HARDWARE: [(&str, &str); 4] = [
    ("cycles", CYCLES_PER_PACKET),
    ("instructions", INSTRUCTIONS_PER_PACKET),
    ("dtlb_misses", DTLB_MISSES_PER_PACKET),
    ("llc_misses", LLC_MISSES_PER_PACKET),
];

/// Metrics of the recorded pass.
pub const CHURN: [&str; 7] = [
    RECORDED_ACCESSES,
    RECORDED_INVALIDATIONS,
    RECORDED_WORKING_SET,
    MODELLED_MISS_RATIO,
    MODELLED_MISSES_PER_PAGE,
    MODELLED_READS_PER_PAGE,
    MODELLED_THROUGHPUT,
];

/// The metrics made of one count of the modelled IOTLB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IotlbRate {
    /// The count.
    pub count: &'static str,
    /// Metric: the count per packet.
    pub per_packet: &'static str,
    /// Metric: the count per second.
    pub per_second: &'static str,
}

/// Rates of the modelled IOTLB.
pub const IOTLB_RATES: [IotlbRate; 6] = [
    IotlbRate {
        count: IOTLB_LOOKUPS,
        per_packet: MODELLED_IOTLB_LOOKUPS_PER_PACKET,
        per_second: MODELLED_IOTLB_LOOKUPS_PER_S,
    },
    IotlbRate {
        count: IOTLB_HITS,
        per_packet: MODELLED_IOTLB_HITS_PER_PACKET,
        per_second: MODELLED_IOTLB_HITS_PER_S,
    },
    IotlbRate {
        count: IOTLB_MISSES,
        per_packet: MODELLED_IOTLB_MISSES_PER_PACKET,
        per_second: MODELLED_IOTLB_MISSES_PER_S,
    },
    IotlbRate {
        count: IOTLB_FILLS,
        per_packet: MODELLED_IOTLB_FILLS_PER_PACKET,
        per_second: MODELLED_IOTLB_FILLS_PER_S,
    },
    IotlbRate {
        count: IOTLB_EVICTIONS,
        per_packet: MODELLED_IOTLB_EVICTIONS_PER_PACKET,
        per_second: MODELLED_IOTLB_EVICTIONS_PER_S,
    },
    IotlbRate {
        count: IOTLB_INVALIDATIONS,
        per_packet: MODELLED_IOTLB_INVALIDATIONS_PER_PACKET,
        per_second: MODELLED_IOTLB_INVALIDATIONS_PER_S,
    },
];
