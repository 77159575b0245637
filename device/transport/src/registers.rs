//! What the driver has programmed: the part of the register block that needs a lock.

use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FAILED,
    VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_F_VERSION_1,
};

use crate::{Activation, QueueLayout};

const ACKNOWLEDGE: u32 = VIRTIO_CONFIG_S_ACKNOWLEDGE;
const DRIVER: u32 = VIRTIO_CONFIG_S_DRIVER;
pub(crate) const DRIVER_OK: u32 = VIRTIO_CONFIG_S_DRIVER_OK;
pub(crate) const FEATURES_OK: u32 = VIRTIO_CONFIG_S_FEATURES_OK;
pub(crate) const FAILED: u32 = VIRTIO_CONFIG_S_FAILED;

/// A register write that the current state does not allow; it has no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error("features may only be acknowledged between reset and FEATURES_OK")]
    FeaturesFixed,
    #[error(
        "queue {queue} may only be programmed between FEATURES_OK and DRIVER_OK, and while it is not ready"
    )]
    QueueFixed { queue: u32 },
    #[error("queue {queue} does not exist")]
    NoQueue { queue: u32 },
    #[error("queue size {size} is not a power of two up to {max}")]
    QueueSize { size: u32, max: u16 },
    #[error("{value} is not a value of QueueReady")]
    QueueReady { value: u32 },
    #[error("status {from:#x} cannot become {to:#x}: bits are only cleared by a reset")]
    StatusCleared { from: u32, to: u32 },
    #[error("features {acknowledged:#x} of {offered:#x} offered are not acceptable")]
    Features { acknowledged: u64, offered: u64 },
    #[error("FEATURES_OK before ACKNOWLEDGE and DRIVER")]
    FeaturesEarly,
    #[error("DRIVER_OK without FEATURES_OK, or after FAILED")]
    DriverOkEarly,
    #[error("no such register")]
    NoRegister,
}

/// One half of a 64-bit ring address.
#[derive(Clone, Copy)]
pub(crate) enum Half {
    Low,
    High,
}

/// Which of a queue's three areas.
#[derive(Clone, Copy)]
pub(crate) enum Area {
    Desc,
    Driver,
    Device,
}

struct QueueRegisters {
    max: u16,
    size: u16,
    ready: bool,
    addresses: [u64; 3],
}

impl QueueRegisters {
    fn reset(&mut self) {
        *self = Self { max: self.max, size: self.max, ready: false, addresses: [0; 3] };
    }
}

/// What a write to Status asks of the transport.
#[derive(Debug)]
pub(crate) enum StatusChange {
    Nothing,
    Reset,
    Activate(Activation),
}

pub(crate) struct Registers {
    offered: u64,
    pub(crate) device_features_sel: u32,
    pub(crate) driver_features_sel: u32,
    pub(crate) queue_sel: u32,
    driver_features: u64,
    /// A bit above 63 was acknowledged; none is ever offered.
    beyond: bool,
    pub(crate) status: u32,
    /// The device refused to activate.
    pub(crate) broken: bool,
    queues: Vec<QueueRegisters>,
    /// How many of them there are with the features acknowledged, and before FEATURES_OK.
    present: usize,
    present_at_first: usize,
}

impl Registers {
    pub(crate) fn new(offered: u64, max_sizes: &[u16], present: usize) -> Self {
        let queue = |&max| QueueRegisters { max, size: max, ready: false, addresses: [0; 3] };
        Self {
            offered,
            device_features_sel: 0,
            driver_features_sel: 0,
            queue_sel: 0,
            driver_features: 0,
            beyond: false,
            status: 0,
            broken: false,
            queues: max_sizes.iter().map(queue).collect(),
            present,
            present_at_first: present,
        }
    }

    pub(crate) fn reset(&mut self) {
        self.device_features_sel = 0;
        self.driver_features_sel = 0;
        self.queue_sel = 0;
        self.driver_features = 0;
        self.beyond = false;
        self.status = 0;
        self.broken = false;
        self.present = self.present_at_first;
        self.queues.iter_mut().for_each(QueueRegisters::reset);
    }

    pub(crate) fn device_features(&self) -> u32 {
        match self.device_features_sel {
            0 => self.offered as u32,
            1 => (self.offered >> 32) as u32,
            _ => 0,
        }
    }

    pub(crate) fn acknowledge_features(&mut self, value: u32) -> Result<(), Refused> {
        if self.status & FEATURES_OK != 0 {
            return Err(Refused::FeaturesFixed);
        }
        let value = u64::from(value);
        match self.driver_features_sel {
            0 => self.driver_features = self.driver_features & !0xffff_ffff | value,
            1 => self.driver_features = self.driver_features & 0xffff_ffff | value << 32,
            _ => self.beyond |= value != 0,
        }
        Ok(())
    }

    /// Number of descriptors the selected queue may have; 0 when there is no such queue.
    pub(crate) fn queue_max(&self) -> u32 {
        self.selected().map_or(0, |queue| u32::from(queue.max))
    }

    /// What the driver has acknowledged of the selected half.
    pub(crate) fn acknowledged_features(&self) -> u32 {
        match self.driver_features_sel {
            0 => self.driver_features as u32,
            1 => (self.driver_features >> 32) as u32,
            _ => 0,
        }
    }

    pub(crate) fn queue_count(&self) -> u16 {
        u16::try_from(self.present).unwrap_or(u16::MAX)
    }

    /// Size of the selected queue as programmed.
    pub(crate) fn queue_size(&self) -> u16 {
        self.selected().map_or(0, |queue| queue.size)
    }

    /// An address of the selected queue.
    pub(crate) fn address(&self, area: Area) -> u64 {
        self.selected().map_or(0, |queue| queue.addresses[area as usize])
    }

    pub(crate) fn queue_ready(&self) -> u32 {
        self.selected().map_or(0, |queue| u32::from(queue.ready))
    }

    fn selected(&self) -> Option<&QueueRegisters> {
        let index = usize::try_from(self.queue_sel).ok()?;
        self.queues.get(index).filter(|_| index < self.present)
    }

    /// The selected queue, if it may be programmed now.
    fn open_queue(&mut self) -> Result<&mut QueueRegisters, Refused> {
        let queue = self.queue_sel;
        let open = self.status & (FEATURES_OK | DRIVER_OK) == FEATURES_OK;
        let index = usize::try_from(queue).unwrap_or(usize::MAX);
        let present = index < self.present;
        let registers = self.queues.get_mut(index).filter(|_| present).ok_or(Refused::NoQueue { queue })?;
        if open { Ok(registers) } else { Err(Refused::QueueFixed { queue }) }
    }

    /// As [`open_queue`](Self::open_queue), for what is fixed while the queue is ready.
    fn idle_queue(&mut self) -> Result<&mut QueueRegisters, Refused> {
        let queue = self.queue_sel;
        let registers = self.open_queue()?;
        if registers.ready { Err(Refused::QueueFixed { queue }) } else { Ok(registers) }
    }

    pub(crate) fn set_queue_size(&mut self, size: u32) -> Result<(), Refused> {
        let queue = self.idle_queue()?;
        let refused = Refused::QueueSize { size, max: queue.max };
        let valid = u16::try_from(size).map_err(|_| refused)?;
        if !valid.is_power_of_two() || valid > queue.max {
            return Err(refused);
        }
        queue.size = valid;
        Ok(())
    }

    pub(crate) fn set_queue_ready(&mut self, value: u32) -> Result<(), Refused> {
        let queue = self.open_queue()?;
        match value {
            0 => queue.ready = false,
            1 => queue.ready = true,
            _ => return Err(Refused::QueueReady { value }),
        }
        Ok(())
    }

    pub(crate) fn set_address(&mut self, area: Area, half: Half, value: u32) -> Result<(), Refused> {
        let address = &mut self.idle_queue()?.addresses[area as usize];
        let value = u64::from(value);
        *address = match half {
            Half::Low => *address & !0xffff_ffff | value,
            Half::High => *address & 0xffff_ffff | value << 32,
        };
        Ok(())
    }

    /// The driver writes Status (virtio 2.1, 3.1.1). `accepts` asks the device about features it offered: with how many
    /// queues, if at all.
    pub(crate) fn set_status(
        &mut self,
        value: u32,
        accepts: impl FnOnce(u64) -> Option<usize>,
    ) -> Result<StatusChange, Refused> {
        if value == 0 {
            return Ok(StatusChange::Reset);
        }
        // DEVICE_NEEDS_RESET is the device's; a driver that sets its bits by read, modify, write repeats it.
        let value = value & (ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK | FAILED);
        if self.status & !value != 0 {
            return Err(Refused::StatusCleared { from: self.status, to: value });
        }
        let new = value & !self.status;
        self.status |= new & (ACKNOWLEDGE | DRIVER | FAILED);
        if new & FEATURES_OK != 0 {
            self.present = self.check_features(accepts)?;
            self.status |= FEATURES_OK;
        }
        if new & DRIVER_OK == 0 {
            return Ok(StatusChange::Nothing);
        }
        if self.status & (FEATURES_OK | FAILED) != FEATURES_OK {
            return Err(Refused::DriverOkEarly);
        }
        self.status |= DRIVER_OK;
        Ok(StatusChange::Activate(self.activation()))
    }

    fn check_features(&self, accepts: impl FnOnce(u64) -> Option<usize>) -> Result<usize, Refused> {
        if self.status & (ACKNOWLEDGE | DRIVER) != ACKNOWLEDGE | DRIVER {
            return Err(Refused::FeaturesEarly);
        }
        let acknowledged = self.driver_features;
        let offered = !self.beyond && acknowledged & !self.offered == 0;
        let acceptable = offered && acknowledged & 1 << VIRTIO_F_VERSION_1 != 0;
        let queues = if acceptable { accepts(acknowledged) } else { None };
        queues.ok_or(Refused::Features { acknowledged, offered: self.offered })
    }

    fn activation(&self) -> Activation {
        let ready = (0..).zip(&self.queues).filter(|(_, queue)| queue.ready);
        let layout = |(index, queue): (u16, &QueueRegisters)| QueueLayout {
            index,
            size: queue.size,
            desc: queue.addresses[Area::Desc as usize],
            avail: queue.addresses[Area::Driver as usize],
            used: queue.addresses[Area::Device as usize],
        };
        Activation { features: self.driver_features, queues: ready.map(layout).collect() }
    }
}
