//! What the drivers counted.

use std::ops::Sub;

macro_rules! counts {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Everything the guest side counts. Differences of two readings are counts of what lies between.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counts {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counts {
            /// Names, as in results, and values, in a fixed order.
            pub fn named(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name)),*].into_iter()
            }
        }

        impl Sub for Counts {
            type Output = Self;

            fn sub(self, earlier: Self) -> Self {
                Self { $($name: self.$name.wrapping_sub(earlier.$name)),* }
            }
        }

        impl std::ops::AddAssign for Counts {
            fn add_assign(&mut self, other: Self) {
                $(self.$name = self.$name.wrapping_add(other.$name);)*
            }
        }
    };
}

counts! {
    /// Packets transmitted and received: `tx_packets` + `rx_packets`. A packet is what the driver hands over or gets
    /// at once; with segmentation offload it is many segments on the wire.
    packets,
    /// Packets whose transmission completed.
    tx_packets,
    /// Packets received.
    rx_packets,
    /// Receive buffers used; a long packet takes several.
    rx_buffers,
    /// Receive buffers reused while they stayed mapped.
    rx_recycled,
    /// Segments on the wire that transmitted packets were cut into.
    tx_segments,
    /// Calls of the DMA API's map, in every mode.
    dma_maps,
    /// Calls of the DMA API's unmap, in every mode.
    dma_unmaps,
    /// MAP requests sent. One call takes several where the length is no power of two pages.
    requests_map,
    /// UNMAP requests sent.
    requests_unmap,
    /// Doorbells of the IOMMU's request queue.
    kicks_iommu,
    /// Doorbells of the NIC's queues.
    kicks_endpoint,
    /// Waits for unmaps to have taken effect. Strict: one per unmapped buffer, whatever number of requests it takes.
    /// Lazy: one per flush.
    invalidations,
    /// Flushes because `flush_entries` unmaps were held back (lazy).
    flushes_full,
    /// Flushes because the time was up (lazy).
    flushes_timer,
    /// Times the request ring was full, so that the driver waited for it to drain.
    ring_full,
    /// Fault records taken from the IOMMU's event queue.
    faults_reported,
    /// Request/response transactions completed.
    transactions,
    /// Payload bytes transmitted and received.
    bytes_moved,
    /// Payload bytes received whose checksum the driver verified; the peer counts its own.
    bytes_verified,
}
