//! More than one request queue: a private feature of this project's device, in no version of the specification.
//!
//! `docs/multi-queue.md` is its specification. A device that does not offer [`F_REQUEST_QUEUES`], or whose driver does not
//! accept it, is the standard device.

/// Feature bit: the device has [`REQUEST_QUEUES_OFFSET`] in its configuration and that many request queues.
///
/// The last bit of those that the specification leaves to device types (0 to 23 and 50 to 127) and a 64-bit feature word
/// still has: furthest from the bits that the specification hands out, which go upwards from 0.
pub const F_REQUEST_QUEUES: u64 = 1 << 63;
/// Offset of the number of request queues, a `u16`, right after `struct virtio_iommu_config`; six reserved bytes follow.
pub const REQUEST_QUEUES_OFFSET: usize = 40;
/// Size of the configuration with the feature, in bytes.
pub const CONFIG_BYTES: usize = 48;
/// Most request queues.
pub const MAX_REQUEST_QUEUES: u16 = 64;

/// Index of the virtqueue that is request queue number `lane`: 0, then 2, 3, … The event queue stays where it is, at 1.
pub const fn request_queue(lane: u16) -> u16 {
    if lane == 0 { crate::REQUEST_QUEUE } else { lane + 1 }
}

/// Number of the request queue at virtqueue `index`; `None` for the event queue.
pub const fn lane_of(index: u16) -> Option<u16> {
    match index {
        crate::REQUEST_QUEUE => Some(0),
        crate::EVENT_QUEUE => None,
        index => Some(index - 1),
    }
}
