//! What is left of memcpy's rate behind translation and guard?

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use iommu_shootout::{clock::pin_to_cpu, figures::Buffers};

fn copies(c: &mut Criterion) {
    pin_to_cpu(0);
    let mut group = c.benchmark_group("dma_copy");
    for bytes in [64 << 10, 4 << 10, 1448] {
        let mut buffers = Buffers::new(bytes).unwrap();
        group.throughput(Throughput::Bytes(buffers.total_bytes()));
        group.bench_function(BenchmarkId::new("translated", bytes), |b| {
            b.iter(|| buffers.translated().unwrap());
        });
        group.bench_function(BenchmarkId::new("translation alone", bytes), |b| {
            b.iter(|| buffers.found().unwrap());
        });
        group.bench_function(BenchmarkId::new("memcpy", bytes), |b| b.iter(|| buffers.plain()));
    }
}

criterion_group!(benches, copies);
criterion_main!(benches);
