//! How long does a translation by table walk take, with few and with many live mappings, in every structure?

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use iommu_shootout::{
    clock::pin_to_cpu,
    rounds::Effort,
    tables::{BareRadix, MutexTable, Shape},
    workload::{Subject, random_pages, sequential_pages},
};
use iommu_structures::{CongeeTable, DashTable, SkipTable, TreeIndexTable};
use virtio_iommu::table::{LockedTable, RadixTable};

const BATCH: usize = 4096;

fn lookups<T: Shape>(c: &mut Criterion) {
    let mut group = c.benchmark_group("table_lookup");
    group.throughput(Throughput::Elements(BATCH as u64));
    for live in [1u64 << 12, 1 << 20] {
        let subject = Subject::<T>::with_pages(sequential_pages(live)).unwrap();
        let pages = random_pages(&Effort::quick(1), live);
        let mut batches = pages.chunks(BATCH).cycle();
        group.bench_function(BenchmarkId::new(T::NAME, live), |b| {
            b.iter(|| subject.translate(&subject.participant, batches.next().unwrap()));
        });
    }
}

fn all(c: &mut Criterion) {
    pin_to_cpu(0);
    lookups::<RadixTable>(c);
    lookups::<BareRadix>(c);
    lookups::<LockedTable>(c);
    lookups::<MutexTable>(c);
    lookups::<DashTable>(c);
    lookups::<SkipTable>(c);
    lookups::<TreeIndexTable>(c);
    lookups::<CongeeTable>(c);
}

criterion_group!(benches, all);
criterion_main!(benches);
