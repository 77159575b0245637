//! How much of plain memcpy's rate is left behind translation and guard? Each buffer is read through the endpoint's port:
//! pin, translate, copy, unpin; against a copy of the same buffers by their host addresses. [`BUFFER_COUNT`] buffers take
//! turns in the order of their addresses, as those of a ring of that size do; each starts a page and is mapped by a MAP of
//! its own. All are copied to one buffer that starts [`TO_OFFSET`] past a page boundary. The working set is 16 MiB of 64 KiB buffers, or 1 MiB of smaller ones, and the buffer copied to.

#![allow(unsafe_code, reason = "the other side of the comparison is a plain memcpy of guest memory")]

use std::hint::black_box;

use virtio_iommu::{
    EndpointPort,
    dma::{Access, DmaMemory},
};

use super::MeasureError;
use crate::{
    clock::{cpu_time_ns, pin_to_cpu, undisturbed},
    report::{Bound, Figure},
    ring::{BATCH, BUFFERS, Ours, RigError, Served, map_request},
    rounds::{Effort, Pairs},
    workload::{PAGE, sequential_pages},
};

/// Where in its page the buffer copied to starts. A load waits for an earlier store that is still pending if the lowest
/// twelve bits of their addresses agree, so a destination with the offsets of the sources, or of the mapping table's
/// entries, slows both sides down, and ours more: it loads entries between the copies.
pub(super) const TO_OFFSET: usize = 0x400;

/// Buffers that take turns.
pub const BUFFER_COUNT: u64 = 256;

pub(super) fn measure(effort: &Effort) -> Result<Vec<Figure>, MeasureError> {
    pin_to_cpu(0);
    let figure = |name, bytes, bound| -> Result<Figure, MeasureError> {
        let ratio = copies(effort, bytes)?.inverse_ratio()?;
        Ok(Figure::new(name, "ratio", ratio, Bound::AtLeast(bound)))
    };
    Ok(vec![
        figure("dma_64k_vs_memcpy", 64 << 10, 0.95)?,
        figure("dma_4k_vs_memcpy", 4 << 10, 0.90)?,
        figure("dma_1448_vs_memcpy", 1448, 0.80)?,
    ])
}

/// Buffers of one size, mapped for an endpoint.
pub struct Buffers {
    // Keeps guest memory and the device.
    _device: Ours,
    port: EndpointPort,
    bytes: usize,
    /// I/O virtual and host address of each buffer, in the order of their turns.
    order: Vec<(u64, *const u8)>,
    /// The buffer copied to, with room to place it.
    to: Vec<u8>,
    /// Where in `to` it begins.
    start: usize,
}

impl Buffers {
    /// Buffers of `bytes` bytes, page by page or as many pages as one takes.
    ///
    /// # Errors
    /// When the device refuses a mapping.
    pub fn new(bytes: usize) -> Result<Self, RigError> {
        let mut device = Ours::new()?;
        let stride = (bytes as u64).next_multiple_of(PAGE);
        let iova = |number: u64| sequential_pages(1).start * PAGE + number * stride;
        let maps: Vec<Vec<u8>> = (0..BUFFER_COUNT)
            .map(|number| map_request(Ours::DOMAIN, iova(number), stride, BUFFERS + number * stride))
            .collect();
        for batch in maps.chunks(BATCH) {
            device.batch(batch.iter().map(Vec::as_slice))?;
        }
        let port = device.port()?;
        let mut order = Vec::new();
        for number in 0..BUFFER_COUNT {
            let slice =
                port.pin().slice(iova(number), bytes as u64, Access::Read).map(|s| s.ptr_guard().as_ptr());
            order.push((iova(number), slice?));
        }
        let page = PAGE as usize;
        let to = vec![0; bytes + 2 * page];
        let start = to.as_ptr().align_offset(page) + TO_OFFSET;
        Ok(Self { _device: device, port, bytes, order, to, start })
    }

    /// Reads each buffer once through the port.
    ///
    /// # Errors
    /// When an access is refused.
    pub fn translated(&mut self) -> Result<(), RigError> {
        let to = &mut self.to[self.start..][..self.bytes];
        for &(iova, _) in &self.order {
            self.port.pin().read(iova, to)?;
            black_box(to.as_mut_ptr());
        }
        Ok(())
    }

    /// Bytes of all buffers together.
    pub fn total_bytes(&self) -> u64 {
        (self.order.len() * self.bytes) as u64
    }

    /// Finds each buffer through the port, without touching it.
    ///
    /// # Errors
    /// When an access is refused.
    pub fn found(&mut self) -> Result<(), RigError> {
        for &(iova, _) in &self.order {
            let view = self.port.pin();
            black_box(view.slice(iova, self.bytes as u64, Access::Read)?.len());
        }
        Ok(())
    }

    /// Copies each buffer once.
    pub fn plain(&mut self) {
        let to = &mut self.to[self.start..][..self.bytes];
        for &(_, host) in &self.order {
            // SAFETY: `host` is the start of `bytes` bytes of guest memory, which the device keeps mapped; `to` is as
            // long and elsewhere; nobody writes either meanwhile.
            unsafe { std::ptr::copy_nonoverlapping(host, to.as_mut_ptr(), to.len()) };
            black_box(to.as_mut_ptr());
        }
    }
}

fn copies(effort: &Effort, bytes: usize) -> Result<Pairs, MeasureError> {
    let mut buffers = Buffers::new(bytes)?;
    let mut failed = None;
    let turns = (effort.batch * 1448 / buffers.total_bytes()).max(1);
    let pairs = effort.abba(|is_ours| {
        undisturbed(|| {
            cpu_time_ns(|| {
                for _ in 0..turns {
                    if !is_ours {
                        buffers.plain();
                    } else if let Err(error) = buffers.translated() {
                        failed = Some(error);
                    }
                }
            })
        })
    });
    match failed {
        Some(error) => Err(error.into()),
        None => Ok(pairs),
    }
}
