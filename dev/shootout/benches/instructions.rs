//! How many instructions do the hot paths take? Counted by callgrind, so the answer does not depend on the machine's mood:
//! more than 2 % above what is written here is a regression.
//!
//! Run by `cargo xtask instructions`. After a change that is worth it, write the new counts here.

#![allow(missing_docs, unreachable_pub, reason = "gungraun's macros make public items")]

use std::hint::black_box;

use gungraun::{
    Callgrind, EntryPoint, EventKind, LibraryBenchmarkConfig, library_benchmark, library_benchmark_group,
    main,
};
use iommu_shootout::{
    figures::{Buffers, Requests},
    ring::{BATCH, Ours},
    rounds::Effort,
    workload::{Subject, Window, random_pages, sequential_pages},
};
use virtio_iommu::{spec::Iova, table::MappingTable, table::RadixTable};

/// Operations of one count.
const COUNT: usize = 1024;

/// Instructions of [`COUNT`] operations: release profile, x86-64, the pinned toolchain.
mod expected {
    pub(super) const TRANSLATE: u64 = 88_184;
    pub(super) const MAP: u64 = 131_201;
    pub(super) const UNMAP: u64 = 119_929;
    pub(super) const RING: u64 = if cfg!(feature = "sites-off") { 2_518_902 } else { 2_556_263 };
    pub(super) const DMA: u64 = 29_966;
}

fn at_most(expected: u64) -> LibraryBenchmarkConfig {
    limited(expected, EntryPoint::Default)
}

/// Counts what the device's worker does, wherever it is called: the driver's side is left out, the set-up's requests are
/// not.
fn worker_at_most(expected: u64) -> LibraryBenchmarkConfig {
    limited(expected, EntryPoint::Custom("*RequestWorker*QueueWorker*::run*".to_owned()))
}

fn limited(expected: u64, entry_point: EntryPoint) -> LibraryBenchmarkConfig {
    let mut tool = Callgrind::with_args(["--cache-sim=no"]);
    tool.entry_point(entry_point).hard_limits([(EventKind::Ir, expected + expected / 50)]);
    let mut config = LibraryBenchmarkConfig::default();
    config.tool(tool);
    config
}

struct Table {
    subject: Subject<RadixTable>,
    pages: Vec<u64>,
}

fn table_with_live_pages() -> Table {
    let pages = random_pages(&Effort::quick(1), 4 * COUNT as u64);
    let subject = Subject::with_pages(sequential_pages(pages.len() as u64)).unwrap();
    Table { subject, pages: pages[..COUNT].to_vec() }
}

fn table_with_free_pages() -> Table {
    let Window { live, mut free } = Window::new(&Effort::quick(1), 0);
    free.truncate(COUNT);
    Table { subject: Subject::with_pages(live).unwrap(), pages: free }
}

fn table_with_mapped_pages() -> Table {
    let table = table_with_free_pages();
    map_all(&table);
    table
}

#[inline]
fn map_all(Table { subject, pages }: &Table) {
    for &page in pages {
        let mapping = iommu_shootout::workload::page_mapping(page);
        assert!(subject.table.map(&subject.participant.pin(), &mapping).is_ok());
    }
}

#[library_benchmark(config = at_most(expected::TRANSLATE))]
#[bench::random(table_with_live_pages())]
fn translate(table: Table) -> Table {
    for page in &table.pages {
        let guard = table.subject.participant.pin();
        black_box(table.subject.table.translate(&guard, Iova(page * 4096)));
    }
    table
}

#[library_benchmark(config = at_most(expected::MAP))]
#[bench::granules(table_with_free_pages())]
fn map(table: Table) -> Table {
    map_all(&table);
    table
}

#[library_benchmark(config = at_most(expected::UNMAP))]
#[bench::granules(table_with_mapped_pages())]
fn unmap(table: Table) -> Table {
    for &page in &table.pages {
        let range = iommu_shootout::workload::page_mapping(page).range;
        assert!(table.subject.table.unmap(&table.subject.participant.pin(), range).is_ok());
    }
    table
}

fn device() -> (Ours, Requests) {
    let requests = Requests::of_pages(sequential_pages(BATCH as u64));
    let mut device = Ours::new().unwrap();
    // Tables and buffers are there; what is counted is the steady state.
    requests.map(&mut device).unwrap();
    requests.unmap(&mut device).unwrap();
    (device, requests)
}

#[library_benchmark(config = worker_at_most(expected::RING))]
#[bench::batches_of_64(device())]
fn map_and_unmap_from_the_ring((mut device, requests): (Ours, Requests)) -> (Ours, Requests) {
    for _ in 0..COUNT / BATCH {
        requests.map(&mut device).unwrap();
        requests.unmap(&mut device).unwrap();
    }
    (device, requests)
}

fn buffers() -> Buffers {
    Buffers::new(4096).unwrap()
}

// All buffers of a ring: a quarter of [`COUNT`].
#[library_benchmark(config = at_most(expected::DMA))]
#[bench::pages(buffers())]
fn find_a_buffer(mut buffers: Buffers) -> Buffers {
    buffers.found().unwrap();
    buffers
}

library_benchmark_group!(
    name = hot_paths;
    benchmarks = translate, map, unmap, map_and_unmap_from_the_ring, find_a_buffer
);
main!(library_benchmark_groups = hot_paths);
