//! A submission queue and its completion queue ("Submission Queue & Completion Queue").

use std::sync::atomic::{Ordering, fence};

use super::{
    NvmeError,
    controller::Controller,
    wire::{CQE_BYTES, Command, Completion, SQE_BYTES},
};
use crate::{
    dma::{Direction, Dma, Mapping},
    memory::Span,
    pages::PageAllocator,
};

/// Where the status, which has the phase tag, lies in a completion.
const STATUS: usize = 14;

/// One pair, in memory that the disk reaches.
pub struct Pair {
    id: u16,
    entries: u16,
    sq: Span,
    cq: Span,
    mappings: [Mapping; 2],
    tail: u16,
    head: u16,
    /// Phase tag of completions that are new.
    phase: bool,
    /// Which numbers are in use.
    in_use: Vec<bool>,
    outstanding: u16,
    /// Completions taken whose doorbell is not rung yet.
    unsaid: bool,
}

impl Pair {
    /// Takes and maps memory for a pair of so many entries (at least two).
    ///
    /// # Errors
    /// When memory or addresses are used up.
    pub fn new(id: u16, entries: u16, pages: &PageAllocator, dma: &mut Dma) -> Result<Self, NvmeError> {
        let bytes = |each: usize| u64::from(entries) * each as u64;
        let (sq, cq) = (pages.alloc(bytes(SQE_BYTES))?, pages.alloc(bytes(CQE_BYTES))?);
        // 65536 entries of 64 bytes are 4 MiB.
        let mappings = [
            dma.map(sq.gpa(), sq.len() as u32, Direction::ToDevice)?,
            dma.map(cq.gpa(), cq.len() as u32, Direction::FromDevice)?,
        ];
        let in_use = vec![false; usize::from(entries)];
        Ok(Self {
            id,
            entries,
            sq,
            cq,
            mappings,
            tail: 0,
            head: 0,
            phase: true,
            in_use,
            outstanding: 0,
            unsaid: false,
        })
    }

    /// Device addresses of both rings.
    pub fn addresses(&self) -> [u64; 2] {
        self.mappings.map(|mapping| mapping.device_address())
    }

    /// Entries of each ring; one less can be in flight.
    pub fn entries(&self) -> u16 {
        self.entries
    }

    /// Commands in flight.
    pub fn outstanding(&self) -> u16 {
        self.outstanding
    }

    /// Queues a command; its number says which it is when it completes.
    ///
    /// # Errors
    /// When the ring is full or the number is in use.
    #[inline]
    pub fn push(&mut self, command: Command) -> Result<(), NvmeError> {
        let slot = self.in_use.get_mut(usize::from(command.id)).filter(|in_use| !**in_use);
        let Some(slot) = slot.filter(|_| self.outstanding + 1 < self.entries) else {
            return Err(NvmeError::Full(self.entries - 1));
        };
        *slot = true;
        self.outstanding += 1;
        self.sq.write_array(usize::from(self.tail) * SQE_BYTES, command.to_bytes());
        self.tail = if self.tail + 1 == self.entries { 0 } else { self.tail + 1 };
        Ok(())
    }

    /// Tells the disk of what was queued.
    #[inline]
    pub fn ring(&self, controller: &Controller) {
        // The disk reads the commands once it sees the doorbell; its partner is the disk's read of the ring.
        fence(Ordering::Release);
        controller.submitted(self.id, self.tail);
    }

    /// The next completion, if there is one.
    ///
    /// # Errors
    /// When it is of no command in flight.
    #[inline]
    pub fn pop(&mut self) -> Result<Option<Completion>, NvmeError> {
        let at = usize::from(self.head) * CQE_BYTES;
        // Acquire: what was transferred, and the rest of the completion, was written before the phase tag.
        if (self.cq.load_u16(at + STATUS, Ordering::Acquire) & 1 != 0) != self.phase {
            return Ok(None);
        }
        let completion = Completion::from_bytes(self.cq.read_array(at));
        self.head += 1;
        if self.head == self.entries {
            (self.head, self.phase) = (0, !self.phase);
        }
        self.unsaid = true;
        match self.in_use.get_mut(usize::from(completion.id)) {
            Some(in_use) if *in_use => *in_use = false,
            _ => return Err(NvmeError::Stray { id: completion.id }),
        }
        self.outstanding -= 1;
        Ok(Some(completion))
    }

    /// Tells the disk which completions were taken, if any since the last time.
    #[inline]
    pub fn say(&mut self, controller: &Controller) {
        if std::mem::take(&mut self.unsaid) {
            controller.completed(self.id, self.head);
        }
    }

    /// Unmaps the rings; the controller must be disabled.
    ///
    /// # Errors
    /// When the IOMMU refuses.
    pub fn close(&mut self, dma: &mut Dma) -> Result<(), NvmeError> {
        for mapping in self.mappings {
            dma.unmap(mapping)?;
        }
        Ok(())
    }
}
