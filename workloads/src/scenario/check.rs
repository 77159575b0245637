//! Parameters that exclude each other.

use super::{Conflict, Params, Test};
use crate::{
    frame::{HEADER_BYTES, NET_HEADER_BYTES},
    iommu::SLOT_BYTES,
    ring::RingLayout,
};

/// Rings, the event queue's buffers, and slack for alignment, in bytes.
const OVERHEAD_BYTES: u64 = 4 << 20;
/// Longest payload of a UDP datagram over IPv4, in bytes.
const MAX_DATAGRAM_BYTES: u32 = 65507;

pub(super) fn check(test: Test, params: &Params) -> Result<(), Conflict> {
    if params.rx_buffers > params.ring_size {
        return Err(Conflict::RxBuffers { rx_buffers: params.rx_buffers, ring_size: params.ring_size });
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
    }
    memory(params, payload, pieces)
}

/// Largest payload handed to the NIC, or by it, at once, in bytes.
pub(crate) fn largest_payload(test: Test, params: &Params) -> u32 {
    match test {
        Test::TcpStream | Test::TcpMaerts => params.segment_bytes(),
        Test::TcpRr => params.message_bytes.min(params.segment_bytes()),
        Test::UdpStream | Test::UdpRr => params.message_bytes.min(u32::from(params.mss())),
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
    let ring = |size| RingLayout::new(size).map_or(0, |layout| layout.bytes);
    let slots = u64::from(u32::from(params.ring_size) / pieces);
    // A run of pages is aligned to at most 64 KiB, so that up to as much again may be lost before it.
    let transmit = slots * (u64::from(payload).next_multiple_of(4096).next_power_of_two().max(4096) + 128);
    let receive = u64::from(params.rx_buffers) * u64::from(params.rx_buffer_bytes);
    let iommu = ring(params.iommu_ring_size) + u64::from(params.iommu_ring_size) * SLOT_BYTES as u64;
    let bytes = OVERHEAD_BYTES + transmit + receive + iommu + 2 * ring(params.ring_size);
    if bytes > u64::from(params.guest_memory_mib) << 20 {
        return Err(Conflict::Memory { mib: params.guest_memory_mib, bytes });
    }
    Ok(())
}
