//! The driver's side: two buffers a request, at fixed places, in ring order.

use std::sync::{Arc, atomic::Ordering};

use virtio_bindings::virtio_ring::{VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use virtio_iommu::spec::{Status, request};
use virtio_transport::QueueLayout;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::RigError;

/// Requests of a batch.
pub const BATCH: usize = 64;
/// Guest memory: rings first, endpoints' buffers from [`BUFFERS`](super::device::BUFFERS) on.
pub const RAM_BYTES: usize = 64 << 20;

const QUEUE_SIZE: u16 = 256;
const DESC: u64 = 0x1_0000;
const AVAIL: u64 = 0x1_4000;
const USED: u64 = 0x1_8000;
const REQUESTS: u64 = 0x2_0000;
/// Bytes of guest memory for one request's two buffers.
const STRIDE: u64 = 128;
/// Where the writable buffer lies.
const TAIL_AT: u64 = 64;
/// What the status byte holds before the device answers.
const UNANSWERED: u8 = 0xff;

/// The wire form of an ATTACH.
pub fn attach_request(domain: u32, endpoint: u32) -> Vec<u8> {
    request::Attach { domain, endpoint, flags: 0, reserved: [0; 4] }.encode().to_vec()
}

/// The wire form of a MAP for reading and writing.
pub fn map_request(domain: u32, start: u64, len: u64, gpa: u64) -> Vec<u8> {
    let flags = request::MAP_F_READ | request::MAP_F_WRITE;
    request::Map { domain, virt_start: start, virt_end: start + (len - 1), phys_start: gpa, flags }
        .encode()
        .to_vec()
}

/// The wire form of an UNMAP.
pub fn unmap_request(domain: u32, start: u64, len: u64) -> Vec<u8> {
    request::Unmap { domain, virt_start: start, virt_end: start + (len - 1), reserved: [0; 4] }
        .encode()
        .to_vec()
}

/// The driver.
pub struct Driver {
    ram: Arc<GuestMemoryMmap>,
    avail: u16,
    used: u16,
}

impl Driver {
    /// Fresh guest memory with an empty ring.
    ///
    /// # Errors
    /// When there is not enough memory.
    pub fn new() -> Result<Self, RigError> {
        let ram = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), RAM_BYTES)])
            .map_err(|error| RigError::Memory(error.to_string()))?;
        // Every page is there before anything is measured.
        for page in (0..RAM_BYTES as u64).step_by(4096) {
            ram.write_obj(1u8, GuestAddress(page))?;
        }
        ram.write_slice(&[0; 0x1_0000], GuestAddress(DESC))?;
        Ok(Self { ram: Arc::new(ram), avail: 0, used: 0 })
    }

    /// Guest memory.
    pub fn ram(&self) -> &Arc<GuestMemoryMmap> {
        &self.ram
    }

    /// Where the ring lies.
    pub fn layout(&self) -> QueueLayout {
        QueueLayout { index: 0, size: QUEUE_SIZE, desc: DESC, avail: AVAIL, used: USED }
    }

    /// Makes requests available, without a kick, and returns how many there were.
    pub(super) fn fill<'r>(&mut self, requests: impl Iterator<Item = &'r [u8]>) -> Result<usize, RigError> {
        let mut sent = 0;
        for request in requests.take(BATCH) {
            let at = REQUESTS + STRIDE * sent as u64;
            self.ram.write_slice(request, GuestAddress(at))?;
            self.ram.write_slice(&[UNANSWERED, 0, 0, 0], GuestAddress(at + TAIL_AT))?;
            let head = 2 * sent as u16;
            self.descriptor(head, at, request.len() as u32, VRING_DESC_F_NEXT as u16)?;
            self.descriptor(head + 1, at + TAIL_AT, request::TAIL_BYTES as u32, VRING_DESC_F_WRITE as u16)?;
            let entry = u64::from(self.avail % QUEUE_SIZE);
            self.ram.write_obj(head, GuestAddress(AVAIL + 4 + 2 * entry))?;
            self.avail = self.avail.wrapping_add(1);
            sent += 1;
        }
        // Release pairs with the device's Acquire load of the index.
        self.ram.store(self.avail, GuestAddress(AVAIL + 2), Ordering::Release)?;
        Ok(sent)
    }

    fn descriptor(&self, index: u16, addr: u64, len: u32, flags: u16) -> Result<(), RigError> {
        let word = u64::from(len) | u64::from(flags) << 32 | u64::from(index + 1) << 48;
        let at = DESC + 16 * u64::from(index);
        self.ram.write_obj(addr, GuestAddress(at))?;
        self.ram.write_obj(word, GuestAddress(at + 8))?;
        Ok(())
    }

    /// Checks that `sent` requests came back in order, each answered OK and in full.
    pub(super) fn check(&mut self, sent: usize) -> Result<(), RigError> {
        let index: u16 = self.ram.load(GuestAddress(USED + 2), Ordering::Acquire)?;
        let returned = usize::from(index.wrapping_sub(self.used));
        if returned != sent {
            return Err(RigError::Lost { sent, returned });
        }
        for index in 0..sent {
            let entry = u64::from(self.used % QUEUE_SIZE);
            let element: u64 = self.ram.read_obj(GuestAddress(USED + 4 + 8 * entry))?;
            let status: u8 = self.ram.read_obj(GuestAddress(REQUESTS + STRIDE * index as u64 + TAIL_AT))?;
            let (head, len) = (element as u32, (element >> 32) as u32);
            let status = Status::from_wire(status);
            if head as usize != 2 * index || len as usize != request::TAIL_BYTES || status != Some(Status::Ok)
            {
                return Err(RigError::Refused { index, status, len });
            }
            self.used = self.used.wrapping_add(1);
        }
        Ok(())
    }
}
