//! TCP_STREAM: the guest transmits as fast as the window opens.

use super::{Load, NetperfError, Progress, World, unexpected};
use crate::{
    frame::{Header, Kind},
    scenario::Params,
};

/// One connection.
#[derive(Clone, Copy, Debug, Default)]
struct Flow {
    bytes: u64,
    segments: u64,
    acks: u64,
}

/// Flows take turns, one packet each. A sender that always has more to send fills each packet: messages are copied one
/// after the other into as many whole segments as segmentation offload takes.
#[derive(Debug)]
pub(super) struct Stream {
    flows: Vec<Flow>,
    turn: usize,
    segment_bytes: u32,
    segments: u64,
    mss: u64,
    ack_every: u16,
    message_bytes: u64,
    window_bytes: u64,
    /// ACKs still to come for what was sent.
    awaited: u64,
}

impl Stream {
    pub(super) fn new(params: &Params) -> Self {
        let segment_bytes = params.segment_bytes();
        Self {
            flows: vec![Flow::default(); usize::from(params.flows)],
            turn: 0,
            segment_bytes,
            segments: u64::from(segment_bytes.div_ceil(u32::from(params.mss()))),
            mss: u64::from(params.mss()),
            ack_every: params.ack_every,
            message_bytes: u64::from(params.message_bytes),
            window_bytes: u64::from(params.window_bytes),
            awaited: 0,
        }
    }

    fn window_is_open(&self, flow: &Flow) -> bool {
        let unacknowledged = flow.segments - flow.acks * u64::from(self.ack_every);
        unacknowledged * self.mss + u64::from(self.segment_bytes) <= self.window_bytes
    }

    /// Sends one packet of flow `index`; whether there was a slot for it.
    fn send_one(&mut self, world: &mut World, index: usize) -> Result<bool, NetperfError> {
        let Some(slot) = world.slot()? else { return Ok(false) };
        let flow = &mut self.flows[index];
        let mut header = world.header(Kind::Data, index as u16, flow.bytes as u32);
        let (payload, crc) = world.pattern.payload(world.sent, self.segment_bytes);
        // Message by message, as sends come: the first may be the rest of one begun in the packet before.
        let mut at = 0;
        while at < payload.len() {
            let rest = self.message_bytes - (flow.bytes + at as u64) % self.message_bytes;
            let end = payload.len().min(at.saturating_add(usize::try_from(rest).unwrap_or(usize::MAX)));
            world.net.fill(&slot, at as u32, &payload[at..end]);
            at = end;
        }
        header.payload_len = self.segment_bytes;
        header.crc = crc;
        header.ack_every = self.ack_every;
        let every = u64::from(self.ack_every);
        self.awaited += (flow.segments + self.segments) / every - flow.segments / every;
        flow.bytes += u64::from(self.segment_bytes);
        flow.segments += self.segments;
        world.send(slot, &header)?;
        Ok(true)
    }
}

impl Load for Stream {
    fn send(&mut self, world: &mut World, quota: &mut u64) -> Result<bool, NetperfError> {
        let mut sent = false;
        let mut blocked = 0;
        let mut burst = world.params.tx_batch;
        while *quota > 0 && burst > 0 && blocked < self.flows.len() {
            let index = self.turn;
            self.turn = (self.turn + 1) % self.flows.len();
            if !self.window_is_open(&self.flows[index]) {
                blocked += 1;
                continue;
            }
            if !self.send_one(world, index)? {
                // The same flow's turn again, when there is a slot.
                self.turn = index;
                break;
            }
            (sent, blocked) = (true, 0);
            *quota -= 1;
            burst -= 1;
        }
        Ok(sent)
    }

    fn receive(&mut self, header: &Header, _progress: &Progress<'_>) -> Result<(), NetperfError> {
        let every = u64::from(self.ack_every);
        match self.flows.get_mut(usize::from(header.flow)) {
            Some(flow) if header.kind == Kind::Ack && flow.acks < flow.segments / every => {
                flow.acks += 1;
                self.awaited -= 1;
                Ok(())
            }
            _ => Err(unexpected(header)),
        }
    }

    fn awaited(&self) -> u64 {
        self.awaited
    }
}
