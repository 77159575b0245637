//! What a device is to a transport.

use std::sync::Arc;

/// Where a split virtqueue lies, as the driver programmed it (virtio 2.7, "Split Virtqueues").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueLayout {
    /// Index of the queue.
    pub index: u16,
    /// Number of descriptors: a power of two, at most the device's maximum.
    pub size: u16,
    /// Address of the descriptor table, as the device must access it (GPA, or IOVA behind an IOMMU).
    pub desc: u64,
    /// Address of the available ring.
    pub avail: u64,
    /// Address of the used ring.
    pub used: u64,
}

/// What the driver settled on before it set DRIVER_OK.
#[derive(Clone, Debug)]
pub struct Activation {
    /// Negotiated feature bits.
    pub features: u64,
    /// The enabled queues, in index order; queues the driver left disabled are absent.
    pub queues: Vec<QueueLayout>,
}

/// A device refused to start with what the driver programmed; the transport sets DEVICE_NEEDS_RESET.
#[derive(Debug, thiserror::Error)]
#[error("cannot activate {device}: {reason}")]
pub struct ActivateError {
    /// Which device.
    pub device: &'static str,
    /// Why.
    pub reason: String,
}

/// How a device tells its driver that something happened.
pub trait Interrupt: Send + Sync {
    /// Buffers of this queue were used.
    fn queue(&self, index: u16);
    /// The configuration changed, or DEVICE_NEEDS_RESET was set.
    fn config(&self);
}

/// An interrupt line nobody listens to: for drivers that poll.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoInterrupt;

impl Interrupt for NoInterrupt {
    fn queue(&self, _index: u16) {}
    fn config(&self) {}
}

/// A virtio device, whatever transport it sits behind.
///
/// Calls may come from several threads (several vCPUs); the transport serialises everything but `notify`.
pub trait VirtioDevice: Send + Sync {
    /// Virtio device ID.
    fn device_id(&self) -> u32;

    /// Feature bits offered, VERSION_1 included.
    fn features(&self) -> u64;

    /// Whether the device can work with the features the driver acknowledged; the transport has already refused bits
    /// that were not offered, and the lack of VERSION_1. `false` refuses FEATURES_OK (virtio 3.1.1, 2.2.2): that is
    /// the place to insist on ACCESS_PLATFORM, or on bits that depend on each other.
    fn accepts_features(&self, acknowledged: u64) -> bool {
        let _ = acknowledged;
        true
    }

    /// FEATURES_OK: these features hold until the next reset. Comes after [`accepts_features`](Self::accepts_features),
    /// before [`activate`](Self::activate).
    fn features_ok(&self, features: u64) {
        let _ = features;
    }

    /// Maximum size of each queue; its length is the number of queues.
    fn queue_max_sizes(&self) -> &[u16];

    /// How many of those queues, from the first, there are once the driver has acknowledged `features`, and with `0`
    /// before it has: the others are not there as far as the driver can see. All of them unless the device says
    /// otherwise.
    fn queue_count(&self, features: u64) -> usize {
        let _ = features;
        self.queue_max_sizes().len()
    }

    /// Fills `data` from device-specific configuration space at `offset` (bytes); what lies outside reads as zero.
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// Changes whenever configuration space changes by the device's own doing (virtio 2.5.1).
    fn config_generation(&self) -> u32 {
        0
    }

    /// Writes device-specific configuration space; writes to read-only fields are ignored.
    fn write_config(&self, offset: u64, data: &[u8]);

    /// DRIVER_OK: the device starts to serve its queues.
    ///
    /// # Errors
    /// When the layout cannot be served (a ring outside memory, say).
    fn activate(&self, activation: Activation, interrupt: Arc<dyn Interrupt>) -> Result<(), ActivateError>;

    /// The driver kicked queue `index`. Spurious kicks and kicks of unknown queues are ignored.
    fn notify(&self, index: u16);

    /// Device reset: when it returns, no queue is touched any more.
    fn reset(&self);

    /// System reset: as [`reset`](Self::reset), and what the driver has written to configuration space and a device reset
    /// keeps is back at its initial value.
    fn system_reset(&self) {
        self.reset();
    }

    /// Whether the device has failed in a way only a reset mends (DEVICE_NEEDS_RESET).
    fn needs_reset(&self) -> bool {
        false
    }
}
