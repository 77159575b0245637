//! The control queue: tells the NIC how many queue pairs are in use.

use virtio_bindings::virtio_net::{VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, VIRTIO_NET_OK};

use super::{MappedRing, NetError, NetSettings};
use crate::{
    dma::{Direction, Dma, Mapping},
    memory::Span,
    mmio::MmioDevice,
    pages::PageAllocator,
    ring::Segment,
    wait::{Pause, Wait},
};

/// Descriptors of the control queue: one command at a time, of two.
const RING_SIZE: u16 = 4;
/// `struct virtio_net_ctrl_hdr` and `struct virtio_net_ctrl_mq`.
const COMMAND_BYTES: u32 = 4;
/// Where the status byte lies, and what it says before the NIC has written it.
const STATUS: u32 = 64;
const UNWRITTEN: u8 = 0xff;

pub(super) struct Control {
    index: u16,
    ring: MappedRing,
    memory: Span,
    mapping: Mapping,
}

impl Control {
    /// The control queue at `index`.
    pub(super) fn new(
        device: &MmioDevice,
        pages: &PageAllocator,
        dma: &mut Dma,
        index: u16,
    ) -> Result<Self, NetError> {
        let ring = MappedRing::new(device, pages, dma, index, RING_SIZE)?;
        let memory = pages.alloc(u64::from(STATUS) + 1)?;
        let mapping = dma.map(memory.gpa(), STATUS + 1, Direction::Both)?;
        Ok(Self { index, ring, memory, mapping })
    }

    /// Puts the first `pairs` to use, and waits until the NIC has done so.
    pub(super) fn set_pairs(
        &mut self,
        device: &MmioDevice,
        pairs: u16,
        settings: &NetSettings,
    ) -> Result<(), NetError> {
        let [low, high] = pairs.to_le_bytes();
        let command = [VIRTIO_NET_CTRL_MQ as u8, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET as u8, low, high];
        self.memory.write_array(0, command);
        self.memory.write_array(STATUS as usize, [UNWRITTEN]);
        let addr = self.mapping.device_address();
        let command = Segment { addr, len: COMMAND_BYTES };
        let status = Segment { addr: addr + u64::from(STATUS), len: 1 };
        let ring = &mut self.ring.ring;
        ring.add(&[command], &[status], 0)?;
        if ring.publish() {
            device.kick(self.index);
        }
        let mut wait = Wait::new(settings.watchdog);
        while ring.pop()?.is_none() {
            match wait.pause() {
                Pause::Again => {}
                Pause::CheckDevice => device.check()?,
                Pause::Expired => return Err(NetError::Command { pairs, status: UNWRITTEN }),
            }
        }
        match self.memory.read_array(STATUS as usize) {
            [status] if u32::from(status) == VIRTIO_NET_OK => Ok(()),
            [status] => Err(NetError::Command { pairs, status }),
        }
    }

    pub(super) fn unmap(&self, dma: &mut Dma) -> Result<(), NetError> {
        dma.unmap(self.mapping)?;
        Ok(dma.unmap(self.ring.mapping)?)
    }
}
