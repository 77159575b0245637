//! What QEMU can be run with: KVM, if it runs programs rather than emulating every instruction; its own translator
//! otherwise.

use std::{
    fmt,
    time::{Duration, Instant},
};

use kvm_ioctls::{Kvm, VcpuExit};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

/// How QEMU runs the guest's instructions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Accel {
    /// The host's KVM.
    Kvm,
    /// QEMU's translator.
    Tcg {
        /// Why not KVM.
        reason: String,
    },
}

impl fmt::Display for Accel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kvm => f.pad("KVM"),
            Self::Tcg { reason } => write!(f, "TCG ({reason})"),
        }
    }
}

/// Iterations of the payload, two instructions each: microseconds on a processor, tens of milliseconds when emulated.
const ITERATIONS: u16 = 20_000;
/// An instruction slower than this is emulated; a kernel would boot for hours, and on parts of it not at all.
const EMULATED_NS: u128 = 50;

/// Finds out by running a short payload under KVM and timing it.
pub fn best() -> Accel {
    match payload_time() {
        Ok(time) => verdict(time),
        Err(error) => Accel::Tcg { reason: format!("no usable /dev/kvm: {error}") },
    }
}

fn verdict(time: Duration) -> Accel {
    let each_ns = time.as_nanos() / (2 * u128::from(ITERATIONS));
    if each_ns > EMULATED_NS {
        return Accel::Tcg {
            reason: format!("this machine's KVM emulates every instruction, {each_ns} ns each"),
        };
    }
    Accel::Kvm
}

/// Runs `mov cx, ITERATIONS; dec cx; jnz -1; hlt` in real mode.
fn payload_time() -> Result<Duration, kvm_ioctls::Error> {
    const BASE: u64 = 0x1000;
    const BYTES: usize = 0x1000;
    let count = ITERATIONS.to_le_bytes();
    let payload = [0xb9, count[0], count[1], 0x49, 0x75, 0xfd, 0xf4];
    let memory =
        GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(BASE), BYTES)]).map_err(|_| no_memory())?;
    memory.write_slice(&payload, GuestAddress(BASE)).map_err(|_| no_memory())?;
    let host = memory.get_host_address(GuestAddress(BASE)).map_err(|_| no_memory())?;
    let vm = Kvm::new()?.create_vm()?;
    add_memory(&vm, BASE, BYTES as u64, host as u64)?;
    let mut vcpu = vm.create_vcpu(0)?;
    let mut segments = vcpu.get_sregs()?;
    (segments.cs.base, segments.cs.selector) = (0, 0);
    vcpu.set_sregs(&segments)?;
    let registers = kvm_bindings::kvm_regs { rip: BASE, rflags: 2, ..Default::default() };
    vcpu.set_regs(&registers)?;
    let start = Instant::now();
    match vcpu.run()? {
        VcpuExit::Hlt => Ok(start.elapsed()),
        _ => Err(kvm_ioctls::Error::new(libc::EIO)),
    }
}

fn no_memory() -> kvm_ioctls::Error {
    kvm_ioctls::Error::new(libc::ENOMEM)
}

#[allow(unsafe_code, reason = "KVM is told where the payload's memory is")]
fn add_memory(
    vm: &kvm_ioctls::VmFd,
    guest_phys_addr: u64,
    memory_size: u64,
    userspace_addr: u64,
) -> Result<(), kvm_ioctls::Error> {
    let region = kvm_bindings::kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr,
        memory_size,
        userspace_addr,
    };
    // SAFETY: the region is the whole of the caller's `GuestMemoryMmap`, which outlives the virtual machine there: it
    // is declared first in `payload_time`, and locals are dropped in reverse order.
    unsafe { vm.set_user_memory_region(region) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_instructions_mean_emulation() {
        assert_eq!(verdict(Duration::from_micros(100)), Accel::Kvm);
        let slow = verdict(Duration::from_millis(30));
        assert!(matches!(&slow, Accel::Tcg { reason } if reason.contains("750 ns")), "{slow}");
    }

    #[test]
    fn the_payload_ends_where_there_is_kvm() {
        match payload_time() {
            Ok(time) => assert!(time > Duration::ZERO),
            Err(error) => iommu_equipment::missing(iommu_equipment::Equipment::Kvm, error),
        }
    }
}
