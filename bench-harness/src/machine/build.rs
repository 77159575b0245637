//! The parts of a local case: guest memory, the IOMMU's options, register blocks.

use std::{error::Error, sync::Arc};

use iommu_workloads::{
    Bus, CaseSpec, Params, Test,
    scenario::{Device, IotlbPages},
};
use virtio_iommu::{
    DeviceOptions,
    epoch::Fences,
    iotlb::{IotlbOptions, PageSize, PageSizes},
};
use virtio_transport::{MmioTransport, NoInterrupt, ServiceMode, VirtioDevice};
use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::bus::MmioBus;

/// Guest RAM below the hole that x86 machines have for devices.
const LOW_RAM_BYTES: u64 = 2 << 30;
/// Where the rest of guest RAM begins.
const HIGH_RAM_START: u64 = 4 << 30;

/// Guest RAM of so many MiB, not touched yet.
pub(super) fn guest_memory(mib: u32) -> Result<Arc<GuestMemoryMmap>, Box<dyn Error>> {
    let bytes = u64::from(mib) << 20;
    let low = bytes.min(LOW_RAM_BYTES);
    let mut ranges = vec![(GuestAddress(0), usize::try_from(low)?)];
    if bytes > low {
        ranges.push((GuestAddress(HIGH_RAM_START), usize::try_from(bytes - low)?));
    }
    Ok(Arc::new(GuestMemoryMmap::from_ranges(&ranges)?))
}

/// What the IOMMU is built with.
pub(super) fn iommu_options(case: &CaseSpec, service: ServiceMode) -> DeviceOptions {
    let requests = case.params.iommu_ring_size;
    let default = DeviceOptions::default();
    // Inline, endpoint and unmapper share a thread: a fence at each end is cheaper than a system call for each UNMAP. Where
    // nothing is unmapped while data move, accesses need not pay: their fence waits for all that was copied before it.
    let quiet =
        case.test == Test::DmaThroughput && case.params.remap_every == 0 && !case.params.noisy_neighbour;
    let inline = service == ServiceMode::Inline;
    let fences = if inline && !quiet { Fences::Symmetric } else { Fences::best() };
    DeviceOptions {
        service,
        fences,
        queue_sizes: [requests, default.queue_sizes[1]],
        request_queues: case.params.request_queues,
        iotlb: iotlb_options(case),
        ..default
    }
}

/// The modelled IOTLB of the case's endpoints. None where they translate nothing or do not exist, so that nothing is
/// counted that does not happen.
pub(super) fn iotlb_options(case: &CaseSpec) -> Option<IotlbOptions> {
    let Params { iotlb_entries, iotlb_ways, iotlb_page_sizes, .. } = case.params;
    if iotlb_entries == 0 || !case.mode.translates() || case.test.device() == Device::None {
        return None;
    }
    let page_sizes = match iotlb_page_sizes {
        IotlbPages::Small => PageSizes::SMALL,
        IotlbPages::UpToLarge => PageSizes::of(&[PageSize::Small, PageSize::Large]),
        IotlbPages::All => PageSizes::ALL,
    };
    Some(IotlbOptions { entries: iotlb_entries as usize, ways: usize::from(iotlb_ways), page_sizes })
}

/// The registers of a device, as the guest reaches them.
pub(super) fn bus(device: Arc<dyn VirtioDevice>) -> Arc<dyn Bus> {
    Arc::new(MmioBus(MmioTransport::new(device, Arc::new(NoInterrupt))))
}

/// An error with what caused it.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}
