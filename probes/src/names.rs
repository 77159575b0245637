//! Keys in words.

use iommu_probes_common::Key;

use crate::definition::Keys;

/// A key as people call it.
#[must_use]
pub fn key(keys: Keys, key: &Key) -> String {
    let (id, sub) = (key.id, key.sub);
    match keys {
        Keys::Single => String::new(),
        Keys::ExitReason => exit_reason(id, sub),
        Keys::UserspaceExit => named(USERSPACE, id).map_or_else(|| format!("reason {id}"), str::to_owned),
        Keys::Port => format!("port {id:#x} {}", if sub == 0 { "in" } else { "out" }),
        Keys::MmioAddress => {
            let access = match sub {
                0 => "read unsatisfied".to_owned(),
                1 => "read".to_owned(),
                2 => "write".to_owned(),
                other => format!("type {other}"),
            };
            format!("{id:#x} {access}")
        }
        Keys::Address => format!("{id:#x}"),
        Keys::Number(what) => format!("{what} {id}"),
        Keys::Hex(what) => format!("{what} {id:#x}"),
        Keys::IntelInvalidation => intel_invalidation(id),
        Keys::VfioIoctl => ioctl(id, VFIO, "VFIO"),
        Keys::IommufdIoctl => ioctl(id, IOMMUFD, "IOMMUFD"),
        Keys::DmaDirection => match id {
            0 => "both ways".to_owned(),
            1 => "to device".to_owned(),
            2 => "from device".to_owned(),
            other => format!("direction {other}"),
        },
    }
}

/// `VFIO` and iommufd share the type `;` and count from 100 and 128.
fn ioctl(id: u64, names: &[(u64, &str)], what: &str) -> String {
    if (id >> 8) & 0xff == u64::from(b';')
        && let Some(name) = named(names, id & 0xff)
    {
        return name.to_owned();
    }
    format!("{what} ioctl {id:#x}")
}

/// Intel's "Virtualization Technology for Directed I/O", "Queue-based Invalidation Interface": the type is in bits 3:0, the
/// granularity in bits 5:4.
fn intel_invalidation(descriptor: u64) -> String {
    let (kind, granularity) = (descriptor & 0xf, descriptor >> 4 & 3);
    let name = match (kind, granularity) {
        (1, 1) => "context cache, global",
        (1, 2) => "context cache, domain",
        (1, 3) => "context cache, device",
        (2, 1) => "IOTLB, global",
        (2, 2) => "IOTLB, domain",
        (2, 3) => "IOTLB, pages",
        (3, _) => "device TLB",
        (4, _) => "interrupt entries",
        (5, _) => "wait",
        (6, 2) => "IOTLB of a PASID",
        (6, 3) => "IOTLB of a PASID, pages",
        (7, _) => "PASID cache",
        (8, _) => "device TLB of a PASID",
        (9, _) => "page group response",
        _ => return format!("descriptor {descriptor:#04x}"),
    };
    name.to_owned()
}

/// `isa` is 1 for VMX, 2 for SVM (`KVM_ISA_…`).
fn exit_reason(reason: u64, isa: u64) -> String {
    // VMX puts flags into the upper half.
    let (names, number) = match isa {
        1 => (VMX, reason & 0xffff),
        2 => (SVM, reason),
        _ => (&[][..], reason),
    };
    named(names, number).map_or_else(|| format!("reason {number:#x}"), str::to_owned)
}

fn named<'a>(names: &[(u64, &'a str)], id: u64) -> Option<&'a str> {
    names.binary_search_by_key(&id, |(number, _)| *number).ok().map(|at| names[at].1)
}

/// `linux/kvm.h`, `KVM_EXIT_…`.
const USERSPACE: &[(u64, &str)] = &[
    (0, "UNKNOWN"),
    (1, "EXCEPTION"),
    (2, "IO"),
    (3, "HYPERCALL"),
    (4, "DEBUG"),
    (5, "HLT"),
    (6, "MMIO"),
    (7, "IRQ_WINDOW_OPEN"),
    (8, "SHUTDOWN"),
    (9, "FAIL_ENTRY"),
    (10, "INTR"),
    (11, "SET_TPR"),
    (12, "TPR_ACCESS"),
    (17, "INTERNAL_ERROR"),
    (23, "SYSTEM_EVENT"),
    (26, "IOAPIC_EOI"),
    (27, "HYPERV"),
    (29, "X86_RDMSR"),
    (30, "X86_WRMSR"),
    (31, "DIRTY_RING_FULL"),
    (33, "X86_BUS_LOCK"),
    (39, "MEMORY_FAULT"),
];

/// `asm/vmx.h`, `EXIT_REASON_…`.
const VMX: &[(u64, &str)] = &[
    (0, "EXCEPTION_NMI"),
    (1, "EXTERNAL_INTERRUPT"),
    (2, "TRIPLE_FAULT"),
    (3, "INIT_SIGNAL"),
    (7, "INTERRUPT_WINDOW"),
    (8, "NMI_WINDOW"),
    (9, "TASK_SWITCH"),
    (10, "CPUID"),
    (12, "HLT"),
    (14, "INVLPG"),
    (15, "RDPMC"),
    (16, "RDTSC"),
    (18, "VMCALL"),
    (28, "CR_ACCESS"),
    (29, "DR_ACCESS"),
    (30, "IO_INSTRUCTION"),
    (31, "MSR_READ"),
    (32, "MSR_WRITE"),
    (33, "INVALID_STATE"),
    (36, "MWAIT"),
    (40, "PAUSE"),
    (43, "TPR_BELOW_THRESHOLD"),
    (44, "APIC_ACCESS"),
    (45, "EOI_INDUCED"),
    (48, "EPT_VIOLATION"),
    (49, "EPT_MISCONFIG"),
    (50, "INVEPT"),
    (52, "PREEMPTION_TIMER"),
    (54, "WBINVD"),
    (55, "XSETBV"),
    (56, "APIC_WRITE"),
    (62, "PML_FULL"),
    (74, "BUS_LOCK"),
    (75, "NOTIFY"),
];

/// `asm/svm.h`, `SVM_EXIT_…`.
const SVM: &[(u64, &str)] = &[
    (0x00, "READ_CR0"),
    (0x10, "WRITE_CR0"),
    (0x4e, "EXCP_PF"),
    (0x60, "INTR"),
    (0x61, "NMI"),
    (0x62, "SMI"),
    (0x63, "INIT"),
    (0x64, "VINTR"),
    (0x65, "CR0_SEL_WRITE"),
    (0x6e, "RDTSC"),
    (0x72, "CPUID"),
    (0x73, "RSM"),
    (0x75, "SWINT"),
    (0x76, "INVD"),
    (0x77, "PAUSE"),
    (0x78, "HLT"),
    (0x79, "INVLPG"),
    (0x7a, "INVLPGA"),
    (0x7b, "IOIO"),
    (0x7c, "MSR"),
    (0x7d, "TASK_SWITCH"),
    (0x7f, "SHUTDOWN"),
    (0x80, "VMRUN"),
    (0x81, "VMMCALL"),
    (0x87, "RDTSCP"),
    (0x89, "WBINVD"),
    (0x8a, "MONITOR"),
    (0x8b, "MWAIT"),
    (0x8d, "XSETBV"),
    (0x400, "NPF"),
    (0x401, "AVIC_INCOMPLETE_IPI"),
    (0x402, "AVIC_UNACCELERATED_ACCESS"),
];

/// `linux/vfio.h`: commands of a type 1 container, from `VFIO_BASE` (100).
const VFIO: &[(u64, &str)] = &[
    (100, "GET_API_VERSION"),
    (101, "CHECK_EXTENSION"),
    (102, "SET_IOMMU"),
    (112, "IOMMU_GET_INFO"),
    (113, "IOMMU_MAP_DMA"),
    (114, "IOMMU_UNMAP_DMA"),
    (115, "IOMMU_ENABLE"),
    (116, "IOMMU_DISABLE"),
    (117, "IOMMU_DIRTY_PAGES"),
];

/// `linux/iommufd.h`: commands from `IOMMUFD_CMD_BASE` (0x80).
const IOMMUFD: &[(u64, &str)] = &[
    (0x80, "DESTROY"),
    (0x81, "IOAS_ALLOC"),
    (0x82, "IOAS_ALLOW_IOVAS"),
    (0x83, "IOAS_COPY"),
    (0x84, "IOAS_IOVA_RANGES"),
    (0x85, "IOAS_MAP"),
    (0x86, "IOAS_UNMAP"),
    (0x87, "OPTION"),
    (0x88, "VFIO_IOAS"),
    (0x89, "HWPT_ALLOC"),
    (0x8a, "GET_HW_INFO"),
    (0x8b, "HWPT_SET_DIRTY_TRACKING"),
    (0x8c, "HWPT_GET_DIRTY_BITMAP"),
    (0x8d, "HWPT_INVALIDATE"),
    (0x8e, "FAULT_QUEUE_ALLOC"),
    (0x8f, "IOAS_MAP_FILE"),
    (0x90, "VIOMMU_ALLOC"),
    (0x91, "VDEVICE_ALLOC"),
    (0x92, "IOAS_CHANGE_PROCESS"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_sorted_for_the_search() {
        for list in [USERSPACE, VMX, SVM, VFIO, IOMMUFD] {
            assert!(list.is_sorted_by_key(|(number, _)| *number));
        }
    }

    #[test]
    fn keys_are_called_as_the_headers_call_them() {
        let of = |keys, id, sub| key(keys, &Key { id, sub });
        assert_eq!(of(Keys::ExitReason, 49, 1), "EPT_MISCONFIG");
        assert_eq!(
            of(Keys::ExitReason, 0x8000_0021, 1),
            "INVALID_STATE",
            "VMX flags are not part of the reason"
        );
        assert_eq!(of(Keys::ExitReason, 0x7b, 2), "IOIO");
        assert_eq!(of(Keys::ExitReason, 0x7b, 9), "reason 0x7b");
        assert_eq!(of(Keys::UserspaceExit, 6, 0), "MMIO");
        assert_eq!(of(Keys::UserspaceExit, 77, 0), "reason 77");
        assert_eq!(of(Keys::Port, 0x3f8, 1), "port 0x3f8 out");
        assert_eq!(of(Keys::MmioAddress, 0xfee0_0000, 2), "0xfee00000 write");
        assert_eq!(of(Keys::VfioIoctl, 0x3b71, 0), "IOMMU_MAP_DMA");
        assert_eq!(of(Keys::VfioIoctl, 0x3b72, 0), "IOMMU_UNMAP_DMA");
        assert_eq!(of(Keys::VfioIoctl, 0x1234, 0), "VFIO ioctl 0x1234");
        assert_eq!(of(Keys::IommufdIoctl, 0x3b85, 0), "IOAS_MAP");
        assert_eq!(of(Keys::IntelInvalidation, 0xf2, 0), "IOTLB, pages");
        assert_eq!(of(Keys::IntelInvalidation, 0x25, 0), "wait");
        assert_eq!(of(Keys::IntelInvalidation, 0x0f, 0), "descriptor 0x0f");
    }
}
