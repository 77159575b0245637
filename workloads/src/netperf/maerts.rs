//! TCP_MAERTS: the peer transmits as fast as the guest opens the window.

use std::collections::VecDeque;

use super::{Load, NetperfError, Progress, World, unexpected};
use crate::{
    frame::{Header, Kind},
    scenario::Params,
};

/// One connection.
#[derive(Clone, Copy, Debug, Default)]
struct Flow {
    /// Frames received, whose number the next one has.
    received: u64,
    /// Frames the peer may send and that have not arrived.
    granted: u64,
    /// Frames received since one was acknowledged.
    unacknowledged: u32,
    /// ACKs to send.
    acks: u32,
    /// Frames received since the window was last opened.
    ungranted: u64,
}

/// A flow begins with a PULL that opens the whole window; from then on each ACK, a PULL too, opens it again by as much
/// as was received. An ACK comes for every `ack_every` segments, but for no more than one a packet: what the NIC
/// delivers at once is one packet to TCP.
#[derive(Debug)]
pub(super) struct Maerts {
    flows: Vec<Flow>,
    packet_bytes: u32,
    /// The window, in packets.
    window: u64,
    /// Packets per ACK.
    every: u32,
    /// Flows with ACKs to send, in the order in which they fell due.
    due: VecDeque<u16>,
    /// Sum of what is granted, so that waiting costs no walk over the flows.
    awaited: u64,
    /// ACKs to send, in all.
    acks: u64,
}

impl Maerts {
    pub(super) fn new(params: &Params) -> Self {
        Self {
            flows: vec![Flow::default(); usize::from(params.flows)],
            packet_bytes: params.segment_bytes(),
            window: params.window_packets(),
            every: params.packets_per_ack(),
            due: VecDeque::new(),
            awaited: 0,
            acks: 0,
        }
    }

    /// Sends a PULL for up to `frames` more frames, as many as the quota has; whether there was a slot for it.
    fn pull(
        &mut self,
        world: &mut World,
        index: u16,
        frames: u64,
        quota: &mut u64,
    ) -> Result<bool, NetperfError> {
        let Some(slot) = world.slot()? else { return Ok(false) };
        let flow = &mut self.flows[usize::from(index)];
        // The window is less than 65536 packets: window_bytes over a segment of at least 512 bytes, clamped.
        let frames = frames.min(*quota).min(u64::from(u16::MAX));
        let first = flow.received + flow.granted;
        let mut header = world.header(Kind::Pull, index, first as u32);
        header.reply_len = self.packet_bytes;
        header.ack_every = frames as u16;
        *quota -= frames;
        flow.granted += frames;
        flow.ungranted = 0;
        self.awaited += frames;
        world.send(slot, &header)?;
        Ok(true)
    }
}

impl Load for Maerts {
    fn send(&mut self, world: &mut World, quota: &mut u64) -> Result<bool, NetperfError> {
        let mut sent = false;
        while let Some(&index) = self.due.front() {
            let frames = self.flows[usize::from(index)].ungranted;
            if !self.pull(world, index, frames, quota)? {
                return Ok(sent);
            }
            sent = true;
            self.acks -= 1;
            let flow = &mut self.flows[usize::from(index)];
            flow.acks -= 1;
            if flow.acks == 0 {
                self.due.pop_front();
            }
        }
        // With quota left and nothing on its way a flow has not begun, or begins a new slice.
        for index in 0..self.flows.len() {
            if *quota == 0 {
                break;
            }
            if self.flows[index].granted == 0 {
                if !self.pull(world, index as u16, self.window, quota)? {
                    break;
                }
                sent = true;
            }
        }
        Ok(sent)
    }

    fn receive(&mut self, header: &Header, _progress: &Progress<'_>) -> Result<(), NetperfError> {
        let Some(flow) = self.flows.get_mut(usize::from(header.flow)) else { return Err(unexpected(header)) };
        if header.kind != Kind::Data
            || header.payload_len != self.packet_bytes
            || header.seq != flow.received as u32
            || flow.granted == 0
        {
            return Err(unexpected(header));
        }
        flow.received += 1;
        flow.granted -= 1;
        flow.ungranted += 1;
        self.awaited -= 1;
        flow.unacknowledged += 1;
        if flow.unacknowledged == self.every {
            flow.unacknowledged = 0;
            if flow.acks == 0 {
                self.due.push_back(header.flow);
            }
            flow.acks += 1;
            self.acks += 1;
        }
        Ok(())
    }

    fn awaited(&self) -> u64 {
        self.awaited + self.acks
    }
}
