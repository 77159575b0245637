//! TCP_RR and UDP_RR: one request outstanding per flow, answered by as many bytes.

use super::{Load, NetperfError, Progress, World, unexpected};
use crate::{
    frame::{Header, Kind},
    scenario::Params,
};

/// One connection.
#[derive(Clone, Copy, Debug, Default)]
struct Flow {
    /// Number of the transaction.
    number: u32,
    /// Bytes of the request that are still to be sent.
    to_send: u32,
    /// Bytes of the response that are still to come; zero between transactions.
    to_come: u32,
    start_ns: u64,
}

/// A request that is longer than a packet is sent as several, each of which asks for as much back.
#[derive(Debug)]
pub(super) struct RoundTrips {
    flows: Vec<Flow>,
    message_bytes: u32,
    packet_bytes: u32,
    /// Transactions begun and not completed.
    open: u64,
    /// Flows with something to send or to begin, so that idle ones cost nothing: an index is in it at most once.
    ready: std::collections::VecDeque<u16>,
    completed: u64,
}

impl RoundTrips {
    pub(super) fn new(params: &Params, packet_bytes: u32) -> Self {
        Self {
            flows: vec![Flow::default(); usize::from(params.flows)],
            message_bytes: params.message_bytes,
            packet_bytes,
            open: 0,
            ready: (0..params.flows).collect(),
            completed: 0,
        }
    }

    /// Sends what is left of a flow's request; whether all of it could be queued.
    fn send_rest(&mut self, world: &mut World, index: u16) -> Result<bool, NetperfError> {
        let flow = &mut self.flows[usize::from(index)];
        while flow.to_send > 0 {
            let Some(slot) = world.slot()? else { return Ok(false) };
            let len = flow.to_send.min(self.packet_bytes);
            let mut header = world.header(Kind::Request, index, flow.number);
            let (payload, crc) = world.pattern.payload(world.sent, len);
            world.net.fill(&slot, 0, payload);
            header.payload_len = len;
            header.crc = crc;
            header.reply_len = len;
            flow.to_send -= len;
            world.send(slot, &header)?;
        }
        Ok(true)
    }
}

impl Load for RoundTrips {
    fn send(&mut self, world: &mut World, quota: &mut u64) -> Result<bool, NetperfError> {
        world.transactions = self.completed;
        let sent_before = world.sent;
        while let Some(&index) = self.ready.front() {
            let flow = &mut self.flows[usize::from(index)];
            if flow.to_come == 0 {
                if *quota == 0 {
                    break;
                }
                *quota -= 1;
                self.open += 1;
                flow.number = flow.number.wrapping_add(1);
                (flow.to_send, flow.to_come) = (self.message_bytes, self.message_bytes);
                flow.start_ns = world.clock.now_ns();
            }
            if !self.send_rest(world, index)? {
                break;
            }
            self.ready.pop_front();
        }
        Ok(world.sent != sent_before)
    }

    fn receive(&mut self, header: &Header, progress: &Progress<'_>) -> Result<(), NetperfError> {
        let Some(flow) = self.flows.get_mut(usize::from(header.flow)) else { return Err(unexpected(header)) };
        let due = flow.to_come - flow.to_send;
        if header.kind != Kind::Response
            || header.seq != flow.number
            || !(1..=due).contains(&header.payload_len)
        {
            return Err(unexpected(header));
        }
        flow.to_come -= header.payload_len;
        if flow.to_come == 0 {
            progress.recorder.transaction_latency(progress.clock.now_ns().saturating_sub(flow.start_ns));
            self.open -= 1;
            self.completed += 1;
            self.ready.push_back(header.flow);
        }
        Ok(())
    }

    fn awaited(&self) -> u64 {
        self.open
    }
}
