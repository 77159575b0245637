//! A device behind a socket, and a client that sends whatever it is told to.

#![allow(dead_code, reason = "each test uses its own part")]

use std::{
    fs::File,
    io::{IoSlice, Read, Write},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use iommu_vfio_user::{PciDevice, Server, ServerOptions};
use rustix::{
    fs::{MemfdFlags, memfd_create},
    net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg},
};
use tempfile::TempDir;
use virtio_iommu::{
    Device, DeviceOptions,
    memory::{AddressSpace, GuestRam},
};

pub(crate) const VERSION: u16 = 1;
pub(crate) const DMA_MAP: u16 = 2;
pub(crate) const DMA_UNMAP: u16 = 3;
pub(crate) const GET_INFO: u16 = 4;
pub(crate) const REGION_INFO: u16 = 5;
pub(crate) const IRQ_INFO: u16 = 7;
pub(crate) const SET_IRQS: u16 = 8;
pub(crate) const REGION_READ: u16 = 9;
pub(crate) const REGION_WRITE: u16 = 10;
pub(crate) const RESET: u16 = 13;

pub(crate) const EINVAL: u32 = 22;
pub(crate) const EBADF: u32 = 9;
pub(crate) const EEXIST: u32 = 17;
pub(crate) const ENOSPC: u32 = 28;
pub(crate) const ENOTSUP: u32 = 95;
pub(crate) const EMSGSIZE: u32 = 90;

pub(crate) struct Rig {
    pub(crate) server: Server,
    pub(crate) device: Arc<PciDevice>,
    pub(crate) path: PathBuf,
    _folder: TempDir,
}

/// A virtio-iommu behind a socket.
pub(crate) fn rig(patience: Duration) -> Rig {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("iommu.sock");
    let space = Arc::new(AddressSpace::new(1 << 40).unwrap());
    let iommu = Device::new(DeviceOptions::default(), GuestRam::of_space(space.clone())).unwrap();
    let device = Arc::new(PciDevice::new(Arc::new(iommu), space));
    let server = Server::start(&path, device.clone(), ServerOptions { patience }).unwrap();
    Rig { server, device, path, _folder: folder }
}

pub(crate) fn memfd(bytes: u64) -> File {
    let file = File::from(memfd_create("ram", MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC).unwrap());
    file.set_len(bytes).unwrap();
    file
}

pub(crate) fn fields(values: &[(u64, usize)]) -> Vec<u8> {
    values.iter().flat_map(|(value, width)| value.to_le_bytes()[..*width].to_vec()).collect()
}

/// Payload of a DMA_MAP.
pub(crate) fn dma_map(address: u64, size: u64, offset: u64, flags: u64) -> Vec<u8> {
    fields(&[(32, 4), (flags, 4), (offset, 8), (address, 8), (size, 8)])
}

/// Payload of a DMA_UNMAP.
pub(crate) fn dma_unmap(address: u64, size: u64, flags: u64) -> Vec<u8> {
    fields(&[(24, 4), (flags, 4), (address, 8), (size, 8)])
}

/// Payload of a region access, without data.
pub(crate) fn access(region: u64, offset: u64, count: u64) -> Vec<u8> {
    fields(&[(offset, 8), (region, 4), (count, 4)])
}

/// Payload of a SET_IRQS.
pub(crate) fn set_irqs(flags: u64, index: u64, start: u64, count: u64) -> Vec<u8> {
    fields(&[(20, 4), (flags, 4), (index, 4), (start, 4), (count, 4)])
}

/// A header for so many bytes of payload.
pub(crate) fn header(id: u16, command: u16, size: usize, flags: u32) -> Vec<u8> {
    fields(&[(id.into(), 2), (command.into(), 2), (size as u64, 4), (flags.into(), 4), (0, 4)])
}

pub(crate) struct Client {
    pub(crate) stream: UnixStream,
    next: u16,
}

impl Client {
    /// Connected, nothing negotiated.
    pub(crate) fn raw(rig: &Rig) -> Self {
        let stream = UnixStream::connect(&rig.path).unwrap();
        // A server that does not answer fails the test rather than hang it.
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        Self { stream, next: 100 }
    }

    /// Connected and agreed on a version.
    pub(crate) fn new(rig: &Rig) -> Self {
        let mut client = Self::raw(rig);
        let version = [&fields(&[(0, 2), (1, 2)]), &b"{\"capabilities\":{\"max_msg_fds\":8}}\0"[..]].concat();
        client.ask(VERSION, &version).unwrap();
        client
    }

    pub(crate) fn post(&mut self, command: u16, flags: u32, payload: &[u8], fds: &[BorrowedFd<'_>]) {
        self.next += 1;
        let message = [&header(self.next, command, 16 + payload.len(), flags), payload].concat();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
        }
        let sent =
            sendmsg(&self.stream, &[IoSlice::new(&message)], &mut control, SendFlags::NOSIGNAL).unwrap();
        self.stream.write_all(&message[sent..]).unwrap();
    }

    /// The next reply: payload or errno. `None` when the server hung up.
    pub(crate) fn reply(&mut self) -> Option<Result<Vec<u8>, u32>> {
        let mut head = [0; 16];
        self.stream.read_exact(&mut head).ok()?;
        let word = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().unwrap());
        let mut payload = vec![0; word(4) as usize - 16];
        self.stream.read_exact(&mut payload).ok()?;
        assert_eq!(
            u16::from_le_bytes([head[0], head[1]]),
            self.next,
            "the reply repeats the message's number"
        );
        Some(if word(8) & 0x20 == 0 { Ok(payload) } else { Err(word(12)) })
    }

    pub(crate) fn ask_with(
        &mut self,
        command: u16,
        payload: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> Result<Vec<u8>, u32> {
        self.post(command, 0, payload, fds);
        self.reply().expect("the server answers")
    }

    pub(crate) fn ask(&mut self, command: u16, payload: &[u8]) -> Result<Vec<u8>, u32> {
        self.ask_with(command, payload, &[])
    }

    pub(crate) fn map(&mut self, file: impl AsFd, address: u64, size: u64, offset: u64) -> Result<(), u32> {
        self.ask_with(DMA_MAP, &dma_map(address, size, offset, 3), &[file.as_fd()]).map(|_| ())
    }

    /// Whether the server has hung up.
    pub(crate) fn is_hung_up(&mut self) -> bool {
        matches!(self.stream.read(&mut [0; 1]), Ok(0) | Err(_))
    }
}

pub(crate) fn eventfd() -> OwnedFd {
    use rustix::event::{EventfdFlags, eventfd};
    eventfd(0, EventfdFlags::NONBLOCK).unwrap()
}

/// Times an eventfd was signalled since last asked.
pub(crate) fn signalled(fd: &OwnedFd) -> u64 {
    let mut count = [0; 8];
    rustix::io::read(fd, &mut count).map_or(0, |_| u64::from_ne_bytes(count))
}
