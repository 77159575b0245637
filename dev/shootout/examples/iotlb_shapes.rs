//! The IOTLB against the walk: the figures with their intervals, then every shape.

#![allow(clippy::print_stdout, reason = "its results go to standard output")]

use iommu_shootout::{
    figures::{MeasureError, iotlb_ports, iotlb_shape, measure},
    rounds::Effort,
};

const FIGURES: [&str; 3] =
    ["translate_hit_vs_radix_1m", "translate_hit_vs_own_walk_1m", "translate_port_iotlb_vs_walk_1m"];

fn main() -> Result<(), MeasureError> {
    for name in FIGURES {
        for figure in measure(&Effort::full(1), Some(name), |_| ())? {
            println!("{name} {:.3} [{:.3}, {:.3}]", figure.value, figure.ci[0], figure.ci[1]);
        }
    }
    let effort = Effort::quick(1);
    for entries in [64, 256, 1024, 4096] {
        for ways in [1, 2, 4, 8] {
            println!("{entries:5} entries {ways} ways: {}", iotlb_shape(&effort, entries, ways)?);
        }
    }
    for (entries, ways) in [(64, 1), (64, 4), (1024, 1), (1024, 4), (4096, 4)] {
        println!("port, {entries} entries {ways} ways: ratio {:.2}", iotlb_ports(&effort, entries, ways)?);
    }
    Ok(())
}
