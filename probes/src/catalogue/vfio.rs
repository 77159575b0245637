//! VFIO and iommufd: what a VMM asks the kernel for.

use crate::definition::{Definition, Group, Hook, Keys, Source, Unit};

const fn function(names: &'static [&'static str]) -> Hook {
    Hook::Function { names }
}

const VFIO: Definition =
    Definition { group: Group::Vfio, module: Some("vfio_iommu_type1"), ..Definition::BLANK };

/// The probes.
pub(super) const PROBES: &[Definition] = &[
    Definition {
        name: "vfio_iommu_type1_ioctl",
        sees: "time of VFIO's ioctls on a container (map, unmap, dirty pages…), by command",
        blind: "ioctls on groups and devices",
        open: function(&["vfio_iommu_type1_ioctl"]),
        close: Some(function(&["vfio_iommu_type1_ioctl"])),
        key: Source::argument("cmd"),
        keys: Keys::VfioIoctl,
        max_keys: 32,
        ..VFIO
    },
    Definition {
        name: "vfio_pin_pages",
        sees: "time to pin a run of guest pages for VFIO: a part of its MAP; the value is pages",
        blind: "pages that were pinned before",
        open: function(&["vfio_pin_pages_remote"]),
        close: Some(function(&["vfio_pin_pages_remote"])),
        close_value: Source::returned(),
        unit: Unit::Number,
        ..VFIO
    },
    Definition {
        name: "pin_user_pages_remote",
        sees: "time to find and pin pages of a process for another's sake: the part of vfio_pin_pages in the memory manager",
        blind: "pages pinned on other ways, for example by RDMA or io_uring",
        open: function(&["pin_user_pages_remote"]),
        close: Some(function(&["pin_user_pages_remote"])),
        close_value: Source::returned(),
        unit: Unit::Number,
        module: None,
        ..VFIO
    },
    Definition {
        name: "vfio_unmap_unpin",
        sees: "time to take one mapping out of the page tables, the IOTLB and the pinned memory: an UNMAP of VFIO's",
        blind: "how it is divided: see iommu_unmap_fast, vfio_sync_unpin and vfio_unpin_pages",
        open: function(&["vfio_unmap_unpin"]),
        close: Some(function(&["vfio_unmap_unpin"])),
        ..VFIO
    },
    Definition {
        name: "vfio_sync_unpin",
        sees: "time to synchronise the IOTLB after a batch of unmaps and to unpin the batch: a part of vfio_unmap_unpin",
        blind: "mappings that vfio_unmap_unpin takes away one by one",
        // The compiler's name of a variant with fewer arguments.
        open: function(&["vfio_sync_unpin", "vfio_sync_unpin.isra.0"]),
        close: Some(function(&["vfio_sync_unpin", "vfio_sync_unpin.isra.0"])),
        ..VFIO
    },
    Definition {
        name: "vfio_unpin_pages",
        sees: "time to unpin a run of guest pages for VFIO: a part of its UNMAP; the value is pages",
        blind: "",
        open: function(&["vfio_unpin_pages_remote"]),
        close: Some(function(&["vfio_unpin_pages_remote"])),
        close_value: Source::returned(),
        unit: Unit::Number,
        ..VFIO
    },
    Definition {
        name: "iommufd_ioctl",
        sees: "time of iommufd's ioctls, by command",
        blind: "VFIO's own ioctls on devices",
        open: function(&["iommufd_fops_ioctl"]),
        close: Some(function(&["iommufd_fops_ioctl"])),
        key: Source::argument("cmd"),
        keys: Keys::IommufdIoctl,
        max_keys: 64,
        module: Some("iommufd"),
        ..VFIO
    },
];
