//! The controller's registers ("Controller Properties").

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use super::NvmeError;
use crate::pci::PciFunction;

/// Where the registers are.
const BAR: u8 = 0;
const CAP: u64 = 0x00;
const CC: u64 = 0x14;
const CSTS: u64 = 0x1c;
const AQA: u64 = 0x24;
const ASQ: u64 = 0x28;
const ACQ: u64 = 0x30;
const INTERRUPT_MASK: u64 = 0x0c;
const DOORBELLS: u64 = 0x1000;

/// Enabled; NVM command set; pages of 4 KiB; round robin; entries of 64 and 16 bytes.
const CC_ENABLE: u32 = 1 | 6 << 16 | 4 << 20;
const CC_NORMAL_SHUTDOWN: u32 = 1 << 14;
const CSTS_READY: u32 = 1;
const CSTS_FATAL: u32 = 1 << 1;
const CSTS_SHUTDOWN: u32 = 3 << 2;
const CSTS_SHUT_DOWN: u32 = 2 << 2;
/// Class code of an NVMe I/O controller, and where configuration space has it.
const CLASS: u32 = 0x01_08_02;
const CLASS_OFFSET: u16 = 8;
/// What a device that is gone reads as.
const ALL_ONES: u32 = u32::MAX;
/// Unit of CAP.TO.
const TIMEOUT_UNIT: Duration = Duration::from_millis(500);
/// How long a disk may take to shut down.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(5);

/// The registers of one disk.
pub struct Controller {
    function: Arc<dyn PciFunction>,
    /// Bytes between two doorbells.
    stride: u64,
    /// Most entries of an I/O queue.
    most_entries: u32,
    /// How long it may take to become ready, or to stop.
    patience: Duration,
}

impl Controller {
    /// Looks at a function, and stops the controller, whatever it was doing.
    ///
    /// # Errors
    /// When it is no NVMe disk, gone, or does not stop, or lacks what the driver needs.
    pub fn new(function: Arc<dyn PciFunction>) -> Result<Self, NvmeError> {
        let mut class = [0; 4];
        function.config_read(CLASS_OFFSET, &mut class);
        let class = u32::from_le_bytes(class) >> 8;
        if class != CLASS {
            return Err(NvmeError::Class { class });
        }
        let get = |offset| read32(&*function, offset);
        let (low, high) = (get(CAP), get(CAP + 4));
        if low == ALL_ONES && high == ALL_ONES {
            return Err(NvmeError::Gone);
        }
        if high >> 16 & 0xf != 0 {
            return Err(NvmeError::Unsupported("has no pages of 4 KiB (CAP.MPSMIN)"));
        }
        if high >> 5 & 1 == 0 {
            return Err(NvmeError::Unsupported("has no NVM command set (CAP.CSS)"));
        }
        let controller = Self {
            stride: 4 << (high & 0xf),
            most_entries: (low & 0xffff) + 1,
            patience: TIMEOUT_UNIT * (low >> 24).max(1),
            function,
        };
        controller.disable()?;
        Ok(controller)
    }

    /// Most entries that an I/O queue may have.
    pub fn most_entries(&self) -> u32 {
        self.most_entries
    }

    /// Gives it its admin queues, at these device addresses, and waits until it is ready.
    ///
    /// # Errors
    /// When it does not become ready.
    pub fn enable(&self, sq: u64, cq: u64, entries: u16) -> Result<(), NvmeError> {
        // Completions are polled.
        self.put(INTERRUPT_MASK, u32::MAX);
        let last = u32::from(entries.saturating_sub(1));
        self.put(AQA, last << 16 | last);
        for (register, address) in [(ASQ, sq), (ACQ, cq)] {
            self.put(register, address as u32);
            self.put(register + 4, (address >> 32) as u32);
        }
        self.put(CC, CC_ENABLE);
        self.wait_for("ready", self.patience, |csts| csts & CSTS_READY != 0)
    }

    /// Stops it and waits until it has: it accesses no memory afterwards. This also clears a fatal error.
    ///
    /// # Errors
    /// When it does not stop, or is gone.
    pub fn disable(&self) -> Result<(), NvmeError> {
        self.put(CC, 0);
        let since = Instant::now();
        loop {
            match self.get(CSTS) {
                ALL_ONES => return Err(NvmeError::Gone),
                csts if csts & CSTS_READY == 0 => return Ok(()),
                _ if since.elapsed() > self.patience => {
                    return Err(NvmeError::NotReady { wanted: "stopped", waited: self.patience });
                }
                _ => thread::yield_now(),
            }
        }
    }

    /// Tells it to write back what it holds, then stops it.
    ///
    /// # Errors
    /// As [`disable`](Self::disable), and when it breaks meanwhile.
    pub fn shut_down(&self) -> Result<(), NvmeError> {
        self.put(CC, CC_ENABLE | CC_NORMAL_SHUTDOWN);
        let done = |csts: u32| csts & CSTS_SHUTDOWN == CSTS_SHUT_DOWN;
        let ended = self.wait_for("shut down", SHUTDOWN_LIMIT, done);
        self.disable()?;
        ended
    }

    /// Whether it is well.
    ///
    /// # Errors
    /// When it reports a fatal error, or is gone.
    pub fn check(&self) -> Result<(), NvmeError> {
        match self.get(CSTS) {
            ALL_ONES => Err(NvmeError::Gone),
            csts if csts & CSTS_FATAL != 0 => Err(NvmeError::Fatal),
            _ => Ok(()),
        }
    }

    /// Says that a queue's submissions reach to `tail`.
    #[inline]
    pub fn submitted(&self, queue: u16, tail: u16) {
        self.put(DOORBELLS + 2 * u64::from(queue) * self.stride, u32::from(tail));
    }

    /// Says that a queue's completions are taken up to `head`.
    #[inline]
    pub fn completed(&self, queue: u16, head: u16) {
        self.put(DOORBELLS + (2 * u64::from(queue) + 1) * self.stride, u32::from(head));
    }

    fn wait_for(
        &self,
        wanted: &'static str,
        limit: Duration,
        is: impl Fn(u32) -> bool,
    ) -> Result<(), NvmeError> {
        let since = Instant::now();
        loop {
            self.check()?;
            if is(self.get(CSTS)) {
                return Ok(());
            }
            if since.elapsed() > limit {
                return Err(NvmeError::NotReady { wanted, waited: limit });
            }
            thread::yield_now();
        }
    }

    fn get(&self, offset: u64) -> u32 {
        read32(&*self.function, offset)
    }

    #[inline]
    fn put(&self, offset: u64, value: u32) {
        self.function.bar_write(BAR, offset, &value.to_le_bytes());
    }
}

fn read32(function: &dyn PciFunction, offset: u64) -> u32 {
    let mut data = [0; 4];
    function.bar_read(BAR, offset, &mut data);
    u32::from_le_bytes(data)
}
