//! The devices behind the IOMMU, whatever they are.

use std::{error::Error, sync::Arc};

use iommu_endpoints::{
    BlkConfig, Disk, DmaEngine, DmaObserver, DmaPort, EngineConfig, NetConfig, NoObserver, VirtioBlk,
    VirtioNet,
};
use iommu_workloads::{CaseSpec, scenario::Device};
use virtio_transport::{ServiceMode, VirtioDevice};

use super::{LocalOptions, Time, inject::FaultyPort};
use crate::measure::{DmaSampler, Latencies};

/// What a device counted since its creation, as far as the machine cares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct CardCounts {
    /// Payload bytes it found right; only a network card looks.
    pub(super) bytes_verified: u64,
    /// Accesses refused.
    pub(super) dma_faults: u64,
    /// Chains or frames it could not make sense of, requests it refused.
    pub(super) malformed: u64,
    /// Payload it found damaged.
    pub(super) corruption: Option<String>,
    /// What went through VFIO, for a real device.
    pub(super) vfio: Option<iommu_passthrough::endpoint::Counts>,
}

/// A device, whatever its port and observer.
pub(super) trait Card {
    /// What it counted.
    fn counts(&self) -> CardCounts;
    /// What its service panicked with.
    fn failed(&self) -> Option<String>;
    /// What it still holds once the driver has let it go; nothing, unless something went wrong.
    fn left_behind(&self) -> Option<String> {
        None
    }
}

/// A device as its owner and as its registers see it.
pub(super) type Built = (Arc<dyn Card>, Arc<dyn VirtioDevice>);

/// Both sides of one device.
fn both<D: Card + VirtioDevice + 'static>(device: D) -> Built {
    let device = Arc::new(device);
    (Arc::clone(&device) as Arc<dyn Card>, device)
}

impl<P: DmaPort + 'static, O: DmaObserver> Card for VirtioNet<P, O> {
    fn counts(&self) -> CardCounts {
        let counters = self.counters();
        CardCounts {
            bytes_verified: counters.bytes_verified,
            dma_faults: counters.dma_faults,
            malformed: counters.malformed,
            corruption: counters.verify().err().map(|error| error.to_string()),
            vfio: None,
        }
    }

    fn failed(&self) -> Option<String> {
        Self::failed(self)
    }
}

impl<P: DmaPort + 'static, O: DmaObserver> Card for VirtioBlk<P, O> {
    fn counts(&self) -> CardCounts {
        let counters = self.counters();
        let malformed = counters.malformed + counters.failed;
        CardCounts { dma_faults: counters.dma_faults, malformed, ..CardCounts::default() }
    }

    fn failed(&self) -> Option<String> {
        Self::failed(self)
    }
}

impl<P: DmaPort + 'static, O: DmaObserver> Card for DmaEngine<P, O> {
    fn counts(&self) -> CardCounts {
        let counters = self.counters();
        let (dma_faults, malformed) = (counters.dma_faults, counters.malformed);
        CardCounts { dma_faults, malformed, ..CardCounts::default() }
    }

    fn failed(&self) -> Option<String> {
        Self::failed(self)
    }
}

/// How many devices a case needs.
pub(super) fn cards_of(case: &CaseSpec) -> u16 {
    match case.test.device() {
        Device::Nic | Device::Disk => 1,
        Device::Engine => case.params.engines,
        Device::None | Device::Container => 0,
    }
}

/// How many ports each of them needs: one for each worker.
pub(super) fn ports_of(case: &CaseSpec) -> u16 {
    if case.test.device() == Device::Nic { case.params.queue_pairs } else { 1 }
}

/// Builds a case's devices, each around its ports.
pub(super) struct CardBuilder<'a> {
    /// Of which case.
    pub(super) case: &'a CaseSpec,
    /// Where it is served.
    pub(super) service: ServiceMode,
    /// Clock, and failure to provoke.
    pub(super) options: LocalOptions,
    /// Where DMA latencies go.
    pub(super) latencies: &'a Arc<Latencies>,
}

impl CardBuilder<'_> {
    /// A device that accesses memory through `ports`, as many as [`ports_of`] says.
    ///
    /// # Errors
    /// When the device cannot be made.
    pub(super) fn with_ports<P: DmaPort + 'static>(&self, ports: Vec<P>) -> Result<Built, Box<dyn Error>> {
        match self.options.fault {
            Some(fault) => self.with_observers(ports.into_iter().map(|port| FaultyPort::new(port, fault))),
            None => self.with_observers(ports.into_iter()),
        }
    }

    fn with_observers<P: DmaPort + 'static>(
        &self,
        ports: impl Iterator<Item = P>,
    ) -> Result<Built, Box<dyn Error>> {
        match self.options.time {
            Time::Wall(clock) => {
                let sampler = || DmaSampler::new(clock, Arc::clone(self.latencies));
                self.build(ports.map(|port| (port, sampler())))
            }
            Time::Virtual => self.build(ports.map(|port| (port, NoObserver))),
        }
    }

    fn build<P, O>(&self, ports: impl Iterator<Item = (P, O)>) -> Result<Built, Box<dyn Error>>
    where
        P: DmaPort + 'static,
        O: DmaObserver,
    {
        let params = &self.case.params;
        let (queue_size, access_platform) = (params.ring_size, self.case.mode.has_iommu());
        Ok(match self.case.test.device() {
            Device::Nic => {
                let mtu = Some(params.mtu);
                let config = NetConfig { mtu, queue_size, access_platform, ..NetConfig::default() };
                both(VirtioNet::with_observers(config, self.service, ports)?)
            }
            Device::Disk => {
                let config = BlkConfig { queue_size, access_platform, ..BlkConfig::default() };
                let disk = Disk::ram(u64::from(params.disk_mib) << 20);
                both(VirtioBlk::with_observers(config, self.service, &disk, ports)?)
            }
            Device::Engine | Device::None | Device::Container => {
                let config = EngineConfig { queue_size, access_platform };
                both(DmaEngine::with_observers(config, self.service, ports)?)
            }
        })
    }
}
