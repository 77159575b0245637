//! What can be wrong with a scenario.

use std::fmt;

use thiserror::Error;

/// Where in which file, or on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Path of the file, name of the built-in scenario, or `--set`.
    pub source: Box<str>,
    /// Line in it, counted from 1, where there is one.
    pub line: Option<u32>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}", self.source),
            None => f.write_str(&self.source),
        }
    }
}

/// The name that was probably meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nearest(pub Option<Box<str>>);

impl Nearest {
    pub(super) fn of<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Self {
        let best = known
            .into_iter()
            .map(|name| (strsim::jaro_winkler(&word.to_lowercase(), &name.to_lowercase()), name))
            .max_by(|a, b| a.0.total_cmp(&b.0));
        Self(best.filter(|(likeness, _)| *likeness > 0.75).map(|(_, name)| name.into()))
    }
}

impl fmt::Display for Nearest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(name) => write!(f, "; did you mean `{name}`?"),
            None => Ok(()),
        }
    }
}

/// A scenario that cannot be read or run.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum ScenarioError {
    /// There is no built-in scenario of that name, and it is no file.
    #[error("no scenario `{name}`{nearest} (built in: {known}; or give the path of a .toml file)")]
    Unknown {
        /// What was asked for.
        name: String,
        /// What was meant, perhaps.
        nearest: Nearest,
        /// All there are.
        known: String,
    },
    /// The file cannot be read.
    #[error("{place}: cannot be read: {reason}")]
    Unreadable {
        /// Which file.
        place: Place,
        /// What the system says.
        reason: String,
    },
    /// It is longer than any scenario is.
    #[error("{place}: longer than {limit} bytes, so it is no scenario")]
    TooLong {
        /// Which file.
        place: Place,
        /// Longest scenario, in bytes.
        limit: u64,
    },
    /// It is not TOML.
    #[error("{place}: {reason}")]
    Syntax {
        /// Where.
        place: Place,
        /// What the parser says.
        reason: String,
    },
    /// A key that does not exist.
    #[error("{place}: unknown key `{key}`{nearest} Known: {known}")]
    UnknownKey {
        /// Where.
        place: Place,
        /// The key.
        key: String,
        /// What was meant, perhaps.
        nearest: Nearest,
        /// All that could be here.
        known: String,
    },
    /// A required key is not there.
    #[error("{place}: key `{key}` is missing")]
    Missing {
        /// Which file.
        place: Place,
        /// The key.
        key: &'static str,
    },
    /// A value of the wrong type, out of range, or not one of those accepted.
    #[error("{place}: `{key}` cannot be `{found}`: it takes {accepted}{nearest}")]
    Value {
        /// Where.
        place: Place,
        /// The key.
        key: String,
        /// What was given.
        found: String,
        /// Accepted values or range.
        accepted: String,
        /// What was meant, perhaps.
        nearest: Nearest,
    },
    /// The same value twice, which would make the same case twice.
    #[error("{place}: `{key}` has `{value}` twice")]
    Duplicate {
        /// Where.
        place: Place,
        /// The key.
        key: String,
        /// The value.
        value: String,
    },
    /// Not of the form KEY=VALUE.
    #[error("--set {argument}: give KEY=VALUE, such as message_bytes=64K or TCP_RR.message_bytes=1,64")]
    Set {
        /// What was given.
        argument: String,
    },
    /// Parameters that exclude each other.
    #[error("{place}: case {case}: {conflict}")]
    Conflict {
        /// Which scenario.
        place: Place,
        /// Which case.
        case: String,
        /// What does not fit.
        conflict: Conflict,
    },
    /// Too many combinations of values.
    #[error("{place}: more than {limit} cases; give fewer values")]
    TooManyCases {
        /// Which scenario.
        place: Place,
        /// Most cases of a scenario.
        limit: usize,
    },
}

/// Two parameters that do not go together.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Conflict {
    /// More receive buffers than the ring has room for.
    #[error("rx_buffers ({rx_buffers}) is more than ring_size ({ring_size})")]
    RxBuffers {
        /// Buffers to post.
        rx_buffers: u16,
        /// Descriptors of the ring.
        ring_size: u16,
    },
    /// One packet's pieces do not fit the ring.
    #[error(
        "a packet of {pieces} pieces does not fit ring_size ({ring_size}); raise frag_bytes or ring_size"
    )]
    Pieces {
        /// Descriptors of one packet.
        pieces: u32,
        /// Descriptors of the ring.
        ring_size: u16,
    },
    /// The window would never open.
    #[error(
        "window_bytes ({window}) is less than one segment ({segment}) plus what may stay unacknowledged ({slack})"
    )]
    Window {
        /// The window.
        window: u32,
        /// Payload of one segment, in bytes.
        segment: u32,
        /// Bytes below the ACK ratio, in bytes.
        slack: u32,
    },
    /// The test does not know that order.
    #[error("pattern must be {accepted} for this test")]
    Pattern {
        /// What it takes.
        accepted: &'static str,
    },
    /// Nothing is mapped in this mode, so that there is nothing to measure.
    #[error("mode {mode} maps nothing, so that this test has nothing to do")]
    Mode {
        /// The mode.
        mode: crate::dma::Mode,
    },
    /// The test has no virtio-iommu in its path.
    #[error("this test calls VFIO itself, without a virtio-iommu: its mode is off")]
    Direct,
    /// The test needs a real device.
    #[error("this test maps for a real device: its endpoint is passthrough")]
    RealOnly,
    /// The IOTLB has fewer entries than a set of it.
    #[error("iotlb_entries ({entries}) is less than iotlb_ways ({ways})")]
    Iotlb {
        /// Entries, over all sets.
        entries: u32,
        /// Entries of a set.
        ways: u16,
    },
    /// More in flight than the ring holds.
    #[error("queue_depth ({depth}) times {pieces} descriptors is more than ring_size ({ring_size})")]
    Depth {
        /// Transfers in flight.
        depth: u16,
        /// Descriptors of each.
        pieces: u32,
        /// Descriptors of the ring.
        ring_size: u16,
    },
    /// No whole block fits the disk several times over.
    #[error("a disk of {blocks} blocks is too small for queue_depth ({depth})")]
    Disk {
        /// Blocks of the disk.
        blocks: u32,
        /// Requests in flight.
        depth: u16,
    },
    /// No datagram is that long.
    #[error("message_bytes ({message}) is more than a UDP datagram carries ({longest})")]
    Datagram {
        /// Bytes of one send.
        message: u32,
        /// Longest payload of a datagram, in bytes.
        longest: u32,
    },
    /// The buffers do not fit into the guest.
    #[error("guest_memory_mib ({mib}) is too small for {bytes} bytes of buffers and rings")]
    Memory {
        /// The guest's memory.
        mib: u32,
        /// What is needed, in bytes.
        bytes: u64,
    },
    /// A queue pair without a flow would do nothing.
    #[error(
        "{flows} flows cannot be spread over {queue_pairs} queue pairs; raise flows or lower queue_pairs"
    )]
    QueuePairs {
        /// Flows.
        flows: u16,
        /// Queue pairs.
        queue_pairs: u16,
    },
    /// One answer takes more buffers than are ever posted.
    #[error(
        "a response of {response} bytes takes more than rx_buffers ({rx_buffers}) x rx_buffer_bytes ({rx_buffer_bytes})"
    )]
    Response {
        /// Payload, in bytes.
        response: u32,
        /// Buffers posted.
        rx_buffers: u16,
        /// Their size, in bytes.
        rx_buffer_bytes: u32,
    },
}
