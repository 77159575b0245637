//! One connection: what has been negotiated, and the answer to each message.

use crate::{
    Lent, PciDevice,
    device::REGIONS,
    frame::{Frame, Header, MAX_DATA_BYTES, MAX_FDS},
    irqs::{INTX, IRQ_KINDS, MSIX},
    reply::Reply,
    request::{Access, Refusal, Request},
};

/// Flags of DEVICE_GET_INFO: can be reset, is a PCI device.
const DEVICE_RESET_AND_PCI: u32 = 3;
/// Flags of DEVICE_GET_REGION_INFO: can be read and written.
const REGION_READ_WRITE: u32 = 3;
/// Flags of DEVICE_GET_IRQ_INFO: signalled by eventfd; for INTx also maskable and masked when signalled.
const IRQ_EVENTFD: u32 = 1;
const IRQ_INTX: u32 = 7;
/// Number of vectors of MSI-X may not be changed piecemeal.
const IRQ_NORESIZE: u32 = 8;
/// Flags of DMA_UNMAP: everything (with address and size 0). Its value is 2 in VFIO and in QEMU, 4 in the
/// protocol's text.
const UNMAP_ALL: [u32; 2] = [2, 4];
/// The protocol's minor version that this server speaks.
const MINOR: u16 = 1;
/// Most regions of memory; as [`MAX_SPACE_REGIONS`](virtio_iommu::memory::MAX_SPACE_REGIONS).
const MAX_DMA_MAPS: usize = virtio_iommu::memory::MAX_SPACE_REGIONS;

/// A connection's state.
#[derive(Debug, Default)]
pub struct Session {
    negotiated: bool,
}

impl Session {
    /// Nothing negotiated yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Does what the message asks for. The reply, unless none is wanted, and why it was refused, if it was.
    pub fn handle(&mut self, device: &PciDevice, frame: Frame) -> (Option<Vec<u8>>, Option<Refusal>) {
        let Frame { header, payload, fds } = frame;
        match self.answer(device, &header, &payload, fds) {
            Ok(reply) => ((!header.no_reply()).then(|| reply.finish()), None),
            // Whoever wants no reply gets none when it goes wrong, either.
            Err(refusal) if header.no_reply() && header.is_command() => (None, Some(refusal)),
            Err(refusal) => (Some(Reply::refusing(&header, refusal.errno())), Some(refusal)),
        }
    }

    fn answer(
        &mut self,
        device: &PciDevice,
        header: &Header,
        payload: &[u8],
        fds: Vec<Lent>,
    ) -> Result<Reply, Refusal> {
        if !header.is_command() {
            return Err(Refusal::NotACommand { flags: header.flags });
        }
        let command = header.command;
        let request = Request::parse(command, payload, fds.len())?;
        if matches!(request, Request::Version { .. }) == self.negotiated {
            return Err(Refusal::Turn { command });
        }
        let reply = Reply::to(header);
        match request {
            Request::Version { minor, .. } => {
                self.negotiated = true;
                Ok(reply.u16(0).u16(minor.min(MINOR)).bytes(capabilities().as_bytes()).bytes(&[0]))
            }
            Request::DmaMap(map) => device.map(map, fds.into_iter().next()).map(|()| reply),
            Request::DmaUnmap { argsz, flags, address, size } => {
                unmap(device, command, flags, address, size)?;
                Ok(reply.u32(argsz).u32(flags).u64(address).u64(size))
            }
            Request::DeviceInfo => Ok(reply.u32(16).u32(DEVICE_RESET_AND_PCI).u32(REGIONS).u32(IRQ_KINDS)),
            Request::RegionInfo { index } => region_info(reply, index),
            Request::IrqInfo { index } => irq_info(reply, device, index),
            Request::SetIrqs(set) => device.set_irqs(&set, fds).map(|()| reply),
            Request::RegionRead(access) => {
                check(access)?;
                let mut data = vec![0; access.count as usize];
                device.read(access.region, access.offset, &mut data);
                Ok(reply.u64(access.offset).u32(access.region).u32(access.count).bytes(&data))
            }
            Request::RegionWrite(access, data) => {
                check(access)?;
                device.write(access.region, access.offset, data);
                Ok(reply.u64(access.offset).u32(access.region).u32(access.count))
            }
            Request::Reset => {
                device.function().reset();
                Ok(reply)
            }
        }
    }
}

/// What this server can take.
fn capabilities() -> String {
    serde_json::json!({
        "capabilities": {
            "max_msg_fds": MAX_FDS,
            "max_data_xfer_size": MAX_DATA_BYTES,
            "max_dma_maps": MAX_DMA_MAPS,
            "pgsizes": 4096,
        }
    })
    .to_string()
}

fn unmap(device: &PciDevice, command: u16, flags: u32, address: u64, size: u64) -> Result<(), Refusal> {
    match flags {
        0 => device.unmap(address, size),
        _ if UNMAP_ALL.contains(&flags) && (address, size) == (0, 0) => device.unmap_all(),
        _ => Err(Refusal::Flags { command, flags }),
    }
}

fn region_info(reply: Reply, index: u32) -> Result<Reply, Refusal> {
    if index >= REGIONS {
        return Err(Refusal::Index { index, start: 0, count: 0 });
    }
    let size = PciDevice::region_bytes(index);
    let flags = if size == 0 { 0 } else { REGION_READ_WRITE };
    Ok(reply.u32(32).u32(flags).u32(index).u32(0).u64(size).u64(0))
}

fn irq_info(reply: Reply, device: &PciDevice, index: u32) -> Result<Reply, Refusal> {
    let count = device.irqs().count(index).ok_or(Refusal::Index { index, start: 0, count: 0 })?;
    let flags = match index {
        INTX => IRQ_INTX,
        MSIX => IRQ_EVENTFD | IRQ_NORESIZE,
        _ => 0,
    };
    Ok(reply.u32(16).u32(flags).u32(index).u32(count))
}

/// Whether an access lies in its region.
fn check(access: Access) -> Result<(), Refusal> {
    let Access { offset, region, count } = access;
    let end = offset.checked_add(count.into());
    let inside = region < REGIONS && end.is_some_and(|end| end <= PciDevice::region_bytes(region));
    if inside { Ok(()) } else { Err(Refusal::Index { index: region, start: offset, count: count.into() }) }
}
