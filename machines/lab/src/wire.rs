//! What guest and host say to each other over the one virtio-serial port: frames of a kind, a length and bytes.
//!
//! The guest is not trusted with the host's files or memory: lengths are bounded and paths are checked.

use std::{
    io::{self, Read, Write},
    path::{Component, Path, PathBuf},
};

use thiserror::Error;

/// Longest payload of a frame, in bytes.
pub const MAX_PAYLOAD: usize = 64 << 10;
/// Longest name of a file, in bytes.
const MAX_NAME: usize = 512;
/// Kind and length.
const HEADER_BYTES: usize = 5;

/// The host asks for an orderly end.
pub const INTERRUPT: u8 = b'I';
/// The host has read the guest's last frame; until then the guest must not power off, or the frame is lost.
pub const GOODBYE: u8 = b'G';

/// What the guest says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// It is up, this many milliseconds after its kernel began.
    Hello {
        /// Milliseconds.
        up_ms: u64,
    },
    /// It still is.
    Alive,
    /// Standard output of the command.
    Stdout(Vec<u8>),
    /// Standard error of the command.
    Stderr(Vec<u8>),
    /// A file begins; its path is relative to the folder that was to be collected.
    File(PathBuf),
    /// More of the file.
    Data(Vec<u8>),
    /// The command ended with this code; nothing follows.
    Exit(i32),
    /// The guest's first process could not do its work; nothing follows.
    Broken(String),
}

/// Bytes that are no frame.
#[derive(Debug, Error)]
pub enum WireError {
    /// The line failed.
    #[error("the line to the guest failed: {0}")]
    Io(#[from] io::Error),
    /// An unknown kind.
    #[error("the guest sent a frame of unknown kind {0}; is it another build of the program?")]
    Kind(u8),
    /// Too long.
    #[error("the guest announced {len} bytes, more than the {MAX_PAYLOAD} of a frame")]
    Length {
        /// What it announced.
        len: u32,
    },
    /// A payload that is not of its kind.
    #[error("the guest sent a malformed frame of kind {kind}, {len} bytes")]
    Payload {
        /// The kind.
        kind: u8,
        /// Length of the payload.
        len: usize,
    },
    /// A file outside the folder.
    #[error("the guest sent a file named {name:?}, which is not inside the run's folder")]
    Path {
        /// The name.
        name: String,
    },
}

impl Frame {
    fn kind(&self) -> u8 {
        match self {
            Self::Hello { .. } => 1,
            Self::Alive => 2,
            Self::Stdout(_) => 3,
            Self::Stderr(_) => 4,
            Self::File(_) => 5,
            Self::Data(_) => 6,
            Self::Exit(_) => 7,
            Self::Broken(_) => 8,
        }
    }

    /// Writes the frame with a single call, so that frames of several threads do not mix.
    ///
    /// # Errors
    /// When the line fails; also when the payload is longer than [`MAX_PAYLOAD`].
    pub fn write(&self, line: &mut impl Write) -> io::Result<()> {
        let payload = match self {
            Self::Hello { up_ms } => up_ms.to_le_bytes().to_vec(),
            Self::Alive => Vec::new(),
            Self::Stdout(bytes) | Self::Stderr(bytes) | Self::Data(bytes) => bytes.clone(),
            Self::File(path) => path.to_string_lossy().into_owned().into_bytes(),
            Self::Exit(code) => code.to_le_bytes().to_vec(),
            Self::Broken(cause) => cause.clone().into_bytes(),
        };
        if payload.len() > MAX_PAYLOAD {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "frame too long"));
        }
        let mut bytes = Vec::with_capacity(HEADER_BYTES + payload.len());
        bytes.push(self.kind());
        bytes.extend((payload.len() as u32).to_le_bytes());
        bytes.extend(payload);
        line.write_all(&bytes)
    }

    /// Reads the next frame; `None` at the end of the line between two frames.
    ///
    /// # Errors
    /// When the line fails or what it carries is no frame.
    pub fn read(line: &mut impl Read) -> Result<Option<Self>, WireError> {
        let mut kind = [0];
        if line.read(&mut kind)? == 0 {
            return Ok(None);
        }
        let mut len = [0; 4];
        line.read_exact(&mut len)?;
        let len = u32::from_le_bytes(len);
        if len as usize > MAX_PAYLOAD {
            return Err(WireError::Length { len });
        }
        let mut payload = vec![0; len as usize];
        line.read_exact(&mut payload)?;
        Self::decode(kind[0], payload).map(Some)
    }

    fn decode(kind: u8, payload: Vec<u8>) -> Result<Self, WireError> {
        let len = payload.len();
        let malformed = WireError::Payload { kind, len };
        Ok(match kind {
            1 => Self::Hello { up_ms: u64::from_le_bytes(payload.try_into().map_err(|_| malformed)?) },
            2 if len == 0 => Self::Alive,
            3 => Self::Stdout(payload),
            4 => Self::Stderr(payload),
            5 => Self::File(inside(String::from_utf8(payload).map_err(|_| malformed)?)?),
            6 => Self::Data(payload),
            7 => Self::Exit(i32::from_le_bytes(payload.try_into().map_err(|_| malformed)?)),
            8 => Self::Broken(String::from_utf8_lossy(&payload).into_owned()),
            2 => return Err(malformed),
            kind => return Err(WireError::Kind(kind)),
        })
    }
}

/// `name` as a path, if it stays inside the folder it is relative to.
fn inside(name: String) -> Result<PathBuf, WireError> {
    let path = Path::new(&name);
    let plain = path.components().all(|part| matches!(part, Component::Normal(_)));
    if !plain || name.is_empty() || name.len() > MAX_NAME || name.contains('\0') {
        return Err(WireError::Path { name });
    }
    Ok(PathBuf::from(name))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frames() -> impl Strategy<Value = Frame> {
        let bytes = || proptest::collection::vec(any::<u8>(), 0..300);
        prop_oneof![
            any::<u64>().prop_map(|up_ms| Frame::Hello { up_ms }),
            Just(Frame::Alive),
            bytes().prop_map(Frame::Stdout),
            bytes().prop_map(Frame::Stderr),
            "[a-z~]{1,9}(/[a-z.~]{2,9}x)?".prop_map(|name| Frame::File(name.into())),
            bytes().prop_map(Frame::Data),
            any::<i32>().prop_map(Frame::Exit),
            "[ -~]{0,80}".prop_map(Frame::Broken),
        ]
    }

    proptest! {
        #[test]
        fn frames_arrive_as_they_were_sent(sent in proptest::collection::vec(frames(), 0..8)) {
            let mut line = Vec::new();
            for frame in &sent {
                frame.write(&mut line).unwrap();
            }
            let mut line = line.as_slice();
            let mut arrived = Vec::new();
            while let Some(frame) = Frame::read(&mut line).unwrap() {
                arrived.push(frame);
            }
            prop_assert_eq!(arrived, sent);
        }

        #[test]
        fn any_bytes_are_a_frame_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let mut line = bytes.as_slice();
            while let Ok(Some(frame)) = Frame::read(&mut line) {
                if let Frame::File(path) = frame {
                    prop_assert!(path.is_relative() && !path.to_string_lossy().contains(".."));
                }
            }
        }
    }

    #[test]
    fn files_stay_inside_the_folder() {
        for name in ["", "/etc/passwd", "../x", "a/../../x", "./x/..", "a\0b"] {
            assert!(matches!(inside(name.to_owned()), Err(WireError::Path { .. })), "{name:?}");
        }
        assert_eq!(inside("histograms/a~b.hdr".to_owned()).unwrap(), Path::new("histograms/a~b.hdr"));
    }

    #[test]
    fn a_cut_line_is_an_error_not_an_end() {
        let mut line = Vec::new();
        Frame::Stdout(vec![1, 2, 3]).write(&mut line).unwrap();
        for cut in 1..line.len() {
            assert!(matches!(Frame::read(&mut &line[..cut]), Err(WireError::Io(_))), "{cut}");
        }
    }

    #[test]
    fn a_length_beyond_the_bound_allocates_nothing() {
        let line = [3, 0xff, 0xff, 0xff, 0xff];
        assert!(matches!(Frame::read(&mut line.as_slice()), Err(WireError::Length { len: u32::MAX })));
    }
}
