//! Replies, byte by byte.

use crate::frame::{HEADER_BYTES, Header};

const TYPE_REPLY: u32 = 1;
const ERROR: u32 = 1 << 5;

/// A reply under construction.
pub(crate) struct Reply(Vec<u8>);

impl Reply {
    /// An empty one to a message.
    pub(crate) fn to(header: &Header) -> Self {
        Self::new(header, TYPE_REPLY, 0)
    }

    /// One that says no.
    pub(crate) fn refusing(header: &Header, errno: u32) -> Vec<u8> {
        Self::new(header, TYPE_REPLY | ERROR, errno).finish()
    }

    fn new(header: &Header, flags: u32, errno: u32) -> Self {
        Self(Vec::with_capacity(64)).u16(header.id).u16(header.command).u32(0).u32(flags).u32(errno)
    }

    pub(crate) fn u16(self, value: u16) -> Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(crate) fn u32(self, value: u32) -> Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(crate) fn u64(self, value: u64) -> Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(crate) fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// The message, with its size filled in.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        debug_assert!(self.0.len() >= HEADER_BYTES);
        // Replies are no longer than the longest message.
        let size = self.0.len() as u32;
        self.0[4..8].copy_from_slice(&size.to_le_bytes());
        self.0
    }
}
