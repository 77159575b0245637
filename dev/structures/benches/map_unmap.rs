//! What does a map and unmap of 4 KiB cost one thread, in every structure? The grace period is not part of it.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use iommu_shootout::{
    clock::pin_to_cpu,
    rounds::Effort,
    tables::{BareRadix, MutexTable, Shape},
    workload::{CHUNK, Subject, Window},
};
use iommu_structures::{CongeeTable, DashTable, SkipTable, TreeIndexTable};
use virtio_iommu::table::{LockedTable, RadixTable};

fn pairs<T: Shape>(c: &mut Criterion) {
    let window = Window::new(&Effort::quick(1), 0);
    let subject = Subject::<T>::with_pages(window.live.iter().copied()).unwrap();
    let mut group = c.benchmark_group("map_unmap");
    group.throughput(Throughput::Elements(CHUNK as u64));
    let mut chunks = window.chunks();
    group.bench_function(T::NAME, |b| {
        b.iter(|| subject.pairs(&subject.participant, chunks.next().unwrap()));
    });
}

fn all(c: &mut Criterion) {
    pin_to_cpu(0);
    pairs::<RadixTable>(c);
    pairs::<BareRadix>(c);
    pairs::<LockedTable>(c);
    pairs::<MutexTable>(c);
    pairs::<DashTable>(c);
    pairs::<SkipTable>(c);
    pairs::<TreeIndexTable>(c);
    pairs::<CongeeTable>(c);
}

criterion_group!(benches, all);
criterion_main!(benches);
