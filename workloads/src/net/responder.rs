//! The far end of a real wire: a second NIC, driven by the same driver, that answers what the first one sends.
//!
//! An emulated NIC has its peer inside; two real ones have a wire between them, and somebody must sit at its other end.

use std::collections::VecDeque;

use super::{NetDriver, NetError};
use crate::{
    dma::Counts,
    frame::{Header, Kind},
    pattern::Pattern,
};

/// Frames taken at once.
const BUDGET: u32 = 64;
/// Answers that may wait; while more do, nothing is taken off the wire.
const BACKLOG: usize = 1024;

/// So many frames of one kind.
#[derive(Clone, Copy, Debug)]
struct Answer {
    to: [u8; 6],
    kind: Kind,
    flow: u16,
    seq: u32,
    payload_len: u32,
    count: u32,
}

/// Answers frames.
pub struct Responder {
    net: NetDriver,
    pattern: Pattern,
    longest: u32,
    mss: u16,
    /// Segments received that no ACK has covered yet, by flow.
    unacknowledged: Vec<u32>,
    answers: VecDeque<Answer>,
    sent: u64,
    bytes_verified: u64,
}

impl Responder {
    /// Answers with payloads of at most `longest` bytes through `net`, in segments of `mss`.
    pub fn new(net: NetDriver, seed: u64, longest: u32, mss: u16) -> Self {
        Self {
            net,
            pattern: Pattern::new(seed, longest),
            longest,
            mss,
            unacknowledged: Vec::new(),
            answers: VecDeque::new(),
            sent: 0,
            bytes_verified: 0,
        }
    }

    /// Payload bytes received whose checksum was right; one that was wrong is an error of [`turn`](Self::turn).
    pub fn bytes_verified(&self) -> u64 {
        self.bytes_verified
    }

    /// Takes what has arrived and sends what there is room for; whether there was anything.
    ///
    /// # Errors
    /// When the NIC or its rings fail, or a frame is damaged.
    pub fn turn(&mut self) -> Result<bool, NetError> {
        let mut busy = self.net.reap()? > 0;
        if self.answers.len() < BACKLOG {
            let mut arrived = [None; BUDGET as usize];
            let mut slots = arrived.iter_mut();
            self.net.poll(BUDGET, |header| {
                if let Some(slot) = slots.next() {
                    *slot = Some(*header);
                }
            })?;
            for header in arrived.iter().flatten() {
                busy = true;
                self.receive(header);
            }
        }
        Ok(self.send()? || busy)
    }

    /// Resets the NIC.
    ///
    /// # Errors
    /// When it does not reset.
    pub fn shutdown(self) -> Result<Counts, NetError> {
        NetDriver::shutdown(vec![self.net])
    }

    fn receive(&mut self, header: &Header) {
        self.bytes_verified += u64::from(header.payload_len);
        let answer = Answer {
            to: header.source,
            kind: Kind::Ack,
            flow: header.flow,
            seq: header.seq,
            payload_len: header.reply_len.min(self.longest),
            count: 1,
        };
        match header.kind {
            Kind::Data => {
                let count = self.acknowledge(header);
                if count > 0 {
                    self.answers.push_back(Answer { payload_len: 0, count, ..answer });
                }
            }
            Kind::Request => self.answers.push_back(Answer { kind: Kind::Response, ..answer }),
            Kind::Pull if header.ack_every > 0 => {
                let count = u32::from(header.ack_every);
                self.answers.push_back(Answer { kind: Kind::Data, count, ..answer });
            }
            // Nothing answers an answer.
            Kind::Pull | Kind::Ack | Kind::Response => (),
        }
    }

    /// One ACK for every `ack_every` segments of a flow; what is left over counts for its next frame.
    fn acknowledge(&mut self, header: &Header) -> u32 {
        let segments = header.payload_len.div_ceil(u32::from(header.mss.max(1)));
        let (flow, every) = (usize::from(header.flow), u32::from(header.ack_every));
        if every == 0 || segments == 0 {
            return 0;
        }
        if flow >= self.unacknowledged.len() {
            self.unacknowledged.resize(flow + 1, 0);
        }
        // The left-over is less than 65536, and so are a frame's segments.
        let total = self.unacknowledged[flow] + segments;
        self.unacknowledged[flow] = total % every;
        total / every
    }

    /// Sends as many answers as the ring takes.
    fn send(&mut self) -> Result<bool, NetError> {
        let mut any = false;
        while let Some(answer) = self.answers.front_mut() {
            let Some(slot) = self.net.slot() else { break };
            let (payload, crc) = self.pattern.payload(self.sent, answer.payload_len);
            self.net.fill(&slot, 0, payload);
            let header = Header {
                destination: answer.to,
                source: self.net.mac(),
                kind: answer.kind,
                flow: answer.flow,
                seq: answer.seq,
                payload_len: answer.payload_len,
                crc,
                reply_len: 0,
                ack_every: 0,
                mss: self.mss,
            };
            answer.count -= 1;
            if answer.kind == Kind::Data {
                answer.seq = answer.seq.wrapping_add(1);
            }
            if answer.count == 0 {
                self.answers.pop_front();
            }
            self.net.send(slot, &header)?;
            self.sent += 1;
            any = true;
        }
        if any {
            self.net.kick();
        }
        Ok(any)
    }
}
