//! What does a map and unmap cost each of two threads in one domain? Thread-nanoseconds, waiting included.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use iommu_shootout::{
    figures::pair_thread_ns,
    rounds::Effort,
    tables::{BareRadix, MutexTable, Shape},
    workload::{Subject, Window},
};
use iommu_structures::{CongeeTable, DashTable, SkipTable, TreeIndexTable};
use virtio_iommu::table::{LockedTable, RadixTable};

fn contend<T: Shape>(c: &mut Criterion) {
    let windows = [0, 1].map(|number| Window::new(&Effort::quick(1), number));
    let live = windows.iter().flat_map(|window| window.live.iter().copied());
    let subject = Subject::<T>::with_pages(live).unwrap();
    let mut group = c.benchmark_group("contention");
    group.sample_size(10);
    for threads in [1, 2] {
        group.bench_function(BenchmarkId::new(T::NAME, threads), |b| {
            b.iter_custom(|pairs| {
                // Threads have to be at it together for a while.
                let ns = pair_thread_ns(&subject, &windows, threads, pairs.max(20_000));
                Duration::from_nanos((ns * pairs as f64) as u64)
            });
        });
    }
}

fn all(c: &mut Criterion) {
    contend::<RadixTable>(c);
    contend::<BareRadix>(c);
    contend::<LockedTable>(c);
    contend::<MutexTable>(c);
    contend::<DashTable>(c);
    contend::<SkipTable>(c);
    contend::<TreeIndexTable>(c);
    contend::<CongeeTable>(c);
}

criterion_group!(benches, all);
criterion_main!(benches);
