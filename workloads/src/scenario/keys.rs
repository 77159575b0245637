//! The parameters of a case: their ranges, defaults and meaning, in one table.

use super::value::Value;

/// What a parameter accepts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Accepts {
    /// Whole numbers from the first to the second.
    Int(u64, u64),
    /// Powers of two from the first to the second.
    PowerOfTwo(u64, u64),
    /// As [`PowerOfTwo`](Self::PowerOfTwo), or 0 for none.
    ZeroOrPowerOfTwo(u64, u64),
    /// Multiples of the third from the first to the second.
    Multiple(u64, u64, u64),
    /// Numbers from the first to the second.
    Float(f64, f64),
    /// One of these words.
    Word(&'static [&'static str]),
}

impl std::fmt::Display for Accepts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {
            Self::Int(low, high) => write!(f, "a whole number from {low} to {high}"),
            Self::PowerOfTwo(low, high) => write!(f, "a power of two from {low} to {high}"),
            Self::ZeroOrPowerOfTwo(low, high) => write!(f, "0 or a power of two from {low} to {high}"),
            Self::Multiple(low, high, of) => write!(f, "a multiple of {of} from {low} to {high}"),
            Self::Float(low, high) => write!(f, "a number from {low:.1} to {high:.1}"),
            Self::Word(words) => write!(f, "one of {}", words.join(", ")),
        }
    }
}

impl Accepts {
    /// Whether `value` is of the right type and in range; whole numbers pass for fractions.
    pub fn takes(&self, value: &Value) -> bool {
        match (*self, value) {
            (Self::Int(low, high), Value::Int(n)) => (low..=high).contains(n),
            (Self::PowerOfTwo(low, high), Value::Int(n)) => (low..=high).contains(n) && n.is_power_of_two(),
            (Self::ZeroOrPowerOfTwo(low, high), Value::Int(n)) => {
                *n == 0 || (low..=high).contains(n) && n.is_power_of_two()
            }
            (Self::Multiple(low, high, of), Value::Int(n)) => {
                (low..=high).contains(n) && n.is_multiple_of(of)
            }
            (Self::Float(low, high), Value::Float(x)) => (low..=high).contains(x),
            (Self::Word(words), Value::Text(word)) => words.contains(&word.as_str()),
            _ => false,
        }
    }
}

/// One parameter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// What it accepts.
    pub accepts: Accepts,
    /// What it is when nobody sets it, as it would be written.
    pub default: &'static str,
    /// What it means.
    pub meaning: &'static str,
}

const fn key(name: &'static str, accepts: Accepts, default: &'static str, meaning: &'static str) -> Key {
    Key { name, accepts, default, meaning }
}

/// Every parameter, by name.
pub const KEYS: [Key; 37] = [
    key(
        "ack_every",
        Accepts::Int(1, 64),
        "2",
        "segments received before one ACK is sent (TCP_STREAM, TCP_MAERTS)",
    ),
    key(
        "backing",
        Accepts::Word(&["4K", "thp", "hugetlb"]),
        "4K",
        "VFIO_MAP: pages that the memory is made of: of 4 KiB, transparent huge ones, reserved huge ones of 2 MiB",
    ),
    key(
        "block_bytes",
        Accepts::Multiple(512, 1 << 20, 512),
        "4096",
        "bytes of one request to the disk (FIO_RANDREAD, FIO_RANDWRITE)",
    ),
    key("disk_mib", Accepts::Int(1, 4096), "64", "size of the disk in MiB"),
    key(
        "dma_direction",
        Accepts::Word(&["read", "write"]),
        "read",
        "what the DMA engine does with guest memory (DMA_THROUGHPUT, IOTLB_CHURN)",
    ),
    key("engines", Accepts::Int(1, 16), "1", "DMA engines, each an endpoint with a guest CPU of its own"),
    key("flows", Accepts::Int(1, 1024), "1", "connections, spread over the queue pairs"),
    key("flush_entries", Accepts::Int(1, 65536), "256", "lazy mode: unmaps held back before a flush"),
    key(
        "flush_ms",
        Accepts::Int(1, 10_000),
        "10",
        "lazy mode: longest time an unmap is held back, in milliseconds",
    ),
    key(
        "frag_bytes",
        Accepts::Multiple(4096, 65536, 4096),
        "32768",
        "largest piece of payload, mapped by itself, in bytes",
    ),
    key("guest_memory_mib", Accepts::Int(16, 16384), "256", "guest RAM in MiB"),
    key(
        "iommu_ring_size",
        Accepts::PowerOfTwo(2, 32768),
        "256",
        "descriptors of the IOMMU's request queue, 2 a request",
    ),
    key(
        "iotlb_entries",
        Accepts::ZeroOrPowerOfTwo(1, 1 << 20),
        "0",
        "entries of the modelled IOTLB of each endpoint, which then answers its accesses; 0 for none",
    ),
    key(
        "iotlb_page_sizes",
        Accepts::Word(&["4K", "4K+2M", "4K+2M+1G"]),
        "4K+2M+1G",
        "page sizes that an entry of the modelled IOTLB may have",
    ),
    key("iotlb_ways", Accepts::PowerOfTwo(1, 16), "4", "entries of a set of the modelled IOTLB"),
    key(
        "live_mappings",
        Accepts::Int(1, 1 << 20),
        "64",
        "MAP_STORM: mappings each thread keeps before it unmaps",
    ),
    key(
        "map_bytes",
        Accepts::Multiple(4096, 1 << 30, 4096),
        "4096",
        "MAP_STORM, VFIO_MAP: bytes of a mapping",
    ),
    key(
        "message_bytes",
        Accepts::Int(1, 1 << 20),
        "16384",
        "bytes of one send (TCP_STREAM, UDP_STREAM), or of request and of response (TCP_RR, UDP_RR)",
    ),
    key("mtu", Accepts::Int(576, 9216), "1500", "bytes of an IP packet; a segment's payload is 52 less"),
    key(
        "neighbour",
        Accepts::Word(&["none", "storm"]),
        "none",
        "a noisy neighbour: another guest CPU that maps and unmaps in a domain of its own",
    ),
    key(
        "pattern",
        Accepts::Word(&["sequential", "random", "ring", "fragmented"]),
        "sequential",
        "order of accesses (sequential, random), or of mappings (MAP_STORM)",
    ),
    key("queue_depth", Accepts::Int(1, 1024), "32", "transfers or requests to the disk in flight"),
    key(
        "queue_pairs",
        Accepts::Int(1, 64),
        "1",
        "queue pairs of the NIC, each with a guest CPU that drives its share of the flows",
    ),
    key(
        "remap_every",
        Accepts::Int(0, 1 << 20),
        "0",
        "DMA engine: transfers after which the buffer just used is unmapped and mapped anew; 0 never",
    ),
    key(
        "request_queues",
        Accepts::Int(1, 64),
        "1",
        "request queues of the IOMMU, which the guest's CPUs share in turn; more than 1 is a private feature",
    ),
    key("ring_size", Accepts::PowerOfTwo(4, 32768), "256", "descriptors of each ring of the endpoint"),
    key("rx_buffer_bytes", Accepts::Multiple(2048, 65536, 2048), "4096", "bytes of a receive buffer"),
    key("rx_buffers", Accepts::Int(1, 32768), "256", "receive buffers posted"),
    key(
        "rx_recycle",
        Accepts::Float(0.0, 1.0),
        "0.0",
        "fraction of receive buffers whose pages are reused while they stay mapped",
    ),
    key(
        "service",
        Accepts::Word(&["auto", "inline", "thread", "poll"]),
        "auto",
        "where devices work: on the kicking thread, on a sleeping thread, on a polling thread",
    ),
    key("threads", Accepts::Int(1, 64), "1", "MAP_STORM: guest CPUs that map and unmap in one domain"),
    key("transfer_bytes", Accepts::Int(64, 1 << 20), "65536", "bytes of one transfer of the DMA engine"),
    key("tso_bytes", Accepts::Int(512, 65536), "65536", "most payload handed to the NIC at once, in bytes"),
    key("tx_batch", Accepts::Int(1, 256), "1", "packets queued before one kick"),
    key(
        "vfio_forward",
        Accepts::Word(&["request", "coalesced", "batched"]),
        "request",
        "passthrough: UNMAPs reach VFIO at once, or those of a batch together: neighbours, or all, in one call",
    ),
    key(
        "window_bytes",
        Accepts::Int(2048, 1 << 26),
        "262144",
        "bytes of a flow that may be unacknowledged (TCP_STREAM, TCP_MAERTS)",
    ),
    key(
        "working_set_pages",
        Accepts::Int(1, 1 << 20),
        "256",
        "pages of the buffers that each DMA engine accesses",
    ),
];

/// The parameter of that name.
pub(super) fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}
