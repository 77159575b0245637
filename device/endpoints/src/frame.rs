//! The frames of the loopback wire: 66 bytes of header, as long as Ethernet, IPv4 and TCP with timestamps, and payload.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 6 | destination |
//! | 6 | 6 | source |
//! | 12 | 2 | EtherType 0x88B5 (big-endian), IEEE's "local experimental" |
//! | 14 | 1 | kind: 1 DATA, 2 ACK, 3 REQUEST, 4 RESPONSE, 5 PULL |
//! | 15 | 1 | flags, zero |
//! | 16 | 2 | flow |
//! | 18 | 4 | sequence number |
//! | 22 | 4 | payload length in bytes |
//! | 26 | 4 | CRC32C of the payload |
//! | 30 | 4 | bytes of payload a REQUEST, or each frame a PULL asks for, wants back |
//! | 34 | 2 | segments per ACK (DATA); frames asked for (PULL) |
//! | 36 | 2 | maximum segment size in bytes (DATA) |
//! | 38 | 28 | zero |
//!
//! Fields are little-endian but for the EtherType. In guest memory the 12 bytes of `virtio_net_hdr_v1` (virtio 5.1.6)
//! come first.

use thiserror::Error;

/// Size of `struct virtio_net_hdr_v1`, in bytes.
pub const NET_HEADER_BYTES: usize = 12;
/// Offset of `num_buffers` in `struct virtio_net_hdr_v1`.
pub const NUM_BUFFERS_OFFSET: usize = 10;
/// Size of a frame's header, in bytes.
pub const HEADER_BYTES: usize = 66;
/// Longest payload of a frame, in bytes: what TCP segmentation offload hands over at once.
pub const MAX_PAYLOAD_BYTES: usize = 65536;
/// Longest readable part of a transmitted chain, in bytes.
pub const MAX_CHAIN_BYTES: usize = NET_HEADER_BYTES + HEADER_BYTES + MAX_PAYLOAD_BYTES;
/// EtherType of all frames.
pub const ETHERTYPE: u16 = 0x88b5;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// A piece of a stream.
    Data = 1,
    /// The peer received segments of a stream.
    Ack = 2,
    /// Asks for a response.
    Request = 3,
    /// Answers a request.
    Response = 4,
    /// Acknowledges what the peer sent of a stream and opens the window for so many more frames.
    Pull = 5,
}

/// A frame that is not one of ours, or is damaged. It is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    /// Shorter than a header.
    #[error("{len} bytes are no frame")]
    Short {
        /// Its length in bytes.
        len: usize,
    },
    /// Another protocol.
    #[error("EtherType {found:#06x}")]
    EtherType {
        /// The EtherType.
        found: u16,
    },
    /// An unknown kind, or one the peer does not take.
    #[error("kind {found}")]
    Kind {
        /// The kind.
        found: u8,
    },
    /// The header announces more payload than there is.
    #[error("{announced} bytes of payload announced, {present} present")]
    Payload {
        /// What the header says.
        announced: u32,
        /// What follows the header, in bytes.
        present: usize,
    },
    /// A request for frames longer than [`MAX_PAYLOAD_BYTES`].
    #[error("a response of {asked} bytes is too long")]
    Reply {
        /// Bytes asked for.
        asked: u32,
    },
    /// The payload is not what was sent.
    #[error("CRC32C {found:#010x}, announced {announced:#010x}")]
    Checksum {
        /// What the header says.
        announced: u32,
        /// What the payload has.
        found: u32,
    },
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
    /// Sequence number; an answer repeats it.
    pub seq: u32,
    /// Payload length in bytes.
    pub payload_len: u32,
    /// CRC32C of the payload.
    pub crc: u32,
    /// Payload the response to a REQUEST, or each frame that answers a PULL, shall have, in bytes.
    pub reply_len: u32,
    /// DATA: the peer sends one ACK for so many segments; 0 for none at all. PULL: frames asked for.
    pub ack_every: u16,
    /// Segment size in bytes; 0 makes every frame one segment.
    pub mss: u16,
}

impl Header {
    /// The header as it travels.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut b = [0; HEADER_BYTES];
        b[0..6].copy_from_slice(&self.destination);
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

    /// Splits a frame into header and payload; what follows the announced payload is padding.
    ///
    /// # Errors
    /// When it is too short, of another protocol or kind, or announces more than there is. The checksum is the
    /// receiver's to check.
    pub fn split(frame: &[u8]) -> Result<(Self, &[u8]), FrameError> {
        let short = FrameError::Short { len: frame.len() };
        let (b, rest) = frame.split_first_chunk::<HEADER_BYTES>().ok_or(short)?;
        let found = u16::from_be_bytes([b[12], b[13]]);
        if found != ETHERTYPE {
            return Err(FrameError::EtherType { found });
        }
        let u16_at = |at: usize| u16::from_le_bytes([b[at], b[at + 1]]);
        let u32_at = |at: usize| u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
        let announced = u32_at(22);
        let too_long = FrameError::Payload { announced, present: rest.len() };
        let payload = usize::try_from(announced).ok().and_then(|len| rest.get(..len)).ok_or(too_long)?;
        let header = Self {
            destination: [b[0], b[1], b[2], b[3], b[4], b[5]],
            source: [b[6], b[7], b[8], b[9], b[10], b[11]],
            kind: kind(b[14])?,
            flow: u16_at(16),
            seq: u32_at(18),
            payload_len: announced,
            crc: u32_at(26),
            reply_len: u32_at(30),
            ack_every: u16_at(34),
            mss: u16_at(36),
        };
        Ok((header, payload))
    }
}

fn kind(found: u8) -> Result<Kind, FrameError> {
    match found {
        1 => Ok(Kind::Data),
        2 => Ok(Kind::Ack),
        3 => Ok(Kind::Request),
        4 => Ok(Kind::Response),
        5 => Ok(Kind::Pull),
        _ => Err(FrameError::Kind { found }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            destination: [2, 0, 0, 0, 0, 2],
            source: [2, 0, 0, 0, 0, 1],
            kind: Kind::Data,
            flow: 0x0102,
            seq: 0x0304_0506,
            payload_len: 2,
            crc: 0x0708_090a,
            reply_len: 0x0b0c_0d0e,
            ack_every: 0x0f10,
            mss: 1448,
        }
    }

    #[test]
    fn the_header_has_its_golden_bytes() {
        let mut golden =
            vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x88, 0xb5, 1, 0, 2, 1, 6, 5, 4, 3, 2, 0, 0, 0];
        golden.extend([0x0a, 9, 8, 7, 0x0e, 0x0d, 0x0c, 0x0b, 0x10, 0x0f, 0xa8, 5]);
        golden.resize(HEADER_BYTES, 0);
        assert_eq!(header().encode().as_slice(), golden);
    }

    #[test]
    fn a_frame_splits_into_what_was_encoded_and_drops_padding() {
        let mut frame = header().encode().to_vec();
        frame.extend([7, 8, 0, 0]);
        assert_eq!(Header::split(&frame), Ok((header(), [7, 8].as_slice())));
    }

    #[test]
    fn damaged_frames_are_told_apart() {
        let frame = |at: usize, byte: u8| {
            let mut frame = header().encode().to_vec();
            frame.extend([7, 8]);
            frame[at] = byte;
            frame
        };
        assert_eq!(Header::split(&[0; 65]), Err(FrameError::Short { len: 65 }));
        assert_eq!(Header::split(&frame(12, 8)), Err(FrameError::EtherType { found: 0x08b5 }));
        assert_eq!(Header::split(&frame(14, 9)), Err(FrameError::Kind { found: 9 }));
        assert_eq!(Header::split(&frame(22, 3)), Err(FrameError::Payload { announced: 3, present: 2 }));
        let huge = FrameError::Payload { announced: 0xff00_0002, present: 2 };
        assert_eq!(Header::split(&frame(25, 0xff)), Err(huge));
    }
}
