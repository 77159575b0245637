//! The kernel's DMA API, as drivers call it.

use crate::definition::{Definition, Group, Hook, Keys, Source, Unit};

const fn event(names: &'static [&'static str]) -> Hook {
    Hook::Event { category: "dma", names }
}

// Not in the default set: a busy network card's driver maps millions of buffers a second.
const DMA: Definition = Definition { group: Group::Dma, default: false, ..Definition::BLANK };

const BY_DIRECTION: Definition = Definition {
    key: Source::named("dir"),
    keys: Keys::DmaDirection,
    max_keys: 8,
    value: Source::named("size"),
    value_histogram: true,
    unit: Unit::Bytes,
    ..DMA
};

/// The probes. Their events exist since Linux 6.12.
pub(super) const PROBES: &[Definition] = &[
    Definition {
        name: "dma_map",
        sees: "buffers mapped, by direction, with a histogram of their sizes",
        blind: "which device; drivers that map once and recycle; softirqs run in another process's name",
        open: event(&["dma_map_phys", "dma_map_page"]),
        ..BY_DIRECTION
    },
    Definition {
        name: "dma_unmap",
        sees: "buffers unmapped, by direction, with a histogram of their sizes",
        blind: "as dma_map",
        open: event(&["dma_unmap_phys", "dma_unmap_page"]),
        ..BY_DIRECTION
    },
    Definition {
        name: "dma_map_sg",
        sees: "scatter lists mapped, by direction; the value is entries",
        blind: "their sizes",
        open: event(&["dma_map_sg"]),
        value: Source::argument("nents"),
        unit: Unit::Number,
        ..BY_DIRECTION
    },
    Definition {
        name: "dma_unmap_sg",
        sees: "scatter lists unmapped, by direction; the value is entries",
        blind: "their sizes",
        open: event(&["dma_unmap_sg"]),
        value: Source::argument("nents"),
        unit: Unit::Number,
        ..BY_DIRECTION
    },
    Definition {
        name: "dma_alloc",
        sees: "coherent memory allocated, with a histogram of its sizes",
        blind: "which device",
        open: event(&["dma_alloc"]),
        value: Source::named("size"),
        value_histogram: true,
        unit: Unit::Bytes,
        ..DMA
    },
    Definition {
        name: "dma_free",
        sees: "coherent memory freed, with a histogram of its sizes",
        blind: "which device",
        open: event(&["dma_free"]),
        value: Source::named("size"),
        value_histogram: true,
        unit: Unit::Bytes,
        ..DMA
    },
];
