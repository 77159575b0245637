//! What an endpoint counts.

use thiserror::Error;

/// Payload arrived that was not what was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{mismatches} frames arrived with a payload that does not match its checksum")]
pub struct Corruption {
    /// How many frames.
    pub mismatches: u64,
}

/// Counts of a network endpoint since its creation, resets included.
///
/// A chain the driver has seen used is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetCounters {
    /// Frames the peer received whole.
    pub tx_frames: u64,
    /// Frames delivered to the guest: ACKs and responses.
    pub rx_frames: u64,
    /// Of these, ACKs.
    pub acks: u64,
    /// Payload bytes copied out of guest memory, of frames that arrived whole or not.
    pub tx_payload_bytes: u64,
    /// Payload bytes copied into guest memory.
    pub rx_payload_bytes: u64,
    /// Payload bytes whose checksum the peer found right.
    pub bytes_verified: u64,
    /// Frames whose checksum it found wrong.
    pub crc_mismatches: u64,
    /// Frames lost, in both directions, for whatever reason.
    pub frames_dropped: u64,
    /// Frames and chains lost because they were malformed: of a wrong length or protocol, or a bad descriptor.
    pub malformed: u64,
    /// Frames lost because memory, or the IOMMU, refused the access.
    pub dma_faults: u64,
    /// Frames lost because the guest's buffers were too small.
    pub rx_too_small: u64,
    /// Commands of the control queue that were obeyed.
    pub commands: u64,
    /// Commands that were answered with an error.
    pub commands_refused: u64,
    /// Times a ring was found broken, which stops the device until it is reset.
    pub ring_failures: u64,
    /// Kicks that reached the device.
    pub kicks: u64,
}

impl NetCounters {
    /// With another queue pair's.
    pub(crate) fn add(self, other: Self) -> Self {
        Self {
            tx_frames: self.tx_frames + other.tx_frames,
            rx_frames: self.rx_frames + other.rx_frames,
            acks: self.acks + other.acks,
            tx_payload_bytes: self.tx_payload_bytes + other.tx_payload_bytes,
            rx_payload_bytes: self.rx_payload_bytes + other.rx_payload_bytes,
            bytes_verified: self.bytes_verified + other.bytes_verified,
            crc_mismatches: self.crc_mismatches + other.crc_mismatches,
            frames_dropped: self.frames_dropped + other.frames_dropped,
            malformed: self.malformed + other.malformed,
            dma_faults: self.dma_faults + other.dma_faults,
            rx_too_small: self.rx_too_small + other.rx_too_small,
            commands: self.commands + other.commands,
            commands_refused: self.commands_refused + other.commands_refused,
            ring_failures: self.ring_failures + other.ring_failures,
            kicks: self.kicks + other.kicks,
        }
    }

    /// Frames in both directions.
    pub fn packets(&self) -> u64 {
        self.tx_frames + self.rx_frames
    }

    /// Payload bytes in both directions.
    pub fn bytes_moved(&self) -> u64 {
        self.tx_payload_bytes + self.rx_payload_bytes
    }

    /// Fails when any payload was corrupted on its way.
    ///
    /// # Errors
    /// With the number of frames.
    pub fn verify(&self) -> Result<(), Corruption> {
        match self.crc_mismatches {
            0 => Ok(()),
            mismatches => Err(Corruption { mismatches }),
        }
    }
}
