//! Messages out of a byte stream: bounded, in pieces of any size, with their descriptors.

use thiserror::Error;

use crate::Lent;

/// Size of a message's header, in bytes.
pub const HEADER_BYTES: usize = 16;
/// Most bytes one message moves to or from a region.
pub const MAX_DATA_BYTES: usize = 65536;
/// Size of the part of a region access between header and data, in bytes.
pub const ACCESS_BYTES: usize = 16;
/// Longest message that is accepted, in bytes.
pub const MAX_MESSAGE_BYTES: usize = HEADER_BYTES + ACCESS_BYTES + MAX_DATA_BYTES;
/// Most descriptors one message carries.
pub const MAX_FDS: usize = 16;

/// Type bits of the flags.
const TYPE: u32 = 0xf;
const TYPE_COMMAND: u32 = 0;
const NO_REPLY: u32 = 1 << 4;

/// The header that all messages begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Chosen by the client; the reply repeats it.
    pub id: u16,
    /// Which command.
    pub command: u16,
    /// Length of the message, header included, in bytes.
    pub size: u32,
    /// Type and flags.
    pub flags: u32,
}

impl Header {
    fn parse(bytes: &[u8; HEADER_BYTES]) -> Self {
        let u16_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let u32_at = |at: usize| u32::from(u16_at(at)) | u32::from(u16_at(at + 2)) << 16;
        Self { id: u16_at(0), command: u16_at(2), size: u32_at(4), flags: u32_at(8) }
    }

    /// Whether it is a command, not a reply.
    pub fn is_command(&self) -> bool {
        self.flags & TYPE == TYPE_COMMAND
    }

    /// Whether the client does not want a reply.
    pub fn no_reply(&self) -> bool {
        self.flags & NO_REPLY != 0
    }
}

/// A message.
#[derive(Debug)]
pub struct Frame {
    /// Its header.
    pub header: Header,
    /// What follows the header.
    pub payload: Vec<u8>,
    /// Descriptors that came with it.
    pub fds: Vec<Lent>,
}

/// The stream cannot be understood any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    /// Shorter than its own header, or longer than anything that is accepted.
    #[error("a message of {} bytes (command {}); {HEADER_BYTES} to {MAX_MESSAGE_BYTES} are possible", .header.size, .header.command)]
    Size {
        /// The header.
        header: Header,
    },
    /// More descriptors than any message carries.
    #[error("more than {MAX_FDS} file descriptors with one message")]
    TooManyFds,
}

/// Puts one message after the other together.
#[derive(Debug, Default)]
pub struct Framer {
    bytes: Vec<u8>,
    fds: Vec<Lent>,
}

impl Framer {
    /// How many bytes the message at hand still needs, as far as is known: never 0, never beyond its end, so that
    /// descriptors that arrive belong to it.
    pub fn wanted(&self) -> usize {
        match self.header() {
            None => HEADER_BYTES - self.bytes.len(),
            // `push` keeps complete messages out of the buffer.
            Some(header) => (header.size as usize).saturating_sub(self.bytes.len()).max(1),
        }
    }

    /// Whether a message has begun and is not complete.
    pub fn is_partial(&self) -> bool {
        !self.bytes.is_empty()
    }

    fn header(&self) -> Option<Header> {
        self.bytes.first_chunk().map(Header::parse)
    }

    /// Takes what arrived, at most [`wanted`](Self::wanted) bytes; the message, when that completes it.
    ///
    /// # Errors
    /// When the message is none; the stream is lost then.
    pub fn push(&mut self, bytes: &[u8], fds: Vec<Lent>) -> Result<Option<Frame>, FrameError> {
        self.fds.extend(fds);
        if self.fds.len() > MAX_FDS {
            return Err(FrameError::TooManyFds);
        }
        self.bytes.extend_from_slice(bytes);
        let Some(header) = self.header() else { return Ok(None) };
        let size = header.size as usize;
        if !(HEADER_BYTES..=MAX_MESSAGE_BYTES).contains(&size) {
            return Err(FrameError::Size { header });
        }
        if self.bytes.len() < size {
            return Ok(None);
        }
        let payload = self.bytes[HEADER_BYTES..size].to_vec();
        self.bytes.clear();
        Ok(Some(Frame { header, payload, fds: std::mem::take(&mut self.fds) }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(id: u16, command: u16, flags: u32, payload: &[u8]) -> Vec<u8> {
        let size = (HEADER_BYTES + payload.len()) as u32;
        let mut bytes = Vec::new();
        bytes.extend(id.to_le_bytes());
        bytes.extend(command.to_le_bytes());
        bytes.extend(size.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend(payload);
        bytes
    }

    #[test]
    fn pieces_of_any_size_make_the_same_messages() {
        let stream = [message(1, 9, 0, &[7; 16]), message(2, 13, 0x10, &[])].concat();
        for piece in 1..40 {
            let (mut framer, mut rest, mut frames) = (Framer::default(), &stream[..], Vec::new());
            while !rest.is_empty() {
                let len = piece.min(framer.wanted()).min(rest.len());
                frames.extend(framer.push(&rest[..len], Vec::new()).unwrap());
                rest = &rest[len..];
            }
            assert_eq!(frames.len(), 2);
            assert_eq!((frames[0].header.id, frames[0].payload.as_slice()), (1, &[7; 16][..]));
            assert!(frames[1].header.no_reply() && frames[1].header.is_command() && !framer.is_partial());
        }
    }

    #[test]
    fn impossible_sizes_end_the_stream() {
        for size in [0_u32, 15, MAX_MESSAGE_BYTES as u32 + 1, u32::MAX] {
            let mut bytes = message(1, 9, 0, &[]);
            bytes[4..8].copy_from_slice(&size.to_le_bytes());
            let error = Framer::default().push(&bytes, Vec::new()).unwrap_err();
            assert!(matches!(error, FrameError::Size { header } if header.size == size));
        }
    }

    #[test]
    fn descriptors_are_bounded() {
        let fd = || Lent::from(std::os::fd::OwnedFd::from(std::fs::File::open("/dev/null").unwrap()));
        let mut framer = Framer::default();
        assert!(framer.push(&[0], (0..MAX_FDS).map(|_| fd()).collect()).is_ok());
        assert_eq!(framer.push(&[0], vec![fd()]).unwrap_err(), FrameError::TooManyFds);
    }
}
