//! The host's end of the wire. It is not behind the IOMMU.

use std::collections::VecDeque;

use crate::frame::{FrameError, HEADER_BYTES, Header, Kind, MAX_PAYLOAD_BYTES};

/// Responses start at one of so many offsets into the pattern, by sequence number, so that a stale one is told apart.
const PATTERN_PHASES: usize = 256;

/// Frames the peer wants to send: one response, a run of equal ACKs, or a run of a stream's frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// ACK, RESPONSE or DATA.
    pub kind: Kind,
    /// Flow of the frame that is answered.
    pub flow: u16,
    /// Its sequence number; of a run of DATA, the number in its flow of the first frame, the others count on.
    pub seq: u32,
    /// Payload of each frame, in bytes.
    pub payload_len: u32,
    /// How many frames, at least one.
    pub count: u32,
    /// Address to send to.
    pub destination: [u8; 6],
}

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Payload bytes, checksum verified.
    pub payload_bytes: u64,
    /// What the peer answers.
    pub reply: Option<Reply>,
}

/// Verifies what arrives and answers it.
#[derive(Debug)]
pub struct Peer {
    mac: [u8; 6],
    /// Segments received that no ACK has covered yet, by flow; grows to the highest flow seen (65536 at most).
    unacknowledged: Vec<u64>,
    pattern: Box<[u8]>,
}

impl Peer {
    /// A peer with this address.
    pub fn new(mac: [u8; 6]) -> Self {
        let byte = |i: usize| ((i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8;
        let pattern = (0..MAX_PAYLOAD_BYTES + PATTERN_PHASES).map(byte).collect();
        Self { mac, unacknowledged: Vec::new(), pattern }
    }

    /// Forgets all flows.
    pub fn reset(&mut self) {
        self.unacknowledged.fill(0);
    }

    /// A frame arrives.
    ///
    /// # Errors
    /// When it is malformed or damaged: nothing answers it.
    #[inline]
    pub fn receive(&mut self, frame: &[u8]) -> Result<Received, FrameError> {
        let (header, payload) = Header::split(frame)?;
        let found = crc32c::crc32c(payload);
        if found != header.crc {
            return Err(FrameError::Checksum { announced: header.crc, found });
        }
        let reply = match header.kind {
            Kind::Data => self.acknowledge(&header),
            Kind::Request | Kind::Pull if header.reply_len as usize > MAX_PAYLOAD_BYTES => {
                return Err(FrameError::Reply { asked: header.reply_len });
            }
            Kind::Request => Some(reply(&header, Kind::Response, header.reply_len, 1)),
            Kind::Pull => (header.ack_every > 0)
                .then(|| reply(&header, Kind::Data, header.reply_len, u32::from(header.ack_every))),
            Kind::Ack | Kind::Response => return Err(FrameError::Kind { found: header.kind as u8 }),
        };
        Ok(Received { payload_bytes: payload.len() as u64, reply })
    }

    /// One ACK for every `ack_every` segments of the flow; what is left over counts for the next frame.
    fn acknowledge(&mut self, header: &Header) -> Option<Reply> {
        let segments = match header.mss {
            0 => 1,
            mss => header.payload_len.div_ceil(u32::from(mss)),
        };
        if header.ack_every == 0 || segments == 0 {
            return None;
        }
        let flow = usize::from(header.flow);
        if flow >= self.unacknowledged.len() {
            self.unacknowledged.resize(flow + 1, 0);
        }
        let every = u64::from(header.ack_every);
        // At most 65535 (the remainder) and 65536 (a frame's segments) are added.
        let total = self.unacknowledged[flow] + u64::from(segments);
        self.unacknowledged[flow] = total % every;
        let count = (total / every) as u32;
        (count > 0).then(|| reply(header, Kind::Ack, 0, count))
    }

    /// The frame of a reply: header, with its checksum, and payload.
    #[inline]
    pub fn compose(&self, reply: &Reply) -> ([u8; HEADER_BYTES], &[u8]) {
        let start = reply.seq as usize % PATTERN_PHASES;
        // `receive` admits no reply longer than a frame; a longer one would be cut.
        let len = (reply.payload_len as usize).min(MAX_PAYLOAD_BYTES);
        let payload = &self.pattern[start..start + len];
        let header = Header {
            destination: reply.destination,
            source: self.mac,
            kind: reply.kind,
            flow: reply.flow,
            seq: reply.seq,
            payload_len: len as u32,
            crc: crc32c::crc32c(payload),
            reply_len: 0,
            ack_every: 0,
            mss: 0,
        };
        (header.encode(), payload)
    }
}

fn reply(header: &Header, kind: Kind, payload_len: u32, count: u32) -> Reply {
    Reply { kind, flow: header.flow, seq: header.seq, payload_len, count, destination: header.source }
}

/// Frames on their way to the guest. Bounded: when it is full the device stops taking frames from the guest, and one
/// frame from the guest adds one entry at most.
#[derive(Debug)]
pub(crate) struct Wire {
    replies: VecDeque<Reply>,
    capacity: usize,
}

impl Wire {
    pub(crate) fn new(capacity: usize) -> Self {
        let capacity = capacity.max(1);
        Self { replies: VecDeque::with_capacity(capacity), capacity }
    }

    pub(crate) fn clear(&mut self) {
        self.replies.clear();
    }

    pub(crate) fn is_full(&self) -> bool {
        self.replies.len() >= self.capacity
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.replies.is_empty()
    }

    /// The caller has checked that there is room.
    pub(crate) fn push(&mut self, reply: Reply) {
        debug_assert!(!self.is_full());
        self.replies.push_back(reply);
    }

    pub(crate) fn front(&self) -> Option<Reply> {
        self.replies.front().copied()
    }

    /// One frame of the first reply is gone.
    pub(crate) fn advance(&mut self) {
        if let Some(reply) = self.replies.front_mut() {
            reply.count -= 1;
            if reply.kind == Kind::Data {
                reply.seq = reply.seq.wrapping_add(1);
            }
            if reply.count == 0 {
                self.replies.pop_front();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(flow: u16, payload: &[u8], ack_every: u16, mss: u16) -> Vec<u8> {
        let header = Header {
            destination: [2; 6],
            source: [4; 6],
            kind: Kind::Data,
            flow,
            seq: 7,
            payload_len: payload.len() as u32,
            crc: crc32c::crc32c(payload),
            reply_len: 0,
            ack_every,
            mss,
        };
        [header.encode().as_slice(), payload].concat()
    }

    fn acks(peer: &mut Peer, frame: &[u8]) -> u32 {
        peer.receive(frame).unwrap().reply.map_or(0, |reply| reply.count)
    }

    #[test]
    fn segments_left_over_count_for_the_flows_next_frame() {
        let mut peer = Peer::new([2; 6]);
        // Three segments a frame (two full, one short), one ACK for two: 1, 2, 1, 2… and each flow for itself.
        let frame = data(1, &[5; 2897], 2, 1448);
        let other = data(300, &[5; 1], 2, 1448);
        let counts: Vec<u32> = (0..4).map(|_| acks(&mut peer, &frame)).collect();
        assert_eq!(counts, [1, 2, 1, 2]);
        assert_eq!([acks(&mut peer, &other), acks(&mut peer, &other)], [0, 1]);
        assert_eq!(acks(&mut peer, &data(1, &[], 2, 1448)), 0);
    }

    #[test]
    fn hostile_ratios_stay_bounded() {
        let mut peer = Peer::new([2; 6]);
        assert_eq!(acks(&mut peer, &data(u16::MAX, &[1; MAX_PAYLOAD_BYTES], 1, 1)), 65536);
        assert_eq!(acks(&mut peer, &data(0, &[1; 100], 0, 0)), 0);
        assert_eq!(acks(&mut peer, &data(0, &[1; 100], 1, 0)), 1);
        assert_eq!(acks(&mut peer, &data(0, &[1; MAX_PAYLOAD_BYTES], u16::MAX, 1)), 1);
    }

    #[test]
    fn one_flipped_bit_is_detected() {
        let mut peer = Peer::new([2; 6]);
        let mut frame = data(0, &[9; 512], 1, 1448);
        frame[HEADER_BYTES + 100] ^= 1;
        assert!(matches!(peer.receive(&frame), Err(FrameError::Checksum { .. })));
    }

    #[test]
    fn a_pull_is_answered_by_a_run_of_numbered_frames() {
        let mut peer = Peer::new([2; 6]);
        let pull = |reply_len, frames| {
            let mut pull = data(9, &[], frames, 1448);
            pull[14] = Kind::Pull as u8;
            pull[30..34].copy_from_slice(&u32::to_le_bytes(reply_len));
            pull
        };
        let reply = peer.receive(&pull(2896, 3)).unwrap().reply.unwrap();
        let mut wire = Wire::new(4);
        wire.push(reply);
        let mut numbers = Vec::new();
        while let Some(reply) = wire.front() {
            let (header, payload) = peer.compose(&reply);
            let (header, _) =
                Header::split(&[header.as_slice(), payload].concat()).map(|(h, p)| (h, p.len())).unwrap();
            assert_eq!((header.kind, header.flow, header.crc), (Kind::Data, 9, crc32c::crc32c(payload)));
            numbers.push((header.seq, payload.len()));
            wire.advance();
        }
        assert_eq!(numbers, [(7, 2896), (8, 2896), (9, 2896)]);
        assert_eq!(peer.receive(&pull(2896, 0)).unwrap().reply, None, "nothing more is wanted");
        assert_eq!(peer.receive(&pull(65537, 1)), Err(FrameError::Reply { asked: 65537 }));
    }

    #[test]
    fn a_response_has_the_length_asked_for_and_a_true_checksum() {
        let peer = Peer::new([2; 6]);
        let asked = Reply {
            kind: Kind::Response,
            flow: 3,
            seq: 1000,
            payload_len: 777,
            count: 1,
            destination: [4; 6],
        };
        let (header, payload) = peer.compose(&asked);
        let frame = [header.as_slice(), payload].concat();
        let (header, payload) = Header::split(&frame).unwrap();
        assert_eq!((header.kind, header.flow, header.seq, payload.len()), (Kind::Response, 3, 1000, 777));
        assert_eq!(header.crc, crc32c::crc32c(payload));
        assert_ne!(payload, peer.compose(&Reply { seq: 1001, ..asked }).1);
    }
}
