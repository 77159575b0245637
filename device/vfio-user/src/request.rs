//! Messages into requests. Pure: sizes, flags and the number of descriptors are checked here, before anything is done.

use rustix::io::Errno;
use thiserror::Error;
use vfio_user::{Command, DmaMapFlags};

use crate::frame::{ACCESS_BYTES, MAX_DATA_BYTES};

/// Longest version data that is accepted, in bytes.
const MAX_VERSION_BYTES: usize = 4096;
/// `argsz` and three more words: what IRQ and region requests begin with.
const WORD: usize = 4;

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// VERSION.
    Version {
        /// Major version.
        major: u16,
        /// Minor version.
        minor: u16,
    },
    /// DMA_MAP.
    DmaMap(DmaMap),
    /// DMA_UNMAP of one region.
    DmaUnmap {
        /// As the client sent it, for the reply.
        argsz: u32,
        /// As the client sent it.
        flags: u32,
        /// Guest-physical start.
        address: u64,
        /// Length in bytes.
        size: u64,
    },
    /// DEVICE_GET_INFO.
    DeviceInfo,
    /// DEVICE_GET_REGION_INFO.
    RegionInfo {
        /// Which region.
        index: u32,
    },
    /// DEVICE_GET_IRQ_INFO.
    IrqInfo {
        /// Which kind of interrupt.
        index: u32,
    },
    /// DEVICE_SET_IRQS.
    SetIrqs(SetIrqs<'a>),
    /// REGION_READ.
    RegionRead(Access),
    /// REGION_WRITE.
    RegionWrite(Access, &'a [u8]),
    /// DEVICE_RESET.
    Reset,
}

/// A piece of guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DmaMap {
    /// Offset in the file, in bytes.
    pub offset: u64,
    /// Guest-physical start.
    pub address: u64,
    /// Length in bytes.
    pub size: u64,
    /// Whether the device may write it.
    pub writable: bool,
}

/// Which bytes of which region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Offset in the region, in bytes.
    pub offset: u64,
    /// Which region.
    pub region: u32,
    /// How many bytes, at most [`MAX_DATA_BYTES`].
    pub count: u32,
}

/// What is to happen to interrupts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetIrqs<'a> {
    /// Which kind.
    pub index: u32,
    /// First of its vectors.
    pub start: u32,
    /// How many.
    pub count: u32,
    /// With what.
    pub data: IrqData<'a>,
    /// What to do.
    pub action: IrqAction,
}

/// What comes with a SET_IRQS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IrqData<'a> {
    /// Nothing: the action is for all.
    None,
    /// A byte for each vector: the action is for those that are not 0.
    Bools(&'a [u8]),
    /// A descriptor for each vector, or none at all to take them back.
    Eventfds,
}

/// What SET_IRQS does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IrqAction {
    /// Masks.
    Mask,
    /// Unmasks.
    Unmask,
    /// Sets up how interrupts are signalled, or signals them.
    Trigger,
}

/// A request that is refused; the reply carries [`errno`](Self::errno).
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// No such command.
    #[error("command {command} does not exist")]
    Unknown {
        /// Its number.
        command: u16,
    },
    /// A command of the protocol that is not supported.
    #[error("command {command} is not supported")]
    Unsupported {
        /// Its number.
        command: u16,
    },
    /// A reply to nothing that was asked.
    #[error("a message that is no command (flags {flags:#x})")]
    NotACommand {
        /// Flags of its header.
        flags: u32,
    },
    /// A payload of the wrong length.
    #[error("a payload of {len} bytes for command {command}")]
    Length {
        /// The command.
        command: u16,
        /// Length of the payload in bytes.
        len: usize,
    },
    /// More or fewer descriptors than the command takes.
    #[error("{fds} file descriptors with command {command}")]
    Descriptors {
        /// The command.
        command: u16,
        /// How many came.
        fds: usize,
    },
    /// Anything before, or a second, VERSION.
    #[error("command {command} out of turn: VERSION comes first, and once")]
    Turn {
        /// The command.
        command: u16,
    },
    /// A version or version data that is not understood.
    #[error("version {major}.{minor}, or its capabilities, cannot be agreed on")]
    Version {
        /// Major version.
        major: u16,
        /// Minor version.
        minor: u16,
    },
    /// Flags that make no sense or are not supported.
    #[error("flags {flags:#x} for command {command}")]
    Flags {
        /// The command.
        command: u16,
        /// The flags.
        flags: u32,
    },
    /// No such region or interrupt, or none of it there.
    #[error("index {index}, {count} from {start} on: not there")]
    Index {
        /// Region or kind of interrupt.
        index: u32,
        /// Offset, or first vector.
        start: u64,
        /// Bytes or vectors.
        count: u64,
    },
    /// A descriptor is not what it should be.
    #[error("{reason}")]
    BadDescriptor {
        /// What it is, or is not.
        reason: String,
    },
    /// A region of memory cannot be mapped or unmapped.
    #[error("{reason}")]
    Memory {
        /// Why.
        reason: String,
        /// What the client is told.
        errno: i32,
    },
    /// The kernel offers no way to signal eventfds that cannot block.
    #[error(
        "no asynchronous I/O to signal interrupts with: {reason}; raise fs.aio-max-nr, or allow io_setup"
    )]
    Notifier {
        /// Why.
        reason: String,
    },
    /// RAM that is not backed by a file.
    #[error(
        "{size:#x} bytes of RAM at {address:#x} without a file: devices cannot reach it. If it is the guest's main memory, start QEMU with -object memory-backend-memfd,share=on,… -machine memory-backend=…"
    )]
    NoFile {
        /// Guest-physical start.
        address: u64,
        /// Length in bytes.
        size: u64,
    },
}

impl Refusal {
    /// The error number in the reply.
    pub fn errno(&self) -> u32 {
        let errno = match self {
            Self::Unsupported { .. } => Errno::NOTSUP.raw_os_error(),
            Self::BadDescriptor { .. } => Errno::BADF.raw_os_error(),
            Self::Memory { errno, .. } => *errno,
            Self::Notifier { .. } => Errno::IO.raw_os_error(),
            _ => Errno::INVAL.raw_os_error(),
        };
        errno.unsigned_abs()
    }
}

/// Little-endian fields of a payload, whose length has been checked where fields are read.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn u16(&self, at: usize) -> u16 {
        self.0.get(at..at + 2).map_or(0, |bytes| u16::from_le_bytes([bytes[0], bytes[1]]))
    }
    fn u32(&self, at: usize) -> u32 {
        u32::from(self.u16(at)) | u32::from(self.u16(at + 2)) << 16
    }
    fn u64(&self, at: usize) -> u64 {
        u64::from(self.u32(at)) | u64::from(self.u32(at + 4)) << 32
    }
}

impl<'a> Request<'a> {
    /// What `command` with this payload and so many descriptors asks for.
    ///
    /// # Errors
    /// When it is not a request that can be served, whatever the device.
    pub fn parse(command: u16, payload: &'a [u8], fds: usize) -> Result<Self, Refusal> {
        let known = Command::n(command).ok_or(Refusal::Unknown { command })?;
        let takes_fds = match known {
            Command::DmaMap => 1,
            Command::SetIrqs => usize::MAX,
            _ => 0,
        };
        if fds > takes_fds {
            return Err(Refusal::Descriptors { command, fds });
        }
        let fields = Fields(payload);
        let wrong_length = Refusal::Length { command, len: payload.len() };
        let exactly = |len: usize| if payload.len() == len { Ok(()) } else { Err(wrong_length.clone()) };
        // Clients may send structures of later versions, which only grew.
        let at_least = |len: usize| if payload.len() >= len { Ok(()) } else { Err(wrong_length.clone()) };
        match known {
            Command::Version => version(payload).ok_or(wrong_length)?,
            Command::DmaMap => {
                exactly(32)?;
                let flags = fields.u32(WORD);
                let writable = match DmaMapFlags::from_bits_retain(flags) {
                    DmaMapFlags::READ => false,
                    DmaMapFlags::READ_WRITE => true,
                    _ => return Err(Refusal::Flags { command, flags }),
                };
                let (offset, address, size) = (fields.u64(8), fields.u64(16), fields.u64(24));
                Ok(Self::DmaMap(DmaMap { offset, address, size, writable }))
            }
            Command::DmaUnmap => {
                exactly(24)?;
                let (argsz, flags) = (fields.u32(0), fields.u32(WORD));
                Ok(Self::DmaUnmap { argsz, flags, address: fields.u64(8), size: fields.u64(16) })
            }
            Command::DeviceGetInfo => at_least(WORD).map(|()| Self::DeviceInfo),
            Command::DeviceGetRegionInfo => {
                at_least(32)?;
                Ok(Self::RegionInfo { index: fields.u32(8) })
            }
            Command::GetIrqInfo => {
                at_least(16)?;
                Ok(Self::IrqInfo { index: fields.u32(8) })
            }
            Command::SetIrqs => {
                at_least(20)?;
                set_irqs(command, &fields, payload, fds).map(Self::SetIrqs)
            }
            Command::RegionRead => {
                exactly(ACCESS_BYTES)?;
                access(command, &fields).map(Self::RegionRead)
            }
            Command::RegionWrite => {
                at_least(ACCESS_BYTES)?;
                let access = access(command, &fields)?;
                exactly(ACCESS_BYTES + access.count as usize)?;
                Ok(Self::RegionWrite(access, &payload[ACCESS_BYTES..]))
            }
            Command::DeviceReset => exactly(0).map(|()| Self::Reset),
            Command::Unknown => Err(Refusal::Unknown { command }),
            Command::GetRegionIoFds | Command::DmaRead | Command::DmaWrite | Command::UserDirtyPages => {
                Err(Refusal::Unsupported { command })
            }
        }
    }
}

/// Version and its capabilities, a NUL-terminated JSON object; of these only that they are one is of interest: what
/// the client can take is more than this server ever sends.
fn version(payload: &[u8]) -> Option<Result<Request<'_>, Refusal>> {
    let (numbers, json) = payload.split_at_checked(4)?;
    let (major, minor) = (Fields(numbers).u16(0), Fields(numbers).u16(2));
    if json.len() > MAX_VERSION_BYTES {
        return None;
    }
    let understood = match json.split_last() {
        None => true,
        Some((0, text)) => serde_json::from_slice::<serde_json::Map<_, _>>(text).is_ok(),
        Some(_) => false,
    };
    Some(if major == 0 && understood {
        Ok(Request::Version { major, minor })
    } else {
        Err(Refusal::Version { major, minor })
    })
}

fn access(command: u16, fields: &Fields<'_>) -> Result<Access, Refusal> {
    let access = Access { offset: fields.u64(0), region: fields.u32(8), count: fields.u32(12) };
    if access.count as usize > MAX_DATA_BYTES {
        return Err(Refusal::Length { command, len: access.count as usize });
    }
    Ok(access)
}

fn set_irqs<'a>(
    command: u16,
    fields: &Fields<'_>,
    payload: &'a [u8],
    fds: usize,
) -> Result<SetIrqs<'a>, Refusal> {
    let flags = fields.u32(WORD);
    let (index, start, count) = (fields.u32(8), fields.u32(12), fields.u32(16));
    let rest = &payload[20..];
    let data = match flags & 7 {
        1 => IrqData::None,
        2 if rest.len() == count as usize => IrqData::Bools(rest),
        4 => IrqData::Eventfds,
        _ => return Err(Refusal::Flags { command, flags }),
    };
    let action = match flags & !7 {
        0x08 => IrqAction::Mask,
        0x10 => IrqAction::Unmask,
        0x20 => IrqAction::Trigger,
        _ => return Err(Refusal::Flags { command, flags }),
    };
    // One for each vector; none at all takes them back.
    let fitting = match data {
        IrqData::Eventfds => fds == 0 || fds == count as usize,
        IrqData::None | IrqData::Bools(_) => fds == 0,
    };
    if !fitting {
        return Err(Refusal::Descriptors { command, fds });
    }
    Ok(SetIrqs { index, start, count, data, action })
}
