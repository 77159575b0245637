//! The measurements: plain functions, one question a file.

mod dma;
mod grace;
mod hit;
mod lookup;
mod map_unmap;
mod memory;
mod requests;
mod tail;
mod threads;

pub use dma::{BUFFER_COUNT, Buffers};
pub use hit::{Cached, Shape, ports_ratio as iotlb_ports, shape as iotlb_shape, strided_pages};
pub use map_unmap::pair_ns;
pub use requests::Requests;
pub use threads::pair_thread_ns;

use iommu_analysis::stats::StatsError;
use thiserror::Error;
use virtio_iommu::{epoch::TooManyParticipants, iotlb::IotlbError};

use crate::{report::Figure, ring::RigError, rounds::Effort};

/// A measurement that could not be made.
#[derive(Debug, Error)]
pub enum MeasureError {
    /// No interval can be given.
    #[error(transparent)]
    Stats(#[from] StatsError),
    /// More threads than a device can have.
    #[error(transparent)]
    TooManyParticipants(#[from] TooManyParticipants),
    /// No such IOTLB.
    #[error(transparent)]
    Iotlb(#[from] IotlbError),
    /// The device or its ring could not be set up.
    #[error(transparent)]
    Rig(#[from] RigError),
    /// Nothing is called that.
    #[error("no figure is called {name}")]
    UnknownFigure {
        /// The name asked for.
        name: String,
    },
}

/// Figures that one measurement yields together.
pub struct Group {
    /// Their names.
    pub names: &'static [&'static str],
    /// The measurement.
    pub measure: fn(&Effort) -> Result<Vec<Figure>, MeasureError>,
}

/// All measurements, in the order in which they run.
pub const GROUPS: &[Group] = &[
    Group { names: &["translate_miss_vs_radix_4k", "translate_miss_vs_radix_1m"], measure: lookup::measure },
    Group {
        names: &[
            "translate_hit_vs_radix_1m",
            "translate_hit_vs_own_walk_1m",
            "translate_port_iotlb_vs_walk_1m",
        ],
        measure: hit::measure,
    },
    Group {
        names: &["map_unmap_1t_vs_radix", "map_unmap_1t_vs_rwlock_btree", "map_unmap_1t_vs_mutex_btree"],
        measure: map_unmap::measure,
    },
    Group {
        names: &["map_unmap_2t_vs_rwlock_btree", "map_unmap_2t_vs_1t", "map_unmap_2t_same_leaf_vs_1t"],
        measure: threads::measure,
    },
    Group {
        names: &["map_unmap_1t_with_grace_idle_vs_radix", "map_unmap_1t_with_grace_busy_vs_radix"],
        measure: grace::measure,
    },
    Group { names: &["translate_p999_with_writer_vs_alone"], measure: tail::measure },
    Group {
        names: &["map_1tib_us", "table_bytes_1tib", "bytes_per_mapping_1m", "unmap_all_ns_each"],
        measure: memory::measure,
    },
    Group {
        names: &["ring_map_vs_queue_null", "ring_unmap_vs_queue_null", "ring_unmap_1m_vs_queue_null"],
        measure: requests::measure,
    },
    Group { names: &["dma_64k_vs_memcpy", "dma_4k_vs_memcpy", "dma_1448_vs_memcpy"], measure: dma::measure },
];

/// Measures everything, or the one figure named, and tells `progress` what comes next.
///
/// # Errors
/// When a measurement fails, or no figure has the name.
pub fn measure(
    effort: &Effort,
    only: Option<&str>,
    mut progress: impl FnMut(&[&str]),
) -> Result<Vec<Figure>, MeasureError> {
    let wanted = |name: &str| only.is_none_or(|only| only == name);
    let mut figures = Vec::new();
    for group in GROUPS.iter().filter(|group| group.names.iter().any(|name| wanted(name))) {
        progress(group.names);
        figures.extend((group.measure)(effort)?.into_iter().filter(|figure| wanted(figure.name)));
    }
    match only {
        Some(name) if figures.is_empty() => Err(MeasureError::UnknownFigure { name: name.to_owned() }),
        _ => Ok(figures),
    }
}
