//! The suite on a virtio-pci function behind a vfio-user socket.

#[path = "../../../iommu/tests/conformance/attach.rs"]
mod attach;
#[path = "../../../iommu/tests/conformance/config.rs"]
mod config;
#[path = "../../../iommu/tests/conformance/detach.rs"]
mod detach;
#[path = "../../../iommu/tests/conformance/fault.rs"]
mod fault;
#[path = "../../../iommu/tests/conformance/features.rs"]
mod features;
#[path = "../../../iommu/tests/conformance/map.rs"]
mod map;
#[path = "../../../iommu/tests/conformance/operations.rs"]
mod operations;
#[path = "../../../iommu/tests/conformance/probe.rs"]
mod probe;
#[path = "../../../iommu/tests/conformance/resv_mem.rs"]
mod resv_mem;
#[path = "../../../iommu/tests/conformance/unmap.rs"]
mod unmap;

mod support {
    pub(crate) use crate::generic::*;

    pub(crate) type Rig = RigOn<crate::driver::PciDriver<crate::driver::Socket>>;
}
