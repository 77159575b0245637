//! Parameters that exclude each other.

use super::{Conflict, Device, Endpoint, Params, Pattern, Test};
use crate::{
    dma::Mode,
    frame::{HEADER_BYTES, NET_HEADER_BYTES},
    iommu::SLOT_BYTES,
    pages::MAX_ALIGN_BYTES,
    ring::RingLayout,
};

/// Rings, the event queue's buffers, and slack for alignment, in bytes.
const OVERHEAD_BYTES: u64 = 4 << 20;
/// Longest payload of a UDP datagram over IPv4, in bytes.
const MAX_DATAGRAM_BYTES: u32 = 65507;

pub(super) fn check(test: Test, mode: Mode, endpoint: Endpoint, params: &Params) -> Result<(), Conflict> {
    if test.device() == Device::Container && endpoint == Endpoint::Emulated {
        return Err(Conflict::RealOnly);
    }
    if (1..u32::from(params.iotlb_ways)).contains(&params.iotlb_entries) {
        return Err(Conflict::Iotlb { entries: params.iotlb_entries, ways: params.iotlb_ways });
    }
    match test.device() {
        Device::Nic => nic(test, params),
        Device::Engine => engine(params),
        Device::Disk => disk(params),
        Device::None if !mode.translates() => Err(Conflict::Mode { mode }),
        Device::None => Ok(()),
        Device::Container if mode.has_iommu() => Err(Conflict::Direct),
        Device::Container => Ok(()),
    }
}

fn engine(params: &Params) -> Result<(), Conflict> {
    if !matches!(params.pattern, Pattern::Sequential | Pattern::Random) {
        return Err(Conflict::Pattern { accepted: "sequential or random" });
    }
    depth(params, 1)?;
    let (buffers, bytes) = params.working_set();
    // A run of pages is aligned to at most 64 KiB; one more buffer is the scratch of verification.
    let buffer = u64::from(bytes) + MAX_ALIGN_BYTES.min(u64::from(bytes).next_power_of_two());
    enough_memory(params, u64::from(params.engines) * (u64::from(buffers) + 1) * buffer)
}

fn disk(params: &Params) -> Result<(), Conflict> {
    let pieces = 2 + params.block_bytes.div_ceil(params.frag_bytes);
    depth(params, pieces)?;
    if params.blocks() <= u32::from(params.queue_depth) {
        return Err(Conflict::Disk { blocks: params.blocks(), depth: params.queue_depth });
    }
    let block = u64::from(params.block_bytes).next_power_of_two().max(4096);
    enough_memory(params, u64::from(params.queue_depth) * 2 * block)
}

/// What is in flight must fit the ring.
fn depth(params: &Params, pieces: u32) -> Result<(), Conflict> {
    let (depth, ring_size) = (params.queue_depth, params.ring_size);
    if u32::from(depth) * pieces > u32::from(ring_size) {
        return Err(Conflict::Depth { depth, pieces, ring_size });
    }
    Ok(())
}

fn nic(test: Test, params: &Params) -> Result<(), Conflict> {
    if params.rx_buffers > params.ring_size {
        return Err(Conflict::RxBuffers { rx_buffers: params.rx_buffers, ring_size: params.ring_size });
    }
    if params.flows < params.queue_pairs {
        return Err(Conflict::QueuePairs { flows: params.flows, queue_pairs: params.queue_pairs });
    }
    let payload = largest_payload(test, params);
    let pieces = 1 + payload.div_ceil(params.frag_bytes);
    if pieces > u32::from(params.ring_size) {
        return Err(Conflict::Pieces { pieces, ring_size: params.ring_size });
    }
    match test {
        Test::TcpStream => window(params)?,
        Test::TcpMaerts => {
            window(params)?;
            response(params, payload)?;
        }
        Test::TcpRr => response(params, payload)?,
        Test::UdpStream => datagram(params)?,
        Test::UdpRr => {
            datagram(params)?;
            response(params, payload)?;
        }
        // The others use no NIC.
        _ => {}
    }
    memory(params, payload, pieces)
}

/// Largest payload handed to the NIC, or by it, at once, in bytes.
pub(crate) fn largest_payload(test: Test, params: &Params) -> u32 {
    match test {
        Test::TcpStream | Test::TcpMaerts => params.segment_bytes(),
        Test::TcpRr => params.message_bytes.min(params.segment_bytes()),
        Test::UdpStream | Test::UdpRr => params.message_bytes.min(u32::from(params.mss())),
        Test::DmaThroughput | Test::IotlbChurn => params.transfer_bytes,
        Test::FioRandread | Test::FioRandwrite => params.block_bytes,
        Test::MapStorm | Test::VfioMap => 0,
    }
}

fn datagram(params: &Params) -> Result<(), Conflict> {
    if params.message_bytes > MAX_DATAGRAM_BYTES {
        return Err(Conflict::Datagram { message: params.message_bytes, longest: MAX_DATAGRAM_BYTES });
    }
    Ok(())
}

fn window(params: &Params) -> Result<(), Conflict> {
    let segment = params.segment_bytes();
    let slack = u32::from(params.ack_every - 1) * u32::from(params.mss());
    if params.window_bytes < segment.saturating_add(slack) {
        return Err(Conflict::Window { window: params.window_bytes, segment, slack });
    }
    Ok(())
}

fn response(params: &Params, payload: u32) -> Result<(), Conflict> {
    let frame = (NET_HEADER_BYTES + HEADER_BYTES) as u32 + payload;
    if frame.div_ceil(params.rx_buffer_bytes) > u32::from(params.rx_buffers) {
        let (rx_buffers, rx_buffer_bytes) = (params.rx_buffers, params.rx_buffer_bytes);
        return Err(Conflict::Response { response: payload, rx_buffers, rx_buffer_bytes });
    }
    Ok(())
}

fn memory(params: &Params, payload: u32, pieces: u32) -> Result<(), Conflict> {
    let slots = u64::from(u32::from(params.ring_size) / pieces);
    // A run of pages is aligned to at most 64 KiB, so that up to as much again may be lost before it.
    let transmit = slots * (u64::from(payload).next_multiple_of(4096).next_power_of_two().max(4096) + 128);
    let receive = u64::from(params.rx_buffers) * u64::from(params.rx_buffer_bytes);
    enough_memory(params, u64::from(params.queue_pairs) * (transmit + receive))
}

/// So many bytes of buffers, and the rings.
fn enough_memory(params: &Params, buffers: u64) -> Result<(), Conflict> {
    let ring = |size| RingLayout::new(size).map_or(0, |layout| layout.bytes);
    let iommu = ring(params.iommu_ring_size) + u64::from(params.iommu_ring_size) * SLOT_BYTES as u64;
    let iommu = u64::from(params.request_queues) * iommu;
    let endpoints = u64::from(params.engines.max(params.queue_pairs)) * 2 * ring(params.ring_size);
    let bytes = OVERHEAD_BYTES + buffers + iommu + endpoints;
    if bytes > u64::from(params.guest_memory_mib) << 20 {
        return Err(Conflict::Memory { mib: params.guest_memory_mib, bytes });
    }
    Ok(())
}
