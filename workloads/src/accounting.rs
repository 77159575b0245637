//! What a case must count, derived from its parameters alone: an oracle for the drivers' counters.
//!
//! Nothing here looks at what the drivers do. The formulas hold when the devices work inline, the request ring never
//! fills, lazy mode's timer does not fire, and, with several flows, no window closes (flows then take strict turns).
//!
//! With `p` payload bytes in a packet, a packet takes `1 + ceil(p / frag_bytes)` maps and as many unmaps; a received
//! frame of `p` payload bytes takes `ceil((78 + p) / rx_buffer_bytes)` buffers, each one unmap and one map unless it is
//! recycled. A map takes one MAP request when it is a power of two pages long, and one kick whatever it takes. Strict
//! mode adds one kick and one invalidation for each unmap, lazy mode one of each for every `flush_entries` unmaps.

mod devices;

use crate::{
    dma::{Counts, Mode},
    frame::LINEAR_BYTES,
    pages::PAGE_BYTES,
    scenario::{CaseSpec, Device, PPM, Params, Test},
};

/// Counts that follow from the parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    /// The counts; those that the formulas say nothing about are zero.
    pub counts: Counts,
    /// Doorbells of the NIC, where they follow: one packet a kick, and more receive buffers than can be missing.
    pub kicks_endpoint: Option<u64>,
}

/// A number of equal buffers, by length.
#[derive(Clone, Copy)]
struct Lot {
    buffers: u64,
    bytes: u64,
}

/// What `n` packets transmitted (TCP_STREAM, UDP_STREAM) or transactions (TCP_RR, UDP_RR) since set-up, or `n` packets
/// received (TCP_MAERTS) in one slice, must have counted, behind an IOMMU with these page sizes. `None` where `frag_bytes`
/// is no power of two, as alignment then decides how many requests a mapping takes, and for several flows of TCP_MAERTS
/// with an ACK for more than one packet, as the order of arrival then decides how many are sent.
///
/// Of the other tests, `n` transfers, pairs or requests in one slice.
pub fn expected(case: &CaseSpec, n: u64, page_size_mask: u64) -> Option<Expected> {
    if case.test.device() != Device::Nic {
        return devices::expected(case, n, page_size_mask);
    }
    let params = &case.params;
    let order_matters = case.test == Test::TcpMaerts && params.flows > 1 && params.packets_per_ack() > 1;
    if !params.frag_bytes.is_power_of_two() || order_matters {
        return None;
    }
    let mut counts = match case.test {
        Test::TcpStream => stream(params, n),
        Test::TcpMaerts => maerts(params, n),
        Test::UdpStream => datagrams(params, n),
        _ => round_trips(case.test, params, n),
    };
    let recycled = u128::from(counts.rx_buffers) * u128::from(params.rx_recycle_ppm) / u128::from(PPM);
    // No more than rx_buffers, which is a u64.
    counts.rx_recycled = recycled as u64;
    counts.packets = counts.tx_packets + counts.rx_packets;
    let lots = lots(case.test, params, n, counts.rx_buffers - counts.rx_recycled);
    counts.dma_maps = lots.iter().map(|lot| lot.buffers).sum();
    counts.dma_unmaps = counts.dma_maps;
    if case.mode.translates() {
        counts.requests_map = lots.iter().map(|lot| lot.buffers * requests(lot.bytes, page_size_mask)).sum();
        counts.requests_unmap = counts.requests_map;
        counts.invalidations = match case.mode {
            Mode::Strict => counts.dma_unmaps,
            _ => counts.dma_unmaps.saturating_sub(1) / u64::from(params.flush_entries),
        };
        counts.flushes_full = if case.mode == Mode::Lazy { counts.invalidations } else { 0 };
        counts.kicks_iommu = counts.dma_maps + counts.invalidations;
    }
    let missing = match case.test {
        // A whole window of each flow arrives before any is acknowledged.
        Test::TcpMaerts => params.window_packets() * buffers_of(params, params.segment_bytes()),
        _ => counts.rx_buffers.checked_div(counts.tx_packets).unwrap_or(0) + 1,
    };
    let plenty = params.tx_batch == 1 && missing * u64::from(params.flows) * 2 < u64::from(params.rx_buffers);
    Some(Expected { counts, kicks_endpoint: plenty.then_some(counts.tx_packets) })
}

fn stream(params: &Params, n: u64) -> Counts {
    let payload = u64::from(params.segment_bytes());
    let segments = payload.div_ceil(u64::from(params.mss()));
    let flows = u64::from(params.flows);
    let packets_of = |flow: u64| n / flows + u64::from(flow < n % flows);
    let acks = (0..flows).map(|flow| packets_of(flow) * segments / u64::from(params.ack_every)).sum();
    Counts {
        tx_packets: n,
        rx_packets: acks,
        rx_buffers: acks,
        tx_segments: n * segments,
        bytes_moved: n * payload,
        ..Counts::default()
    }
}

/// Receive buffers of a frame with so much payload.
fn buffers_of(params: &Params, payload: u32) -> u64 {
    (LINEAR_BYTES as u64 + u64::from(payload)).div_ceil(u64::from(params.rx_buffer_bytes))
}

/// One PULL opens each flow's window, as long as there is something to ask for; then come ACKs.
fn maerts(params: &Params, n: u64) -> Counts {
    let payload = params.segment_bytes();
    let opened = n.div_ceil(params.window_packets()).min(u64::from(params.flows));
    let tx_packets = opened + n / u64::from(params.packets_per_ack());
    let bytes = n * u64::from(payload);
    Counts {
        tx_packets,
        tx_segments: tx_packets,
        rx_packets: n,
        rx_buffers: n * buffers_of(params, payload),
        bytes_moved: bytes,
        bytes_verified: bytes,
        ..Counts::default()
    }
}

fn datagrams(params: &Params, n: u64) -> Counts {
    let bytes = fragments(params, n).iter().map(|(packets, payload)| packets * payload).sum();
    Counts { tx_packets: n, tx_segments: n, bytes_moved: bytes, ..Counts::default() }
}

/// `n` packets of UDP_STREAM, flows taking turns: so many full ones, so many that end a datagram.
fn fragments(params: &Params, n: u64) -> [(u64, u64); 2] {
    let (message, full) = (u64::from(params.message_bytes), u64::from(params.mss()));
    let per_message = message.div_ceil(full);
    let last = message - (per_message - 1) * full;
    let flows = u64::from(params.flows);
    let ended: u64 = (0..flows).map(|flow| (n / flows + u64::from(flow < n % flows)) / per_message).sum();
    [(n - ended, full), (ended, last)]
}

fn round_trips(test: Test, params: &Params, n: u64) -> Counts {
    let message = u64::from(params.message_bytes);
    let mut counts = Counts {
        transactions: n,
        bytes_moved: n * 2 * message,
        bytes_verified: n * message,
        ..Counts::default()
    };
    for (packets, payload) in packets_of_message(test, params) {
        let frame = LINEAR_BYTES as u64 + payload;
        counts.tx_packets += n * packets;
        counts.tx_segments += n * packets * payload.div_ceil(u64::from(params.mss()));
        counts.rx_buffers += n * packets * frame.div_ceil(u64::from(params.rx_buffer_bytes));
    }
    counts.rx_packets = counts.tx_packets;
    counts
}

/// A message's packets: so many of so many payload bytes.
fn packets_of_message(test: Test, params: &Params) -> [(u64, u64); 2] {
    let longest = if test == Test::UdpRr { u32::from(params.mss()) } else { params.segment_bytes() };
    let (message, packet) = (u64::from(params.message_bytes), u64::from(longest));
    let rest = message % packet;
    [(message / packet, packet), (u64::from(rest > 0), rest)]
}

/// Everything that is mapped, and later unmapped.
fn lots(test: Test, params: &Params, n: u64, received: u64) -> Vec<Lot> {
    let packets = match test {
        Test::TcpStream => vec![(n, u64::from(params.segment_bytes()))],
        Test::TcpMaerts => vec![(maerts(params, n).tx_packets, 0)],
        Test::UdpStream => fragments(params, n).to_vec(),
        _ => packets_of_message(test, params)
            .iter()
            .map(|(packets, payload)| (n * packets, *payload))
            .collect(),
    };
    let frag = u64::from(params.frag_bytes);
    let mut lots = vec![Lot { buffers: received, bytes: u64::from(params.rx_buffer_bytes) }];
    for (packets, payload) in packets {
        lots.push(Lot { buffers: packets, bytes: LINEAR_BYTES as u64 });
        lots.push(Lot { buffers: packets * (payload / frag), bytes: frag });
        lots.push(Lot { buffers: packets * u64::from(payload % frag > 0), bytes: payload % frag });
    }
    lots
}

/// Requests for one naturally aligned buffer: its pages are covered from the largest page size down, by one request a
/// size, however many pages of that size it takes.
fn requests(bytes: u64, page_size_mask: u64) -> u64 {
    let mut rest = bytes.div_ceil(PAGE_BYTES) * PAGE_BYTES;
    let mut requests = 0;
    for shift in (0..64).rev() {
        let size = 1_u64 << shift;
        if page_size_mask & size != 0 && rest >= size {
            rest %= size;
            requests += 1;
        }
    }
    requests
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Scenario;

    fn case(test: Test, mode: Mode, sets: &[&str]) -> CaseSpec {
        let mut scenario = Scenario::built_in("netperf-matrix").unwrap();
        scenario.set("message_bytes=16384").unwrap();
        for set in sets {
            scenario.set(set).unwrap();
        }
        let cases = scenario.expand().unwrap();
        cases.into_iter().find(|case| (case.test, case.mode) == (test, mode)).unwrap()
    }

    #[test]
    fn a_stream_worked_out_by_hand() {
        // 65160 bytes in 45 segments: three maps to send, and 45 ACKs for two packets.
        let strict = expected(&case(Test::TcpStream, Mode::Strict, &[]), 2, !0xfff).unwrap();
        let counts = strict.counts;
        assert_eq!((counts.tx_packets, counts.rx_packets, counts.tx_segments), (2, 45, 90));
        assert_eq!((counts.dma_maps, counts.requests_map, counts.invalidations), (51, 51, 51));
        assert_eq!((counts.kicks_iommu, counts.bytes_moved), (102, 130_320));
        assert_eq!(strict.kicks_endpoint, Some(2));
    }

    #[test]
    fn a_round_trip_worked_out_by_hand() {
        // 16 KiB in one piece; the response takes five buffers of a page, two of which are recycled.
        let sets = ["rx_recycle=0.4"];
        let counts = expected(&case(Test::TcpRr, Mode::Strict, &sets), 1, !0xfff).unwrap().counts;
        assert_eq!((counts.rx_buffers, counts.rx_recycled, counts.dma_maps), (5, 2, 2 + 3));
        assert_eq!((counts.bytes_moved, counts.bytes_verified), (32768, 16384));
    }

    #[test]
    fn a_stream_of_the_peer_worked_out_by_hand() {
        // Packets of 65160 bytes in 16 buffers; four open the window, each is acknowledged.
        let expected = expected(&case(Test::TcpMaerts, Mode::Strict, &[]), 10, !0xfff).unwrap();
        let counts = expected.counts;
        assert_eq!((counts.tx_packets, counts.rx_packets, counts.rx_buffers), (1 + 10, 10, 160));
        assert_eq!((counts.dma_maps, counts.invalidations), (171, 171));
        assert_eq!((counts.bytes_moved, counts.bytes_verified), (651_600, 651_600));
        assert_eq!(expected.kicks_endpoint, Some(11));
    }

    #[test]
    fn the_order_of_arrival_decides_where_acks_span_packets_of_several_flows() {
        let sets = ["flows=2", "tso_bytes=1448", "ack_every=2"];
        assert_eq!(expected(&case(Test::TcpMaerts, Mode::Off, &sets), 10, !0xfff), None);
        let one = expected(&case(Test::TcpMaerts, Mode::Off, &sets[1..]), 11, !0xfff).unwrap().counts;
        assert_eq!((one.tx_packets, one.rx_buffers), (1 + 5, 11));
    }

    #[test]
    fn datagrams_worked_out_by_hand() {
        // 3000 bytes: 1448, 1448, 104. Two flows in turn: five packets of one, four of the other, a datagram ended by each.
        let sets = ["flows=2", "message_bytes=3000"];
        let counts = expected(&case(Test::UdpStream, Mode::Strict, &sets), 9, !0xfff).unwrap().counts;
        assert_eq!((counts.tx_packets, counts.rx_packets, counts.bytes_moved), (9, 0, 7 * 1448 + 2 * 104));
        assert_eq!((counts.dma_maps, counts.invalidations), (18, 18));
        let counts = expected(&case(Test::UdpRr, Mode::Strict, &sets[1..]), 2, !0xfff).unwrap().counts;
        assert_eq!((counts.tx_packets, counts.rx_buffers, counts.dma_maps), (6, 6, 12 + 6));
    }

    #[test]
    fn off_and_identity_ask_nothing_of_the_iommu() {
        for mode in [Mode::Off, Mode::Identity] {
            let counts = expected(&case(Test::TcpStream, mode, &[]), 100, !0xfff).unwrap().counts;
            assert_eq!(
                (counts.requests_map, counts.requests_unmap, counts.kicks_iommu, counts.invalidations),
                (0, 0, 0, 0)
            );
            assert!(counts.dma_maps > 0);
        }
    }

    #[test]
    fn lazy_waits_once_a_flush() {
        let lazy = case(Test::TcpStream, Mode::Lazy, &[]);
        // 25.5 unmaps a packet: the 257th unmap is the first that finds 256 held back.
        assert_eq!(expected(&lazy, 10, !0xfff).unwrap().counts.invalidations, 0);
        let counts = expected(&lazy, 11, !0xfff).unwrap().counts;
        assert_eq!((counts.dma_unmaps, counts.invalidations, counts.kicks_iommu), (280, 1, 281));
    }

    #[test]
    fn odd_lengths_take_a_request_a_power_of_two() {
        assert_eq!(
            [1, 4096, 4097, 12288, 28672, 32768].map(|bytes| requests(bytes, !0xfff)),
            [1, 1, 1, 2, 3, 1]
        );
        assert_eq!([1, 12288, 28672].map(|bytes| requests(bytes, 0x1000)), [1, 1, 1]);
        assert_eq!(expected(&case(Test::TcpStream, Mode::Off, &["frag_bytes=12288"]), 1, !0xfff), None);
    }
}
