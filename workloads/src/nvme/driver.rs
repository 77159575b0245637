//! A disk that is ready for commands.

use std::{sync::Arc, time::Duration};

use super::{
    NvmeError,
    controller::Controller,
    prp,
    queue::Pair,
    wire::{self, Command, Completion, IDENTIFY_BYTES, Namespace, admin, cns, io},
};
use crate::{
    dma::{Direction, Dma},
    pages::PageAllocator,
    pci::PciFunction,
    wait::{Pause, Wait},
};

/// Entries of the admin queues.
const ADMIN_ENTRIES: u16 = 16;
/// The I/O queues' number, and the only namespace that is used.
const IO_QUEUE: u16 = 1;
const NAMESPACE: u32 = 1;
/// A queue lies in one piece of memory.
const CONTIGUOUS: u32 = 1;

/// One disk, its queues, and the DMA API of its endpoint.
pub struct Nvme {
    /// Maps what the disk transfers.
    pub dma: Dma,
    controller: Controller,
    admin: Pair,
    io: Pair,
    namespace: Namespace,
    identity: wire::Controller,
    watchdog: Duration,
    /// Doorbells of the I/O submission queue that were rung.
    kicks: u64,
    is_open: bool,
}

impl Nvme {
    /// Resets the disk and makes it ready for `depth` commands at once. Nothing takes longer than `watchdog`.
    ///
    /// # Errors
    /// When it is no NVMe disk, fails, or lacks what the driver needs.
    pub fn open(
        function: Arc<dyn PciFunction>,
        depth: u16,
        pages: &PageAllocator,
        mut dma: Dma,
        watchdog: Duration,
    ) -> Result<Self, NvmeError> {
        let controller = Controller::new(function)?;
        // A ring that is full has one entry free.
        let entries = depth.saturating_add(1).max(2);
        if u32::from(entries) > controller.most_entries() {
            return Err(NvmeError::Full((controller.most_entries() - 1) as u16));
        }
        let admin = Pair::new(0, ADMIN_ENTRIES, pages, &mut dma)?;
        let io = Pair::new(IO_QUEUE, entries, pages, &mut dma)?;
        let [sq, cq] = admin.addresses();
        let namespace = Namespace { blocks: 0, block_bytes: 512, metadata_bytes: 0 };
        let identity = wire::Controller::from_bytes(&[0; IDENTIFY_BYTES]);
        let mut nvme =
            Self { dma, controller, admin, io, namespace, identity, watchdog, kicks: 0, is_open: true };
        nvme.controller.enable(sq, cq, ADMIN_ENTRIES)?;
        nvme.look(pages)?;
        nvme.create_queues()?;
        Ok(nvme)
    }

    /// What the disk's namespace has.
    pub fn namespace(&self) -> Namespace {
        self.namespace
    }

    /// What the disk says of itself.
    pub fn identity(&self) -> &wire::Controller {
        &self.identity
    }

    /// Longest transfer of one command, in bytes.
    pub fn longest(&self) -> u64 {
        // CAP.MPSMIN is 0, or the disk would have been refused: units of 4 KiB.
        let limit = match self.identity.mdts {
            0 => u64::MAX,
            mdts => {
                prp::PAGE_BYTES.checked_shl(u32::from(mdts)).filter(|limit| *limit > 0).unwrap_or(u64::MAX)
            }
        };
        limit.min(prp::MAX_BYTES)
    }

    /// Doorbells of the I/O submission queue that were rung.
    pub fn kicks(&self) -> u64 {
        self.kicks
    }

    /// Commands in flight.
    pub fn outstanding(&self) -> u16 {
        self.io.outstanding()
    }

    /// Queues a transfer of whole blocks.
    ///
    /// # Errors
    /// When `id` is in use, or the queue is full.
    #[inline]
    pub fn push(
        &mut self,
        writes: bool,
        id: u16,
        lba: u64,
        blocks: u16,
        entries: [u64; 2],
    ) -> Result<(), NvmeError> {
        let opcode = if writes { io::WRITE } else { io::READ };
        self.io.push(Command::transfer(opcode, id, NAMESPACE, lba, blocks, entries))
    }

    /// Tells the disk of what was queued.
    #[inline]
    pub fn kick(&mut self) {
        self.kicks += 1;
        self.io.ring(&self.controller);
    }

    /// The next completed transfer, if there is one.
    ///
    /// # Errors
    /// When the disk completes what it was not given.
    #[inline]
    pub fn pop(&mut self) -> Result<Option<Completion>, NvmeError> {
        let next = self.io.pop()?;
        if next.is_none() {
            self.io.say(&self.controller);
        }
        Ok(next)
    }

    /// How long is waited for a command.
    pub(crate) fn wait(&self) -> Wait {
        Wait::new(self.watchdog)
    }

    /// Nothing completed: waits a moment, looks after the disk, and gives up some time.
    pub(crate) fn pause(&self, wait: &mut Wait, what: &'static str) -> Result<(), NvmeError> {
        match wait.pause() {
            Pause::Again => Ok(()),
            Pause::CheckDevice => self.controller.check(),
            Pause::Expired => {
                self.controller.check()?;
                Err(NvmeError::TimedOut { what, waited: self.watchdog })
            }
        }
    }

    /// One transfer, waited for.
    ///
    /// # Errors
    /// When it fails or does not end.
    pub fn transfer(
        &mut self,
        writes: bool,
        lba: u64,
        blocks: u16,
        entries: [u64; 2],
    ) -> Result<(), NvmeError> {
        self.push(writes, 0, lba, blocks, entries)?;
        self.kick();
        self.await_io(if writes { "a write" } else { "a read" })
    }

    /// Makes what was written last, where the disk has a cache that would lose it.
    ///
    /// # Errors
    /// When it fails or does not end.
    pub fn flush(&mut self) -> Result<(), NvmeError> {
        if !self.identity.write_cache {
            return Ok(());
        }
        self.io.push(Command { opcode: io::FLUSH, namespace: NAMESPACE, ..Command::default() })?;
        self.kick();
        self.await_io("a flush")
    }

    fn await_io(&mut self, what: &'static str) -> Result<(), NvmeError> {
        let mut wait = self.wait();
        loop {
            if let Some(completion) = self.pop()? {
                self.io.say(&self.controller);
                return ended(what, completion);
            }
            self.pause(&mut wait, what)?;
        }
    }

    /// Stops the disk at once: nothing of what is in flight reaches memory any more, and no command is taken.
    ///
    /// # Errors
    /// When it does not stop.
    pub fn stop(&mut self) -> Result<(), NvmeError> {
        self.controller.disable()
    }

    /// Shuts the disk down, unmaps the queues and detaches the device; whoever has mapped data has unmapped them.
    ///
    /// # Errors
    /// When the disk does not stop, or the IOMMU refuses.
    pub fn close(&mut self) -> Result<(), NvmeError> {
        if !std::mem::take(&mut self.is_open) {
            return Ok(());
        }
        self.controller.shut_down()?;
        self.admin.close(&mut self.dma)?;
        self.io.close(&mut self.dma)?;
        self.dma.shutdown()?;
        Ok(())
    }

    fn look(&mut self, pages: &PageAllocator) -> Result<(), NvmeError> {
        let answer = pages.alloc(IDENTIFY_BYTES as u64)?;
        let mapping = self.dma.map(answer.gpa(), IDENTIFY_BYTES as u32, Direction::FromDevice)?;
        let ask = |nvme: &mut Self, what, namespace| -> Result<[u8; IDENTIFY_BYTES], NvmeError> {
            let prp = [mapping.device_address(), 0];
            let command = Command {
                opcode: admin::IDENTIFY,
                namespace,
                prp,
                dwords: [what, 0, 0],
                ..Command::default()
            };
            nvme.admin("IDENTIFY", command)?;
            Ok(answer.read_array(0))
        };
        let answers = ask(self, cns::CONTROLLER, 0)
            .and_then(|controller| Ok((controller, ask(self, cns::NAMESPACE, NAMESPACE)?)));
        // Not before the disk has answered, or been given up: then it is stopped before the memory goes.
        let (controller, namespace) = answers?;
        self.dma.unmap(mapping)?;
        pages.free(&answer);
        self.identity = wire::Controller::from_bytes(&controller);
        self.namespace = Namespace::from_bytes(&namespace).ok_or(NvmeError::NoNamespace)?;
        if self.namespace.metadata_bytes > 0 {
            return Err(NvmeError::Unsupported("keeps metadata with its blocks"));
        }
        Ok(())
    }

    /// "Create I/O Completion Queue", then "Create I/O Submission Queue", which names it. No interrupts.
    fn create_queues(&mut self) -> Result<(), NvmeError> {
        let [sq, cq] = self.io.addresses();
        let size = u32::from(self.io.entries() - 1) << 16 | u32::from(IO_QUEUE);
        let create = |opcode, address, flags| Command {
            opcode,
            prp: [address, 0],
            dwords: [size, flags, 0],
            ..Command::default()
        };
        self.admin("creating the completion queue", create(admin::CREATE_CQ, cq, CONTIGUOUS))?;
        let of_queue = u32::from(IO_QUEUE) << 16 | CONTIGUOUS;
        self.admin("creating the submission queue", create(admin::CREATE_SQ, sq, of_queue))
    }

    fn admin(&mut self, what: &'static str, command: Command) -> Result<(), NvmeError> {
        self.admin.push(command)?;
        self.admin.ring(&self.controller);
        let mut wait = self.wait();
        loop {
            if let Some(completion) = self.admin.pop()? {
                self.admin.say(&self.controller);
                return ended(what, completion);
            }
            self.pause(&mut wait, what)?;
        }
    }
}

impl Drop for Nvme {
    fn drop(&mut self) {
        // Given up half way: at least it accesses nothing any more.
        if self.is_open
            && let Err(error) = self.controller.disable()
        {
            tracing::warn!(%error, "the disk is not stopped");
        }
    }
}

fn ended(what: &'static str, completion: Completion) -> Result<(), NvmeError> {
    match completion.status {
        status if status.is_success() => Ok(()),
        status => Err(NvmeError::Status { what, status }),
    }
}
