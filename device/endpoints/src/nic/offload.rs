//! What a sender leaves undone (checksum, segmentation) the receiver takes as it is, if it said that it can.

use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6,
    VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_NONE,
    VIRTIO_NET_HDR_GSO_TCPV4, VIRTIO_NET_HDR_GSO_TCPV6,
};

use super::HEADER_BYTES;

/// Why a frame goes no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lost {
    /// Its header makes no sense, or asks for what was not negotiated.
    Malformed,
    /// The receiver does not take it.
    Unwanted,
}

const GSO_NONE: u8 = VIRTIO_NET_HDR_GSO_NONE as u8;
const GSO_TCPV4: u8 = VIRTIO_NET_HDR_GSO_TCPV4 as u8;
const GSO_TCPV6: u8 = VIRTIO_NET_HDR_GSO_TCPV6 as u8;
const NEEDS_CSUM: u8 = VIRTIO_NET_HDR_F_NEEDS_CSUM as u8;

/// The header for the receiver, of a frame of `len` bytes between cards with these features.
pub(super) fn pass_on(
    header: &[u8; HEADER_BYTES],
    len: usize,
    sender: u64,
    receiver: u64,
) -> Result<[u8; HEADER_BYTES], Lost> {
    let [flags, gso, ..] = *header;
    let u16_at = |at: usize| usize::from(u16::from_le_bytes([header[at], header[at + 1]]));
    let (gso_bytes, start, offset) = (u16_at(4), u16_at(6), u16_at(8));
    let needs_csum = flags & NEEDS_CSUM != 0;
    // The checksum's two bytes lie in the frame.
    if needs_csum && start + offset + 2 > len || gso != GSO_NONE && (gso_bytes == 0 || !needs_csum) {
        return Err(Lost::Malformed);
    }
    let (sends, takes) = match gso {
        GSO_NONE => (VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM),
        GSO_TCPV4 => (VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_GUEST_TSO4),
        GSO_TCPV6 => (VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_GUEST_TSO6),
        _ => return Err(Lost::Malformed),
    };
    if needs_csum && sender & 1 << sends == 0 {
        return Err(Lost::Malformed);
    }
    if needs_csum && receiver & 1 << takes == 0 {
        return Err(Lost::Unwanted);
    }
    let mut passed = [0; HEADER_BYTES];
    if needs_csum {
        passed[..10].copy_from_slice(&header[..10]);
        passed[0] = NEEDS_CSUM;
    }
    Ok(passed)
}
