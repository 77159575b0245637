//! What does a MAP and UNMAP cost through the ring, 64 to a kick? Only the device's side is timed: ours, and a null device
//! built on rust-vmm's queue that copies and completes the same requests.

use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use iommu_shootout::{
    clock::pin_to_cpu,
    figures::Requests,
    ring::{BATCH, Null, Ours, Served},
    workload::sequential_pages,
};

fn cycles(c: &mut Criterion, name: &str, device: &mut impl Served) {
    let requests = Requests::of_pages(sequential_pages(BATCH as u64));
    c.benchmark_group("request_path").bench_function(name, |b| {
        b.iter_custom(|count| {
            // One iteration is one MAP and one UNMAP.
            let batches = count.div_ceil(BATCH as u64);
            let cycle = |_| requests.map(device).unwrap() + requests.unmap(device).unwrap();
            let ns: f64 = (0..batches).map(cycle).sum();
            Duration::from_nanos((ns * count as f64 / (batches * BATCH as u64) as f64) as u64)
        });
    });
}

fn all(c: &mut Criterion) {
    pin_to_cpu(0);
    cycles(c, "ours", &mut Ours::new().unwrap());
    cycles(c, "null device", &mut Null::new().unwrap());
}

criterion_group!(benches, all);
criterion_main!(benches);
