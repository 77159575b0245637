//! The kernel's IOMMU layer: mappings, invalidations, faults.

use crate::definition::{Definition, Group, Hook, Keys, Source, Unit};

const fn event(names: &'static [&'static str]) -> Hook {
    Hook::Event { category: "iommu", names }
}

const fn function(names: &'static [&'static str]) -> Hook {
    Hook::Function { names }
}

const IOMMU: Definition = Definition { group: Group::Iommu, ..Definition::BLANK };

/// The probes.
pub(super) const PROBES: &[Definition] = &[
    Definition {
        name: "iommu_map_event",
        sees: "mappings made, with a histogram of their sizes",
        blind: "which device; one event for each physically contiguous run, not for each request of a VMM",
        open: event(&["map"]),
        value: Source::named("size"),
        value_histogram: true,
        unit: Unit::Bytes,
        ..IOMMU
    },
    Definition {
        name: "iommu_unmap_event",
        sees: "mappings removed, with a histogram of the sizes really unmapped",
        blind: "which device",
        open: event(&["unmap"]),
        value: Source::named("unmapped_size"),
        value_histogram: true,
        unit: Unit::Bytes,
        ..IOMMU
    },
    Definition {
        name: "iommu_map",
        sees: "time in iommu_map(), with the bytes mapped",
        blind: "mappings through iommu_map_sg() and drivers that bypass the layer",
        open: function(&["iommu_map"]),
        close: Some(function(&["iommu_map"])),
        value: Source::argument("size"),
        unit: Unit::Bytes,
        ..IOMMU
    },
    Definition {
        name: "iommu_unmap",
        sees: "time in iommu_unmap(), its IOTLB synchronisation included, with the bytes unmapped",
        blind: "the DMA API in lazy mode, which uses iommu_unmap_fast()",
        open: function(&["iommu_unmap"]),
        close: Some(function(&["iommu_unmap"])),
        close_value: Source::returned(),
        unit: Unit::Bytes,
        ..IOMMU
    },
    Definition {
        name: "iommu_unmap_fast",
        sees: "time in iommu_unmap_fast(), without the IOTLB's synchronisation, with the bytes unmapped",
        blind: "when the IOTLB is synchronised",
        open: function(&["iommu_unmap_fast"]),
        close: Some(function(&["iommu_unmap_fast"])),
        close_value: Source::returned(),
        unit: Unit::Bytes,
        ..IOMMU
    },
    Definition {
        name: "qi_submit_sync",
        sees: "Intel: time to submit invalidations and wait for them; the value is descriptors",
        blind: "what is invalidated: see qi_submit",
        open: function(&["qi_submit_sync"]),
        close: Some(function(&["qi_submit_sync"])),
        value: Source::argument("count"),
        unit: Unit::Number,
        ..IOMMU
    },
    Definition {
        name: "qi_submit",
        sees: "Intel: invalidations submitted, by kind",
        blind: "which addresses; the waits for them: those are in qi_submit_sync",
        open: Hook::Event { category: "intel_iommu", names: &["qi_submit"] },
        key: Source::named("qw0").low_byte(),
        keys: Keys::IntelInvalidation,
        max_keys: 256,
        default: false,
        ..IOMMU
    },
    Definition {
        name: "intel_iommu_tlb_sync",
        sees: "Intel: time to invalidate what unmaps have gathered",
        blind: "AMD's: that is amd_iommu_flush",
        open: function(&["intel_iommu_tlb_sync"]),
        close: Some(function(&["intel_iommu_tlb_sync"])),
        ..IOMMU
    },
    Definition {
        name: "amd_iommu_flush",
        sees: "AMD: time in the flush of a domain's pages",
        blind: "flushes on other ways, for example of the device table",
        open: function(&["amd_iommu_domain_flush_pages", "domain_flush_pages", "amd_iommu_iotlb_sync"]),
        close: Some(function(&[
            "amd_iommu_domain_flush_pages",
            "domain_flush_pages",
            "amd_iommu_iotlb_sync",
        ])),
        ..IOMMU
    },
    Definition {
        name: "smmu_cmdq_issue",
        sees: "Arm SMMUv3: time to issue a list of commands, and to wait for it; the value is commands",
        blind: "which of them are invalidations",
        open: function(&["arm_smmu_cmdq_issue_cmdlist"]),
        close: Some(function(&["arm_smmu_cmdq_issue_cmdlist"])),
        value: Source::argument("n"),
        unit: Unit::Number,
        ..IOMMU
    },
    Definition {
        name: "viommu_send_reqs_sync",
        sees: "virtio-iommu driver: time to send queued requests and wait for the answers",
        blind: "how many requests",
        open: function(&["__viommu_sync_req", "viommu_sync_req", "viommu_send_reqs_sync"]),
        close: Some(function(&["__viommu_sync_req", "viommu_sync_req", "viommu_send_reqs_sync"])),
        module: Some("virtio_iommu"),
        ..IOMMU
    },
    Definition {
        name: "io_page_fault",
        sees: "faults that a driver reported through the IOMMU layer, by flags",
        blind: "Intel's faults: those are in dmar_fault",
        open: event(&["io_page_fault"]),
        key: Source::named("flags"),
        keys: Keys::Hex("flags"),
        max_keys: 64,
        everybody: true,
        ..IOMMU
    },
    Definition {
        name: "dmar_fault",
        sees: "Intel: fault interrupts",
        blind: "how many faults one interrupt reports",
        open: function(&["dmar_fault"]),
        everybody: true,
        ..IOMMU
    },
    Definition {
        name: "dmar_fault_do_one",
        sees: "Intel: faults, by their reason's number",
        blind: "faults that come faster than the kernel logs them; mostly merged into dmar_fault by the compiler",
        open: function(&["dmar_fault_do_one"]),
        key: Source::argument("fault_reason"),
        keys: Keys::Hex("reason"),
        max_keys: 256,
        everybody: true,
        ..IOMMU
    },
];
