//! UDP_STREAM: the guest transmits datagrams as fast as the ring takes them.

use super::{Load, NetperfError, Progress, World, unexpected};
use crate::{
    frame::{Header, Kind},
    scenario::Params,
};

/// One socket.
#[derive(Clone, Copy, Debug)]
struct Flow {
    bytes: u64,
    /// Bytes of the datagram at hand that are still to be sent.
    rest: u32,
}

/// Flows take turns, one packet each. There is neither window nor segmentation offload: a datagram longer than a
/// segment is cut by the guest's network stack, as IP cuts it, and each fragment is a packet to the NIC.
#[derive(Debug)]
pub(super) struct Datagrams {
    flows: Vec<Flow>,
    turn: usize,
    message_bytes: u32,
    fragment_bytes: u32,
}

impl Datagrams {
    pub(super) fn new(params: &Params) -> Self {
        let message_bytes = params.message_bytes;
        Self {
            flows: vec![Flow { bytes: 0, rest: message_bytes }; usize::from(params.flows)],
            turn: 0,
            message_bytes,
            fragment_bytes: u32::from(params.mss()),
        }
    }

    /// Sends one packet of the flow whose turn it is; whether there was a slot for it.
    fn send_one(&mut self, world: &mut World) -> Result<bool, NetperfError> {
        let Some(slot) = world.slot()? else { return Ok(false) };
        let flow = &mut self.flows[self.turn];
        let len = flow.rest.min(self.fragment_bytes);
        let mut header = world.header(Kind::Data, self.turn as u16, flow.bytes as u32);
        let (payload, crc) = world.pattern.payload(world.sent, len);
        world.net.fill(&slot, 0, payload);
        (header.payload_len, header.crc) = (len, crc);
        flow.bytes += u64::from(len);
        flow.rest -= len;
        if flow.rest == 0 {
            flow.rest = self.message_bytes;
        }
        self.turn = (self.turn + 1) % self.flows.len();
        world.send(slot, &header)?;
        Ok(true)
    }
}

impl Load for Datagrams {
    fn send(&mut self, world: &mut World, quota: &mut u64) -> Result<bool, NetperfError> {
        let mut sent = false;
        for _ in 0..world.params.tx_batch {
            if *quota == 0 || !self.send_one(world)? {
                break;
            }
            *quota -= 1;
            sent = true;
        }
        Ok(sent)
    }

    fn receive(&mut self, header: &Header, _progress: &Progress<'_>) -> Result<(), NetperfError> {
        Err(unexpected(header))
    }

    fn awaited(&self) -> u64 {
        0
    }
}
