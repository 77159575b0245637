//! A device that does nothing, built on rust-vmm's queue iterator and memory accessors: it copies each request out of
//! guest memory, writes OK into its tail and returns it. Whatever a device does with requests comes on top of this.

use std::hint::black_box;

use arrayvec::ArrayVec;
use virtio_iommu::spec::{Status, request::TAIL_BYTES};
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestMemoryMmap};

use super::{Driver, RigError, Served};

/// The null device.
pub struct Null {
    queue: Queue,
    driver: Driver,
}

impl Null {
    /// With a ring of its own, laid out as [`Ours`](super::Ours)'s.
    ///
    /// # Errors
    /// When there is not enough memory.
    pub fn new() -> Result<Self, RigError> {
        let driver = Driver::new()?;
        let layout = driver.layout();
        let mut queue = Queue::new(layout.size)?;
        let halves = |addr: u64| (Some(addr as u32), Some((addr >> 32) as u32));
        queue.set_size(layout.size);
        let (low, high) = halves(layout.desc);
        queue.set_desc_table_address(low, high);
        let (low, high) = halves(layout.avail);
        queue.set_avail_ring_address(low, high);
        let (low, high) = halves(layout.used);
        queue.set_used_ring_address(low, high);
        queue.set_ready(true);
        Ok(Self { queue, driver })
    }
}

fn drain(queue: &mut Queue, ram: &GuestMemoryMmap) -> Result<(), RigError> {
    let mut request = [0u8; 128];
    // The iterator borrows the queue, so the used elements wait for it to end, as they do in devices that use it.
    let mut returned = ArrayVec::<(u16, u32), 256>::new();
    for chain in queue.iter(ram)? {
        let (head, mut written) = (chain.head_index(), 0);
        for buffer in chain {
            if buffer.is_write_only() {
                let tail = [Status::Ok as u8, 0, 0, 0];
                let len = TAIL_BYTES.min(buffer.len() as usize);
                ram.write_slice(&tail[..len], buffer.addr())?;
                written += len as u32;
            } else {
                let len = request.len().min(buffer.len() as usize);
                ram.read_slice(&mut request[..len], buffer.addr())?;
            }
        }
        black_box(&mut request);
        returned.push((head, written));
    }
    for (head, written) in returned {
        queue.add_used(ram, head, written)?;
    }
    Ok(())
}

impl Served for Null {
    fn driver(&mut self) -> &mut Driver {
        &mut self.driver
    }

    #[inline]
    fn serve(&mut self) -> Result<(), RigError> {
        let ram = self.driver.ram();
        drain(&mut self.queue, ram)?;
        black_box(self.queue.needs_notification(&**ram)?);
        Ok(())
    }
}
