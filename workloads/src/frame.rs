//! What travels over the wire behind the NIC, as both ends lay it out.
//!
//! In guest memory a frame is preceded by the 12 bytes of `struct virtio_net_hdr_v1`. The frame begins with 66 bytes,
//! as many as Ethernet, IPv4 and TCP with timestamps take, integers little endian but for the EtherType:
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 6 | destination address |
//! | 6 | 6 | source address |
//! | 12 | 2 | EtherType 0x88B5, local experimental (big endian) |
//! | 14 | 1 | kind: 1 DATA, 2 ACK, 3 REQUEST, 4 RESPONSE, 5 PULL |
//! | 15 | 1 | flags, zero |
//! | 16 | 2 | flow |
//! | 18 | 4 | sequence number: DATA, bytes of the flow before this frame (modulo 2^32); REQUEST, number of the request in its flow; PULL, number of the first frame asked for; an answer repeats it, and further frames of a PULL count on |
//! | 22 | 4 | payload length in bytes |
//! | 26 | 4 | CRC32C of the payload |
//! | 30 | 4 | bytes of payload that the RESPONSE to a REQUEST, or each frame that answers a PULL, is to carry |
//! | 34 | 2 | DATA: the peer sends one ACK for so many segments of the flow; PULL: frames the peer may send |
//! | 36 | 2 | DATA: bytes of a segment; a frame is its payload over this, rounded up, segments |
//! | 38 | 28 | zero |

/// Size of `struct virtio_net_hdr_v1`, in bytes.
pub const NET_HEADER_BYTES: usize = 12;
/// Size of a frame's header, in bytes.
pub const HEADER_BYTES: usize = 66;
/// Both, in bytes: the linear part of a packet.
pub const LINEAR_BYTES: usize = NET_HEADER_BYTES + HEADER_BYTES;
/// EtherType of every frame.
pub const ETHERTYPE: u16 = 0x88b5;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// A piece of a stream.
    Data = 1,
    /// So many segments of a stream have arrived.
    Ack = 2,
    /// Asks for a response.
    Request = 3,
    /// Answers a request.
    Response = 4,
    /// Acknowledges frames of the peer's stream and lets it send so many more.
    Pull = 5,
}

/// A frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Destination address.
    pub destination: [u8; 6],
    /// Source address.
    pub source: [u8; 6],
    /// What the frame is.
    pub kind: Kind,
    /// Flow.
    pub flow: u16,
    /// Sequence number.
    pub seq: u32,
    /// Payload length in bytes.
    pub payload_len: u32,
    /// CRC32C of the payload.
    pub crc: u32,
    /// Bytes of payload a REQUEST wants back, or a PULL in each frame.
    pub reply_len: u32,
    /// Segments per ACK; frames a PULL asks for.
    pub ack_every: u16,
    /// Bytes of a segment.
    pub mss: u16,
}

impl Header {
    /// The header as it travels.
    #[inline]
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut b = [0; HEADER_BYTES];
        b[..6].copy_from_slice(&self.destination);
        b[6..12].copy_from_slice(&self.source);
        b[12..14].copy_from_slice(&ETHERTYPE.to_be_bytes());
        b[14] = self.kind as u8;
        b[16..18].copy_from_slice(&self.flow.to_le_bytes());
        b[18..22].copy_from_slice(&self.seq.to_le_bytes());
        b[22..26].copy_from_slice(&self.payload_len.to_le_bytes());
        b[26..30].copy_from_slice(&self.crc.to_le_bytes());
        b[30..34].copy_from_slice(&self.reply_len.to_le_bytes());
        b[34..36].copy_from_slice(&self.ack_every.to_le_bytes());
        b[36..38].copy_from_slice(&self.mss.to_le_bytes());
        b
    }

    /// Reads a header; `None` when it is of another protocol or an unknown kind.
    #[inline]
    pub fn decode(b: &[u8; HEADER_BYTES]) -> Option<Self> {
        let u16_at = |at: usize| u16::from_le_bytes([b[at], b[at + 1]]);
        let u32_at = |at: usize| u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
        if u16::from_be_bytes([b[12], b[13]]) != ETHERTYPE {
            return None;
        }
        let kind = match b[14] {
            1 => Kind::Data,
            2 => Kind::Ack,
            3 => Kind::Request,
            4 => Kind::Response,
            5 => Kind::Pull,
            _ => return None,
        };
        Some(Self {
            destination: [b[0], b[1], b[2], b[3], b[4], b[5]],
            source: [b[6], b[7], b[8], b[9], b[10], b[11]],
            kind,
            flow: u16_at(16),
            seq: u32_at(18),
            payload_len: u32_at(22),
            crc: u32_at(26),
            reply_len: u32_at(30),
            ack_every: u16_at(34),
            mss: u16_at(36),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_has_its_golden_bytes() {
        let header = Header {
            destination: [2, 0, 0, 0, 0, 2],
            source: [2, 0, 0, 0, 0, 1],
            kind: Kind::Request,
            flow: 0x0102,
            seq: 0x0304_0506,
            payload_len: 0x0708_090a,
            crc: 0x0b0c_0d0e,
            reply_len: 0x0f10_1112,
            ack_every: 0x1314,
            mss: 0x1516,
        };
        let mut golden = [0; HEADER_BYTES];
        golden[..38].copy_from_slice(&[
            2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x88, 0xb5, 3, 0, 2, 1, 6, 5, 4, 3, 0x0a, 9, 8, 7, 0x0e,
            0x0d, 0x0c, 0x0b, 0x12, 0x11, 0x10, 0x0f, 0x14, 0x13, 0x16, 0x15,
        ]);
        assert_eq!(header.encode(), golden);
        assert_eq!(Header::decode(&golden), Some(header));
    }

    #[test]
    fn other_protocols_and_kinds_are_refused() {
        let mut b = [0; HEADER_BYTES];
        assert_eq!(Header::decode(&b), None);
        b[12..14].copy_from_slice(&ETHERTYPE.to_be_bytes());
        for kind in [0, 6, 255] {
            b[14] = kind;
            assert_eq!(Header::decode(&b), None);
        }
    }
}
