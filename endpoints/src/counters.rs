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
    /// Times a ring was found broken, which stops the device until it is reset.
    pub ring_failures: u64,
    /// Kicks that reached the device.
    pub kicks: u64,
}

impl NetCounters {
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
