//! The parameters of one case, typed.

use std::collections::BTreeMap;

use crate::pages::PAGE_BYTES;

use super::{
    keys::{Accepts, KEYS},
    value::{Value, parse_int},
};

/// One millionth: `rx_recycle` is kept as so many of them, so that counts derived from it are exact.
pub const PPM: u32 = 1_000_000;
/// Ethernet, IPv4 and TCP header with timestamps: what a frame's header stands for, in bytes.
const IP_TCP_BYTES: u32 = 52;

/// Where devices work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Service {
    /// Inline where there are fewer cores than busy threads, on a thread elsewhere.
    Auto,
    /// On the kicking thread.
    Inline,
    /// On a thread that sleeps until it is kicked.
    Thread,
    /// On a thread that polls.
    Poll,
}

/// How what is unmapped reaches VFIO, where the endpoint is a real device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum VfioForward {
    /// Each UNMAP at once.
    Request,
    /// Those of a batch together, neighbours in one call.
    Coalesced,
    /// Those of a batch together, everything between two mappings that stay in one call.
    Batched,
}

/// In which order things are accessed or mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pattern {
    /// One after the other, round and round; of mappings, at ever higher addresses.
    Sequential,
    /// Drawn anew each time.
    Random,
    /// Mappings only: the same addresses, first in, first out.
    Ring,
    /// Mappings only: each alone in its 2 MiB, so that it costs the most table.
    Fragmented,
}

/// What a DMA engine does with guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DmaDirection {
    /// Reads it.
    Read,
    /// Writes it.
    Write,
}

/// What the memory of VFIO_MAP is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Backing {
    /// Pages of 4 KiB.
    Small,
    /// Transparent huge pages.
    Transparent,
    /// Reserved huge pages.
    Hugetlb,
}

/// Page sizes that the modelled IOTLB caches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IotlbPages {
    /// 4 KiB.
    Small,
    /// 4 KiB and 2 MiB.
    UpToLarge,
    /// 4 KiB, 2 MiB and 1 GiB.
    All,
}

/// The parameters of one case; [`KEYS`] says what they mean.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are the rows of KEYS, where they are documented")]
pub struct Params {
    pub ack_every: u16,
    pub backing: Backing,
    pub block_bytes: u32,
    pub disk_mib: u32,
    pub dma_direction: DmaDirection,
    pub engines: u16,
    pub flows: u16,
    pub flush_entries: u32,
    pub flush_ms: u32,
    pub frag_bytes: u32,
    pub guest_memory_mib: u32,
    pub iommu_ring_size: u16,
    pub iotlb_entries: u32,
    pub iotlb_page_sizes: IotlbPages,
    pub iotlb_ways: u16,
    pub live_mappings: u32,
    pub map_bytes: u32,
    pub message_bytes: u32,
    pub mtu: u16,
    /// `neighbour` is `storm`.
    pub noisy_neighbour: bool,
    pub pattern: Pattern,
    pub queue_depth: u16,
    pub queue_pairs: u16,
    pub remap_every: u32,
    pub request_queues: u16,
    pub ring_size: u16,
    pub rx_buffer_bytes: u32,
    pub rx_buffers: u16,
    /// `rx_recycle` in millionths.
    pub rx_recycle_ppm: u32,
    pub service: Service,
    pub threads: u16,
    pub transfer_bytes: u32,
    pub tso_bytes: u32,
    pub tx_batch: u16,
    pub vfio_forward: VfioForward,
    pub window_bytes: u32,
    pub working_set_pages: u32,
}

impl Default for Params {
    fn default() -> Self {
        Self::from_map(&BTreeMap::new())
    }
}

impl Params {
    /// Largest payload of one segment on the wire, in bytes.
    pub fn mss(&self) -> u16 {
        (u32::from(self.mtu) - IP_TCP_BYTES) as u16
    }

    /// Payload of one packet handed to the NIC when the stream has enough, in bytes: whole segments, at least one.
    pub fn segment_bytes(&self) -> u32 {
        let mss = u32::from(self.mss());
        if self.tso_bytes < mss { self.tso_bytes } else { self.tso_bytes / mss * mss }
    }

    /// DMA engine: buffers of its working set, at least one, and bytes of each: a transfer rounded up to pages.
    pub fn working_set(&self) -> (u32, u32) {
        let buffer = self.transfer_bytes.next_multiple_of(PAGE_BYTES as u32);
        ((self.working_set_pages / (buffer / PAGE_BYTES as u32)).max(1), buffer)
    }

    /// Disk: blocks of `block_bytes` that it has.
    pub fn blocks(&self) -> u32 {
        // At most 4 GiB over at least 512 bytes.
        ((u64::from(self.disk_mib) << 20) / u64::from(self.block_bytes)) as u32
    }

    /// TCP_MAERTS: packets of a flow that may be on their way, at least one.
    pub fn window_packets(&self) -> u64 {
        u64::from(self.window_bytes / self.segment_bytes()).clamp(1, u64::from(u16::MAX))
    }

    /// TCP_MAERTS: packets received before one ACK is sent.
    pub fn packets_per_ack(&self) -> u32 {
        let segments = self.segment_bytes().div_ceil(u32::from(self.mss()));
        u32::from(self.ack_every).div_ceil(segments)
    }

    /// The parameters with `values` in place of defaults. Values must have passed their key's [`Accepts`]; one that
    /// has not is ignored.
    pub(super) fn from_map(values: &BTreeMap<&'static str, Value>) -> Self {
        let int = |name| match values.get(name).or(default_of(name).as_ref()) {
            Some(Value::Int(value)) => *value,
            _ => 0,
        };
        let small = |name| u16::try_from(int(name)).unwrap_or(u16::MAX);
        let wide = |name| u32::try_from(int(name)).unwrap_or(u32::MAX);
        let fraction = match values.get("rx_recycle") {
            Some(Value::Float(value)) => *value,
            _ => 0.0,
        };
        let word = |name| match values.get(name) {
            Some(Value::Text(word)) => word.as_str(),
            _ => "",
        };
        Self {
            ack_every: small("ack_every"),
            backing: match word("backing") {
                "thp" => Backing::Transparent,
                "hugetlb" => Backing::Hugetlb,
                _ => Backing::Small,
            },
            block_bytes: wide("block_bytes"),
            disk_mib: wide("disk_mib"),
            dma_direction: if word("dma_direction") == "write" {
                DmaDirection::Write
            } else {
                DmaDirection::Read
            },
            engines: small("engines"),
            flows: small("flows"),
            flush_entries: wide("flush_entries"),
            flush_ms: wide("flush_ms"),
            frag_bytes: wide("frag_bytes"),
            guest_memory_mib: wide("guest_memory_mib"),
            iommu_ring_size: small("iommu_ring_size"),
            iotlb_entries: wide("iotlb_entries"),
            iotlb_page_sizes: match word("iotlb_page_sizes") {
                "4K" => IotlbPages::Small,
                "4K+2M" => IotlbPages::UpToLarge,
                _ => IotlbPages::All,
            },
            iotlb_ways: small("iotlb_ways"),
            live_mappings: wide("live_mappings"),
            map_bytes: wide("map_bytes"),
            message_bytes: wide("message_bytes"),
            mtu: small("mtu"),
            noisy_neighbour: word("neighbour") == "storm",
            pattern: pattern(word("pattern")),
            queue_depth: small("queue_depth"),
            queue_pairs: small("queue_pairs"),
            remap_every: wide("remap_every"),
            request_queues: small("request_queues"),
            ring_size: small("ring_size"),
            rx_buffer_bytes: wide("rx_buffer_bytes"),
            rx_buffers: small("rx_buffers"),
            rx_recycle_ppm: (fraction * f64::from(PPM)).round() as u32,
            service: service(word("service")),
            threads: small("threads"),
            transfer_bytes: wide("transfer_bytes"),
            tso_bytes: wide("tso_bytes"),
            tx_batch: small("tx_batch"),
            vfio_forward: match word("vfio_forward") {
                "coalesced" => VfioForward::Coalesced,
                "batched" => VfioForward::Batched,
                _ => VfioForward::Request,
            },
            window_bytes: wide("window_bytes"),
            working_set_pages: wide("working_set_pages"),
        }
    }
}

fn pattern(word: &str) -> Pattern {
    match word {
        "random" => Pattern::Random,
        "ring" => Pattern::Ring,
        "fragmented" => Pattern::Fragmented,
        _ => Pattern::Sequential,
    }
}

fn service(word: &str) -> Service {
    match word {
        "inline" => Service::Inline,
        "thread" => Service::Thread,
        "poll" => Service::Poll,
        _ => Service::Auto,
    }
}

/// The default of a parameter as a value.
pub fn default_of(name: &str) -> Option<Value> {
    let key = KEYS.iter().find(|key| key.name == name)?;
    Some(match key.accepts {
        Accepts::Word(_) => Value::Text(key.default.to_owned()),
        Accepts::Float(..) => Value::Float(key.default.parse().ok()?),
        _ => Value::Int(parse_int(key.default)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_accepted_and_the_table_is_sorted() {
        for key in &KEYS {
            let value = default_of(key.name).unwrap();
            assert!(key.accepts.takes(&value), "{}", key.name);
        }
        assert!(KEYS.is_sorted_by(|a, b| a.name < b.name));
    }

    #[test]
    fn segments_are_whole() {
        let params = Params::default();
        assert_eq!((params.mss(), params.segment_bytes()), (1448, 65160));
        assert_eq!(Params { tso_bytes: 1000, ..params.clone() }.segment_bytes(), 1000);
        assert_eq!(Params { mtu: 9000, ..params }.segment_bytes(), 7 * 8948);
    }
}
