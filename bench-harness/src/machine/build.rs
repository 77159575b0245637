//! The parts of a local case: guest memory, the network card, register blocks.

use std::{error::Error, sync::Arc};

use iommu_endpoints::{DmaObserver, DmaPort, NetConfig, NetCounters, NetError, NoObserver, VirtioNet};
use iommu_workloads::{Bus, CaseSpec};
use virtio_iommu::{DeviceOptions, epoch::Fences};
use virtio_transport::{MmioTransport, NoInterrupt, ServiceMode, VirtioDevice};
use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::{LocalOptions, Time, bus::MmioBus, inject::FaultyPort};
use crate::measure::{DmaSampler, Latencies};

/// Guest RAM below the hole that x86 machines have for devices.
const LOW_RAM_BYTES: u64 = 2 << 30;
/// Where the rest of guest RAM begins.
const HIGH_RAM_START: u64 = 4 << 30;

/// The network card, whatever its port and observer.
pub(super) trait Card: VirtioDevice {
    /// What it counted since its creation.
    fn counters(&self) -> NetCounters;
    /// What its service panicked with.
    fn failed(&self) -> Option<String>;
}

impl<P: DmaPort + 'static, O: DmaObserver> Card for VirtioNet<P, O> {
    fn counters(&self) -> NetCounters {
        Self::counters(self)
    }

    fn failed(&self) -> Option<String> {
        Self::failed(self)
    }
}

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
    // Inline, endpoint and unmapper share a thread: a fence at each end is cheaper than a system call for each UNMAP.
    let fences = if service == ServiceMode::Inline { Fences::Symmetric } else { Fences::best() };
    DeviceOptions { service, fences, queue_sizes: [requests, default.queue_sizes[1]], ..default }
}

/// What the network card is built with.
pub(super) fn card_config(case: &CaseSpec) -> NetConfig {
    NetConfig {
        mtu: Some(case.params.mtu),
        queue_size: case.params.ring_size,
        access_platform: case.mode.has_iommu(),
        ..NetConfig::default()
    }
}

/// The registers of a device, as the guest reaches them.
pub(super) fn bus(device: Arc<dyn VirtioDevice>) -> Arc<dyn Bus> {
    Arc::new(MmioBus(MmioTransport::new(device, Arc::new(NoInterrupt))))
}

/// An error with what caused it.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

/// Builds the network card around a port.
pub(super) struct CardBuilder<'a> {
    /// What it is like.
    pub(super) config: NetConfig,
    /// Where it is served.
    pub(super) service: ServiceMode,
    /// Clock, and failure to provoke.
    pub(super) options: LocalOptions,
    /// Where DMA latencies go.
    pub(super) latencies: &'a Arc<Latencies>,
}

impl CardBuilder<'_> {
    /// A card that accesses memory through `port`.
    ///
    /// # Errors
    /// As [`VirtioNet::new`].
    pub(super) fn with_port<P: DmaPort + 'static>(self, port: P) -> Result<Arc<dyn Card>, NetError> {
        match self.options.fault {
            Some(fault) => self.with_observer(FaultyPort::new(port, fault)),
            None => self.with_observer(port),
        }
    }

    fn with_observer<P: DmaPort + 'static>(self, port: P) -> Result<Arc<dyn Card>, NetError> {
        Ok(match self.options.time {
            Time::Wall(clock) => {
                let observer = DmaSampler::new(clock, Arc::clone(self.latencies));
                Arc::new(VirtioNet::with_observer(self.config, self.service, port, observer)?)
            }
            Time::Virtual => Arc::new(VirtioNet::with_observer(self.config, self.service, port, NoObserver)?),
        })
    }
}
