//! A tiny guest that makes an exact number of exits, to check probes and measure them against.
//!
//! Some twenty instructions of 32-bit protected mode without paging, integers only, so that it also runs where KVM emulates
//! every instruction. It asks for the processor's features, halts, writes to a port, writes to and reads from an address
//! without memory, rings a doorbell that an ioeventfd takes, and halts for good.
//!
//! ```no_run
//! let payload = kvm_payload::Payload { port_writes: 1000, mmio_writes: 500, ..Default::default() };
//! let exits = payload.run()?;
//! assert_eq!((exits.port_writes, exits.mmio_writes, exits.halts), (1000, 500, 1));
//! # Ok::<(), kvm_payload::PayloadError>(())
//! ```

mod code;
mod machine;

use thiserror::Error;

/// The port that is written to.
pub const PORT: u16 = 0x3f8;
/// The address without memory that is written to and read from.
pub const MMIO_ADDRESS: u32 = 0xd000_0000;
/// The address of the doorbell.
pub const DOORBELL_ADDRESS: u32 = 0xd000_1000;

/// How many exits of each kind the guest makes, in this order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Payload {
    /// `cpuid` instructions, which the kernel answers without leaving to the VMM.
    pub cpuids: u32,
    /// Halts before the last one, from each of which the VMM goes on.
    pub halts: u32,
    /// One-byte writes to [`PORT`].
    pub port_writes: u32,
    /// Four-byte writes to [`MMIO_ADDRESS`].
    pub mmio_writes: u32,
    /// Four-byte reads from [`MMIO_ADDRESS`].
    pub mmio_reads: u32,
    /// Four-byte writes to [`DOORBELL_ADDRESS`], which the kernel turns into an eventfd's count without leaving to the VMM.
    pub doorbells: u32,
}

/// What the VMM saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exits {
    /// Writes to [`PORT`].
    pub port_writes: u64,
    /// Writes to [`MMIO_ADDRESS`].
    pub mmio_writes: u64,
    /// Reads from [`MMIO_ADDRESS`].
    pub mmio_reads: u64,
    /// What the doorbell's eventfd counted.
    pub doorbells: u64,
    /// Halts, the one at the end included.
    pub halts: u64,
}

impl Exits {
    /// Exits to the VMM.
    #[must_use]
    pub const fn to_userspace(&self) -> u64 {
        self.port_writes + self.mmio_writes + self.mmio_reads + self.halts
    }
}

/// Why a guest did not run.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PayloadError {
    /// There is no KVM, or this user may not use it.
    #[error("/dev/kvm cannot be used ({0}): needs virtualisation, and membership in the group kvm")]
    NoKvm(kvm_ioctls::Error),
    /// KVM refused a step.
    #[error("KVM refused to {step}: {source}")]
    Kvm {
        /// Which step.
        step: &'static str,
        /// What it said.
        source: kvm_ioctls::Error,
    },
    /// No memory for the guest.
    #[error("no memory for the guest: {0}")]
    Memory(#[from] vm_memory::GuestMemoryError),
    /// No memory could be mapped for the guest.
    #[error("no memory for the guest: {0}")]
    Region(#[from] vm_memory::mmap::FromRangesError),
    /// The eventfd failed.
    #[error("an eventfd failed: {0}")]
    Event(std::io::Error),
    /// The guest did something that it was not written to do.
    #[error("the guest left for an unexpected reason: {0}")]
    Unexpected(String),
}

impl Payload {
    /// Runs the guest on this thread until it halts.
    ///
    /// # Errors
    ///
    /// KVM is missing or refuses, or the guest goes astray.
    pub fn run(&self) -> Result<Exits, PayloadError> {
        let (exits, _) = machine::run(&code::assemble(self), u64::from(self.halts) + 1)?;
        Ok(exits)
    }
}

/// What one instruction of the guest takes, ns, by timing a loop of `rounds` rounds of two instructions against an empty
/// guest, the best of three: well below 10 where the processor runs the guest, hundreds where KVM emulates each
/// instruction.
///
/// # Errors
///
/// KVM is missing or refuses.
pub fn instruction_ns(rounds: u32) -> Result<f64, PayloadError> {
    let time = |code: Vec<u8>| -> Result<f64, PayloadError> {
        let mut best = f64::INFINITY;
        for _ in 0..3 {
            let (_, took) = machine::run(&code, 1)?;
            best = best.min(took.as_nanos() as f64);
        }
        Ok(best)
    };
    let (empty, full) = (time(code::spin(0))?, time(code::spin(rounds))?);
    Ok((full - empty).max(0.0) / (2.0 * f64::from(rounds.max(1))))
}
