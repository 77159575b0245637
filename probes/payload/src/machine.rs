//! A virtual machine with 64 KiB of memory and one processor.

#![allow(unsafe_code, reason = "KVM takes the guest's memory as an address of ours")]

use std::time::{Duration, Instant};

use kvm_bindings::{kvm_regs, kvm_segment, kvm_userspace_memory_region};
use kvm_ioctls::{IoEventAddress, Kvm, NoDatamatch, VcpuExit, VcpuFd, VmFd};
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryBackend as _, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::{DOORBELL_ADDRESS, Exits, MMIO_ADDRESS, PORT, PayloadError};

const MEMORY_BYTES: usize = 64 << 10;
const CODE_AT: u64 = 0x1000;

fn step(step: &'static str) -> impl Fn(kvm_ioctls::Error) -> PayloadError {
    move |source| PayloadError::Kvm { step, source }
}

/// Runs machine code until it has halted so often; returns its exits and how long it ran, without the machine's making.
pub(crate) fn run(code: &[u8], halts: u64) -> Result<(Exits, Duration), PayloadError> {
    let kvm = Kvm::new().map_err(PayloadError::NoKvm)?;
    let vm = kvm.create_vm().map_err(step("make a virtual machine"))?;
    let memory: GuestMemoryMmap = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY_BYTES)])?;
    give_memory(&vm, &memory)?;
    memory.write_slice(code, GuestAddress(CODE_AT))?;
    let doorbell = EventFd::new(EFD_NONBLOCK).map_err(PayloadError::Event)?;
    // No length and no value to match: the kernel's fast path, which does not decode the instruction.
    vm.register_ioevent(&doorbell, &IoEventAddress::Mmio(u64::from(DOORBELL_ADDRESS)), NoDatamatch)
        .map_err(step("register an ioeventfd"))?;
    let mut vcpu = vm.create_vcpu(0).map_err(step("make a processor"))?;
    set_up(&vcpu)?;
    let began = Instant::now();
    let mut exits = run_until(&mut vcpu, halts)?;
    let took = began.elapsed();
    exits.doorbells = match doorbell.read() {
        Ok(count) => count,
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => 0,
        Err(error) => return Err(PayloadError::Event(error)),
    };
    Ok((exits, took))
}

fn give_memory(vm: &VmFd, memory: &GuestMemoryMmap) -> Result<(), PayloadError> {
    let at = memory.get_host_address(GuestAddress(0))?;
    let region = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: 0,
        memory_size: MEMORY_BYTES as u64,
        userspace_addr: at as u64,
    };
    // SAFETY: `memory` holds the mapping of this size; `run`, which owns both, drops the machine's processor before it.
    unsafe { vm.set_user_memory_region(region) }.map_err(step("use the guest's memory"))
}

/// 32-bit protected mode, flat segments, no paging.
fn set_up(vcpu: &VcpuFd) -> Result<(), PayloadError> {
    let mut special = vcpu.get_sregs().map_err(step("tell the special registers"))?;
    let code = kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector: 8,
        // Code, readable, accessed.
        type_: 0b1011,
        present: 1,
        s: 1,
        db: 1,
        g: 1,
        ..kvm_segment::default()
    };
    // Data, writable, accessed.
    let data = kvm_segment { selector: 16, type_: 0b0011, ..code };
    special.cs = code;
    for segment in [&mut special.ds, &mut special.es, &mut special.fs, &mut special.gs, &mut special.ss] {
        *segment = data;
    }
    special.cr0 |= 1;
    vcpu.set_sregs(&special).map_err(step("set the special registers"))?;
    let registers = kvm_regs { rip: CODE_AT, rflags: 2, ..kvm_regs::default() };
    vcpu.set_regs(&registers).map_err(step("set the registers"))
}

fn run_until(vcpu: &mut VcpuFd, halts: u64) -> Result<Exits, PayloadError> {
    let mut exits = Exits::default();
    loop {
        match vcpu.run().map_err(step("run the guest"))? {
            VcpuExit::IoOut(PORT, [_]) => exits.port_writes += 1,
            VcpuExit::MmioWrite(address, _) if address == u64::from(MMIO_ADDRESS) => exits.mmio_writes += 1,
            VcpuExit::MmioRead(address, data) if address == u64::from(MMIO_ADDRESS) => {
                data.fill(0);
                exits.mmio_reads += 1;
            }
            VcpuExit::Hlt => {
                exits.halts += 1;
                if exits.halts >= halts {
                    return Ok(exits);
                }
            }
            other => return Err(PayloadError::Unexpected(format!("{other:?}"))),
        }
    }
}
