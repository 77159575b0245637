//! Virtual machines: exits, doorbells, interrupts.

use crate::definition::{Definition, Group, Hook, Keys, Source, Unit, When};

const fn event(names: &'static [&'static str]) -> Hook {
    Hook::Event { category: "kvm", names }
}

const KVM: Definition = Definition { group: Group::Kvm, module: Some("kvm"), ..Definition::BLANK };

/// The exact round trip, by exit reason.
pub const ROUND_TRIP: &str = "kvm_exit";
/// What stands in for it where `kvm_exit` never fires.
pub const STAND_IN: &str = "kvm_userspace_round_trip";

/// The probes.
pub(super) const PROBES: &[Definition] = &[
    Definition {
        name: ROUND_TRIP,
        sees: "time from a VM exit to the next VM entry on the same thread, by exit reason",
        blind: "the processor's own time for exit and entry; never fires under a PVM-type KVM",
        open: event(&["kvm_exit"]),
        close: Some(event(&["kvm_entry"])),
        // Only kernels before 5.15 pass the reason as an argument; the record has it on all.
        key: Source::either("exit_reason", "exit_reason"),
        sub: Source::named("isa"),
        keys: Keys::ExitReason,
        max_keys: 128,
        ..KVM
    },
    Definition {
        name: STAND_IN,
        sees: "time from an exit to the VMM until the guest's FPU is loaded again, by reason: a round trip's VMM part",
        blind: "exits that the kernel handles itself, and the way from the guest to the VMM",
        open: event(&["kvm_userspace_exit"]),
        close: Some(event(&["kvm_fpu"])),
        key: Source::named("reason"),
        close_when: Some(When { source: Source::named("load"), equals: 1 }),
        keys: Keys::UserspaceExit,
        max_keys: 64,
        ..KVM
    },
    Definition {
        name: "kvm_userspace_exit",
        sees: "exits to the VMM, by reason",
        blind: "exits that the kernel handles itself, for example doorbells with an ioeventfd",
        open: event(&["kvm_userspace_exit"]),
        key: Source::named("reason"),
        keys: Keys::UserspaceExit,
        max_keys: 64,
        ..KVM
    },
    Definition {
        name: "kvm_pio",
        sees: "port accesses of guests, by port and direction; the value is bytes",
        blind: "one instruction that repeats counts once, with the bytes of one repetition",
        open: event(&["kvm_pio"]),
        key: Source::named("port"),
        sub: Source::named("rw"),
        value: Source::named("size"),
        unit: Unit::Bytes,
        keys: Keys::Port,
        max_keys: 1024,
        ..KVM
    },
    Definition {
        name: "kvm_mmio",
        sees: "emulated memory accesses of guests, by address and type; the value is bytes",
        blind: "a read is seen twice: when it leaves the guest (`unsatisfied`) and when it returns",
        open: event(&["kvm_mmio"]),
        key: Source::named("gpa"),
        sub: Source::named("type"),
        value: Source::named("len"),
        unit: Unit::Bytes,
        keys: Keys::MmioAddress,
        max_keys: 4096,
        ..KVM
    },
    Definition {
        name: "kvm_fast_mmio",
        sees: "doorbells that an ioeventfd takes without decoding the instruction, by address",
        blind: "doorbells by port, and KVMs without this path: those are in kvm_pio and kvm_mmio, or nowhere",
        open: event(&["kvm_fast_mmio"]),
        key: Source::named("gpa"),
        keys: Keys::Address,
        max_keys: 4096,
        ..KVM
    },
    Definition {
        name: "kvm_page_fault",
        sees: "accesses of guests to addresses that the processor has no mapping for, by guest-physical address",
        blind: "devices' addresses that the processor marks (EPT_MISCONFIG); shadow paging shows linear addresses",
        open: event(&["kvm_page_fault"]),
        key: Source::named("fault_address"),
        keys: Keys::Address,
        max_keys: 4096,
        // A guest that touches its memory for the first time has as many as it has pages.
        default: false,
        ..KVM
    },
    Definition {
        name: "kvm_inj_virq",
        sees: "interrupts put into a guest at entry, by vector",
        blind: "posted interrupts, which reach the guest without an entry",
        open: event(&["kvm_inj_virq"]),
        key: Source::either("vector", "vector"),
        keys: Keys::Hex("vector"),
        max_keys: 256,
        ..KVM
    },
    Definition {
        name: "kvm_msi_set_irq",
        sees: "message-signalled interrupts sent to a guest, by address",
        blind: "posted interrupts that the IOMMU delivers by itself",
        open: event(&["kvm_msi_set_irq"]),
        key: Source::named("address"),
        keys: Keys::Address,
        max_keys: 1024,
        ..KVM
    },
    Definition {
        name: "kvm_set_irq",
        sees: "changes of a guest's interrupt lines, by line",
        blind: "message-signalled interrupts",
        open: event(&["kvm_set_irq"]),
        key: Source::named("gsi"),
        keys: Keys::Number("line"),
        max_keys: 256,
        ..KVM
    },
    Definition {
        name: "kvm_vcpu_wakeup",
        sees: "how long a halted vCPU polled or slept before it ran again (the kernel's own measurement)",
        blind: "why it was woken",
        open: event(&["kvm_vcpu_wakeup"]),
        value: Source::named("ns"),
        value_histogram: true,
        unit: Unit::Number,
        default: false,
        ..KVM
    },
];
