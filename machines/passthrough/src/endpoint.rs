//! The backend of one passthrough endpoint: what its domain maps goes into its container.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use virtio_iommu::{
    passthrough::{Backend, BackendError},
    properties::{EndpointProperties, Platform, RegionsError},
    spec::IovaRange,
    table::Mapping,
};
use virtio_transport::complain;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use crate::{
    container::{Container, ContainerError, Limits},
    shadow::{Kernel, Merge, Piece, Rights, Shadow, ShadowError},
    sysfs::PciDevice,
};

const RW: Rights = Rights { read: true, write: true };

/// How what the guest unmaps reaches the kernel. A MAP is always one call: the kernel cannot take away part of a mapping, so
/// two that were made by one call could not be unmapped one by one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Forward {
    /// Each UNMAP at once, with a call of its own.
    #[default]
    Request,
    /// The UNMAPs of a batch together before it is answered: mappings that touch with one call.
    Coalesced,
    /// As [`Coalesced`](Self::Coalesced), everything between two mappings that stay with one call.
    Batched,
}

/// Hears of every call into the kernel, with a clock of its own.
pub trait Observer: Send + Sync {
    /// Now, in nanoseconds since some origin.
    fn now_ns(&self) -> u64;
    /// A call made a mapping.
    fn mapped(&self, took_ns: u64);
    /// A call took mappings away.
    fn unmapped(&self, took_ns: u64);
}

/// What the kernel did, in all. Replays at ATTACH included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Calls that made a mapping.
    pub maps: u64,
    /// Calls that took mappings away.
    pub unmaps: u64,
    /// Bytes mapped.
    pub bytes_mapped: u64,
    /// Bytes unmapped.
    pub bytes_unmapped: u64,
}

#[derive(Default)]
struct LiveCounts {
    maps: AtomicU64,
    unmaps: AtomicU64,
    bytes_mapped: AtomicU64,
    bytes_unmapped: AtomicU64,
}

/// One passthrough endpoint.
pub struct Endpoint {
    shadow: Mutex<Shadow>,
    container: Arc<Container>,
    memory: Arc<GuestMemoryMmap>,
    observer: Option<Arc<dyn Observer>>,
    forward: Forward,
    counts: LiveCounts,
}

/// The kernel, its calls counted and timed.
struct Counted<'a>(&'a Endpoint);

impl Counted<'_> {
    /// Makes a call; when it succeeds, tells how long it took.
    fn call<T>(
        &self,
        call: impl FnOnce(&Container) -> Result<T, i32>,
        tell: impl FnOnce(&dyn Observer, u64),
    ) -> Result<T, i32> {
        let observer = self.0.observer.as_deref();
        let start_ns = observer.map_or(0, |observer| observer.now_ns());
        let done = call(&self.0.container)?;
        if let Some(observer) = observer {
            tell(observer, observer.now_ns().saturating_sub(start_ns));
        }
        Ok(done)
    }
}

impl Kernel for Counted<'_> {
    fn map(&self, iova: u64, len: u64, host: u64, rights: Rights) -> Result<(), i32> {
        self.call(
            |container| container.map(iova, len, host, rights),
            |observer, took_ns| observer.mapped(took_ns),
        )?;
        self.0.counts.maps.fetch_add(1, Ordering::Relaxed);
        self.0.counts.bytes_mapped.fetch_add(len, Ordering::Relaxed);
        Ok(())
    }

    fn unmap(&self, iova: u64, len: u64) -> Result<u64, i32> {
        let bytes = self
            .call(|container| container.unmap(iova, len), |observer, took_ns| observer.unmapped(took_ns))?;
        self.0.counts.unmaps.fetch_add(1, Ordering::Relaxed);
        self.0.counts.bytes_unmapped.fetch_add(bytes, Ordering::Relaxed);
        Ok(bytes)
    }
}

impl Endpoint {
    /// The device in `container`, which is to see parts of `memory`.
    pub fn new(
        container: Arc<Container>,
        memory: Arc<GuestMemoryMmap>,
        observer: Option<Arc<dyn Observer>>,
    ) -> Self {
        Self {
            shadow: Mutex::default(),
            container,
            memory,
            observer,
            forward: Forward::default(),
            counts: LiveCounts::default(),
        }
    }

    /// Forwards UNMAPs otherwise than one by one.
    #[must_use]
    pub fn forwarding(mut self, forward: Forward) -> Self {
        self.forward = forward;
        self
    }

    /// What was done so far.
    pub fn counts(&self) -> Counts {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Counts {
            maps: read(&self.counts.maps),
            unmaps: read(&self.counts.unmaps),
            bytes_mapped: read(&self.counts.bytes_mapped),
            bytes_unmapped: read(&self.counts.bytes_unmapped),
        }
    }

    /// Bytes mapped now.
    pub fn live_bytes(&self) -> u64 {
        self.shadow().live_bytes()
    }

    fn shadow(&self) -> MutexGuard<'_, Shadow> {
        // The shadow is consistent after every call, whatever happened to its caller.
        self.shadow.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Maps what `mapping` covers, in as many pieces as its memory has in the host.
    fn add(&self, shadow: &mut Shadow, mapping: &Mapping) -> Result<(), BackendError> {
        if mapping.perms.mmio {
            return Err(BackendError::NotRam);
        }
        let rights = Rights { read: mapping.perms.read, write: mapping.perms.write };
        let done = shadow.map_pieces(&Counted(self), rights, self.pieces(mapping));
        done.map_err(|error| match error {
            AddError::NotRam => BackendError::NotRam,
            AddError::Shadow(error) => self.refused(&error),
        })
    }

    /// Where a mapping's memory is in the host; ends with an error where there is none.
    fn pieces(&self, mapping: &Mapping) -> impl Iterator<Item = Result<Piece, AddError>> + '_ {
        let end = mapping.range.end();
        let mut next = Some((mapping.range.start(), mapping.gpa.0));
        std::iter::from_fn(move || {
            let (iova, gpa) = next.take()?;
            let Some((host, room)) = self.host(gpa) else { return Some(Err(AddError::NotRam)) };
            // Inclusive on both sides, so that the last address of the space is one.
            let rest = (end - iova).min(room - 1);
            if rest < end - iova {
                next = Some((iova + rest + 1, gpa + rest + 1));
            }
            Some(Ok(Piece { iova, len: rest + 1, host }))
        })
    }

    fn map_piece(
        &self,
        shadow: &mut Shadow,
        iova: u64,
        len: u64,
        host: u64,
        rights: Rights,
    ) -> Result<(), BackendError> {
        shadow.map(&Counted(self), iova, len, host, rights).map_err(|error| self.refused(&error))
    }

    fn remove(&self, shadow: &mut Shadow, range: IovaRange) -> Result<(), BackendError> {
        // The shadow's lengths are 64 bits: the whole address space has one byte more, which nothing is mapped at.
        let len = (range.end() - range.start()).saturating_add(1);
        shadow.unmap(&Counted(self), range.start(), len).map(|_| ()).map_err(|error| self.refused(&error))
    }

    fn clear(&self, shadow: &mut Shadow) -> Result<(), BackendError> {
        shadow.clear(&Counted(self)).map_err(|error| self.refused(&error))
    }

    /// Where guest-physical address `gpa` is in this process, and how many bytes follow it there.
    fn host(&self, gpa: u64) -> Option<(u64, u64)> {
        let region = self.memory.find_region(GuestAddress(gpa))?;
        let offset = gpa - region.start_addr().0;
        Some((region.as_ptr() as u64 + offset, region.len() - offset))
    }

    fn refused(&self, error: &ShadowError) -> BackendError {
        refused(self.container.address(), error)
    }
}

/// Tells the user what the guest cannot be told; ever more rarely, for the guest decides how often.
fn refused(address: &str, error: &ShadowError) -> BackendError {
    match error {
        ShadowError::Map { errno, .. } if let Some(remedy) = no_room(*errno) => {
            complain!(warn, address, %error, "{remedy}");
            BackendError::NoMemory
        }
        ShadowError::Map { errno, .. } | ShadowError::Unmap { errno, .. } => {
            complain!(warn, address, %error, "VFIO refused");
            BackendError::Refused { errno: *errno }
        }
        ShadowError::Overlap { .. } | ShadowError::Range { .. } | ShadowError::Split { .. } => {
            complain!(warn, address, %error, "a request that the IOMMU should have refused");
            BackendError::Refused { errno: libc::EINVAL }
        }
    }
}

/// What to do about a limit of the host's; `None` when the error is none.
const fn no_room(errno: i32) -> Option<&'static str> {
    match errno {
        libc::ENOSPC => Some(
            "the container has as many mappings as VFIO allows: raise vfio_iommu_type1.dma_entry_limit, or let the guest \
             map larger pieces",
        ),
        libc::ENOMEM => Some(
            "memory that may be locked is used up: raise RLIMIT_MEMLOCK (`ulimit -l`), or let the guest map less",
        ),
        _ => None,
    }
}

impl Backend for Endpoint {
    fn show_all(&self) -> Result<(), BackendError> {
        let mut shadow = self.shadow();
        self.clear(&mut shadow)?;
        for region in self.memory.iter() {
            let (start, len, host) = (region.start_addr().0, region.len(), region.as_ptr() as u64);
            if let Err(error) = self.map_piece(&mut shadow, start, len, host, RW) {
                self.clear(&mut shadow)?;
                return Err(error);
            }
        }
        Ok(())
    }

    fn show(&self, mappings: &[Mapping]) -> Result<(), BackendError> {
        let mut shadow = self.shadow();
        self.clear(&mut shadow)?;
        for mapping in mappings {
            if let Err(error) = self.add(&mut shadow, mapping) {
                self.clear(&mut shadow)?;
                return Err(error);
            }
        }
        Ok(())
    }

    fn show_nothing(&self) -> Result<(), BackendError> {
        self.clear(&mut self.shadow())
    }

    fn map(&self, mapping: &Mapping) -> Result<(), BackendError> {
        self.add(&mut self.shadow(), mapping)
    }

    fn unmap(&self, range: IovaRange) -> Result<(), BackendError> {
        let mut shadow = self.shadow();
        if self.forward == Forward::Request {
            return self.remove(&mut shadow, range);
        }
        let len = (range.end() - range.start()).saturating_add(1);
        shadow.put_off(range.start(), len).map(|_| ()).map_err(|error| self.refused(&error))
    }

    fn flush(&self) -> Result<(), BackendError> {
        let merge = match self.forward {
            // What an earlier call failed to take away; there is nothing else.
            Forward::Request | Forward::Coalesced => Merge::Touching,
            Forward::Batched => Merge::Runs,
        };
        self.shadow().flush(&Counted(self), merge).map_err(|error| self.refused(&error))
    }

    fn shown(&self) -> Option<Vec<IovaRange>> {
        let shadow = self.shadow();
        shadow.live().map(|(start, len)| IovaRange::new(start, start + (len - 1))).collect()
    }
}

/// A mapping that cannot be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum AddError {
    /// Its memory, or a part of it, is not guest RAM.
    #[error("the mapping's memory is not guest RAM")]
    NotRam,
    /// The kernel or the shadow refused.
    #[error(transparent)]
    Shadow(#[from] ShadowError),
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        // The kernel takes away what is left when the container is closed.
        let _ = self.show_nothing();
    }
}

/// What the host's IOMMU and firmware allow the device, for PROBE and ATTACH.
///
/// # Errors
/// When sysfs or VFIO do not say, or the host's regions make no sense.
pub fn properties(pci: &PciDevice, container: &Container) -> Result<EndpointProperties, PropertiesError> {
    let limits = container.limits()?;
    let host = pci.reserved_regions().map_err(ContainerError::from)?;
    let reserved = host.iter().map(|region| (region.start, region.end));
    let properties = Platform::X86.passthrough(reserved)?;
    Ok(EndpointProperties {
        page_size_mask: Some(limits.page_sizes),
        input_range: input_range(&limits),
        ..properties
    })
}

/// The host does not say what the device can do.
#[derive(Debug, thiserror::Error)]
pub enum PropertiesError {
    /// VFIO or sysfs.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// The host's reserved regions.
    #[error("the host's reserved regions: {0}")]
    Regions(#[from] RegionsError),
}

/// From the first address to the last; the holes between are the reserved regions.
fn input_range(limits: &Limits) -> Option<(u64, u64)> {
    let start = limits.ranges.iter().map(|(start, _)| *start).min()?;
    let end = limits.ranges.iter().map(|(_, end)| *end).max()?;
    Some((start, end))
}

#[cfg(test)]
mod tests {
    use tracing::{
        Event, Metadata, Subscriber,
        span::{Attributes, Id, Record},
    };

    use super::*;

    #[test]
    fn limits_of_the_host_are_explained() {
        assert!(no_room(libc::ENOSPC).unwrap().contains("dma_entry_limit"));
        assert!(no_room(libc::ENOMEM).unwrap().contains("RLIMIT_MEMLOCK"));
        assert_eq!(no_room(libc::EEXIST), None);
    }

    /// Counts what is logged on this thread.
    struct Lines(Arc<AtomicU64>);

    impl Subscriber for Lines {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }

        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(1)
        }

        fn record(&self, _: &Id, _: &Record<'_>) {}

        fn record_follows_from(&self, _: &Id, _: &Id) {}

        fn event(&self, _: &Event<'_>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }

        fn enter(&self, _: &Id) {}

        fn exit(&self, _: &Id) {}
    }

    #[test]
    fn requests_that_the_kernel_refuses_give_few_lines() {
        let lines = Arc::new(AtomicU64::new(0));
        tracing::subscriber::with_default(Lines(lines.clone()), || {
            for _ in 0..10_000 {
                for errno in [libc::ENOSPC, libc::EINVAL] {
                    refused("0000:01:00.0", &ShadowError::Map { iova: 0, len: 4096, errno });
                }
                refused("0000:01:00.0", &ShadowError::Split { iova: 0, len: 4096, mapping: 0 });
            }
        });
        let lines = lines.load(Ordering::Relaxed);
        assert!((3..=3 * 14).contains(&lines), "{lines}");
    }

    #[test]
    fn the_input_range_spans_the_holes() {
        let limits =
            |ranges: &[(u64, u64)]| Limits { page_sizes: 4096, ranges: ranges.to_vec(), mappings_left: None };
        assert_eq!(
            input_range(&limits(&[(0x1000, 0xfedf_ffff), (0xfef0_0000, 0x7f_ffff_ffff)])),
            Some((0x1000, 0x7f_ffff_ffff))
        );
        assert_eq!(input_range(&limits(&[])), None);
    }
}
