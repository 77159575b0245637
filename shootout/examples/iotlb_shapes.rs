//! IOTLB shapes against the bare walk: nanoseconds of a translation, by number of entries and ways.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    use iommu_shootout::{
        figures::{iotlb_ports, iotlb_shape},
        rounds::Effort,
    };
    let effort = Effort::quick(1);
    for entries in [64, 256, 1024, 4096] {
        for ways in [1, 2, 4, 8] {
            let row = iotlb_shape(&effort, entries, ways)?;
            println!("{entries:5} entries {ways} ways: {row}");
        }
    }
    let through_ports = |entries, ways| iotlb_ports(&effort, entries, ways);
    for (entries, ways) in [(64, 1), (64, 4), (1024, 1), (1024, 4), (4096, 4)] {
        println!("ports, {entries} entries {ways} ways: {:.3}", through_ports(entries, ways)?);
    }
    Ok(())
}
