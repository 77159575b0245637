//! How a state is written down: one line with version, length and checksum, then JSON.

use thiserror::Error;

use super::State;

/// Latest version of the format. A change of [`State`] takes a new number and a documented migration.
///
/// 1: the standard device. 2: adds `identity.request_queues`, which is more than 1. A state is written in the lowest version
/// that can hold it, so what a standard device saves is version 1, byte for byte, and nothing has to be migrated.
pub const VERSION: u32 = 2;

fn version_of(state: &State) -> u32 {
    if state.identity.request_queues == 1 { 1 } else { 2 }
}

const MAGIC: &str = "virtio-iommu/state";

/// Why bytes are not a state.
#[derive(Debug, Error)]
pub enum FormatError {
    /// The first line is not that of a state.
    #[error("not a saved virtio-iommu state")]
    NotAState,
    /// Written by a newer version.
    #[error("the state has version {found}; at most {VERSION} is understood")]
    Future {
        /// The version found.
        found: u32,
    },
    /// The first line and what follows do not go together.
    #[error("the state says it has version {found}; what it holds is version {holds}")]
    Version {
        /// The version in the first line.
        found: u32,
        /// The version of the content.
        holds: u32,
    },
    /// Bytes are missing or left over.
    #[error("the state should have {expected} bytes, it has {found}")]
    Length {
        /// Bytes the first line promises.
        expected: usize,
        /// Bytes there are.
        found: usize,
    },
    /// The checksum is wrong.
    #[error("the state is damaged: CRC-32C {found:08x}, expected {expected:08x}")]
    Damaged {
        /// The checksum in the first line.
        expected: u32,
        /// The checksum of the bytes.
        found: u32,
    },
    /// The bytes are whole, but no state.
    #[error("the state cannot be read")]
    Json(#[from] serde_json::Error),
}

/// The state as bytes.
///
/// # Errors
/// None that a [`State`] can cause; those of the serialiser are passed on.
pub fn encode(state: &State) -> Result<Vec<u8>, FormatError> {
    let body = serde_json::to_vec(state)?;
    let (version, crc) = (version_of(state), crc32c::crc32c(&body));
    let mut bytes = format!("{MAGIC}/{version} {} {crc:08x}\n", body.len()).into_bytes();
    bytes.extend_from_slice(&body);
    Ok(bytes)
}

/// The state these bytes hold.
///
/// # Errors
/// When they are damaged, from a newer version, or something else.
pub fn decode(bytes: &[u8]) -> Result<State, FormatError> {
    let end = bytes.iter().take(100).position(|byte| *byte == b'\n').ok_or(FormatError::NotAState)?;
    let head = std::str::from_utf8(&bytes[..end]).map_err(|_| FormatError::NotAState)?;
    let mut words = head.strip_prefix(MAGIC).and_then(|rest| rest.strip_prefix('/')).unwrap_or("").split(' ');
    let version: u32 = number(words.next(), 10)?;
    if version > VERSION {
        return Err(FormatError::Future { found: version });
    }
    let (expected_len, expected) = (number(words.next(), 10)? as usize, number(words.next(), 16)?);
    if version == 0 || words.next().is_some() {
        return Err(FormatError::NotAState);
    }
    let body = &bytes[end + 1..];
    if body.len() != expected_len {
        return Err(FormatError::Length { expected: expected_len, found: body.len() });
    }
    let found = crc32c::crc32c(body);
    if found != expected {
        return Err(FormatError::Damaged { expected, found });
    }
    let state = serde_json::from_slice(body)?;
    match version_of(&state) {
        holds if holds != version => Err(FormatError::Version { found: version, holds }),
        _ => Ok(state),
    }
}

fn number(word: Option<&str>, radix: u32) -> Result<u32, FormatError> {
    let digits = word.filter(|word| word.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)));
    digits.and_then(|digits| u32::from_str_radix(digits, radix).ok()).ok_or(FormatError::NotAState)
}
