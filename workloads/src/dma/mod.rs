//! The DMA API, as Linux's dma-iommu and virtio-iommu drivers behave.
//!
//! | mode | map | unmap |
//! |---|---|---|
//! | off, identity | nothing: the device address is the guest-physical one | nothing |
//! | strict | IOVA allocated; MAP queued, kicked, waited for | UNMAP queued, kicked, waited for; IOVA freed |
//! | lazy | as in strict | UNMAP queued, neither kicked nor waited for; IOVA held back until the flush |
//!
//! An UNMAP that lazy mode has queued reaches the device with the next kick, whatever causes it; only the flush makes
//! sure that it has, and only then is the IOVA reused. A flush happens when [`DmaSettings::flush_entries`] unmaps are
//! held back and one more comes, or [`DmaSettings::flush_ns`] after the first of them. A full request ring is drained
//! as well, which flushes nothing.

use std::sync::Arc;

use thiserror::Error;
use virtio_iommu_spec::{
    DomainId, EndpointId, Gpa, IovaRange,
    probe::ResvKind,
    request::{MAP_F_READ, MAP_F_WRITE, Map, Unmap},
};

mod counts;
mod flush;
mod mode;
mod pgsize;
mod sample;
#[cfg(test)]
mod tests;

pub use counts::Counts;
pub use mode::{Mode, UnknownMode};

use crate::{
    clock::{Clock, Recorder},
    iommu::{IommuDriver, IommuError},
    iova::{IovaCpu, IovaError, IovaSpace},
    pages::PAGE_BYTES,
};
use flush::FlushQueue;
pub(crate) use sample::Sampler;

/// Where Linux puts its software MSI window when the device reports no MSI region.
const SOFTWARE_MSI: (u64, u64) = (0x0800_0000, 0x080f_ffff);

/// The DMA API failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DmaError {
    /// The IOMMU's driver.
    #[error(transparent)]
    Iommu(#[from] IommuError),
    /// The allocator of addresses.
    #[error(transparent)]
    Iova(#[from] IovaError),
    /// A mode that needs an IOMMU was given none.
    #[error("mode {0} needs an IOMMU")]
    NoIommu(Mode),
    /// A buffer that wraps around, or is empty.
    #[error("{len} bytes at guest-physical {gpa} cannot be mapped")]
    Buffer {
        /// First address.
        gpa: Gpa,
        /// Length in bytes.
        len: u32,
    },
    /// The device's page sizes do not fit a mapping of whole pages.
    #[error("page_size_mask {mask:#x} has no size for {size} bytes at {iova:#x}")]
    PageSize {
        /// The device's page sizes.
        mask: u64,
        /// Address to map.
        iova: u64,
        /// Length in bytes.
        size: u64,
    },
}

/// What the device does with a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// It reads.
    ToDevice,
    /// It writes.
    FromDevice,
    /// Both.
    Both,
}

/// A buffer the device may access, until it is unmapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a buffer that is not unmapped stays open to the device"]
pub struct Mapping {
    device: u64,
    /// Guest-physical address of its first page, from which follows how it was cut into requests.
    phys: u64,
    len: u32,
}

impl Mapping {
    /// The address to give to the device.
    #[inline]
    pub fn device_address(&self) -> u64 {
        self.device
    }

    /// Length in bytes.
    #[inline]
    #[allow(clippy::len_without_is_empty, reason = "never empty")]
    pub fn len(&self) -> u32 {
        self.len
    }
}

/// How the DMA API is set up.
#[derive(Clone, Copy, Debug)]
pub struct DmaSettings {
    /// The mode.
    pub mode: Mode,
    /// Lazy: unmaps held back before a flush; at least one.
    pub flush_entries: u32,
    /// Lazy: longest time an unmap is held back, in nanoseconds.
    pub flush_ns: u64,
    /// Which of the IOMMU's domains, counted from the first: devices in different domains share no address.
    pub domain: u32,
}

impl DmaSettings {
    /// Linux's values for lazy mode: 256 entries, 10 ms.
    pub const fn new(mode: Mode) -> Self {
        Self { mode, flush_entries: 256, flush_ns: 10_000_000, domain: 0 }
    }
}

/// The DMA API of one device, on one CPU of the guest.
pub struct Dma {
    mode: Mode,
    domain: Option<Domain>,
    clock: Arc<dyn Clock>,
    recorder: Arc<dyn Recorder>,
    maps: Sampler,
    unmaps: Sampler,
    counts: Counts,
}

/// A domain of the IOMMU with the device attached.
struct Domain {
    iommu: Arc<IommuDriver>,
    /// Which CPU's request queue it uses: each domain has a CPU of its own.
    cpu: usize,
    endpoint: EndpointId,
    id: DomainId,
    /// Whether it attached the device, and so detaches it.
    attached: bool,
    page_sizes: u64,
    /// `None` in a bypass domain.
    translated: Option<Translated>,
}

struct Translated {
    iovas: IovaCpu,
    flush: FlushQueue,
}

impl Dma {
    /// Attaches the device to a domain of its own, as the mode demands.
    ///
    /// # Errors
    /// When the mode needs an IOMMU and there is none, or the IOMMU refuses.
    pub fn new(
        settings: DmaSettings,
        iommu: Option<(Arc<IommuDriver>, EndpointId)>,
        clock: Arc<dyn Clock>,
        recorder: Arc<dyn Recorder>,
    ) -> Result<Self, DmaError> {
        let domain = match (settings.mode, iommu) {
            (Mode::Off, _) => None,
            (mode, None) => return Err(DmaError::NoIommu(mode)),
            (_, Some((iommu, endpoint))) => Some(Domain::attach(settings, iommu, endpoint)?),
        };
        let every = recorder.sample_every();
        let (maps, unmaps) = (Sampler::new(every), Sampler::new(every));
        Ok(Self { mode: settings.mode, domain, clock, recorder, maps, unmaps, counts: Counts::default() })
    }

    /// The DMA API of the same device on another CPU of the guest: with a cache of addresses, a queue of held back unmaps and
    /// counts of its own. It does not detach the device: it is shut down before the one it comes from.
    pub fn sibling(&self, settings: DmaSettings, cpu: usize) -> Self {
        let domain = self.domain.as_ref().map(|domain| Domain {
            iommu: Arc::clone(&domain.iommu),
            cpu,
            attached: false,
            translated: domain.translated.as_ref().map(|translated| Translated {
                iovas: translated.iovas.another(),
                flush: FlushQueue::new(settings.flush_entries, settings.flush_ns),
            }),
            endpoint: domain.endpoint,
            id: domain.id,
            page_sizes: domain.page_sizes,
        });
        let every = self.recorder.sample_every();
        Self {
            mode: self.mode,
            domain,
            clock: Arc::clone(&self.clock),
            recorder: Arc::clone(&self.recorder),
            maps: Sampler::new(every),
            unmaps: Sampler::new(every),
            counts: Counts::default(),
        }
    }

    /// The mode.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The IOMMU behind it, if any.
    pub fn iommu(&self) -> Option<&Arc<IommuDriver>> {
        self.domain.as_ref().map(|domain| &domain.iommu)
    }

    /// Makes a buffer accessible to the device.
    ///
    /// # Errors
    /// When the buffer is empty or wraps, addresses are used up, or the IOMMU refuses.
    #[inline]
    pub fn map(&mut self, gpa: Gpa, len: u32, direction: Direction) -> Result<Mapping, DmaError> {
        self.counts.dma_maps += 1;
        let Some(domain) = self.domain.as_mut().filter(|domain| domain.translated.is_some()) else {
            return Ok(Mapping { device: gpa.0, phys: gpa.0, len });
        };
        if self.maps.due() {
            let start_ns = self.clock.now_ns();
            let mapping = domain.map(gpa, len, direction)?;
            self.recorder.map_latency(self.clock.now_ns().saturating_sub(start_ns));
            return Ok(mapping);
        }
        domain.map(gpa, len, direction)
    }

    /// Ends the device's access to a buffer; in lazy mode, some time later.
    ///
    /// # Errors
    /// When the IOMMU refuses; the address is lost then.
    #[inline]
    pub fn unmap(&mut self, mapping: Mapping) -> Result<(), DmaError> {
        self.counts.dma_unmaps += 1;
        let Some(domain) = self.domain.as_mut().filter(|domain| domain.translated.is_some()) else {
            return Ok(());
        };
        if self.unmaps.due() {
            let start_ns = self.clock.now_ns();
            domain.unmap(self.mode, mapping, &mut self.counts)?;
            self.recorder.unmap_latency(self.clock.now_ns().saturating_sub(start_ns));
            return Ok(());
        }
        domain.unmap(self.mode, mapping, &mut self.counts)
    }

    /// The flush timer (lazy): to be called now and then with the time. An unmap counts as made at the last call.
    ///
    /// # Errors
    /// When the IOMMU refuses an unmap.
    #[inline]
    pub fn tick(&mut self, now_ns: u64) -> Result<(), DmaError> {
        let Some(domain) = &mut self.domain else { return Ok(()) };
        let Some(translated) = &mut domain.translated else { return Ok(()) };
        if translated.flush.expired(now_ns) {
            self.counts.flushes_timer += 1;
            return domain.flush(&mut self.counts);
        }
        Ok(())
    }

    /// What the DMA API itself counted, where several devices share the IOMMU's driver.
    pub fn own_counts(&self) -> Counts {
        self.counts
    }

    /// What was counted, by the DMA API and by the IOMMU's driver below it, which must serve this device only.
    pub fn counts(&self) -> Counts {
        let below = self.iommu().map(|iommu| iommu.counts()).unwrap_or_default();
        Counts {
            requests_map: below.requests_map,
            requests_unmap: below.requests_unmap,
            kicks_iommu: below.kicks,
            ring_full: below.ring_full,
            ..self.counts
        }
    }

    /// Takes fault records from the IOMMU, logs them, and returns how many there were.
    ///
    /// # Errors
    /// When the event queue is broken.
    pub fn take_faults(&mut self) -> Result<u64, DmaError> {
        let Some(domain) = &self.domain else { return Ok(0) };
        let taken = domain.iommu.take_faults(|fault| tracing::warn!(?fault, "IOMMU fault"))?;
        self.counts.faults_reported += taken;
        Ok(taken)
    }

    /// Flushes what is held back (lazy), whether or not it is time.
    ///
    /// # Errors
    /// When the IOMMU refuses an unmap.
    pub fn flush(&mut self) -> Result<(), DmaError> {
        self.domain.as_mut().map_or(Ok(()), |domain| domain.flush(&mut self.counts))
    }

    /// Flushes what is held back and detaches the device, unless it is a [sibling](Self::sibling); returns the final counts. Whoever has mappings unmaps them
    /// first.
    ///
    /// # Errors
    /// When the IOMMU refuses.
    pub fn shutdown(&mut self) -> Result<Counts, DmaError> {
        if let Some(domain) = &mut self.domain {
            domain.flush(&mut self.counts)?;
            if domain.attached {
                domain.iommu.detach(domain.endpoint, domain.id)?;
            }
        }
        let counts = self.counts();
        self.domain = None;
        Ok(counts)
    }
}

impl Domain {
    fn attach(
        settings: DmaSettings,
        iommu: Arc<IommuDriver>,
        endpoint: EndpointId,
    ) -> Result<Self, DmaError> {
        let id = DomainId(iommu.config().domain_start.saturating_add(settings.domain));
        let translated = settings.mode.translates();
        let reserved = iommu.reserved_regions(endpoint)?;
        iommu.attach(endpoint, id, !translated)?;
        let translated = if translated {
            let mut avoid: Vec<IovaRange> =
                reserved.iter().filter_map(|region| IovaRange::new(region.start, region.end)).collect();
            if !reserved.iter().any(|region| region.subtype == ResvKind::Msi) {
                avoid.extend(IovaRange::new(SOFTWARE_MSI.0, SOFTWARE_MSI.1));
            }
            let config = iommu.config();
            // `IommuDriver::probe` has refused an empty range.
            let range = IovaRange::new(config.input_start, config.input_end).unwrap_or(IovaRange::ALL);
            let iovas = IovaSpace::new(range, &avoid)?.cpu();
            Some(Translated { iovas, flush: FlushQueue::new(settings.flush_entries, settings.flush_ns) })
        } else {
            None
        };
        let page_sizes = iommu.config().page_size_mask;
        Ok(Self {
            iommu,
            cpu: settings.domain as usize,
            endpoint,
            id,
            attached: true,
            page_sizes,
            translated,
        })
    }

    #[inline]
    fn map(&mut self, gpa: Gpa, len: u32, direction: Direction) -> Result<Mapping, DmaError> {
        let refused = DmaError::Buffer { gpa, len };
        if len == 0 || gpa.0.checked_add(u64::from(len)).is_none() {
            return Err(refused);
        }
        let Some(translated) = &mut self.translated else { return Err(refused) };
        let (offset, size) = whole_pages(gpa.0, len);
        let iova = translated.iovas.alloc(size)?;
        let flags = match direction {
            Direction::ToDevice => MAP_F_READ,
            Direction::FromDevice => MAP_F_WRITE,
            Direction::Both => MAP_F_READ | MAP_F_WRITE,
        };
        let mut requests = self.iommu.requests(self.cpu);
        let mut done = 0;
        while done < size {
            let (virt_start, phys_start) = (iova + done, gpa.0 - offset + done);
            let piece = piece(self.page_sizes, virt_start, phys_start, size - done)?;
            let virt_end = virt_start + (piece - 1);
            requests.map(&Map { domain: self.id.0, virt_start, virt_end, phys_start, flags })?;
            done += piece;
        }
        requests.sync()?;
        Ok(Mapping { device: iova + offset, phys: gpa.0 - offset, len })
    }

    #[inline]
    fn unmap(&mut self, mode: Mode, mapping: Mapping, counts: &mut Counts) -> Result<(), DmaError> {
        let (offset, size) = whole_pages(mapping.device, mapping.len);
        let iova = mapping.device - offset;
        let mut requests = self.iommu.requests(self.cpu);
        // Linux cuts by what the I/O virtual address alone allows, and each request takes the whole of every mapping
        // that begins in its piece: no UNMAP ever splits a mapping.
        let (mut done, mut mapped) = (0, 0);
        while done < size {
            let end = done + piece(self.page_sizes, iova + done, iova + done, size - done)?;
            while mapped < end {
                mapped += piece(self.page_sizes, iova + mapped, mapping.phys + mapped, size - mapped)?;
            }
            let (virt_start, virt_end) = (iova + done, iova + (mapped - 1));
            requests.unmap(&Unmap { domain: self.id.0, virt_start, virt_end, reserved: [0; 4] })?;
            done = mapped;
        }
        let Some(translated) = &mut self.translated else { return Ok(()) };
        if mode == Mode::Strict {
            requests.sync()?;
            counts.invalidations += 1;
            return Ok(translated.iovas.free(iova, size)?);
        }
        drop(requests);
        if translated.flush.is_full() {
            counts.flushes_full += 1;
            self.flush(counts)?;
        }
        if let Some(translated) = &mut self.translated {
            translated.flush.push(iova, size);
        }
        Ok(())
    }

    /// Waits for every UNMAP queued, and makes the addresses held back allocatable.
    fn flush(&mut self, counts: &mut Counts) -> Result<(), DmaError> {
        let Some(translated) = &mut self.translated else { return Ok(()) };
        if translated.flush.is_empty() {
            return Ok(());
        }
        self.iommu.requests(self.cpu).sync()?;
        counts.invalidations += 1;
        for (iova, size) in translated.flush.drain() {
            translated.iovas.free(iova, size)?;
        }
        Ok(())
    }
}

/// Offset of `addr` in its page, and the bytes of the whole pages that hold `len` bytes there.
#[inline]
fn whole_pages(addr: u64, len: u32) -> (u64, u64) {
    let offset = addr % PAGE_BYTES;
    (offset, (offset + u64::from(len)).next_multiple_of(PAGE_BYTES))
}

#[inline]
fn piece(mask: u64, iova: u64, phys: u64, size: u64) -> Result<u64, DmaError> {
    let (page, count) =
        pgsize::next(mask, iova, phys, size).ok_or(DmaError::PageSize { mask, iova, size })?;
    Ok(page * count)
}
