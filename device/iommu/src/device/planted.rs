//! A regression planted on purpose: a few nanoseconds more for every request, about 3 % of `request_service` in strict mode
//! on the machine it was calibrated on. `iommu-bench ab` between a build with it and one without has to find it.

use std::hint::black_box;

/// Dependent multiplications, three cycles each.
const ROUNDS: u64 = 2;

/// Called once a request; not inlined, so that a profile can point at it.
#[inline(never)]
pub(super) fn planted_regression() {
    let mut value = black_box(3_u64);
    for round in 0..ROUNDS {
        value = value.wrapping_mul(value | round);
    }
    black_box(value);
}
