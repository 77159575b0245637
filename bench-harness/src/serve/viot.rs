//! The VIOT table (ACPI 6.5, 5.2.30): which endpoints are behind the virtio-iommu. QEMU writes one for its own device
//! only.

use acpi_tables::{
    Aml as _,
    viot::{PciDevice, PciRange, VIOT, VirtIoPciIommu},
};

use super::address::{PciAddress, Unit};

/// The table for these endpoints.
pub(crate) fn table(endpoints: &[Unit]) -> Vec<u8> {
    let mut viot = VIOT::new(*b"IOMMUB", *b"VFIOUSER", 1);
    let iommu = viot.add_virtio_pci_iommu(VirtIoPciIommu::new(device(Unit::Iommu.address())));
    for unit in endpoints {
        let address = unit.address();
        viot.add_pci_range(PciRange::new(device(address), device(address), &iommu));
    }
    let mut bytes = Vec::new();
    viot.to_aml_bytes(&mut bytes);
    bytes
}

fn device(address: PciAddress) -> PciDevice {
    PciDevice::new(0, address.bus, address.device, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Read field by field as the kernel does (`drivers/acpi/viot.c`).
    #[test]
    fn the_table_says_what_the_kernel_reads() {
        let table = table(&Unit::ENDPOINTS);
        let u16_at = |at: usize| u16::from_le_bytes([table[at], table[at + 1]]);
        let u32_at = |at: usize| u32::from(u16_at(at)) | u32::from(u16_at(at + 2)) << 16;
        assert_eq!((&table[..4], u32_at(4) as usize), (&b"VIOT"[..], table.len()));
        assert_eq!(table.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)), 0, "checksum");
        assert_eq!((u16_at(36), u16_at(38)), (4, 48), "four nodes from offset 48 on");
        let mut at = 48;
        // The IOMMU: type 3, segment 0, its address.
        assert_eq!((table[at], u16_at(at + 2), u16_at(at + 4), u16_at(at + 6)), (3, 16, 0, 0x40));
        at += 16;
        for unit in Unit::ENDPOINTS {
            let bdf = unit.address().endpoint().0;
            assert_eq!((table[at], u16_at(at + 2), u32_at(at + 4)), (1, 24, bdf));
            let ends = [u16_at(at + 8), u16_at(at + 10), u16_at(at + 12), u16_at(at + 14)];
            assert_eq!((ends, u16_at(at + 16)), ([0, 0, bdf as u16, bdf as u16], 48));
            at += 24;
        }
        assert_eq!(at, table.len());
    }
}
