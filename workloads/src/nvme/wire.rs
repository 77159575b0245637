//! What goes over the wire: commands, completions, and what IDENTIFY answers (NVM Express Base Specification 2.0).
//!
//! Pure: bytes in, values out. A completion or an answer may hold anything.

use std::fmt;

/// Bytes of a command ("Submission Queue Entry").
pub const SQE_BYTES: usize = 64;
/// Bytes of a completion ("Completion Queue Entry").
pub const CQE_BYTES: usize = 16;
/// Bytes of an answer to IDENTIFY.
pub const IDENTIFY_BYTES: usize = 4096;

/// Commands to the controller ("Opcodes for Admin Commands").
pub mod admin {
    /// Create I/O Submission Queue.
    pub const CREATE_SQ: u8 = 0x01;
    /// Create I/O Completion Queue.
    pub const CREATE_CQ: u8 = 0x05;
    /// Identify.
    pub const IDENTIFY: u8 = 0x06;
}

/// Commands to a namespace ("Opcodes for NVM Commands").
pub mod io {
    /// Flush.
    pub const FLUSH: u8 = 0x00;
    /// Write.
    pub const WRITE: u8 = 0x01;
    /// Read.
    pub const READ: u8 = 0x02;
}

/// What IDENTIFY is asked for ("Controller or Namespace Structure").
pub mod cns {
    /// A namespace.
    pub const NAMESPACE: u32 = 0;
    /// The controller.
    pub const CONTROLLER: u32 = 1;
}

/// One command; fields that are not here are zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Command {
    /// Opcode.
    pub opcode: u8,
    /// Its number, which comes back with the completion.
    pub id: u16,
    /// Namespace.
    pub namespace: u32,
    /// Where the data are: "PRP Entry 1" and "2".
    pub prp: [u64; 2],
    /// Command dwords 10 to 12.
    pub dwords: [u32; 3],
}

impl Command {
    /// Its bytes ("Common Command Format").
    pub fn to_bytes(self) -> [u8; SQE_BYTES] {
        let mut bytes = [0; SQE_BYTES];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0, &[self.opcode, 0]);
        put(2, &self.id.to_le_bytes());
        put(4, &self.namespace.to_le_bytes());
        put(24, &self.prp[0].to_le_bytes());
        put(32, &self.prp[1].to_le_bytes());
        for (dword, at) in self.dwords.iter().zip([40, 44, 48]) {
            put(at, &dword.to_le_bytes());
        }
        bytes
    }

    /// A transfer of `blocks` blocks (at least one) from `lba` on.
    pub fn transfer(opcode: u8, id: u16, namespace: u32, lba: u64, blocks: u16, prp: [u64; 2]) -> Self {
        let dwords = [lba as u32, (lba >> 32) as u32, u32::from(blocks.saturating_sub(1))];
        Self { opcode, id, namespace, prp, dwords }
    }
}

/// How a command ended ("Status Field").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// Status Code Type.
    pub kind: u8,
    /// Status Code.
    pub code: u8,
    /// Do Not Retry.
    pub final_: bool,
}

impl Status {
    /// Whether it did what it was told.
    pub const fn is_success(self) -> bool {
        self.kind == 0 && self.code == 0
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match (self.kind, self.code) {
            (0, 0x00) => "success",
            (0, 0x01) => "invalid opcode",
            (0, 0x02) => "invalid field",
            (0, 0x04) => "data transfer error: an access to memory failed",
            (0, 0x06) => "internal error",
            (0, 0x07) => "aborted",
            (0, 0x0b) => "invalid namespace",
            (0, 0x13) => "invalid PRP offset",
            (0, 0x80) => "LBA out of range",
            (0, 0x20) => "namespace is write protected",
            (2, 0x80) => "write fault",
            (2, 0x81) => "unrecovered read error",
            _ => "see the NVMe specification",
        };
        write!(f, "status type {:#x} code {:#04x} ({name})", self.kind, self.code)
    }
}

/// One completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// Where the submission queue's head is.
    pub sq_head: u16,
    /// Of which submission queue.
    pub sq: u16,
    /// Number of the command.
    pub id: u16,
    /// Its phase tag.
    pub phase: bool,
    /// How the command ended.
    pub status: Status,
}

impl Completion {
    /// Reads "Completion Queue Entry Layout". Any bytes are one.
    pub fn from_bytes(bytes: [u8; CQE_BYTES]) -> Self {
        let u16_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let status = u16_at(14);
        Self {
            sq_head: u16_at(8),
            sq: u16_at(10),
            id: u16_at(12),
            phase: status & 1 != 0,
            status: Status {
                kind: (status >> 9 & 7) as u8,
                code: (status >> 1) as u8,
                final_: status & 1 << 15 != 0,
            },
        }
    }
}

/// What matters of a controller ("Identify Controller Data Structure").
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Controller {
    /// Serial number.
    pub serial: String,
    /// Model.
    pub model: String,
    /// Longest transfer, in pages of the least size the controller knows, as a power of two; 0: no limit.
    pub mdts: u8,
    /// Namespaces there can be.
    pub namespaces: u32,
    /// Whether what is written stays in a cache until it is flushed.
    pub write_cache: bool,
}

impl Controller {
    /// Any bytes are one; text that is none becomes question marks.
    pub fn from_bytes(bytes: &[u8; IDENTIFY_BYTES]) -> Self {
        let text = |from: usize, to: usize| {
            let shown = |&byte: &u8| if (b' '..=b'~').contains(&byte) { char::from(byte) } else { '?' };
            bytes[from..to].iter().map(shown).collect::<String>().trim().to_owned()
        };
        Self {
            serial: text(4, 24),
            model: text(24, 64),
            mdts: bytes[77],
            namespaces: u32::from_le_bytes([bytes[516], bytes[517], bytes[518], bytes[519]]),
            write_cache: bytes[525] & 1 != 0,
        }
    }
}

/// What matters of a namespace ("Identify Namespace Data Structure").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Blocks it has.
    pub blocks: u64,
    /// Bytes of a block.
    pub block_bytes: u32,
    /// Bytes of metadata with each block.
    pub metadata_bytes: u16,
}

impl Namespace {
    /// `None` where there is no namespace, or its blocks are of no size that the specification allows.
    pub fn from_bytes(bytes: &[u8; IDENTIFY_BYTES]) -> Option<Self> {
        const LEAST_LBADS: u8 = 9;
        const MOST_LBADS: u8 = 16;
        const FORMATS: usize = 128;
        let mut blocks = [0; 8];
        blocks.copy_from_slice(&bytes[..8]);
        let blocks = u64::from_le_bytes(blocks);
        let format = FORMATS + 4 * usize::from(bytes[26] & 0xf);
        let lbads = bytes[format + 2];
        let is_one = blocks > 0 && (LEAST_LBADS..=MOST_LBADS).contains(&lbads);
        is_one.then(|| Self {
            blocks,
            block_bytes: 1 << lbads,
            metadata_bytes: u16::from_le_bytes([bytes[format], bytes[format + 1]]),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_read_on_the_wire() {
        // 8 blocks at LBA 0x1_2345_6789 of namespace 1, command 0x1234, to a page and another.
        let prp = [0x1122_3344_5566_7000, 0x0000_0001_0000_2000];
        let bytes = Command::transfer(io::READ, 0x1234, 1, 0x1_2345_6789, 8, prp).to_bytes();
        let mut golden = [0_u8; 64];
        golden[..8].copy_from_slice(&[0x02, 0, 0x34, 0x12, 1, 0, 0, 0]);
        golden[24..32].copy_from_slice(&[0x00, 0x70, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11]);
        golden[32..40].copy_from_slice(&[0x00, 0x20, 0, 0, 1, 0, 0, 0]);
        golden[40..52].copy_from_slice(&[0x89, 0x67, 0x45, 0x23, 1, 0, 0, 0, 7, 0, 0, 0]);
        assert_eq!(bytes, golden);
    }

    #[test]
    fn a_completion_on_the_wire() {
        // Head 5 of queue 1, command 0x1234, phase 1: success.
        let bytes = [0xde, 0xad, 0xbe, 0xef, 0, 0, 0, 0, 5, 0, 1, 0, 0x34, 0x12, 0x01, 0x00];
        let found = Completion::from_bytes(bytes);
        assert_eq!((found.sq_head, found.sq, found.id, found.phase), (5, 1, 0x1234, true));
        assert!(found.status.is_success());
        // "Data Transfer Error", do not retry, phase 0.
        let bytes = [0, 0, 0, 0, 0, 0, 0, 0, 6, 0, 1, 0, 1, 0, 0x08, 0x80];
        let status = Completion::from_bytes(bytes).status;
        assert_eq!(status, Status { kind: 0, code: 4, final_: true });
        assert!(status.to_string().contains("data transfer error"));
        // "Unrecovered Read Error": type 2, code 0x81.
        let bytes = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x03, 0x05];
        assert_eq!(Completion::from_bytes(bytes).status, Status { kind: 2, code: 0x81, final_: false });
    }

    #[test]
    fn answers_to_identify() {
        let mut bytes = [0; IDENTIFY_BYTES];
        bytes[4..64].fill(b' ');
        bytes[4..7].copy_from_slice(b"lab");
        bytes[24..38].copy_from_slice(b"QEMU NVMe\x07Ctrl");
        (bytes[77], bytes[516], bytes[525]) = (7, 1, 7);
        let found = Controller::from_bytes(&bytes);
        assert_eq!((found.serial.as_str(), found.model.as_str()), ("lab", "QEMU NVMe?Ctrl"));
        assert_eq!((found.mdts, found.namespaces, found.write_cache), (7, 1, true));
        let mut bytes = [0; IDENTIFY_BYTES];
        bytes[0..3].copy_from_slice(&[0, 0, 2]);
        bytes[26] = 1;
        bytes[132..136].copy_from_slice(&[8, 0, 12, 0]);
        let found = Namespace::from_bytes(&bytes);
        assert_eq!(found, Some(Namespace { blocks: 0x2_0000, block_bytes: 4096, metadata_bytes: 8 }));
        bytes[134] = 8;
        assert_eq!(Namespace::from_bytes(&bytes), None, "no block is of 256 bytes");
    }

    proptest! {
        #[test]
        fn any_bytes_are_understood_or_refused(seed in any::<[u8; 32]>(), cqe in any::<[u8; CQE_BYTES]>()) {
            let mut bytes = [0; IDENTIFY_BYTES];
            bytes.iter_mut().zip(seed.iter().cycle()).for_each(|(to, from)| *to = *from);
            let controller = Controller::from_bytes(&bytes);
            prop_assert!(controller.model.len() <= 40 && controller.serial.is_ascii());
            if let Some(namespace) = Namespace::from_bytes(&bytes) {
                prop_assert!((512..=65536).contains(&namespace.block_bytes) && namespace.blocks > 0);
            }
            let found = Completion::from_bytes(cqe);
            prop_assert_eq!(found.phase, cqe[14] & 1 == 1);
            let _ = found.status.to_string();
        }
    }
}
